"""NIfTI headers that contradict their files, or do not say what is needed."""

import struct

import numpy as np
import pytest

from sdseg_monai.errors import InputError
from sdseg_monai.io.volumes import read_volume
from tests.makers.headers import nifti_bytes, ramp


def header_with(at, form, *values):
    content = bytearray(nifti_bytes(ramp()))
    struct.pack_into(form, content, at, *values)
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (header_with(42, "<3h", 3, 5, 6), "more bytes than"),  # a row of the file's four is gone
        (header_with(42, "<3h", 4, 5, 4), "more bytes than"),  # two slices are gone
        (header_with(348, "<B", 1), "header extensions"),  # whose bytes would be read as voxels
    ],
)
def test_a_header_that_contradicts_its_file_is_refused(tmp_path, content, reason):
    (tmp_path / "image.nii").write_bytes(content)
    with pytest.raises(InputError, match=reason):
        read_volume(tmp_path / "image.nii")


def test_voxels_without_a_size_are_refused(tmp_path):
    content = bytearray(header_with(254, "<h", 0))  # sform_code
    struct.pack_into("<h", content, 252, 1)  # qform_code
    struct.pack_into("<f", content, 88, 0)  # pixdim[3]
    (tmp_path / "image.nii").write_bytes(content)
    with pytest.raises(InputError, match="how large its voxels are"):
        read_volume(tmp_path / "image.nii")


def test_an_infinite_slope_is_refused_and_one_that_is_no_number_is_none(tmp_path):
    (tmp_path / "image.nii").write_bytes(header_with(112, "<f", np.inf))
    with pytest.raises(InputError, match="infinite slope"):
        read_volume(tmp_path / "image.nii")
    (tmp_path / "image.nii").write_bytes(header_with(112, "<f", np.nan))
    np.testing.assert_array_equal(read_volume(tmp_path / "image.nii").array, ramp())


def test_an_intercept_that_is_no_number_is_named(tmp_path):
    content = bytearray(header_with(112, "<f", 2))  # scl_slope
    struct.pack_into("<f", content, 116, np.nan)
    (tmp_path / "image.nii").write_bytes(content)
    with pytest.raises(InputError, match="invalid intercept nan"):
        read_volume(tmp_path / "image.nii")


def test_zeros_after_the_voxels_are_passed_over(tmp_path):
    (tmp_path / "image.nii").write_bytes(nifti_bytes(ramp()) + bytes(1000))
    np.testing.assert_array_equal(read_volume(tmp_path / "image.nii").array, ramp())
