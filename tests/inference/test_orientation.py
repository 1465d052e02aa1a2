"""A volume that is not stored in RAS orientation: mask and maps are on the grid of its file, whatever the strategy."""

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, ornt_transform

from sdseg_monai import Pipeline
from tests.makers.volumes import load_nifti

AXES = "SLA"  # of the stored array: superior, left, anterior


@pytest.mark.parametrize("uncertainty", [None, pytest.param("flips", marks=pytest.mark.slow)])
def test_mask_and_maps_are_on_the_grid_of_the_file(volume, tmp_path, uncertainty):
    to_file = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(AXES))
    nib.save(load_nifti(volume).as_reoriented(to_file), tmp_path / "scan.nii.gz")
    pipeline = Pipeline(device="cpu", uncertainty=uncertainty)
    expected, result = pipeline(volume), pipeline(tmp_path / "scan.nii.gz")
    assert result.labels.shape == load_nifti(tmp_path / "scan.nii.gz").shape != expected.labels.shape
    for array, expected_array in ((result.labels, expected.labels), *zip_maps(result, expected)):
        np.testing.assert_array_equal(array, nib.apply_orientation(expected_array, to_file))
    assert result.volumes == pytest.approx(expected.volumes)


def zip_maps(result, expected):
    assert list(result.maps) == list(expected.maps)
    return zip(result.maps.values(), expected.maps.values(), strict=True)
