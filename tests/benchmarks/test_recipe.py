"""Recipes of a study at very small size: training, scores, saved files and figures."""

import csv
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from lab import budget, recipe_figures, scores
from lab.recipe_figures import draw_worst
from lab.scores import mean_class_dice, score
from lab.study import find_overlay, last_words, load_volume, read_content, read_study, segment
from lab.tables import markdown_table
from sdseg_monai.visualize import slice_panel
from sdseg_monai.weights import save_tensors
from tests.makers.places import ROOT
from tests.makers.processes import run_process
from tests.makers.volumes import write_case

SDSEG = ROOT / "bundles" / "sdseg"
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
    data = ("--dataset_dir", volumes, "--datalist", volumes / "datalist.json")
    command = (
        *RECIPE,
        volumes / "toy.json",
        *data,
        "--output",
        volumes / "out",
        "--section",
        volumes / "report.md",
        "--test",
    )
    process = run_process(*command, "--jobs", "2")
    assert process.returncode != 0  # one failed, the others went on
    assert "broken, seed 0: training ended with exit code 2" in process.stderr and "Traceback" not in process.stderr
    for split in ("validation", "test"):
        rows = list(csv.DictReader((volumes / "out" / f"toy_{split}.csv").open()))
        assert [row["experiment"] for row in rows] == ["U-Net", "3-D", "broken"]
        assert [row["seeds"] for row in rows[:2]] == ["2 of 2", "2 of 2"]
        assert rows[2]["seeds"].startswith("0 of 2; error: network_def#backbone: UNet cannot be made")
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
    run = "U-Net, seed 0"
    keep_random_weights(toy, run)
    monkeypatch.setattr(scores, "commit", lambda: "one")
    result = scores.score(toy, run, "validation")
    saved_scores = toy.run_folder(run) / "scores_validation.csv"
    about, *lines = saved_scores.read_text().splitlines()
    saved_scores.write_text("\n".join([about, lines[0], *(line.replace(",", ",1", 1) for line in lines[1:])]))
    assert scores.score(toy, run, "validation")["Dice"] != result["Dice"]  # the saved scores are used
    monkeypatch.setattr(scores, "commit", lambda: "two")
    assert scores.score(toy, run, "validation")["Dice"] == result["Dice"]
    (toy.run_folder(run) / "trained_as.txt").write_text("configuration of another")
    with pytest.raises(SystemExit, match="trained with configuration of another"):
        scores.score(toy, run, "validation")


def test_no_study_of_kvasir_shows_its_images():
    studies = [read_content(path) for path in (ROOT / "benchmarks" / "studies").glob("*.json")]
    of_kvasir = [study for study in studies if study.get("dataset") == "datasets/kvasir"]
    assert len(of_kvasir) == 4 and not any(study["show_cases"] for study in of_kvasir)


@pytest.fixture
def toy(volumes):
    """The toy study, read."""
    return read_study(volumes / "toy.json", volumes, volumes / "datalist.json", volumes / "out", {}, None)


def test_a_budget_of_other_images_than_stated_ends_at_once_with_one_line(toy):
    budget.check(toy)
    for run, planned in (("U-Net, seed 1", 24), ("3-D, seed 0", 24)):
        with pytest.raises(SystemExit) as caught:
            budget.check(replace(toy, images={run: 25}))
        assert f"{run}: 2 epochs x " in str(caught.value) and f"are {planned} images" in str(caught.value)
        assert "the study states 25" in str(caught.value)


def test_a_studys_own_overlay_comes_before_the_sdseg_bundles(toy):
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
    run = "U-Net, seed 0"
    keep_random_weights(toy, run)
    pictures = []

    def draw(*arrays):
        pictures.append(arrays)
        return slice_panel(*arrays)

    monkeypatch.setattr(recipe_figures, "slice_panel", draw)
    recipe_figures.draw_worst(toy, run, score(toy, run, "validation"), tmp_path / "worst.png")
    assert np.asarray(Image.open(tmp_path / "worst.png").convert("L")).std() > 5
    parser = toy.parser(run)
    network = parser.get_parsed_content("network")
    network.load_state_dict(torch.load(toy.run_folder(run) / "model.pt", weights_only=True))
    network.eval()
    data = load_volume(parser, toy.items("validation")[0])
    with torch.inference_mode():
        wrong = (segment(parser, data) != data["label"][0]).sum(dim=(0, 2))
    (image, label, predicted, _), *others = pictures
    assert not others and image.shape == label.shape == predicted.shape == (12, 1, 14)
    assert (label != predicted).sum() == wrong.max()


def test_the_worst_photographs_are_drawn(tmp_path):
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
    result = score(study, "U-Net", "validation")
    assert result.keys() == {"Dice", "Jaccard", "HD95"} and len(mean_class_dice(result)) == 5
    draw_worst(study, "U-Net", result, tmp_path / "worst.png")
    assert np.asarray(Image.open(tmp_path / "worst.png").convert("L")).std() > 5


def test_a_training_that_failed_says_why(toy):
    run = "broken, seed 0"
    assert last_words(toy, run) is None
    log = toy.run_folder(run) / "training.log"
    for text, words in (("", "no output"), ("a\nb | c\n", "b | c"), ("a\nValueError: b\nc\n", "ValueError: b")):
        log.write_text(text)
        assert last_words(toy, run) == words
    assert markdown_table(["a"], [["b | c"]]).splitlines()[2] == "| b \\| c |"
