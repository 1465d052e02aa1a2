"""The same grid in another order of its voxels."""

from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import apply_orientation, inv_ornt_aff

from sdseg_monai.errors import InputError
from sdseg_monai.io.volumes import Volume, read_volume
from sdseg_monai.io.voxel_order import on_same_grid
from tests.makers.volumes import OBLIQUE

SHAPE = (4, 5, 6)
ARRAY = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
DIAGONAL = np.array([[1, -1, 0, 3.0], [1, 1, 0, -2], [0, 0, 1, 1], [0, 0, 0, 1]])  # 45 degrees: no axis is closer


def reordered(array, affine, axes, flips):
    """Return a volume with other axes, made by nibabel's transform from the array and the affine."""
    orientation = np.array([[axis, flip] for axis, flip in zip(axes, flips, strict=True)])
    return Volume(apply_orientation(array, orientation), affine @ inv_ornt_aff(orientation, array.shape))


@pytest.mark.parametrize("affine", [np.eye(4), OBLIQUE, DIAGONAL], ids=["straight", "oblique", "diagonal"])
def test_every_order_of_the_voxels_is_brought_back_exactly(affine):
    reference = Volume(ARRAY, affine)
    for axes, flips in product(permutations(range(3)), product((1, -1), repeat=3)):
        volume = reordered(ARRAY, affine, axes, flips)
        result = on_same_grid(Path("a"), reference, Path("b"), volume)
        assert np.array_equal(result.array, ARRAY), (axes, flips)
        np.testing.assert_allclose(result.affine, affine, atol=1e-9)


def test_voxels_of_one_order_are_not_copied():
    volume = Volume(ARRAY, OBLIQUE)
    assert on_same_grid(Path("a"), Volume(ARRAY * 0, OBLIQUE), Path("b"), volume) is volume


def test_another_place_or_shape_is_refused_with_the_file_s_own_figures():
    reference, moved = Volume(ARRAY, np.eye(4)), np.eye(4)
    moved[0, 3] = 0.5
    with pytest.raises(InputError, match=r"b: its affine places voxels up to 0\.5 mm from those of a"):
        on_same_grid(Path("a"), reference, Path("b"), Volume(ARRAY, moved))
    turned = reordered(ARRAY[:, :, :5], np.eye(4), (2, 1, 0), (1, 1, -1))
    with pytest.raises(InputError, match=r"b: shape \(5, 5, 4\), expected \(4, 5, 6\) as in a"):
        on_same_grid(Path("a"), reference, Path("b"), turned)
    mirrored = Volume(ARRAY, nib.affines.from_matvec(np.diag([-1, 1, 1]), [0, 0, 0]))  # of another place
    with pytest.raises(InputError, match="the two must lie on the same grid"):
        on_same_grid(Path("a"), reference, Path("b"), mirrored)


def test_a_label_that_fits_mirrored_and_not_is_refused(tmp_path):
    """The image's sform and qform mirror each other over one box, and the label was drawn by the qform."""
    array = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    sform = np.diag([2.0, 2, 2, 1])
    qform = np.diag([-2.0, 2, 2, 1])
    qform[0, 3] = 2.0 * (array.shape[0] - 1)
    image = nib.Nifti1Image(array, sform)
    image.set_sform(sform, 2)
    image.set_qform(qform, 1)
    nib.save(image, tmp_path / "image.nii")
    nib.save(nib.Nifti1Image(array, qform), tmp_path / "label.nii")
    paths = tmp_path / "image.nii", tmp_path / "label.nii"
    image_volume, label_volume = map(read_volume, paths)
    if image_volume.itk_affine is None:
        pytest.skip("this ITK places the image as nibabel does")
    with pytest.raises(InputError, match="in two ways"):
        on_same_grid(paths[0], image_volume, paths[1], label_volume)
