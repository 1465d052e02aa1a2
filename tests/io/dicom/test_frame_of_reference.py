"""Positions in several frames of reference cannot be compared; slices without one are read, as of old scanners."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid

from sdseg_monai.errors import InputError
from sdseg_monai.io.dicom import choose_series, read_series, write_seg
from tests.io.dicom.series import SEGMENTS, edit, make_labels, make_series


@pytest.fixture
def files(tmp_path) -> list[Path]:
    return make_series(tmp_path / "in")


@pytest.mark.parametrize("count", [1, 3])
def test_several_are_refused(files, count):
    uid = generate_uid()
    for file in files[len(files) - count :]:
        edit(file, FrameOfReferenceUID=uid)
    with pytest.raises(
        InputError, match=r"its slices are in 2 frames of reference \(FrameOfReferenceUID\): 000"
    ) as caught:
        read_series(choose_series(files[0].parent))
    assert files[-1].name in str(caught.value) or count == 3


@pytest.mark.parametrize("count", [1, 6], ids=["one", "all"])
@pytest.mark.parametrize("value", [None, ""], ids=["absent", "empty"])
def test_slices_without_one_are_read(files, tmp_path, count, value):
    expected = read_series(choose_series(files[0].parent))
    uid = str(pydicom.dcmread(files[0]).FrameOfReferenceUID)
    for file in files[:count]:
        dataset = pydicom.dcmread(file)
        del dataset.FrameOfReferenceUID
        if value is not None:
            dataset.FrameOfReferenceUID = value
        dataset.save_as(file)
    series = choose_series(files[0].parent)
    volume = read_series(series)
    np.testing.assert_array_equal(volume.array, expected.array)
    np.testing.assert_array_equal(volume.affine, expected.affine)
    write_seg(tmp_path / "seg.dcm", make_labels(volume), series, SEGMENTS)
    written = str(pydicom.dcmread(tmp_path / "seg.dcm").FrameOfReferenceUID)
    assert (written == uid) == (count == 1)
