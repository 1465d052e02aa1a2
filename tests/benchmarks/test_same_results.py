"""The script that compares two commits finds differences, and reports none where there are none."""

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

import same_results as script

AFFINE = np.diag([1.0, 2.0, 3.0, 1.0])
MASK = np.arange(24, dtype=np.uint8).reshape(2, 3, 4) % 3
CASE = "volumes/case"


def changed(array, value):
    """Return a copy with another first voxel."""
    array = array.copy()
    array.flat[0] = value
    return array


def write_nifti(path, array=MASK, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


def write_npy(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array)
    return path


def test_equal_files(tmp_path):
    for name in ("a.nii.gz", "b.nii.gz"):
        write_nifti(tmp_path / name)
    assert script.compare_files(tmp_path / "a.nii.gz", tmp_path / "b.nii.gz") == script.Comparison("", 0)


@pytest.mark.parametrize(
    ("array", "affine", "reason", "largest"),
    [
        (changed(MASK, 2), AFFINE, "voxels differ", 2),
        (MASK.astype(np.int16), AFFINE, "uint8 [2, 3, 4] became int16 [2, 3, 4]", np.inf),
        (MASK[:1], AFFINE, "became uint8 [1, 3, 4]", np.inf),
        (MASK, np.diag([1.0, 2.0, 3.5, 1.0]), "affines differ", np.inf),
    ],
)
def test_different_volumes(tmp_path, array, affine, reason, largest):
    before, after = write_nifti(tmp_path / "a.nii.gz"), write_nifti(tmp_path / "b.nii.gz", array, affine)
    comparison = script.compare_files(before, after)
    assert reason in comparison.reason
    assert comparison.largest == largest


def test_every_bit_of_a_score_counts(tmp_path):
    score = np.array([0.0, 0.25, np.nan], np.float32)
    before = write_npy(tmp_path / "a.npy", score)
    assert not script.compare_files(before, write_npy(tmp_path / "same.npy", score)).reason
    for value in (-0.0, np.nextafter(np.float32(0), np.float32(1))):
        assert script.compare_files(before, write_npy(tmp_path / "b.npy", changed(score, value))).reason


def test_a_missing_file_is_no_agreement(tmp_path):
    path = write_nifti(tmp_path / "a.nii.gz")
    for before, after in ((path, tmp_path / "none.nii.gz"), (None, path), (None, None)):
        assert script.compare_files(before, after) == script.Comparison("missing", np.inf)


def test_doors_agree_by_class_whatever_the_file(tmp_path):
    mask = MASK[..., :1] % 2
    array = write_npy(tmp_path / "a.npy", mask)
    Image.fromarray(mask[..., 0] * np.uint8(255)).save(tmp_path / "a.png")
    assert not script.compare_classes(array, tmp_path / "a.png").reason
    changed_file = write_npy(tmp_path / "b.npy", changed(mask, 1))
    assert script.compare_classes(array, changed_file) == script.Comparison("voxels differ", 1)


def test_the_table_counts_what_differs(tmp_path):
    """One door with a changed score and one with a changed mask, which then differs from the first door's."""
    doors = [script.Door(name, [CASE], lambda commit, folder: None) for name in ("first", "second")]
    for commit in ("before", "after"):
        for door in doors:
            write_nifti(tmp_path / commit / door.name / f"{CASE}.nii.gz")
    score = np.zeros(3, np.float32)
    write_npy(tmp_path / "before" / "first" / "volumes" / "score" / "case.npy", score)
    path = write_npy(tmp_path / "after" / "first" / "volumes" / "score" / "case.npy", score)
    rows, differences = script.compare_commits(doors, tmp_path)
    assert not differences and [row["equal masks"] for row in rows] == ["1 of 1"] * 4
    assert [row["equal maps"] for row in rows] == ["1 of 1", "-", "-", "-"]

    write_npy(path, score + np.float32(0.5))
    write_nifti(tmp_path / "after" / "second" / f"{CASE}.nii.gz", changed(MASK, 1))
    rows, differences = script.compare_commits(doors, tmp_path)
    assert [row["equal masks"] for row in rows] == ["1 of 1", "0 of 1", "1 of 1", "0 of 1"]
    assert [row["largest difference"] for row in rows] == [0.5, 1, 0, 1] and rows[0]["equal maps"] == "0 of 1"
    assert len(differences) == 3
