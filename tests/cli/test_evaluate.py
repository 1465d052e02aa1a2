"""``sdseg evaluate``."""

import csv
import json
import shutil

import numpy as np
import pytest

from sdseg_monai.evaluation import METRICS, NSD_TOLERANCE, agreement
from tests.cli.running import run
from tests.makers.volumes import write_nifti


def test_masks_with_unsure_voxels_are_not_evaluated(bundle, volume, tmp_path, capsys):
    (tmp_path / "labels").mkdir()
    shutil.copy(tmp_path / "label.nii.gz", tmp_path / "labels" / volume.name)
    run(capsys, "segment", volume, "-o", tmp_path / "masks", "--bundle", bundle, "--abstain-below", 1)
    arguments = ("evaluate", "--predictions", tmp_path / "masks", "--labels", tmp_path / "labels")
    code, out, err = run(capsys, *arguments, "-o", tmp_path / "m.csv")
    assert code == 2 and out == "" and "255 stands for an unsure voxel" in err and not (tmp_path / "m.csv").exists()


def test_labels_that_are_the_predictions_are_told_of(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    write_nifti(tmp_path / "in" / "a.nii.gz", np.eye(4, dtype=np.uint8)[None], np.eye(4))
    arguments = ("--predictions", tmp_path / "in", "--labels", tmp_path / "in" / ".." / "in", "-o", tmp_path / "m.csv")
    code, out, err = run(capsys, "evaluate", *arguments)
    assert code == 0 and "the labels are the predictions" in err
    assert json.loads(out)["labels_are_predictions"] is True


def test_evaluate(tmp_path, capsys):
    for folder in ("pred", "label"):
        (tmp_path / folder).mkdir()
    mask = np.zeros((4, 4, 4), np.uint8)
    mask[:2] = 1
    half = mask.copy()
    half[0] = 0
    pairs = {
        "same": (mask, 2 * mask),
        "half": (half, mask),
        "both_empty": (0 * mask, 0 * mask),
        "missed": (0 * mask, mask),
    }
    for name, (pred, label) in pairs.items():
        write_nifti(tmp_path / "pred" / f"{name}.nii.gz", pred)
        write_nifti(tmp_path / "label" / f"{name}.nii.gz", label)
    write_nifti(tmp_path / "label" / "not_predicted.nii.gz", mask)
    arguments = ("--predictions", tmp_path / "pred", "--labels", tmp_path / "label", "-o", tmp_path / "m.csv")
    code, out, _ = run(capsys, "evaluate", *arguments)
    rows = {row["case"]: row for row in csv.DictReader((tmp_path / "m.csv").read_text().splitlines())}
    assert code == 0 and list(rows["same"])[:7] == ["case", *METRICS, "dice_1"]
    union = {k: [float(row[f"{name}_foreground"]) for name in ("dice", "iou")] for k, row in rows.items()}
    assert union["same"] == [1, 1] and union["both_empty"] == [1, 1] and union["missed"] == [0, 0]
    assert union["half"] == pytest.approx([2 / 3, 0.5])
    assert union["mean"] == pytest.approx([(2 + 2 / 3) / 4, 2.5 / 4])
    values = {k: [float(row[name]) for name in ("dice", "iou")] for k, row in rows.items()}
    assert values["same"] == [0, 0], "the same voxels, but of another class"
    assert all(values[k] == union[k] for k in ("half", "both_empty", "missed"))
    assert values["mean"] == pytest.approx([(1 + 2 / 3) / 4, 1.5 / 4])
    report = json.loads(out)
    assert report["cases"] == 4 and report["labels_without_prediction"] == 1
    assert report["dice"] == pytest.approx(values["mean"][0], abs=1e-6)
    assert report["hd95_cases"] == 1 and report["foreground"]["hd95_cases"] == 2
    assert set(report["classes"]) == {"1", "2"}
    low, high = report["dice_interval"]
    assert 0 <= low < report["dice"] < high <= 1 and report["tolerance"] == NSD_TOLERANCE
    _, strict, _ = run(capsys, "evaluate", *arguments, "--tolerance", 0)
    assert json.loads(strict)["nsd"] < report["nsd"] and json.loads(strict)["hd95"] == report["hd95"]


def test_evaluate_never_replaces_a_volume(tmp_path, capsys, volume):
    before = volume.read_bytes()
    arguments = ("evaluate", "--predictions", volume.parent, "--labels", volume.parent, "-o", volume)
    code, _, err = run(capsys, *arguments)
    assert code == 2 and "would be replaced" in err and volume.read_bytes() == before


def test_evaluate_errors(tmp_path, capsys, volume):
    (tmp_path / "labels").mkdir()
    write_nifti(tmp_path / "labels" / "a.nii.gz", np.zeros((3, 3, 3), np.uint8))
    arguments = ("evaluate", "--predictions", volume.parent, "-o", tmp_path / "m.csv", "--labels")
    code, _, err = run(capsys, *arguments, tmp_path / "labels")
    assert code == 2 and "shape" in err and not (tmp_path / "m.csv").exists()
    (tmp_path / "labels" / "a.nii.gz").rename(tmp_path / "labels" / "other.nii.gz")
    code, _, err = run(capsys, *arguments, tmp_path / "labels")
    assert code == 2 and "no label for it" in err
    for suffix in (".nii", ".nii.gz"):
        write_nifti(tmp_path / "labels" / f"twice{suffix}", np.zeros((3, 3, 3), np.uint8))
    code, _, err = run(capsys, *arguments, tmp_path / "labels")
    assert code == 2 and "has the same name" in err
    code, _, err = run(capsys, *arguments, tmp_path / "nowhere")
    assert code == 2 and "no folder" in err


def test_an_interruption_keeps_the_cases_so_far(tmp_path, capsys, monkeypatch):
    for folder in ("pred", "label"):
        (tmp_path / folder).mkdir()
        for name in "abcd":
            write_nifti(tmp_path / folder / f"{name}.nii.gz", np.eye(4, dtype=np.uint8)[None])
    read = agreement.read_mask

    def interrupted(path):
        if path.name == "c.nii.gz":
            raise KeyboardInterrupt
        return read(path)

    monkeypatch.setattr(agreement, "read_mask", interrupted)
    arguments = ("--predictions", tmp_path / "pred", "--labels", tmp_path / "label", "-o", tmp_path / "m.csv")
    code, out, err = run(capsys, "evaluate", *arguments)
    assert code == 130 and out == "" and "the 2 of 4 cases so far" in err
    assert [row[0] for row in csv.reader((tmp_path / "m.csv").open())] == ["case", "a", "b", "mean"]
