"""Bundles that were made from folders train and segment."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from sdseg_monai.bundle import Bundle
from sdseg_monai.data.datalist import SPLITS
from sdseg_monai.inference.pipeline import Pipeline
from sdseg_monai.planning import init_bundle
from tests.makers.places import SHARED
from tests.makers.processes import run_process
from tests.makers.volumes import load_nifti
from tests.planning.folders import KINDS, SPEED, write_pictures

ORGANS = (5, 87)  # of the example CT: liver and another


def train_and_segment(plan, folder, *options):
    """Train with the printed command, from another folder than ours, and look for the weights."""
    command = (
        "python",
        "-m",
        "monai.bundle",
        "run",
        "training",
        "--config_file",
        plan.output / "configs" / "train.json",
    )
    process = run_process(*command, *options, cwd=folder)
    assert process.returncode == 0, process.stderr[-3000:]
    assert (plan.output / "models" / "model.pt").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ct", "mr, three classes"])
def test_a_volume_bundle_trains_moves_and_segments(kind, tmp_path):
    write, num_classes = KINDS[kind]
    images, labels = write(tmp_path)
    plan = init_bundle(images, labels, tmp_path / "bundles" / "mine", seconds_per_slice=SPEED, progress=False)
    train_and_segment(plan, tmp_path, "--epochs", 1, "--batch_size", 4, "--val_interval", 1)
    moved = tmp_path / "elsewhere"
    shutil.move(plan.output, moved)
    result = Pipeline(moved, device="cpu")(images / "case0.nii.gz")
    assert result.labels.shape == load_nifti(images / "case0.nii.gz").shape and result.labels.max() < num_classes
    assert len(result.scores) == num_classes - 1
    assert Bundle.open(moved).describe()["weights"]["file"] == str(moved / "models" / "model.pt")


@pytest.mark.slow
def test_a_picture_bundle_trains_and_segments(tmp_path):
    images, labels = write_pictures(tmp_path)
    plan = init_bundle(images, labels, tmp_path / "mine", seconds_per_slice=SPEED, progress=False)
    train_and_segment(plan, tmp_path, "--epochs", 1, "--batch_size", 2, "--val_interval", 1)
    process = run_process(
        *("python", "-m", "monai.bundle", "run", "inference", "--config_file", plan.output / "configs/inference.json"),
        *("--output_dir", tmp_path / "out"),
    )
    assert process.returncode == 0, process.stderr[-2000:]
    masks = sorted((tmp_path / "out").iterdir())
    assert [path.name for path in masks] == [path.name for path in sorted(images.iterdir())]
    assert Image.open(masks[0]).size == (48, 40)


@pytest.mark.slow
@pytest.mark.shared
def test_on_photographs_of_kvasir(tmp_path):
    source = SHARED / "data" / "kvasir-seg-256"
    if not source.is_dir():
        pytest.skip(f"no data at {source}; set SDSEG_SHARED")
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
        for path in sorted((source / kind).iterdir())[:20]:
            shutil.copy(path, tmp_path / kind)
    plan = init_bundle(tmp_path / "images", tmp_path / "masks", tmp_path / "mine", progress=False)
    assert [len(plan.splits[name]) for name in SPLITS] == [14, 3, 3] and plan.choices["size"].value[0] in (128, 256)
    train_and_segment(plan, tmp_path, "--epochs", 1, "--batch_size", 4, "--val_interval", 1)
    process = run_process(
        *("python", "-m", "monai.bundle", "run", "evaluating", "--config_file"),
        f"['{plan.output}/configs/train.json','{plan.output}/configs/evaluate.json']",
    )
    assert process.returncode == 0, process.stderr[-2000:]
    assert len(list((plan.output / "eval").glob("*.png"))) == 3


@pytest.mark.slow
@pytest.mark.shared
def test_on_blocks_of_a_real_ct(tmp_path):
    source = SHARED / "data" / "totalsegmentator-example"
    if not source.is_dir():
        pytest.skip(f"no data at {source}; set SDSEG_SHARED")
    image = load_nifti(source / "example_ct.nii.gz")
    labels = np.asarray(load_nifti(source / "example_seg_fast_force_split.nii.gz").dataobj)
    volumes = {"images": np.asarray(image.dataobj), "labels": sum(i * (labels == v) for i, v in enumerate(ORGANS, 1))}
    for kind, volume in volumes.items():
        (tmp_path / kind).mkdir()
        for block, start in enumerate(range(0, 112, 14)):
            affine = image.affine.copy()
            affine[:3, 3] = (image.affine @ [0, 0, start, 1])[:3]
            part = nib.Nifti1Image(volume[..., start : start + 14].astype(np.int16), affine)
            nib.save(part, tmp_path / kind / f"block{block}.nii.gz")
    names = {1: "liver", 2: "other organ"}
    plan = init_bundle(tmp_path / "images", tmp_path / "labels", tmp_path / "mine", names=names, progress=False)
    assert plan.choices["modality"].value == "CT" and plan.choices["slice_axis"].value == 2
    train_and_segment(plan, tmp_path, "--epochs", 1, "--batch_size", 8, "--val_interval", 1)
    result = run_process(
        *("sdseg", "segment", tmp_path / "images" / "block6.nii.gz", "-o", tmp_path / "mask.nii.gz"),
        *("--bundle", plan.output),
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["labels"] == {"liver": 1, "other organ": 2}
    assert load_nifti(tmp_path / "mask.nii.gz").shape == (122, 101, 14)
    checkpoint = torch.load(plan.output / "models" / "checkpoint.pt", weights_only=True)
    assert 0 <= checkpoint["best_metric"] <= 1
