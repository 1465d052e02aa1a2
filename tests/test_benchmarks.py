"""Every table and figure of the paper from one command, on real photographs, at toy size."""

import csv
import hashlib
import json

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import ROOT, SHARED, run_process, write_case

KVASIR = SHARED / "data" / "kvasir-seg-256"
TAESD = SHARED / "weights" / "taesd-fp8" / "taesd_fp8_e4m3.safetensors"
LPIPS = SHARED / "weights" / "lpips-alexnet" / "lpips_alexnet.safetensors"
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


def test_the_interval_is_that_of_the_mean(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from comparison import interval

    values = list(np.random.default_rng(0).normal(0.7, 0.2, 400))
    low, high = interval(values)
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
    assert "broken, seed 0: training ended with exit code 1" in process.stderr and "Traceback" not in process.stderr
    for split in ("validation", "test"):
        rows = list(csv.DictReader((volumes / "out" / f"toy_{split}.csv").open()))
        assert [row["experiment"] for row in rows] == ["U-Net", "3-D", "broken"]
        assert [row["seeds"] for row in rows] == ["2 of 2", "2 of 2", "0 of 2"]
        # 2 epochs of 12 slices, and of 2 volumes of 6 slices each
        assert [row["images seen"] for row in rows] == ["24", "24", "not trained"]
        per_case = list(csv.DictReader((volumes / "out" / "3_d_seed_1" / f"{split}.csv").open()))
        assert len(per_case) == {"validation": 1, "test": 2}[split]
    for name in ("toy_images_seen", "toy_gflop"):
        picture = np.asarray(Image.open(volumes / "images" / f"{name}.png").convert("L"))
        assert picture.std() > 5, name
    text = (volumes / "report.md").read_text()
    assert "toy, " in text and "images/toy_gflop.png" in text and "95 % bootstrap" in text
    weights = {path: path.stat().st_mtime_ns for path in volumes.glob("out/*/model.pt")}
    assert len(weights) == 4
    again = run_process(*command, "--only", "U-Net", "3-D")
    assert again.returncode == 0, again.stderr[-2000:]
    assert weights == {path: path.stat().st_mtime_ns for path in weights}  # nothing was trained anew


def test_measures_are_in_percent_and_millimetres_and_say_where_they_are_undefined(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from recipe import measure

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
    assert set(measure(shifted, expected, spacing, 2)) == {"Dice", "HD95"}
