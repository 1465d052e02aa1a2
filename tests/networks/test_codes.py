"""Classes as codes: decoding, confidence, and that resized scores contain no other class."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from sdseg_monai.networks.codes import (
    LOGIT_GAIN,
    MOST_CLASSES,
    MOST_COLOURS,
    class_codes,
    class_logits,
    is_one_hot,
    mask_to_image,
    score_from_mask_image,
    score_margin,
)
from sdseg_monai.transforms import resize_slices

COLOURS = pytest.mark.parametrize("num_classes", range(2, MOST_COLOURS + 1))
EVERY_NUMBER = pytest.mark.parametrize("num_classes", [2, 3, 4, 5, 14, MOST_CLASSES])


def channels_of(num_classes):
    return class_codes(num_classes).shape[1]


def random_mask(num_classes, seed=0):
    """Return a map [2, 1, 9, 7] in which every class occurs."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randperm(126, generator=generator) % num_classes).view(2, 1, 9, 7).float()


@COLOURS
def test_colours_are_corners_of_a_cube_and_equally_far_from_each_other(num_classes):
    codes = class_codes(num_classes)
    assert codes.shape == (num_classes, 3) and set(codes.unique().tolist()) == {-1.0, 1.0}
    assert codes[0].tolist() == [-1, -1, -1]
    distances = torch.pdist(codes).square()
    torch.testing.assert_close(distances, torch.full_like(distances, 12 if num_classes == 2 else 8))
    if num_classes > 3:  # another class changes no code but the paper's two
        assert torch.equal(class_codes(num_classes - 1), codes[:-1])


@EVERY_NUMBER
def test_half_way_between_two_classes_lies_no_third(num_classes):
    codes = class_codes(num_classes)
    middles = (codes[:, None] + codes[None]) / 2  # [K, K, C]
    if is_one_hot(num_classes):
        score = F.softmax(middles, dim=-1)  # of the image of all middles, [K, K, K]
    else:
        score = class_logits(middles.movedim(-1, 0)[None], codes)[0].movedim(0, -1)
    own = score.gather(-1, torch.arange(num_classes)[:, None, None].expand(-1, num_classes, 1))[..., 0]
    assert torch.all(own >= score.max(-1).values - 1e-5)  # that of the first of the two is a highest


@pytest.mark.parametrize("num_classes", [-1, 0, 1, MOST_CLASSES + 1])
def test_too_few_or_too_many_classes_are_refused(num_classes):
    with pytest.raises(ValueError, match="expected 2 to 128"):
        class_codes(num_classes)


@EVERY_NUMBER
def test_a_mask_comes_back_from_its_codes(num_classes):
    codes, mask = class_codes(num_classes), random_mask(num_classes)
    image = mask_to_image(mask, codes)
    assert image.shape == (2, channels_of(num_classes), 9, 7) and image.abs().max() <= 1
    assert torch.equal(class_logits(image, codes).argmax(1, keepdim=True), mask)


@COLOURS
def test_a_mask_comes_back_from_near_its_colours_and_the_next_class_lies_the_gain_below(num_classes):
    codes, mask = class_codes(num_classes), random_mask(num_classes)
    image = mask_to_image(mask, codes)
    direction = F.normalize(torch.randn(image.shape, generator=torch.Generator().manual_seed(1)), dim=1)
    near = image + 0.49 * torch.pdist(codes).min() * direction
    assert torch.equal(class_logits(near, codes).argmax(1, keepdim=True), mask)
    logits = class_logits(codes.T[None, :, None], codes)[0, :, 0]  # [K, K], of each class on the code of each
    best, second = logits.topk(2, dim=0).values
    torch.testing.assert_close(best - second, torch.full((num_classes,), LOGIT_GAIN), atol=1e-4, rtol=1e-4)


def test_the_channels_of_many_classes_are_their_logits():
    codes, decoded = class_codes(14), torch.randn(1, 14, 6, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(class_logits(decoded.double(), codes), decoded)
    assert torch.equal(score_from_mask_image(decoded, codes), decoded.softmax(dim=1))


def test_two_classes_have_the_papers_score_and_its_margin():
    codes, decoded = class_codes(2), 2 * torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert mask_to_image(torch.tensor([[[[0, 1]]]]), codes).tolist() == [[[[-1.0, 1.0]]] * 3]
    score = score_from_mask_image(decoded, codes)
    assert torch.equal(score, ((decoded + 1) / 2).clamp(0, 1).mean(1, keepdim=True))
    logits = class_logits(decoded, codes)
    torch.testing.assert_close(logits[:, 1] - logits[:, 0], LOGIT_GAIN * decoded.mean(1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(score_margin(score), (2 * score - 1).abs())
    # the same as of several classes: the difference of the squared distances to the two codes, by that between these
    clamped = decoded.clamp(-1, 1)
    background, foreground = ((clamped - code.view(1, 3, 1, 1)).square().sum(1) for code in codes)
    torch.testing.assert_close(score_margin(score)[:, 0], (background - foreground).abs() / 12, atol=1e-6, rtol=1e-5)


@EVERY_NUMBER
def test_the_margin_is_one_on_a_code_and_zero_half_way_to_the_next(num_classes):
    codes = class_codes(num_classes)
    decoded = LOGIT_GAIN * codes if is_one_hot(num_classes) else codes
    on_codes = score_from_mask_image(decoded.T[None, :, None], codes)
    torch.testing.assert_close(score_margin(on_codes), torch.ones(1, 1, 1, num_classes), atol=1e-4, rtol=0)
    between = (decoded + decoded.roll(1, 0)) / 2
    margin = score_margin(score_from_mask_image(between.T[None, :, None], codes))
    torch.testing.assert_close(margin, torch.zeros(1, 1, 1, num_classes), atol=1e-5, rtol=0)


@EVERY_NUMBER
def test_scores_and_margins_stay_in_range_and_belong_to_their_pixel(num_classes):
    generator, codes = torch.Generator().manual_seed(0), class_codes(num_classes)
    decoded = 2 * torch.randn(1, channels_of(num_classes), 6, 8, generator=generator)
    score = score_from_mask_image(decoded, codes)
    assert score.dtype == torch.float32 and score.min() >= 0 and score.max() <= 1
    if num_classes > 2:
        torch.testing.assert_close(score.sum(1), torch.ones(1, 6, 8))
    for scores in (score, resize_slices(score, (9, 5))):
        margin = score_margin(scores)
        assert margin.shape == (1, 1, *scores.shape[-2:]) and margin.min() >= 0 and margin.max() <= 1
    order = torch.randperm(48, generator=torch.Generator().manual_seed(1))
    shuffled = decoded.flatten(2)[..., order].view_as(decoded)
    again = score_margin(score_from_mask_image(shuffled, codes)).flatten()
    torch.testing.assert_close(again, score_margin(score).flatten()[order], atol=1e-5, rtol=0)


@pytest.mark.parametrize("num_classes", [3, 14])
def test_autocast_rounds_no_logit(num_classes):
    generator, codes = torch.Generator().manual_seed(0), class_codes(num_classes)
    decoded = torch.randn(1, channels_of(num_classes), 16, 16, generator=generator)
    with torch.autocast("cpu", torch.bfloat16):
        logits, score = class_logits(decoded, codes), score_from_mask_image(decoded, codes)
    assert torch.equal(logits, class_logits(decoded, codes))
    assert torch.equal(score, score_from_mask_image(decoded, codes))


def one_hot(mask, num_classes):
    return F.one_hot(mask[:, 0].long(), num_classes).movedim(-1, 1).float()


def count_invented(classes, mask, num_classes):
    """Count pixels of a resized map ``classes`` [N, 1, h, w] whose class none of the pixels behind them has."""
    share = resize_slices(one_hot(mask, num_classes), classes.shape[-2:])
    return int((share.gather(1, classes) == 0).sum())


@settings(deadline=None, max_examples=60)
@given(
    num_classes=st.integers(3, 30),
    seed=st.integers(0, 99),
    size=st.tuples(st.integers(2, 31), st.integers(2, 31)),
)
def test_resized_scores_have_only_the_classes_that_meet_there(num_classes, seed, size):
    mask, codes = random_mask(num_classes, seed), class_codes(num_classes)
    score = score_from_mask_image(mask_to_image(mask, codes), codes)
    classes = resize_slices(score, size).argmax(1, keepdim=True)
    assert count_invented(classes, mask, num_classes) == 0
