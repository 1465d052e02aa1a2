"""Every visible file of a folder is used or named: files without a preamble are read, other content is told of."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest

from sdseg_monai.errors import InputError
from sdseg_monai.io.dicom import choose_series, is_dicom, read_series, write_seg
from sdseg_monai.io.sources import open_source
from tests.io.dicom.series import SEGMENTS, make_labels, make_series


@pytest.fixture
def files(tmp_path) -> list[Path]:
    return make_series(tmp_path / "in", SeriesDescription="T1 axial")


def texts(folder: Path) -> list[str]:
    series = choose_series(folder)
    assert {warning.kind for warning in series.warnings} <= {"left_out"}
    return [warning.text for warning in series.warnings]


def strip(file: Path, encoding: str) -> None:
    """Take the preamble from a file, and but for ``meta`` the meta information, so that the dataset alone is left."""
    if encoding == "meta":
        file.write_bytes(file.read_bytes()[132:])
        return
    dataset, copy = pydicom.dcmread(file), pydicom.Dataset()
    copy.update(dataset)
    if encoding == "big":
        copy.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()
    pydicom.dcmwrite(file, copy, implicit_vr=encoding == "implicit", little_endian=encoding != "big")
    assert file.read_bytes()[128:132] != b"DICM"


@pytest.mark.parametrize("encoding", ["meta", "implicit", "explicit", "big"])
@pytest.mark.parametrize("suffix", ["", ".dcm"])
@pytest.mark.parametrize("count", [3, 6], ids=["mixed", "all"])
def test_files_without_a_preamble_are_read(files, tmp_path, encoding, suffix, count):
    expected = read_series(choose_series(tmp_path / "in"))
    for file in files[:count]:
        strip(file, encoding)
        if not suffix:
            file.rename(file.with_suffix(""))
    assert all(is_dicom(file) for file in (tmp_path / "in").iterdir())
    series = choose_series(tmp_path / "in")
    volume = read_series(series)
    np.testing.assert_array_equal(volume.array, expected.array)
    np.testing.assert_array_equal(volume.affine, expected.affine)
    assert not series.warnings
    write_seg(tmp_path / "seg.dcm", make_labels(volume), series, SEGMENTS)
    assert open_source(series.files[0]).files == series.files[:1]


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_values_without_a_preamble(files, photometric):
    expected = read_series(choose_series(files[0].parent)).array
    for index, file in enumerate(files):
        dataset = pydicom.dcmread(file)
        dataset.PhotometricInterpretation = photometric
        dataset.save_as(file)
        strip(file, ("meta", "implicit", "explicit", "big")[index % 4])
    np.testing.assert_array_equal(read_series(choose_series(files[0].parent)).array, expected)


@pytest.mark.parametrize(
    "content",
    [
        b"\x08\x00\x05\x00CS hello world, this is a text" * 9,
        b"\x08\x00" * 400,
        np.arange(8, 900, dtype="<u2").tobytes(),
        b"\x02\x00\x00\x00" * 200,
        b"\x08\x00\x05\x00\x0a\x00\x00\x00",
        b"text " * 99,
        b"\x89PNG\r\n\x1a\n" + bytes(300),
    ],
)
def test_other_content_is_not_taken_for_dicom(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    assert not is_dicom(tmp_path / "file")


def test_a_lost_slice_at_the_end_is_named(files):
    files[-1].write_bytes(b"")
    files[0].rename(files[0].with_suffix(""))
    files[0].with_suffix("").write_bytes(b"")
    folder = files[0].parent
    assert texts(folder) == [f"{folder / name}: the file is empty, left out" for name in ("0001", "0006.dcm")]
    files[-1].unlink()
    files[-1].symlink_to(folder / "gone.dcm")
    assert f"{files[-1]}: cannot be read (No such file or directory), left out" in texts(folder)
    assert read_series(choose_series(folder)).array.shape[2] == 4


def test_a_file_without_preamble_that_is_cut_is_named(files):
    strip(files[-1], "meta")
    files[-1].write_bytes(files[-1].read_bytes()[:300])
    (text,) = texts(files[0].parent)
    assert text.startswith(f"{files[-1]}: ") and text.endswith(", left out")


def test_other_content_is_named_in_one_line(files, tmp_path):
    folder = files[0].parent
    (folder / "README.txt").write_text("T1")
    assert texts(folder) == ["1 file left out (not DICOM): README.txt"]
    for index in range(500):
        (folder / f"note{index:03}.txt").write_text("x")
    (folder / ".hidden").write_text("x")
    (text,) = texts(folder)
    assert text == "501 files left out (not DICOM): README.txt, note000.txt, note001.txt and 498 more (501 .txt)"
    for index in range(9):
        (folder / f"cut{index}.dcm").write_bytes(bytes(128) + b"DICM" + b"\x08\x00")
    assert [text.partition(":")[0].partition(" (")[0] for text in texts(folder)] == [
        "9 files left out",
        "501 files left out",
    ]


def test_objects_of_other_kinds_need_no_word(files, tmp_path):
    series = choose_series(tmp_path / "in")
    write_seg(tmp_path / "in/seg.dcm", make_labels(read_series(series)), series, SEGMENTS)
    shutil.copy(files[0], tmp_path / "in/copy.dcm")
    assert texts(tmp_path / "in") == []


def test_what_was_left_out_is_said_where_nothing_is_left(tmp_path):
    (tmp_path / "README.txt").write_text("x")
    with pytest.raises(InputError, match=r"left out: \S+README.txt: not DICOM$"):
        choose_series(tmp_path)
