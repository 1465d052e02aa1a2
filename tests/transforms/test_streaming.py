"""A volume that is prepared slab by slab is the one that is prepared as a whole, to the bit."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.transforms import (
    Compose,
    Invertd,
    Orientationd,
    Resized,
    ScaleIntensityRanged,
    ScaleIntensityRangePercentilesd,
)
from monai.transforms.utils_pytorch_numpy_unification import percentile

from sdseg_monai.inferers import SliceWiseInferer
from sdseg_monai.io import arrays
from sdseg_monai.io.volumes import Volume
from sdseg_monai.io.warnings import LoggedWarnings
from sdseg_monai.transforms import LoadVolumed, WarnFieldOfViewd, streaming
from sdseg_monai.transforms.streaming import can_stream, percentiles, stream

CODES = ["RAS", "LPS", "SAR", "PIL", "RSA", "IPR"]
WINDOW = ScaleIntensityRanged("image", -100, 200, -1, 1, clip=True)
PERCENTILES = ScaleIntensityRangePercentilesd("image", 0.5, 99.5, -1, 1, clip=True)


def preprocessing(scale, codes="RAS"):
    check = WarnFieldOfViewd("image", [[1, 100]] * 3, lowest=-1000)
    return Compose([LoadVolumed("image"), check, Orientationd("image", codes, labels=None), scale])


def random_volume(seed, shape=(9, 7, 12)):
    """A volume with an oblique affine whose axes are permuted and flipped."""
    rng = np.random.default_rng(seed)
    array = np.asfortranarray(rng.normal(50, 100, shape).astype(np.float32))
    axes = np.eye(3)[rng.permutation(3)] * rng.choice([-1, 1], 3)
    affine = np.eye(4)
    affine[:3, :3] = (axes + rng.uniform(-0.1, 0.1, (3, 3))) * rng.uniform(0.5, 3, 3)
    affine[:3, 3] = rng.normal(0, 50, 3)
    return Volume(array, affine, "case.nii.gz")


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), codes=st.sampled_from(CODES), axis=st.integers(1, 3), is_window=st.booleans())
def test_slabs_are_those_of_the_whole(seed, codes, axis, is_window):
    steps, volume = preprocessing(WINDOW if is_window else PERCENTILES, codes), random_volume(seed)
    whole = steps({"image": volume, "warnings": LoggedWarnings("a", True)})["image"]
    image = stream(steps, volume, LoggedWarnings("a", True))
    assert image.shape == whole.shape and image.min() == whole.min() and image.max() == whole.max()
    torch.testing.assert_close(image.affine, whole.affine.as_subclass(torch.Tensor))
    torch.testing.assert_close(image.whole().as_subclass(torch.Tensor), whole.as_subclass(torch.Tensor), rtol=0, atol=0)
    inverse = Invertd("pred", steps, "image", nearest_interp=False)
    on_grid = np.full(volume.array.shape, np.nan, np.float32)
    size = whole.shape[axis]
    for start in range(0, size, 4):
        length = min(4, size - start)
        slab = image.narrow(axis, start, length)
        assert torch.equal(slab.as_subclass(torch.Tensor), whole.narrow(axis, start, length).as_subclass(torch.Tensor))
        part = image.narrow(axis, start + length // 2, length - length // 2)  # of the slab that is kept
        box = image.box(axis, start + length // 2, length - length // 2)
        on_grid[box] = inverse({"image": part, "pred": part.clone()})["pred"][0].numpy()
        on_grid[image.box(axis, start, length)] = inverse({"image": slab, "pred": slab.clone()})["pred"][0].numpy()
    expected = inverse({"image": whole, "pred": whole.clone()})["pred"][0].numpy()
    np.testing.assert_array_equal(on_grid, expected)


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_a_mirror_image_is_that_of_the_whole(dim):
    image = stream(preprocessing(WINDOW), random_volume(1), LoggedWarnings("a", True))
    for axis in (1, 2, 3):
        expected = image.whole().flip(dim).narrow(axis, 1, 3)
        assert torch.equal(
            image.flip(dim).narrow(axis, 1, 3).as_subclass(torch.Tensor), expected.as_subclass(torch.Tensor)
        )


@pytest.mark.parametrize("context_mm", [None, 1.7])
def test_the_network_gets_the_slices_of_the_whole(context_mm):
    inferer = SliceWiseInferer((16, 16), slice_axis=0, batch_size=3, context_mm=context_mm)
    image = stream(preprocessing(PERCENTILES), random_volume(3), LoggedWarnings("a", True))
    for start in range(0, image.shape[1] - 2):
        assert torch.equal(
            inferer.network_image(image, start, start + 2), inferer.network_image(image.whole(), start, start + 2)
        )
    assert torch.equal(inferer.sample_slices(image), inferer.sample_slices(image.whole()))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    ranks=st.lists(st.one_of(st.floats(0, 100), st.sampled_from([0, 0.5, 50, 99.5, 100])), min_size=1, max_size=3),
    is_integer=st.booleans(),
)
def test_percentiles_of_a_large_volume_are_monais_to_the_bit(seed, ranks, is_integer):
    rng = np.random.default_rng(seed)
    array = np.asfortranarray(rng.normal(0, 100, (101, 100, 100)).astype(np.float32))  # over a million: numpy's way
    if is_integer:
        array = array.round()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streaming, "IN_MEMORY_BYTES", 0)
        patch.setattr(arrays, "CHUNK_BYTES", 1 << 20)
        values = percentiles(array, ranks)
    assert values == [percentile(torch.from_numpy(array), rank) for rank in ranks]


def test_steps_that_are_not_known_to_work_slab_by_slab_do_not_stream():
    load, resize = LoadVolumed("image"), Resized("image", (8, 8, 8))
    relative = ScaleIntensityRangePercentilesd("image", 1, 99, -1, 1, relative=True)
    assert can_stream(preprocessing(WINDOW)) and can_stream(Compose([load])) and can_stream(preprocessing(PERCENTILES))

    class Other(LoadVolumed):
        """It may do more."""

    for steps in (
        [load, resize],
        [WINDOW],
        [load, WINDOW, PERCENTILES],
        [load, relative],
        [Other("image")],
        [load, load],
        [],
    ):
        assert not can_stream(Compose(steps))
    other_key = ScaleIntensityRanged("other", 0, 1, -1, 1)
    assert not can_stream(Compose([load, other_key]))


def test_warnings_come_once_and_a_step_that_fails_is_told_before_a_slab_is_read():
    warnings = LoggedWarnings("a", True)
    far = WarnFieldOfViewd("image", [[1, 2]] * 3, lowest=0)
    image = stream(Compose([LoadVolumed("image"), far, WINDOW]), random_volume(5), warnings)
    assert [warning.kind for warning in warnings] == ["field_of_view", "intensity"]
    image.whole()
    assert len(list(warnings)) == 2
    with pytest.raises(RuntimeError):
        stream(preprocessing(WINDOW, "XYZ"), random_volume(5), warnings)
