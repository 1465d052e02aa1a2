"""Labels as other programs write and name them, and images that are there twice."""

import shutil

import nibabel as nib
import numpy as np
import pytest

from sdseg_monai.errors import InputError
from sdseg_monai.planning import init_bundle
from sdseg_monai.planning.fingerprint import pair_files
from tests.makers.volumes import OBLIQUE, load_nifti, write_nifti, write_seg_nrrd
from tests.planning.folders import SPEED, look, write_mr


def plan_of(images, labels):
    return init_bundle(images, labels, images.parent / "mine", seconds_per_slice=SPEED, progress=False)


def rename(folder, form):
    for number, path in enumerate(sorted(folder.iterdir())):
        path.rename(folder / f"{form.format(number)}.nii.gz")


def test_segments_of_slicer_become_classes_with_their_names(tmp_path):
    images, labels = write_mr(tmp_path, 2, classes=3)
    before = look(images, labels)
    for path in list(labels.iterdir()):
        array = np.asarray(load_nifti(path).dataobj)
        write_seg_nrrd(labels / path.name.replace(".nii.gz", ".seg.nrrd"), array, OBLIQUE, {1: "Head", 2: "Tail"})
        path.unlink()
    plan = plan_of(images, labels)
    assert plan.names == {1: "Head", 2: "Tail"}
    assert [case.voxels for case in plan.fingerprint.cases] == [case.voxels for case in before.cases]
    assert [case.name for case in plan.fingerprint.cases] == ["case0", "case1"]
    path = labels / "case1.seg.nrrd"
    write_seg_nrrd(path, np.zeros((24, 9, 26)), OBLIQUE, {1: "Head", 2: "Tail"}, layers={2: 1})
    with pytest.raises(InputError, match=r"case1\.seg\.nrrd: its segments \(Head, Tail\) lie in 2 layers"):
        look(images, labels)


@pytest.mark.parametrize(
    ("image", "label"), [("sub-0{}_T1w", "sub-0{}_dseg"), ("case_{}", "case_{}-label"), ("case_{}_0000", "case_{}_seg")]
)
def test_names_of_other_programs_are_paired(image, label, tmp_path):
    images, labels = write_mr(tmp_path, 2)
    rename(images, image)
    rename(labels, label)
    pairs, faults = pair_files(images, labels)
    assert not faults and [(i.name, la.name) for _, i, la in pairs] == [
        (f"{image.format(n)}.nii.gz", f"{label.format(n)}.nii.gz") for n in range(2)
    ]


def test_a_further_channel_is_refused_by_name(tmp_path):
    images, labels = write_mr(tmp_path, 2)
    rename(images, "case{}_0000")
    shutil.copy(images / "case0_0000.nii.gz", images / "case0_0001.nii.gz")
    with pytest.raises(InputError, match=r"case0_0001\.nii\.gz is a further channel of an image, expected one channel"):
        look(images, labels)


def test_labels_in_another_order_of_voxels_give_the_same_measures(tmp_path):
    images, labels = write_mr(tmp_path, 2, classes=3)
    before = look(images, labels)
    for path in labels.iterdir():
        nib.save(load_nifti(path).as_reoriented(np.array([[2, -1], [0, 1], [1, -1]])), path)
    after = look(images, labels)
    for first, second in zip(before.cases, after.cases, strict=True):
        assert first.voxels == second.voxels and np.array_equal(first.foreground, second.foreground)


def test_almost_whole_numbers_are_classes_and_others_are_printed_with_their_digits(tmp_path):
    images, labels = write_mr(tmp_path, 2)
    for path in labels.iterdir():
        write_nifti(path, np.asarray(load_nifti(path).dataobj) * np.float32(1.000001), OBLIQUE)
    assert look(images, labels).values == (0, 1)
    write_nifti(path, np.asarray(load_nifti(path).dataobj) * np.float32(0.9985), OBLIQUE)
    with pytest.raises(InputError, match=r"such as 0\.9985\d*, expected whole numbers from 0 to 65535"):
        look(images, labels)


def test_unsure_voxels_beside_a_class_are_named_with_what_to_do(tmp_path):
    images, labels = write_mr(tmp_path, 2)
    path = labels / "case1.nii.gz"
    write_nifti(path, np.asarray(load_nifti(path).dataobj) * np.uint8(255), OBLIQUE)
    with pytest.raises(
        InputError, match=r"0, 1, 255, 255 in 1 file \(case1\.nii\.gz\); 255 stands for an unsure .* 2$"
    ):
        look(images, labels)


@pytest.mark.parametrize("count", [2, 5])
def test_an_image_under_two_names_is_told_whatever_its_file_and_its_split(count, tmp_path):
    images, labels = write_mr(tmp_path, count)
    for folder in (images, labels):
        copy = load_nifti(folder / "case0.nii.gz").as_reoriented(np.array([[1, -1], [0, 1], [2, -1]]))
        nib.save(copy, folder / "copy.nii")
    notes = [note for note in plan_of(images, labels).notes if "copy.nii" in note]
    assert len(notes) == 1 and "is the image case0.nii.gz in" in notes[0] and notes[0].endswith("remove one")
