"""A file that may be a slice is used or named as left out, whatever it says that it is."""

from __future__ import annotations

import re
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import UID, BasicTextSRStorage, MRImageStorage, RawDataStorage, SpatialRegistrationStorage

from sdseg_monai.io.dicom import choose_series
from tests.io.dicom.series import SHAPE, make_series

PRIVATE = UID("1.3.12.2.1107.5.9.1")
NEWER = UID("1.2.840.10008.5.1.4.1.1.9999")


@pytest.fixture
def files(tmp_path) -> list[Path]:
    return make_series(tmp_path / "in")


def change(file: Path, modality: str, sop_class: UID | None, meta_class: UID | None, has_size: bool) -> None:
    dataset = pydicom.dcmread(file)
    dataset.Modality = modality
    del dataset.SOPClassUID, dataset.file_meta.MediaStorageSOPClassUID
    if sop_class is not None:
        dataset.SOPClassUID = sop_class
    if meta_class is not None:
        dataset.file_meta.MediaStorageSOPClassUID = meta_class
    if not has_size:
        del dataset.Rows, dataset.Columns
    dataset.save_as(file)


@pytest.mark.parametrize(
    ("modality", "sop_class", "meta_class", "has_size", "reason"),
    [
        (
            "MR",
            PRIVATE,
            PRIVATE,
            False,
            f"neither an image nor a known other object (Modality MR, SOP class {PRIVATE})",
        ),
        ("MR", None, None, False, "neither an image nor a known other object (Modality MR, SOP class none)"),
        ("SR", PRIVATE, PRIVATE, True, f"neither an image nor a known other object (Modality SR, SOP class {PRIVATE})"),
        (
            "SR",
            PRIVATE,
            PRIVATE,
            False,
            f"neither an image nor a known other object (Modality SR, SOP class {PRIVATE})",
        ),
        ("PR", None, None, True, "neither an image nor a known other object (Modality PR, SOP class none)"),
        (
            "SR",
            MRImageStorage,
            MRImageStorage,
            True,
            "no image by its Modality (SR), but one by its SOP class (MR Image",
        ),
        ("SEG", MRImageStorage, MRImageStorage, False, "no image by its Modality (SEG), but one by its SOP class"),
        ("SR", MRImageStorage, BasicTextSRStorage, True, "no image by its Modality (SR), but one by its SOP class"),
        ("MR", MRImageStorage, BasicTextSRStorage, False, "its header is not complete"),
        ("MR", MRImageStorage, MRImageStorage, False, "its header is not complete"),
        ("", PRIVATE, PRIVATE, False, "its header is not complete"),
        ("MR", NEWER, NEWER, False, "neither an image nor a known"),
    ],
)
def test_what_may_be_a_slice_is_named(files, modality, sop_class, meta_class, has_size, reason):
    change(files[-1], modality, sop_class, meta_class, has_size)
    series = choose_series(files[0].parent)
    assert series.frames == SHAPE[2] - 1
    ((kind, text),) = [(warning.kind, warning.text) for warning in series.warnings]
    assert kind == "left_out" and re.match(rf"{files[-1]}: {re.escape(reason)}.*, left out$", text)


def test_a_slice_of_a_private_class_is_used(files):
    change(files[-1], "MR", PRIVATE, PRIVATE, True)
    series = choose_series(files[0].parent)
    assert series.frames == SHAPE[2] and not series.warnings


@pytest.mark.parametrize(
    ("modality", "sop_class"),
    [
        ("SR", BasicTextSRStorage),
        ("REG", SpatialRegistrationStorage),
        ("MR", RawDataStorage),
        ("SEG", NEWER),  # of a newer standard
    ],
)
def test_known_objects_need_no_word(files, modality, sop_class):
    change(files[-1], modality, sop_class, sop_class, False)
    series = choose_series(files[0].parent)
    assert series.frames == SHAPE[2] - 1 and not series.warnings
