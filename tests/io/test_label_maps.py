"""Which files are label maps; masks of volumes and of pictures follow the same rules."""

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sdseg_monai.errors import InputError
from sdseg_monai.io.label_maps import check_label_map, read_mask
from sdseg_monai.io.segments import UNSURE
from tests.makers.volumes import OBLIQUE

SHAPE = (2, 3, 4)


def label_map(*values, dtype=np.float32):
    """Return an array that holds all of ``values``, the first of them most often."""
    array = np.full(SHAPE, values[0], dtype)
    array.ravel()[: len(values)] = values
    return array


@given(st.lists(st.integers(0, 200_000), min_size=1, max_size=24))
@settings(max_examples=60, deadline=None)
def test_whole_numbers_from_0_pass_up_to_a_number_of_them_and_a_largest(values):
    array, number, largest = label_map(*values), len(set(values)), max(values)
    check_label_map("a", array)
    check_label_map("a", array, most_values=number, largest=largest)
    with pytest.raises(InputError, match=f"^a: {number} different values, expected {number - 1} classes or fewer"):
        check_label_map("a", array, most_values=number - 1)
    with pytest.raises(InputError, match=f"voxels are no class, such as {largest:g}, expected whole numbers from 0 to"):
        check_label_map("a", array, largest=largest - 1)


@pytest.mark.parametrize("value", [-1, 0.5, -0.25, 1.9989])
def test_other_numbers_are_counted_and_one_is_named(value):
    with pytest.raises(InputError, match=rf"^a: 2 voxels are no class, such as {value:g}, expected whole numbers from"):
        check_label_map("a", label_map(0, value, 1, value))


def test_the_value_of_unsure_voxels_is_a_class_unless_it_may_be_none():
    array = label_map(0, 1, UNSURE)
    check_label_map("a", array)
    with pytest.raises(InputError, match=r"1 voxels are no class, such as 255, .*0; 255 stands for an unsure voxel"):
        check_label_map("a", array, allow_unsure=False)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int16, np.float32, np.float64])
def test_the_type_of_the_numbers_does_not_matter(dtype):
    check_label_map("a", label_map(0, 1, dtype=dtype), largest=1, most_values=2, allow_unsure=False)


def test_the_mask_of_a_picture_is_a_volume_of_one_slice(tmp_path):
    mask = np.random.default_rng(0).integers(0, 2, (5, 7), dtype=np.uint8)
    Image.fromarray(mask * np.uint8(255)).save(tmp_path / "a.png")
    picture = read_mask(tmp_path / "a.png")
    assert picture.array.dtype == np.float32 and np.array_equal(picture.array[..., 0], mask)
    nib.save(nib.Nifti1Image(mask[..., None], OBLIQUE), tmp_path / "a.nii.gz")
    volume = read_mask(tmp_path / "a.nii.gz")
    assert np.array_equal(volume.array, picture.array) and np.allclose(volume.affine, OBLIQUE)
