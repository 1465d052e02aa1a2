"""An image that is stored in another orientation has the same mask in the world, whichever the strategy."""

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from sdseg_monai import Pipeline
from tests.makers.volumes import load_nifti


def reorient(image: nib.Nifti1Image, codes: str) -> nib.Nifti1Image:
    return image.as_reoriented(ornt_transform(io_orientation(image.affine), axcodes2ornt(codes)))


@pytest.fixture(params=[None, "flips", "ensemble"])
def pipeline(request, bundle, other_weights):
    own_weights = bundle / "models" / "model.pt"
    weights = [own_weights, other_weights] if request.param == "ensemble" else [own_weights]
    return Pipeline(bundle, device="cpu", uncertainty=request.param, weights=weights)


@pytest.mark.parametrize("codes", ["LPS", "PIR"])
def test_every_strategy_puts_mask_and_maps_in_their_place(pipeline, volume, tmp_path, codes):
    expected = pipeline(volume)
    nib.save(reorient(load_nifti(volume), codes), tmp_path / volume.name)
    result = pipeline(tmp_path / volume.name)
    for name, array in {**result.maps, "labels": result.labels}.items():
        turned_back = reorient(nib.Nifti1Image(array, result.affine), "RAS")
        in_place = {**expected.maps, "labels": expected.labels}[name]
        np.testing.assert_allclose(np.asarray(turned_back.dataobj), in_place, atol=1e-6, err_msg=name)
        np.testing.assert_allclose(turned_back.affine, expected.affine, atol=1e-5)
    assert expected.labels.any() and not np.array_equal(result.labels, expected.labels)


def test_a_nibabel_image_in_memory_may_be_a_view(pipeline, volume):
    """In another orientation it has negative strides, which torch does not take."""
    image = nib.Nifti1Image(load_nifti(volume).get_fdata(dtype=np.float32), load_nifti(volume).affine)
    turned_back = reorient(pipeline(reorient(image, "LPS")).to_nifti(), "RAS")
    np.testing.assert_array_equal(np.asarray(turned_back.dataobj), pipeline(image).labels)
