"""What is wrong with a series is said by position and file; the thickness of a single slice is that of its header."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import NuclearMedicineImageStorage, SecondaryCaptureImageStorage

from sdseg_monai.errors import InputError
from sdseg_monai.io.dicom import choose_series, read_series, write_seg
from sdseg_monai.io.volumes import voxel_millilitres
from tests.io.dicom.series import SEGMENTS, edit, make_enhanced, make_series, uids
from tests.makers.dicom import OBLIQUE, SAGITTAL, slice_grid

AXIAL = slice_grid(np.diag([-1.0, -1, 1]))  # z = 7.125 mm, 9.625 mm, ...
FINE = np.diag([1, 1, 0.5, 1]) @ AXIAL


@pytest.fixture
def files(tmp_path) -> list[Path]:
    return make_series(tmp_path / "in", AXIAL)


def fault(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_series(choose_series(folder))
    return str(caught.value).partition(": ")[2]


def add(files: list[Path], folder: str, count: int, matrix=AXIAL, shape=(14, 10, 6), **elements: object) -> None:
    """Put other slices into the series of ``files``."""
    for index, file in enumerate(make_series(files[0].parent / folder, matrix, shape, seed=1)):
        if index < count:
            edit(file, **uids(files[0]), **elements)
        else:
            file.unlink()


def test_a_missing_slice(files):
    files[2].unlink()
    between = "between 0002.dcm and 0004.dcm"
    expected = (
        f"its slices are not evenly spaced: no slice at z = 12.12 mm, {between}; expected one stack, none missing"
    )
    assert fault(files[0].parent) == expected


def test_several_missing_slices(tmp_path):
    files = make_series(tmp_path / "in", AXIAL, (14, 10, 9))
    for index in (2, 3, 6):
        files[index].unlink()
    text = "no slice at z = 12.12 mm, between 0002.dcm and 0005.dcm (3 slices are missing in all)"
    assert text in fault(files[0].parent)


def test_a_slice_that_lies_elsewhere(files):
    x, y, z = pydicom.dcmread(files[-1]).ImagePositionPatient
    edit(files[-1], ImagePositionPatient=[x, y, z - 1])
    assert "evenly spaced: 0005.dcm and 0006.dcm lie 1.5 mm apart, others 2.5 mm" in fault(files[0].parent)


def test_a_slice_twice(files):
    add(files, "again", 1)
    expected = "2 images at z = 7.12 mm: 0001.dcm, again/0001.dcm: a series over time, several echoes, or a slice that"
    assert expected in fault(files[0].parent)


@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        ({"EchoTime": "20"}, "which differ in echo time (4, 20)"),
        ({"TemporalPositionIdentifier": 2}, "which differ in time point (none, 2)"),
        ({"DiffusionBValue": 800.0}, "which differ in b-value (none, 800.0)"),
        ({"AcquisitionNumber": 2}, "which differ in acquisition number (none, 2)"),
        ({"ImageType": ["DERIVED", "PRIMARY"]}, "which differ in image type (ORIGINAL/PRIMARY/M/ND, DERIVED/PRIMARY)"),
        ({}, "a series over time, several echoes, or a slice that is there twice"),
    ],
)
def test_two_stacks_in_one_series(files, elements, reason):
    add(files, "again", 6, **elements)
    text = fault(files[0].parent)
    assert "2 images at each of 6 positions, such as 0001.dcm, again/0001.dcm" in text and reason in text


def test_a_localizer_is_named(files):
    add(files, "localizer", 1, SAGITTAL)
    expected = "its slices lie in several directions: localizer/0001.dcm across the others (a localizer?), expected one"
    assert fault(files[0].parent).startswith(expected)


def test_a_localizer_of_another_size_is_named(files):
    add(files, "localizer", 1, SAGITTAL, (8, 8, 6))
    expected = "its slices are of several sizes (14 x 10, 8 x 8): localizer/0001.dcm unlike the others"
    assert fault(files[0].parent).startswith(expected)


def test_a_slice_of_other_pixels_is_named(files):
    edit(files[3], PixelSpacing=[0.5, 0.5])
    assert fault(files[0].parent).startswith("its slices have pixels of several sizes: 0004.dcm unlike the others")


@pytest.mark.parametrize("keyword", ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"])
def test_a_slice_without_a_place_is_named(files, keyword):
    dataset = pydicom.dcmread(files[4])
    del dataset[keyword]
    dataset.save_as(files[4])
    with pytest.raises(InputError, match=rf"0005\.dcm: a slice .*{keyword}"):
        read_series(choose_series(files[0].parent))


def test_frames(files, tmp_path):
    make_enhanced(files, tmp_path / "gap/e.dcm", [0, 1, 2, 3, 4, 4])
    dataset = pydicom.dcmread(tmp_path / "gap/e.dcm")
    assert "frame 5, frame 6" in fault(tmp_path / "gap") and "2 images at z = " in fault(tmp_path / "gap")
    del dataset.PerFrameFunctionalGroupsSequence[1].PlanePositionSequence
    dataset.save_as(tmp_path / "gap/e.dcm")
    assert "its frames do not say where they lie" in fault(tmp_path / "gap")
    del dataset.PerFrameFunctionalGroupsSequence
    dataset.SOPClassUID = NuclearMedicineImageStorage
    dataset.save_as(tmp_path / "gap/e.dcm")
    assert fault(tmp_path / "gap").startswith(
        "6 frames in one file (Nuclear Medicine Image Storage) that does not say where each lies"
    )


@pytest.mark.parametrize(
    ("elements", "thickness"),
    [
        ({"SliceThickness": "3", "SpacingBetweenSlices": "5"}, 3),
        ({"SliceThickness": None, "SpacingBetweenSlices": "5"}, 5),
        ({"SliceThickness": "0", "SpacingBetweenSlices": "-5"}, 5),
        ({"SliceThickness": "3", "SpacingBetweenSlices": "0"}, 3),
        ({"SliceThickness": "3", "SpacingBetweenSlices": "-5"}, 3),
        ({"SliceThickness": None, "SpacingBetweenSlices": None}, None),
        ({"SliceThickness": "0", "SpacingBetweenSlices": ""}, None),
    ],
)
@pytest.mark.parametrize("sop_class", [None, SecondaryCaptureImageStorage])
def test_the_thickness_of_a_single_slice(tmp_path, elements, thickness, sop_class):
    """ITK takes it from SpacingBetweenSlices, turns the normal where that is negative, and refuses 0."""
    (file,) = make_series(tmp_path / "in", OBLIQUE, (14, 10, 1))
    dataset = pydicom.dcmread(file)
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
        if value is None:
            del dataset[keyword]
    if sop_class is not None:
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = sop_class
    dataset.save_as(file)
    series = choose_series(tmp_path / "in")
    volume = read_series(series)
    expected = OBLIQUE @ np.diag([1, 1, (thickness or 1) / 2.5, 1])
    np.testing.assert_allclose(volume.affine, expected, atol=1e-5)
    assert voxel_millilitres(volume.affine) == pytest.approx(0.9 * 1.2 * (thickness or 1) / 1000)
    assert [warning.kind for warning in series.warnings] == ([] if thickness else ["thickness"])
    write_seg(tmp_path / "seg.dcm", np.ones((14, 10, 1), np.uint8), series, SEGMENTS)
    measures = pydicom.dcmread(tmp_path / "seg.dcm").SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert measures.SliceThickness == pytest.approx(thickness or 1)


def test_a_stack_needs_no_thickness(tmp_path):
    for file in make_series(tmp_path / "in", FINE):
        dataset = pydicom.dcmread(file)
        del dataset.SliceThickness, dataset.SpacingBetweenSlices
        dataset.save_as(file)
    series = choose_series(tmp_path / "in")
    assert not series.warnings
    np.testing.assert_allclose(read_series(series).affine, FINE, atol=1e-5)
