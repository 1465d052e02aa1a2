"""Every table and figure of the paper from one command, on real photographs, at toy size."""

import csv
import hashlib
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from sdseg_monai.metrics import bootstrap_interval
from sdseg_monai.visualize import slice_panel
from sdseg_monai.weights import save_tensors
from tests.makers.places import ROOT, SHARED
from tests.makers.processes import run_process
from tests.makers.volumes import write_case

KVASIR = SHARED / "data" / "kvasir-seg-256"
TAESD = SHARED / "weights" / "taesd-fp8" / "taesd_fp8_e4m3.safetensors"
LPIPS = SHARED / "weights" / "lpips-alexnet" / "lpips_alexnet.safetensors"
SDSEG = ROOT / "bundles" / "sdseg"
TAESD_ROW = "SDSeg, TAESD"
LAST_ABLATION = f"{TAESD_ROW}, no latent loss, frozen encoder, cross-attention"
NAMES = ("SDSeg", TAESD_ROW, f"{TAESD_ROW}, no latent loss", LAST_ABLATION, "U-Net")
UNET = {
    "network_def#unet#block_out_channels": [8, 16],
    "network_def#unet#attention_levels": [False, True],
    "network_def#unet#layers_per_block": 1,
    "network_def#unet#num_heads": 2,
    "network_def#unet#norm_num_groups": 4,
}


@pytest.fixture
def study(tmp_path):
    """A toy study of three experiments, of the same form as the committed ones."""
    committed = json.loads((ROOT / "benchmarks" / "studies" / "kvasir_cpu.json").read_text())
    names = NAMES
    tiny = {"network_def#vision_encoder#block_out_channels": [4] * 4, "network_def#vision_encoder#norm_num_groups": 4}
    networks = committed["networks"]
    toy = {
        **committed,
        "budget": {**committed["budget"], "epochs": 1, "val_interval": 1, "batch_size": 2},
        "networks": {
            "sdseg": {**networks["sdseg"], **UNET, **tiny},
            "sdseg_taesd": {**networks["sdseg_taesd"], **UNET},
            "basic_unet": {"network_def#backbone#features": [4, 4, 8, 8, 16, 4]},
        },
        "experiments": {name: committed["experiments"][name] for name in names},
    }
    (tmp_path / "study.json").write_text(json.dumps(toy))
    cases = sorted(path.stem for path in (KVASIR / "images").iterdir())[:8]
    splits = {"training": cases[:4], "validation": cases[4:5], "test": cases[5:8]}
    datalist = {k: [{"image": f"images/{c}.jpg", "label": f"masks/{c}.png"} for c in v] for k, v in splits.items()}
    (tmp_path / "datalist.json").write_text(json.dumps(datalist))
    return tmp_path


@pytest.mark.shared
@pytest.mark.skipif(not KVASIR.is_dir(), reason=f"no data at {KVASIR}; set SDSEG_SHARED")
def test_one_command_writes_every_table_and_figure(study):
    output = study / "out"
    process = run_process(
        *("python", "benchmarks/paper.py", "--study", study / "study.json", "--dataset_dir", KVASIR),
        *("--datalist", study / "datalist.json", "--output", output, "--lpips", LPIPS, "--seeds", "2"),
        *("--option", "taesd_weights", TAESD),
    )
    assert process.returncode == 0, process.stderr[-3000:]
    report = (output / "report.md").read_text()
    digest = hashlib.sha256((study / "datalist.json").read_bytes()).hexdigest()[:12]
    assert "4 images seen by each network" in report and "commit" in report
    assert f"Split and its hash: datalist.json, {digest}; seed 0" in report
    for title in ("Tables 2, 3 and 6", "Table 4", "Table 5"):
        assert title in report

    def table(name):
        return list(csv.DictReader((output / f"{name}.csv").open()))

    rows = table("comparison")
    assert {row["split"] for row in rows} == {f"datalist.json, {digest}"} and all(row["hardware"] for row in rows)
    assert [row["network"] for row in rows] == list(NAMES)
    for row in rows:
        mean, low, high = (
            float(part) for part in row["test Dice"].replace("(", "").replace(")", "").split() if part != "to"
        )
        assert 0 <= low <= mean <= high <= 100
    per_case = list(csv.DictReader((output / "sdseg" / "test.csv").open()))
    assert float(rows[0]["test Dice"].split()[0]) == pytest.approx(
        100 * np.mean([float(row["dice"]) for row in per_case[:-1]]), abs=0.06
    )
    assert [row["steps x samples"] for row in table("efficiency")] == ["1 x 1", "10 x 1", "1 x 10"]
    assert {row["of"] for row in table("stability")} == {"mask", "score"}
    for name in ("reconstructions", "convergence", "reverse_process", "image_latents"):
        picture = np.asarray(Image.open(output / f"{name}.png").convert("L"))
        assert picture.std() > 5, name
    # given again, it trains nothing anew
    logs = {path: path.stat().st_mtime_ns for path in output.glob("*/training.log")}
    again = run_process(
        *("python", "benchmarks/paper.py", "--study", study / "study.json", "--dataset_dir", KVASIR),
        *("--datalist", study / "datalist.json", "--output", output, "--parts", "train"),
        *("--option", "taesd_weights", TAESD),
    )
    assert again.returncode == 0, again.stderr[-2000:]
    assert logs == {path: path.stat().st_mtime_ns for path in logs}
    other = run_process(
        *("python", "benchmarks/paper.py", "--study", study / "study.json", "--dataset_dir", KVASIR),
        *("--datalist", study / "datalist.json", "--output", output, "--parts", "comparison", "--only", "SDSeg"),
        *("--option", "learning_rate", "0.9"),
    )
    assert other.returncode != 0 and "trained with configuration" in other.stderr and "Traceback" not in other.stderr
    splits = json.loads((study / "datalist.json").read_text())
    splits["training"], splits["test"] = splits["test"], splits["training"]
    (study / "datalist.json").write_text(json.dumps(splits))
    other = run_process(
        *("python", "benchmarks/paper.py", "--study", study / "study.json", "--dataset_dir", KVASIR),
        *("--datalist", study / "datalist.json", "--output", output, "--parts", "train"),
        *("--option", "taesd_weights", TAESD),
    )
    assert other.returncode != 0 and "trained with configuration" in other.stderr and "Traceback" not in other.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--only", "nothing"), "no such experiment"),
        (("--parts", "stability"), "stability needs the weights of LPIPS"),
        (("--parts", "figures", "--only", "SDSeg"), "figures needs 'SDSeg, TAESD'"),
        (("--section", "nowhere.md"), "nowhere.md: no such file"),
    ],
)
def test_what_would_fail_after_hours_ends_at_once_with_one_line(tmp_path, options, message):
    (tmp_path / "d.json").write_text("{}")
    process = run_process(
        *("python", "benchmarks/paper.py", "--study", "benchmarks/studies/kvasir_cpu.json", "--dataset_dir", tmp_path),
        *("--datalist", tmp_path / "d.json", "--output", tmp_path, *options),
    )
    assert process.returncode != 0 and "Traceback" not in process.stderr and message in process.stderr


@pytest.fixture
def benchmarks(monkeypatch):
    """The benchmarks' modules, importable by their names."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def test_the_interval_is_that_of_the_mean():
    values = list(np.random.default_rng(0).normal(0.7, 0.2, 400))
    low, high = bootstrap_interval(values)
    error = np.std(values) / 400**0.5
    assert low == pytest.approx(np.mean(values) - 1.96 * error, abs=0.2 * error)
    assert high == pytest.approx(np.mean(values) + 1.96 * error, abs=0.2 * error)


RECIPE = ("python", "benchmarks/recipe.py", "--study")


@pytest.fixture
def volumes(tmp_path):
    """A toy study of volumes: two seeds, a network over slices, one over volumes, and one that cannot be built."""
    splits = {"training": ["a", "b"], "validation": ["v"], "test": ["t", "u"]}
    for seed, name in enumerate(name for names in splits.values() for name in names):
        write_case(tmp_path, name, shape=(12, 6, 14), seed=seed)
    datalist = {
        k: [{"image": f"images/{n}.nii.gz", "label": f"labels/{n}.nii.gz"} for n in v] for k, v in splits.items()
    }
    (tmp_path / "datalist.json").write_text(json.dumps({"name": "toy", **datalist}))
    small = {
        "bundle": "hippocampus_sdseg",
        "name": "Toy",
        "seeds": [0, 1],
        "images": {"slices": 24, "volumes": 24},  # 2 epochs of 12 slices, and of 2 volumes of 6 slices each
        "cpu_hours": 0.5,
        "budget": {"epochs": 2, "val_interval": 1},
        "networks": {
            "slices": {"network_def#backbone#channels": [4, 4, 4, 4], "size": [16, 16], "batch_size": 4},
            "volumes": {"network_def#backbone#filters": [4, 4, 4, 4], "size": [16, 16, 16], "batch_size": 2},
            "broken": {"network_def#backbone#channels": [4]},
        },
        "experiments": {
            "U-Net": ["slices", "baselines/baseline", "baselines/unet_small"],
            "3-D": ["volumes", "baselines/baseline", "baselines/dynunet_3d"],
            "broken": ["broken", "baselines/baseline", "baselines/unet_small"],
        },
    }
    (tmp_path / "toy.json").write_text(json.dumps(small))
    (tmp_path / "report.md").write_text("# Report\n<!-- toy -->\n<!-- /toy -->\n")
    return tmp_path


@pytest.mark.slow
def test_a_recipe_is_trained_scored_and_drawn(volumes):
    command = (*RECIPE, volumes / "toy.json", "--dataset_dir", volumes, "--datalist", volumes / "datalist.json")
    command = (*command, "--output", volumes / "out", "--section", volumes / "report.md", "--test")
    process = run_process(*command, "--jobs", "2")
    assert process.returncode != 0  # one failed, the others went on
    assert "broken, seed 0: training ended with exit code 2" in process.stderr and "Traceback" not in process.stderr
    for split in ("validation", "test"):
        rows = list(csv.DictReader((volumes / "out" / f"toy_{split}.csv").open()))
        assert [row["experiment"] for row in rows] == ["U-Net", "3-D", "broken"]
        assert [row["seeds"] for row in rows[:2]] == ["2 of 2", "2 of 2"]
        assert rows[2]["seeds"].startswith("0 of 2; error: monai.networks.nets.unet.UNet cannot be made")
        assert [row["images seen"] for row in rows] == ["24", "24", "not trained"]
        assert all(re.fullmatch(r"[12], [12] of 2", row["best epoch"]) for row in rows[:2])
        about, *lines = (volumes / "out" / "3_d_seed_1" / f"scores_{split}.csv").read_text().splitlines()
        assert "configuration" in about and "CPU" in about and "commit" in about
        per_case = list(csv.DictReader(lines))
        assert len(per_case) == {"validation": 1, "test": 2}[split]
    for name in ("toy_images_seen", "toy_gflop", "toy_worst"):
        picture = np.asarray(Image.open(volumes / "images" / f"{name}.png").convert("L"))
        assert picture.std() > 5, name
    text = (volumes / "report.md").read_text()
    assert "toy, " in text and "images/toy_gflop.png" in text and "95 % bootstrap" in text
    assert "Planned: 24 images seen by each network. CPU hours planned 0.5, used 0.0" in text
    assert "The 3 worst validation cases of" in text
    weights = {path: path.stat().st_mtime_ns for path in volumes.glob("out/*/model.pt")}
    assert len(weights) == 4
    again = run_process(*command, "--only", "U-Net", "3-D")
    assert again.returncode == 0, again.stderr[-2000:]
    assert weights == {path: path.stat().st_mtime_ns for path in weights}  # nothing was trained anew
    private = {**json.loads((volumes / "toy.json").read_text()), "show_cases": False}
    (volumes / "toy.json").write_text(json.dumps(private))
    for picture in volumes.glob("images/*.png"):
        picture.unlink()
    assert run_process(*command, "--only", "U-Net", "3-D").returncode == 0
    assert {path.name for path in volumes.glob("images/*.png")} == {"toy_images_seen.png", "toy_gflop.png"}
    assert "worst" not in (volumes / "report.md").read_text()
    assert (volumes / "out" / "toy_worst.png").is_file()


def test_scores_of_another_commit_are_measured_anew(toy, monkeypatch):
    import scores

    run = "U-Net, seed 0"
    keep_random_weights(toy, run)
    monkeypatch.setattr(scores, "commit", lambda: "one")
    found = scores.score(toy, run, "validation")
    kept = toy.run_folder(run) / "scores_validation.csv"
    about, *lines = kept.read_text().splitlines()
    kept.write_text("\n".join([about, lines[0], *(line.replace(",", ",1", 1) for line in lines[1:])]))
    assert scores.score(toy, run, "validation")["Dice"] != found["Dice"]  # what was kept is taken
    monkeypatch.setattr(scores, "commit", lambda: "two")
    assert scores.score(toy, run, "validation")["Dice"] == found["Dice"]
    (toy.run_folder(run) / "trained_as.txt").write_text("configuration of another")
    with pytest.raises(SystemExit, match="trained with configuration of another"):
        scores.score(toy, run, "validation")


def test_no_study_of_kvasir_shows_its_images():
    studies = [json.loads(path.read_text()) for path in (ROOT / "benchmarks" / "studies").glob("*.json")]
    of_kvasir = [study for study in studies if study.get("dataset") == "datasets/kvasir"]
    assert len(of_kvasir) == 3 and not any(study["show_cases"] for study in of_kvasir)


@pytest.fixture
def toy(volumes, benchmarks):
    """The toy study, read."""
    from study import read_study

    return read_study(volumes / "toy.json", volumes, volumes / "datalist.json", volumes / "out", {}, None)


def test_a_budget_of_other_images_than_stated_ends_at_once_with_one_line(toy):
    import budget

    budget.check(toy)
    for run, planned in (("U-Net, seed 1", 24), ("3-D, seed 0", 24)):
        with pytest.raises(SystemExit) as caught:
            budget.check(replace(toy, images={run: 25}))
        assert f"{run}: 2 epochs x " in str(caught.value) and f"are {planned} images" in str(caught.value)
        assert "the study states 25" in str(caught.value)


def test_a_studys_own_overlay_comes_before_the_sdseg_bundles(toy, benchmarks):
    from study import find_overlay

    configs = toy.bundle / "configs"
    assert find_overlay(toy.bundle, "recipe/mirror") == configs / "recipe" / "mirror.json"
    assert find_overlay(toy.bundle, "recipe/paper") == SDSEG / "configs" / "recipe" / "paper.json"
    assert find_overlay(SDSEG, "recipe/paper") == SDSEG / "configs" / "recipe" / "paper.json"


@pytest.mark.parametrize(
    ("dice", "best", "gain"),
    [
        ([0.5, 0.6, 0.7, 0.8], 4, 10),
        ([0.5, 0.8, 0.7, 0.8], 2, 0),
        ([0.2, 0.1, 0.1, 0.1], 1, 0),
        ([None, None, None, 0.8], 4, float("nan")),
    ],
)
def test_what_the_last_quarter_brought(toy, dice, best, gain):
    import budget

    run = "U-Net, seed 0"
    settings = json.loads((toy.run_folder(run) / "settings.json").read_text())
    (toy.run_folder(run) / "settings.json").write_text(json.dumps({**settings, "epochs": 4}))
    with SummaryWriter(toy.run_folder(run) / "logs") as writer:
        for epoch, value in enumerate(dice, 1):
            if value is not None:
                writer.add_scalar("val_mean_dice", value, epoch)
    assert budget.best_epoch(toy, run) == best
    assert budget.gain_at_the_end(toy, run) == pytest.approx(gain, nan_ok=True, abs=1e-4)


def keep_random_weights(study, run):
    """Write weights as a training of ``run`` would have, without one."""
    torch.manual_seed(0)
    save_tensors(study.run_folder(run) / "model.pt", study.parser(run).get_parsed_content("network_def").state_dict())
    (study.run_folder(run) / "trained_as.txt").write_text(f"{study.stamp(run)}\ncommit none\n")


def test_the_worst_cases_of_volumes_are_drawn_where_they_are_wrong(toy, tmp_path, monkeypatch):
    import recipe_figures
    from scores import score
    from study import load_volume, segment

    run = "U-Net, seed 0"
    keep_random_weights(toy, run)
    shown = []
    monkeypatch.setattr(recipe_figures, "slice_panel", lambda *a: shown.append(a) or slice_panel(*a))
    recipe_figures.draw_worst(toy, run, score(toy, run, "validation"), tmp_path / "worst.png")
    assert np.asarray(Image.open(tmp_path / "worst.png").convert("L")).std() > 5
    parser = toy.parser(run)
    network = parser.get_parsed_content("network")
    network.load_state_dict(torch.load(toy.run_folder(run) / "model.pt", weights_only=True))
    network.eval()
    data = load_volume(parser, toy.items("validation")[0])
    with torch.inference_mode():
        wrong = (segment(parser, data) != data["label"][0]).sum(dim=(0, 2))
    (image, label, predicted, _), *others = shown
    assert not others and image.shape == label.shape == predicted.shape == (12, 1, 14)
    assert (label != predicted).sum() == wrong.max()


def test_the_worst_photographs_are_drawn(tmp_path, benchmarks):
    from recipe_figures import draw_worst
    from scores import mean_class_dice, score
    from study import read_study

    rng = np.random.default_rng(0)
    for name in "abcde":
        Image.fromarray(rng.integers(0, 255, (20, 24, 3), dtype=np.uint8)).save(tmp_path / f"{name}.jpg")
        Image.fromarray(rng.integers(0, 2, (20, 24), dtype=np.uint8) * 255).save(tmp_path / f"{name}.png")
    items = [{"image": f"{name}.jpg", "label": f"{name}.png"} for name in "abcde"]
    (tmp_path / "datalist.json").write_text(json.dumps({"validation": items}))
    small = {"size": [32, 32], "network_def#backbone#channels": [4, 4, 4, 4]}
    photographs = {
        "name": "Toy",
        "dataset": "datasets/kvasir",
        "budget": {},
        "networks": {"small": small},
        "experiments": {"U-Net": ["small", "baselines/baseline", "baselines/unet_small"]},
    }
    (tmp_path / "toy.json").write_text(json.dumps(photographs))
    study = read_study(tmp_path / "toy.json", tmp_path, tmp_path / "datalist.json", tmp_path / "out", {}, None)
    keep_random_weights(study, "U-Net")
    found = score(study, "U-Net", "validation")
    assert found.keys() == {"Dice", "HD95"} and len(mean_class_dice(found)) == 5
    draw_worst(study, "U-Net", found, tmp_path / "worst.png")
    assert np.asarray(Image.open(tmp_path / "worst.png").convert("L")).std() > 5


def test_a_training_that_failed_says_why(toy, benchmarks):
    from study import last_words
    from tables import markdown_table

    run = "broken, seed 0"
    assert last_words(toy, run) is None
    log = toy.run_folder(run) / "training.log"
    for text, words in (("", "no output"), ("a\nb | c\n", "b | c"), ("a\nValueError: b\nc\n", "ValueError: b")):
        log.write_text(text)
        assert last_words(toy, run) == words
    assert markdown_table(["a"], [["b | c"]]).splitlines()[2] == "| b \\| c |"


def test_a_summary_counts_what_is_undefined(benchmarks):
    from comparison import summary
    from hippocampus import row

    from sdseg_monai.evaluation import Agreement

    nan = float("nan")
    assert summary([np.array([1.0, 3.0]), np.array([2.0, 6.0])], of_seeds=True) == "3.00 (2.00 to 4.00)"
    assert summary([np.array([1.0, 3.0])], of_seeds=True) == "2.00"
    assert summary([np.array([2.0, 2.0, nan])], digits=1) == "2.0 (2.0 to 2.0), 1 of 3 undefined"
    assert summary([np.array([nan, nan])]) == "undefined"
    missed, found = Agreement(dice=0.0, iou=0.0), Agreement(dice=0.9, iou=0.8, hd95=1.5)
    assert row([missed, missed]) == ["0.0000 (0.0000 to 0.0000)", "0.0000", "undefined"]
    assert row([found, found, missed])[1:] == ["0.0000", "1.50 (1.50 to 1.50), 1 of 3 undefined"]


def test_attention_is_counted_on_the_cpu(benchmarks):
    from measuring import gflop

    tokens, channels = 64, 16
    q = torch.zeros(1, 2, tokens, channels)
    counted = gflop(lambda: torch.nn.functional.scaled_dot_product_attention(q, q, q))
    assert counted * 1e9 == 2 * 2 * 2 * tokens**2 * channels  # two products, two heads, a multiply-add is two


def test_what_a_slice_costs_is_the_sum_of_its_parts_and_keeping_latents_saves_the_encoding(benchmarks):
    import cost

    parser = cost.read_bundle()
    parser["batch_size"] = 2
    case = cost.Case("toy", cost.of_bundle, 64, 8, 1, large=False)
    own, distilled = cost.slice_rows(case)
    assert own[2:4] == distilled[2:4] and float(distilled[4]) < 0.5 * float(own[4])
    for row in (own, distilled):
        assert sum(map(float, row[2:5])) == pytest.approx(float(row[5]), abs=0.02)
    assert cost.slice_rows(replace(case, large=True))[0][2:6] == own[2:6]  # counting without computing
    network, _ = case.build(None)
    whole, encoding = cost.step_gflop(case)
    assert encoding == pytest.approx(cost.gflop(lambda: network.encode_mask(torch.zeros(1, 1, 64, 64))), rel=1e-3)
    seconds = cost.time_steps(parser, 1)
    (row,) = cost.step_rows([case], {"toy": seconds})
    assert row[:4] == ["toy", f"{whole:.2f}", f"{encoding:.2f}", f"{encoding / whole:.1%}"] and row[-1].endswith("%")
    assert cost.step_rows([case], {})[0][-3:] == ["not timed"] * 3


def test_measures_are_in_percent_and_millimetres_and_say_where_they_are_undefined(benchmarks):
    from scores import mean_class_dice, measure

    expected, spacing = torch.zeros(20, 10, 10), [2.0, 1.0, 1.0]
    expected[2:8, 2:8, 2:8], expected[8:14, 2:8, 2:8] = 1, 2
    assert measure(expected, expected, spacing, 3) == {
        **dict.fromkeys(("Dice", "Dice of 1", "Dice of 2"), 100),
        **dict.fromkeys(("HD95", "HD95 of 1", "HD95 of 2"), 0),
    }
    shifted = torch.roll(expected, 3, dims=0)
    found = measure(shifted, expected, spacing, 3)
    assert found["Dice"] == pytest.approx(75) and found["Dice of 1"] == pytest.approx(50)
    assert found["HD95 of 1"] == pytest.approx(6)  # three voxels of 2 mm
    shifted[shifted == 2] = 0
    found = measure(shifted, expected, spacing, 3)
    assert found["Dice of 2"] == 0 and np.isnan(found["HD95 of 2"]) and np.isfinite(found["HD95"])
    two = measure(shifted, expected, spacing, 2)
    assert set(two) == {"Dice", "HD95"}
    for measures, dice in ((two, two["Dice"]), (found, found["Dice of 1"] / 2)):
        assert mean_class_dice({k: np.array([v]) for k, v in measures.items()}) == pytest.approx([dice])
