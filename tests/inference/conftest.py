"""Fixtures: a phantom and its segmentation by the embedded bundle."""

import pytest

from sdseg_monai import segment
from tests.makers.volumes import write_thick_phantom


@pytest.fixture(scope="module")
def volume(tmp_path_factory):
    folder = tmp_path_factory.mktemp("volume")
    write_thick_phantom(folder / "a.nii.gz", folder / "label.nii.gz")
    return folder / "a.nii.gz"


@pytest.fixture(scope="module")
def result(volume):
    return segment(volume, device="cpu")
