"""A file has as many frames as its header says, or it is refused: none is dropped, none made up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate, encapsulate_extended, generate_frames
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, JPEGLSLossless, RLELossless

from tests.io.dicom.series import edit, make_enhanced, make_series, read, refusal
from tests.makers.dicom import slice_grid

SHAPE = (14, 10, 6)
STRAIGHT = slice_grid(np.diag([1.0, 1, 1]))
COMPRESSED = [RLELossless, JPEGLSLossless]
SYNTAXES = [ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, *COMPRESSED]
TABLES = ["basic", "extended", "none"]


@pytest.fixture
def files(tmp_path) -> list[Path]:
    return make_series(tmp_path / "in", STRAIGHT, SHAPE)


@pytest.fixture
def enhanced(files, tmp_path) -> Path:
    make_enhanced(files, tmp_path / "enhanced/e.dcm", list(range(SHAPE[2])))
    return tmp_path / "enhanced/e.dcm"


def recode(file: Path, syntax: UID, table: str = "basic", fragments: int = 1) -> None:
    """Write a file in another transfer syntax, where it is compressed with such a table of offsets."""
    dataset = pydicom.dcmread(file)
    if syntax not in COMPRESSED:
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.save_as(file)
        return
    dataset.compress(syntax, generate_instance_uid=False)
    count = int(dataset.get("NumberOfFrames", 1))
    frames = list(generate_frames(dataset.PixelData, number_of_frames=count))
    if table == "extended":
        dataset.PixelData, dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths = encapsulate_extended(
            frames
        )
    else:
        dataset.PixelData = encapsulate(frames, fragments_per_frame=fragments, has_bot=table == "basic")
    dataset.save_as(file)


def change_groups(file: Path, count: int) -> None:
    """Let a header describe another number of frames, as if the file had so many, in place and number alike."""
    dataset = pydicom.dcmread(file)
    groups = list(dataset.PerFrameFunctionalGroupsSequence)
    for index in range(len(groups), count):
        group = pydicom.Dataset()
        group.update(groups[-1])
        plane = pydicom.Dataset()
        first, last = (groups[place].PlanePositionSequence[0].ImagePositionPatient for place in (0, -1))
        step = (np.array(last) - np.array(first)) / (len(groups) - 1)
        plane.ImagePositionPatient = (np.array(first) + step * index).tolist()
        group.PlanePositionSequence = [plane]
        groups.append(group)
    dataset.PerFrameFunctionalGroupsSequence, dataset.NumberOfFrames = groups[:count], count
    dataset.save_as(file)


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("table", TABLES)
def test_all_frames_are_read(files, enhanced, syntax, table):
    expected = read(files[0])
    recode(enhanced, syntax, table)
    np.testing.assert_array_equal(read(enhanced)[:, :, ::-1], expected)  # frames are read against their normal


@pytest.mark.parametrize("table", ["basic", "none"])
def test_a_frame_may_have_several_fragments(files, enhanced, table):
    expected = read(files[0])
    recode(enhanced, JPEGLSLossless, table, fragments=2)
    np.testing.assert_array_equal(read(enhanced)[:, :, ::-1], expected)
    recode(files[0], JPEGLSLossless, table, fragments=3)
    np.testing.assert_array_equal(read(files[0]), expected)


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("count", [SHAPE[2] - 1, SHAPE[2] + 1, 2])
def test_another_number_of_frames_is_refused(enhanced, syntax, table, count):
    recode(enhanced, syntax, table)
    change_groups(enhanced, count)
    text = refusal(enhanced)
    if syntax in COMPRESSED:
        assert f"compressed pixel data of 6 frames, expected {count} as its header says (NumberOfFrames)" in text
    else:
        expected = 14 * 10 * 2 * count
        assert f"pixel data of 1680 bytes, expected {expected} for its 10 rows, 14 columns and {count} frames" in text


@pytest.mark.parametrize("count", [SHAPE[2] - 1, SHAPE[2] + 1, 2])
def test_the_groups_are_as_many_as_the_frames(enhanced, count):
    change_groups(enhanced, count)
    edit(enhanced, NumberOfFrames=SHAPE[2])
    assert f"where {count} frames lie (PerFrameFunctionalGroupsSequence), but that it has 6" in refusal(enhanced)


@pytest.mark.parametrize("count", [None, 0, 1, -6])
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_frames_of_a_file_that_should_have_one(files, enhanced, syntax, count):
    """With all that a slice has, its place too."""
    recode(enhanced, syntax)
    dataset, slice_header = pydicom.dcmread(enhanced), pydicom.dcmread(files[0])
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        setattr(dataset, keyword, slice_header[keyword].value)
    dataset.NumberOfFrames = count
    if count is None:
        del dataset.NumberOfFrames
    dataset.save_as(enhanced)
    assert "compressed pixel data of 6 frames" in (text := refusal(enhanced)) or "pixel data of 1680 bytes" in text


@pytest.mark.parametrize("elements", [{"Rows": SHAPE[1] - 1}, {"Columns": SHAPE[0] - 1}])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_frames_of_another_size_are_refused(files, enhanced, elements, syntax):
    for file in (files[0], enhanced):
        recode(file, syntax)
        edit(file, **elements)
    assert "pixel data of 1680 bytes" in refusal(enhanced)
    for file in files[1:]:
        file.unlink()
    assert "pixel data of 280 bytes" in refusal(files[0])


@pytest.mark.parametrize("table", ["basic", "extended"])
def test_a_table_of_offsets_that_contradicts_the_data_is_refused(enhanced, table):
    """By it a frame would be read twice, and another not at all."""
    recode(enhanced, JPEGLSLossless, table)
    dataset = pydicom.dcmread(enhanced)
    if table == "extended":
        entry = dataset.ExtendedOffsetTable[8:16]
        dataset.ExtendedOffsetTable = dataset.ExtendedOffsetTable[:16] + entry + dataset.ExtendedOffsetTable[24:]
    else:
        data = dataset.PixelData
        dataset.PixelData = data[:16] + data[12:16] + data[20:]
    dataset.save_as(enhanced)
    assert "its table of offsets contradicts its compressed pixel data of 6 frames" in refusal(enhanced)


@pytest.mark.parametrize("cut", [2, 30, 400])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, *COMPRESSED])
def test_frames_that_are_cut_off_are_refused(enhanced, syntax, cut):
    recode(enhanced, syntax)
    enhanced.write_bytes(enhanced.read_bytes()[:-cut])
    assert "cut off" in refusal(enhanced)


def test_a_byte_that_makes_the_length_even_is_no_pixel(tmp_path):
    (file,) = make_series(tmp_path / "odd", STRAIGHT, (1, 3, 1))
    edit(file, BitsAllocated=8, BitsStored=8, HighBit=7, PixelData=bytes([1, 2, 3, 0]))
    dataset = pydicom.dcmread(file)
    dataset["PixelData"].VR = "OB"
    dataset.save_as(file)
    np.testing.assert_array_equal(read(file).ravel(), [1, 2, 3])
