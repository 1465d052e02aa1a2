"""Functional groups: what they change of the values is applied to each frame, or refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from tests.io.dicom.series import edit, make_enhanced, make_series, read, refusal
from tests.makers.dicom import slice_grid

SHAPE = (14, 10, 4)
STRAIGHT = slice_grid(np.diag([1.0, 1, 1]))


@pytest.fixture
def files(tmp_path) -> list[Path]:
    return make_series(tmp_path / "in", STRAIGHT, SHAPE)


@pytest.fixture
def enhanced(files, tmp_path) -> Path:
    make_enhanced(files, tmp_path / "enhanced/e.dcm", [2, 0, 3, 1])
    dataset = pydicom.dcmread(tmp_path / "enhanced/e.dcm")
    for groups in (*dataset.SharedFunctionalGroupsSequence, *dataset.PerFrameFunctionalGroupsSequence):
        groups.pop("PixelValueTransformationSequence", None)
    dataset.save_as(tmp_path / "enhanced/e.dcm")
    return tmp_path / "enhanced/e.dcm"


def item(**elements: object) -> Dataset:
    dataset = Dataset()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def lut() -> Dataset:
    table = item(LUTDescriptor=[2, 0, 16], ModalityLUTType="US")
    table.add_new(0x00283006, "OW", bytes(4))
    return table


def frame_groups(dataset: Dataset) -> list[Dataset]:
    return dataset.PerFrameFunctionalGroupsSequence


def add(file: Path, place: str, **elements: object) -> None:
    """Put elements into the shared groups, or into those of the second frame."""
    dataset = pydicom.dcmread(file)
    groups = dataset.SharedFunctionalGroupsSequence[0]
    if place == "frame":
        groups = dataset.PerFrameFunctionalGroupsSequence[1]
    for keyword, value in elements.items():
        setattr(groups, keyword, value)
    dataset.save_as(file)


def test_each_frame_has_its_own_slope(files, enhanced):
    expected = read(files[0])
    dataset = pydicom.dcmread(enhanced)
    heights = [groups.PlanePositionSequence[0].ImagePositionPatient[2] for groups in frame_groups(dataset)]
    for index, frame in enumerate(np.argsort(heights)):
        groups = frame_groups(dataset)[frame]
        scale = item(RescaleSlope=f"{1 + index / 4}", RescaleIntercept=f"{-8 * index}", RescaleType="US")
        groups.PixelValueTransformationSequence = [scale]
        expected[:, :, index] = expected[:, :, index] * (1 + index / 4) - 8 * index
    dataset.save_as(enhanced)
    np.testing.assert_array_equal(read(enhanced)[:, :, ::-1], expected)  # frames are read against their normal


def test_all_frames_have_a_shared_slope(files, enhanced):
    add(enhanced, "shared", PixelValueTransformationSequence=[item(RescaleSlope="0.5", RescaleIntercept="3")])
    np.testing.assert_array_equal(read(enhanced)[:, :, ::-1], read(files[0]) * 0.5 + 3)


@pytest.mark.parametrize("place", ["shared", "frame"])
@pytest.mark.parametrize("sequence", ["ModalityLUTSequence", "PixelValueTransformationSequence", "FrameVOILUTSequence"])
def test_a_modality_lut_is_refused(enhanced, place, sequence):
    content = lut() if sequence == "ModalityLUTSequence" else item(ModalityLUTSequence=[lut()])
    add(enhanced, place, **{sequence: [content]})
    text = refusal(enhanced)
    assert "a Modality LUT among its functional groups, which is not applied" in text
    assert (", frame 2: " in text) == (place == "frame")


@pytest.mark.parametrize(
    ("place", "sequence", "elements", "reason"),
    [
        ("frame", "PixelValueTransformationSequence", {"RescaleSlope": "0"}, "frame 2: its RescaleSlope is 0"),
        (
            "shared",
            "PixelValueTransformationSequence",
            {"RescaleSlope": ["1", "2"]},
            "its RescaleSlope is not a number",
        ),
        (
            "frame",
            "PixelValueTransformationSequence",
            {"RescaleIntercept": ["1", "2"]},
            "RescaleIntercept is not a num",
        ),
        ("frame", "UnassignedPerFrameConvertedAttributesSequence", {"RescaleSlope": "2"}, "several RescaleSlopes"),
        (
            "shared",
            "UnassignedSharedConvertedAttributesSequence",
            {"RescaleIntercept": "2"},
            "several RescaleIntercepts",
        ),
        (
            "frame",
            "MRImageFrameTypeSequence",
            {"PixelPresentation": "COLOR"},
            "frame 2: some of its pixels are colours",
        ),
        ("shared", "UnassignedSharedConvertedAttributesSequence", {"DoseGridScaling": "2"}, "radiation dose"),
        ("shared", "UnassignedSharedConvertedAttributesSequence", {"ImageType": ["M", "MOSAIC"]}, "MOSAIC"),
        ("frame", "PlanePositionSequence", {"FrameOfReferenceUID": generate_uid()}, "several frames of reference"),
    ],
)
def test_what_is_not_applied_is_refused(enhanced, place, sequence, elements, reason):
    dataset = pydicom.dcmread(enhanced)
    groups = dataset.SharedFunctionalGroupsSequence[0]
    if place == "frame":
        groups = dataset.PerFrameFunctionalGroupsSequence[1]
    content = groups[sequence][0] if sequence in groups else Dataset()
    content.update(item(**elements))
    setattr(groups, sequence, [content])
    dataset.save_as(enhanced)
    assert reason in refusal(enhanced)


def test_two_slopes_of_a_frame_are_refused(enhanced):
    add(enhanced, "shared", PixelValueTransformationSequence=[item(RescaleSlope="2")])
    add(enhanced, "frame", PixelValueTransformationSequence=[item(RescaleSlope="3")])
    assert "frame 2: its functional groups have several RescaleSlopes" in refusal(enhanced)


def test_a_slope_and_a_modality_lut_are_refused(enhanced):
    edit(enhanced, ModalityLUTSequence=[lut()])
    add(enhanced, "frame", PixelValueTransformationSequence=[item(RescaleSlope="1", RescaleIntercept="0")])
    assert "frame 2: has both a Modality LUT and a RescaleSlope" in refusal(enhanced)


@pytest.mark.parametrize("keyword", ["SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"])
def test_the_groups_of_a_slice(files, keyword):
    expected = read(files[0])
    same, scale = item(RescaleSlope="1", RescaleIntercept="0"), item(RescaleSlope="2")
    edit(files[0], **{keyword: [item(PixelValueTransformationSequence=[same])]})
    np.testing.assert_array_equal(read(files[0]), expected)
    edit(files[0], **{keyword: [item(PixelValueTransformationSequence=[scale])]})
    assert "0001.dcm: its functional groups have several RescaleSlopes" in refusal(files[0])
    edit(files[0], **{keyword: [item(ModalityLUTSequence=[lut()])]})
    assert "0001.dcm: a Modality LUT among its functional groups" in refusal(files[0])
