"""Uncertainty: exact values for networks of one convolution, and properties for a real network."""

import nibabel as nib
import numpy as np
import pytest
import torch
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from sdseg_monai.errors import InputError
from sdseg_monai.inference.segmenter import Segmenter
from sdseg_monai.inference.strategies import Ensemble, Mirror, Once, Seeds
from sdseg_monai.inference.uncertainty import (
    mask_disagreement,
    predictive_entropy,
)
from tests.inference.uncertainty.segmenting import segment_with
from tests.makers.bundles import EDGE, write_bundle
from tests.makers.volumes import load_nifti

WIDTH = 8  # voxels along each edge of the box that the exact networks see


def convolution(folder, kernel, slice_axis=1):
    """Return a segmenter that cuts at 0.5 what one convolution with ``kernel`` [3, 3] makes of each slice."""
    network_def = {
        "_target_": "sdseg_monai.networks.pixel.PixelSegmenter",
        "backbone": {
            "_target_": "torch.nn.Conv2d",
            "in_channels": 3,
            "out_channels": 1,
            "kernel_size": 3,
            "padding": 1,
        },
    }
    backbone = torch.nn.Conv2d(3, 1, 3, padding=1)
    with torch.no_grad():
        backbone.weight.copy_(torch.as_tensor(kernel, dtype=torch.float32))
        backbone.bias.fill_(-0.1)  # beyond the border the padding is 0, which is background
    network = torch.nn.ModuleDict({"backbone": backbone})
    return Segmenter(write_bundle(folder, network_def, network, slice_axis), device="cpu", trust=True)


def write_box(path, codes="RAS"):
    """Write a box in the middle of a cube, stored in another orientation but the same in the world."""
    array = np.zeros((EDGE,) * 3, np.float32)
    middle = slice((EDGE - WIDTH) // 2, (EDGE + WIDTH) // 2)
    array[middle, middle, middle] = 100
    image = nib.Nifti1Image(array, np.diag([2.0, 2, 2, 1]))
    nib.save(image.as_reoriented(ornt_transform(io_orientation(image.affine), axcodes2ornt(codes))), path)
    return path


def join(samples, image):
    """Return the whole of what ``samples`` says of ``image``, [S, K, X, Y, Z]."""
    return torch.cat(list(samples.iter_slabs(image)), dim=samples.segmenter.inferer.slice_axis + 2)


def disagreement(segmenter, path):
    return segment_with(Mirror(segmenter), path).disagreement


# of networks that are exactly known


@pytest.mark.parametrize("slice_axis", [0, 1, 2])
def test_flips_are_along_the_first_axis_in_the_slice(tmp_path, slice_axis):
    """A network that moves what it sees by a voxel along an axis disagrees with itself only if that one is mirrored.

    The first axis in a slice is left-right, and the next one in sagittal slices.
    """
    path = write_box(tmp_path / "a.nii.gz")
    along, across = np.zeros((3, 3)), np.zeros((3, 3))
    along[0, 1] = across[1, 0] = 1
    moved = convolution(tmp_path / "along", along, slice_axis)
    assert disagreement(moved, path) == pytest.approx(2 / WIDTH)
    assert disagreement(convolution(tmp_path / "across", across, slice_axis), path) == 0


@pytest.mark.parametrize("codes", ["LAS", "PIR", "SLA"])
def test_flips_are_the_patients_left_and_right_however_the_file_is_stored(tmp_path, codes):
    kernel = np.zeros((3, 3))
    kernel[0, 1] = 1
    segmenter = convolution(tmp_path / "bundle", kernel)
    path = write_box(tmp_path / "a.nii.gz", codes)
    assert disagreement(segmenter, path) == pytest.approx(2 / WIDTH)


@pytest.mark.parametrize("codes", ["RAS", "SLA"])
def test_volumes_and_means_are_known(tmp_path, codes):
    """The box moves by a voxel to either side: both samples have its volume, their mean is half at its two ends.

    The result is what the network makes of the volume itself, of which it is certain.
    """
    kernel = np.zeros((3, 3))
    kernel[0, 1] = 100  # scores are 0 or 1
    segmenter = convolution(tmp_path / "bundle", kernel)
    result = segment_with(Mirror(segmenter), write_box(tmp_path / "a.nii.gz", codes))
    np.testing.assert_allclose(result.sample_volumes, np.full((2, 1), (2 * WIDTH) ** 3 / 1000))
    assert (np.ptp(result.sample_volumes, axis=0) == 0).all()
    assert result.labels.sum() == WIDTH**3
    inside = (slice(1, -1),) * 3  # at the border the padding comes in
    entropy, confidence = result.entropy[inside], result.confidence[inside]
    assert (confidence > 0.98).all()
    assert (entropy > 0.99).sum() == 4 * WIDTH**2 and (entropy[entropy <= 0.99] < 0.01).all()


def test_a_network_without_left_and_right_agrees_with_itself_on_any_volume(tmp_path, volume):
    kernel = np.array([[0.1, 0.3, 0.2], [0.2, 0.5, -0.4], [0.1, 0.3, 0.2]])
    segmenter = convolution(tmp_path / "bundle", kernel)
    assert segment_with(Once(segmenter), volume).labels.any() and disagreement(segmenter, volume) < 1e-3


# of a real network


@pytest.mark.parametrize("strategy", [Mirror, Seeds])
def test_a_real_network_has_one_uncertainty(noisy, volume, strategy):
    """The same again and whatever the batch, and the segmenter is as it was."""
    before = segment_with(Once(noisy), volume).scores
    samples = strategy(noisy)
    result = segment_with(samples, volume)
    assert 0.01 < result.disagreement < 0.99 and np.ptp(result.sample_volumes, axis=0).max() > 0
    assert result.sample_volumes.shape == (5 if strategy is Seeds else 2, len(before))
    assert result.entropy.shape == before.shape[1:] and result.entropy.dtype == np.float32
    assert (result.entropy >= 0).all() and (result.entropy <= 1).all()
    assert segment_with(samples, volume).disagreement == result.disagreement
    np.testing.assert_array_equal(segment_with(Once(noisy), volume).scores, before)
    try:
        for batch_size in (1, 64):
            noisy.configure(batch_size=batch_size)
            repeated = segment_with(samples, volume)
            assert repeated.disagreement == pytest.approx(result.disagreement, abs=1e-2)
            np.testing.assert_allclose(repeated.entropy, result.entropy, atol=1e-4)
            np.testing.assert_allclose(repeated.scores, result.scores, atol=1e-5)
    finally:
        noisy.configure()


def test_flips_compare_the_mask_that_is_written(deterministic, volume):
    item = deterministic.prepare(volume)
    scores = join(Mirror(deterministic), item["image"])
    masks = [Once(deterministic).finish(item, [score[None]]).labels for score in scores]
    np.testing.assert_array_equal(masks[0], segment_with(Once(deterministic), volume).labels)
    result = segment_with(Mirror(deterministic), volume)
    np.testing.assert_array_equal(result.labels, masks[0])
    assert result.disagreement == mask_disagreement(masks) > 0
    num_classes = len(result.scores)
    voxels = [[(mask == value).sum() for value in range(1, num_classes + 1)] for mask in masks]
    voxel_ml = abs(np.linalg.det(load_nifti(volume).affine[:3, :3])) / 1000
    np.testing.assert_allclose(result.sample_volumes, np.array(voxels) * voxel_ml, rtol=1e-6)
    np.testing.assert_allclose(list(result.volumes.values()), result.sample_volumes[0])


def test_the_mean_of_the_samples_is_the_result(bundle, deterministic, other_weights, volume):
    image = deterministic.prepare(volume)["image"]
    other_segmenter = Segmenter(bundle, device="cpu", weights=other_weights)
    members = [deterministic, other_segmenter]
    scores = join(Ensemble(members), image)
    for member, score in zip(members, scores, strict=True):
        torch.testing.assert_close(score, join(Once(member), image)[0], atol=1e-6, rtol=0)
    result = segment_with(Ensemble(members), volume)
    expected = Once(deterministic).finish(deterministic.prepare(volume), [scores.mean(0, keepdim=True)])
    np.testing.assert_allclose(result.scores, expected.scores, atol=1e-6)
    assert result.disagreement > 0


def test_one_model_twice_is_no_ensemble_to_disagree(deterministic, volume):
    single = segment_with(Once(deterministic), volume)
    result = segment_with(Ensemble([deterministic, deterministic]), volume)
    assert result.disagreement == 0
    np.testing.assert_array_equal(result.sample_volumes[0], result.sample_volumes[1])
    for name in ("labels", "scores", "confidence"):
        np.testing.assert_array_equal(getattr(result, name), getattr(single, name))
    expected = predictive_entropy(torch.from_numpy(single.scores))
    np.testing.assert_allclose(result.entropy, expected, atol=1e-5)


@pytest.mark.parametrize("num_samples", [2, 5])
def test_seeds_encode_every_slab_once(noisy, volume, num_samples):
    calls, batch_size = [], noisy.inferer.batch_size
    hook = noisy.network.vision_encoder.register_forward_hook(lambda module, inputs, result: calls.append(len(result)))
    try:
        segment_with(Seeds(noisy, num_samples), volume)
    finally:
        hook.remove()
    image = noisy.prepare(volume)["image"]
    slices = image.shape[noisy.inferer.slice_axis + 1]
    assert slices > batch_size and sum(calls) == slices and len(calls) == -(-slices // batch_size)


def test_seeds_are_those_of_the_per_slice_noise(noisy, volume):
    image = noisy.prepare(volume)["image"]
    scores = join(Seeds(noisy, 3), image)
    assert len(scores) == 3 and not any(torch.equal(scores[0], score) for score in scores[1:])
    torch.testing.assert_close(join(Seeds(noisy, 2), image), scores[:2], atol=1e-6, rtol=0)
    repeated = image.whole()[:, :, :1].expand(-1, -1, 2, -1)
    first, second = join(Seeds(noisy), repeated)[0].unbind(2)
    assert not torch.allclose(first, second, atol=1e-3)
    try:
        noisy.configure(seed=7)
        assert not torch.allclose(join(Seeds(noisy, 3), image), scores, atol=1e-3)
    finally:
        noisy.configure()


def test_sources_that_say_nothing_are_refused(deterministic, noisy, tmp_path):
    for segmenter in (deterministic, convolution(tmp_path / "bundle", np.ones((3, 3)))):
        with pytest.raises(InputError, match="without start noise"):
            Seeds(segmenter)
    with pytest.raises(InputError, match="at least two"):
        Seeds(noisy, 1)
    with pytest.raises(InputError, match="at least two"):
        Ensemble([deterministic])


def test_a_bad_file_is_an_input_error(deterministic, tmp_path):
    (tmp_path / "a.nii.gz").write_bytes(b"no volume")
    with pytest.raises(InputError, match=r"a\.nii\.gz"):
        segment_with(Mirror(deterministic), tmp_path / "a.nii.gz")
