"""Disagreement of masks and entropy of probabilities."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sdseg_monai.inference.uncertainty import (
    SampledSegmentation,
    mask_disagreement,
    predictive_entropy,
)
from sdseg_monai.io.volumes import Volume

# of masks and probabilities


def test_disagreement_of_masks_is_known():
    box = np.zeros((4, 6, 5), np.uint8)
    box[:2] = 1
    empty, inverse, half = np.zeros_like(box), 1 - box, box.copy()
    half[1] = 0
    assert mask_disagreement([box, box, box]) == 0 == mask_disagreement([empty, empty])
    assert mask_disagreement([box, inverse]) == 1 == mask_disagreement([box, empty]) == mask_disagreement([empty, box])
    assert mask_disagreement([box, half]) == pytest.approx(1 - 2 / 3)
    assert mask_disagreement([box, half, empty]) == pytest.approx((1 / 3 + 1 + 1) / 3)


def test_disagreement_is_the_mean_over_the_classes_that_occur():
    mask = np.zeros((4, 6, 5), np.uint8)
    mask[:2], mask[2:] = 1, 3
    without_3 = np.where(mask == 3, 0, mask)
    assert mask_disagreement([mask, without_3]) == pytest.approx((0 + 1) / 2)  # agreed in 1, not in 3; 2 is in neither
    assert mask_disagreement([mask, np.where(mask == 1, 3, 1)]) == 1


@settings(max_examples=30, deadline=None)
@given(st.lists(arrays(np.uint8, (3, 2, 2), elements=st.integers(0, 2)), min_size=2, max_size=4), st.randoms())
def test_disagreement_of_masks_has_its_properties(masks, random):
    value = mask_disagreement(masks)
    assert 0 <= value <= 1
    assert (value == 0) == all(np.array_equal(masks[0], mask) for mask in masks)
    renamed = np.array([0, 2, 1])
    shuffled = random.sample(masks, len(masks))
    assert mask_disagreement([renamed[mask[::-1]] for mask in shuffled]) == pytest.approx(value)


@pytest.mark.parametrize("masks", [[], [np.zeros((2, 2, 2))], [np.zeros((2, 2, 2)), np.zeros((2, 2, 3))]])
def test_masks_that_cannot_be_compared_are_refused(masks):
    with pytest.raises(ValueError, match="at least two, all of one shape"):
        mask_disagreement(masks)


@settings(max_examples=30, deadline=None)
@given(arrays(np.float32, (5, 2, 1, 2), elements=st.floats(0, 1, width=32)), st.integers(2, 5))
def test_entropy_is_between_certainty_and_equality(weights, num_classes):
    weights = weights[:num_classes] + 1e-3
    probabilities = weights / weights.sum(0)

    def entropy_of(probabilities):
        return predictive_entropy(torch.from_numpy(probabilities[1:])).numpy()

    entropy = entropy_of(probabilities)
    assert entropy.shape == (2, 1, 2) and entropy.dtype == np.float32
    assert (entropy >= 0).all() and (entropy <= 1).all()
    # whichever class is the background, and more where the probabilities are nearer to each other
    np.testing.assert_allclose(entropy_of(probabilities[::-1].copy()), entropy, atol=1e-5)
    assert (entropy_of(0.5 * probabilities + 0.5 / num_classes) >= entropy - 1e-6).all()
    certain = np.eye(num_classes, dtype=np.float32)[..., None, None]
    assert (entropy_of(certain) == 0).all()
    np.testing.assert_allclose(entropy_of(np.full_like(probabilities, 1 / num_classes)), 1, atol=1e-6)


def test_volumes_give_a_range():
    volumes = np.array([[1.0, 0, 4], [2, 0, 4], [3, 0, 4]])
    voxel = np.zeros((1, 1, 1), np.float32)
    result = SampledSegmentation(
        labels=voxel,
        kept={},
        affine=np.eye(4),
        segments={},
        num_classes=4,
        source=Volume(voxel, np.eye(4)),
        entropy=voxel,
        disagreement=0.0,
        sample_volumes=volumes,
    )
    np.testing.assert_array_equal(result.volume_range, [[1, 0, 4], [3, 0, 4]])
