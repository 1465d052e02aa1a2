"""Folders and options from which no bundle can be made: one line says what is wrong."""

import re
import shutil

import numpy as np
import pytest

from sdseg_monai.errors import InputError
from sdseg_monai.planning import init_bundle
from tests.makers.volumes import OBLIQUE, write_nifti
from tests.planning.folders import SPEED, look, write_mr, write_pictures


def test_all_faults_are_named_in_one_line_and_nothing_is_written(tmp_path):
    images, labels = write_mr(tmp_path, 6, shape=(20, 22, 6))
    (images / "case0.nii.gz").write_bytes(b"no volume")
    write_nifti(labels / "case1.nii.gz", np.zeros((4, 5, 6), np.uint8), OBLIQUE)
    rng = np.random.default_rng(0)
    write_nifti(labels / "case2.nii.gz", rng.random((20, 22, 6)).astype(np.float32), OBLIQUE)
    write_nifti(images / "case3.nii.gz", np.ones((20, 22, 6), np.uint8), OBLIQUE)
    shutil.move(labels / "case4.nii.gz", labels / "other.nii.gz")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError) as caught:
        init_bundle(images, labels, tmp_path / "mine", seconds_per_slice=SPEED, progress=False)
    message = str(caught.value)
    for text in ("case0.nii.gz", "case1.nii.gz: shape (4, 5, 6)", "are no class", "every voxel is 1", "case4.nii.gz"):
        assert text in message, text
    assert "other.nii.gz" in message and message.startswith("6 faults, nothing was written: ")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((0, 0), "hold nothing but 0"),
        ((1, 2), "hold the values 1, 2, expected 0 for the background"),
        ((0, 1, 4, 7), "hold the values 0, 1, 4, 7, expected 0 to 3 without gaps: renumber 4 to 2, 7 to 3"),
        (tuple(range(130)), "130 different values, expected 128 classes or fewer"),
        ((0, -1), "such as -1, expected whole numbers from 0"),
    ],
)
def test_labels_of_other_values_are_refused_with_what_to_do(values, message, tmp_path):
    images, labels = write_mr(tmp_path, 2, shape=(20, 22, 6))
    for path in labels.iterdir():
        array = np.resize(np.array(values, np.int16), (20, 22, 6))
        write_nifti(path, array, OBLIQUE)
    with pytest.raises(InputError, match=re.escape(message)):
        look(images, labels)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"names": {3: "x"}}, "a name for class 3, but the labels have the classes 1 to 1"),
        ({"names": {1: "$__import__('os')"}}, "expected at most 64 letters"),
        ({"names": {1: "background"}}, "expected different ones"),
        ({"modality": "ct scan"}, "modality 'ct scan' is unknown"),
        ({"network": "large"}, "network 'large' is unknown: expected one of small, pretrained, paper, unet"),
        ({"minutes": 0}, "minutes=0"),
    ],
)
def test_options_that_cannot_be_used_are_refused(options, message, tmp_path):
    images, labels = write_mr(tmp_path, 2)
    with pytest.raises(InputError, match=re.escape(message)):
        init_bundle(images, labels, tmp_path / "mine", seconds_per_slice=SPEED, progress=False, **options)
    assert not (tmp_path / "mine").exists()


def test_one_case_an_existing_folder_and_images_as_labels_are_refused(tmp_path):
    images, labels = write_mr(tmp_path, 1)
    with pytest.raises(InputError, match="one case, expected two or more: one to train on, another to choose"):
        init_bundle(images, labels, tmp_path / "mine", progress=False)
    with pytest.raises(InputError, match="expected the name of a new folder"):
        init_bundle(images, labels, images, progress=False)
    with pytest.raises(InputError, match="the labels are the images"):
        init_bundle(images, images, tmp_path / "mine", progress=False)
    pictures, masks = write_pictures(tmp_path / "pictures", 2)
    with pytest.raises(InputError, match="modality CT: these are pictures"):
        init_bundle(pictures, masks, tmp_path / "mine", modality="CT", progress=False)
    for path in masks.iterdir():
        path.unlink()
        shutil.copy(labels / "case0.nii.gz", masks / f"{path.stem}.nii.gz")
    with pytest.raises(InputError, match=r"p1\.nii\.gz: is of another kind"):
        look(pictures, masks)


def test_an_image_in_two_splits_is_named(tmp_path):
    images, labels = write_mr(tmp_path, 2)
    shutil.copy(images / "case0.nii.gz", images / "case1.nii.gz")
    plan = init_bundle(images, labels, tmp_path / "mine", seconds_per_slice=SPEED, progress=False)
    assert any("case1.nii.gz" in note and "is the image case0.nii.gz" in note for note in plan.notes)
