"""Classes as codes: decoding, confidence, and that resized scores contain no other class."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from sdseg_monai.networks.codes import (
    LOGIT_GAIN,
    MOST_CLASSES,
    class_codes,
    class_logits,
    mask_to_image,
    score_from_mask_image,
    score_margin,
    smallest_square_distance,
)
from sdseg_monai.transforms import resize_slices

EVERY_NUMBER = pytest.mark.parametrize("num_classes", range(2, MOST_CLASSES + 1))


def squares(num_classes):
    """Return the squared distances between codes, [K, K]; infinite from a code to itself."""
    codes = class_codes(num_classes)
    return torch.cdist(codes, codes).square() + torch.diag(torch.full((num_classes,), torch.inf))


def random_mask(num_classes, seed=0):
    """Return a map [2, 1, 9, 7] in which every class occurs."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randperm(126, generator=generator) % num_classes).view(2, 1, 9, 7).float()


@EVERY_NUMBER
def test_codes_lie_as_far_apart_as_is_said(num_classes):
    codes = class_codes(num_classes)
    assert codes.shape == (num_classes, 3) and set(codes.unique().tolist()) <= {-1.0, 0.0, 1.0}
    assert codes[0].tolist() == [-1, -1, -1]
    documented = next(square for square, most in ((12, 2), (8, 4), (4, 8), (2, 14), (1, 27)) if num_classes <= most)
    assert squares(num_classes).min().item() == pytest.approx(documented, abs=1e-4)
    assert smallest_square_distance(num_classes) == documented
    if num_classes > 3:  # another class changes no code but the paper's two
        assert torch.equal(class_codes(num_classes - 1), codes[:-1])


@EVERY_NUMBER
def test_the_middle_of_two_codes_is_nearest_to_these_for_eight_classes_at_most(num_classes):
    codes = class_codes(num_classes)
    middles = (codes[:, None] + codes[None]) / 2  # [K, K, 3]
    to_all = (middles[:, :, None] - codes).square().sum(-1)  # [K, K, K]
    to_these = (codes[:, None] - codes[None]).square().sum(-1) / 4
    stolen = (to_all.min(-1).values < to_these - 1e-6).any()
    assert stolen == (num_classes > 8)


@pytest.mark.parametrize("num_classes", [-1, 0, 1, 28])
def test_too_few_or_too_many_classes_are_refused(num_classes):
    with pytest.raises(ValueError, match="expected 2 to 27"):
        class_codes(num_classes)


@EVERY_NUMBER
def test_a_mask_comes_back_from_its_codes_and_from_near_them(num_classes):
    codes, mask = class_codes(num_classes), random_mask(num_classes)
    image = mask_to_image(mask, codes)
    assert image.shape == (2, 3, 9, 7) and image.abs().max() <= 1
    assert torch.equal(class_logits(image, codes).argmax(1, keepdim=True), mask)
    direction = F.normalize(torch.randn(image.shape, generator=torch.Generator().manual_seed(1)), dim=1)
    near = image + 0.49 * smallest_square_distance(num_classes) ** 0.5 * direction
    assert torch.equal(class_logits(near, codes).argmax(1, keepdim=True), mask)


@EVERY_NUMBER
def test_the_logit_of_the_nearest_other_class_lies_the_gain_below(num_classes):
    codes = class_codes(num_classes)
    logits = class_logits(codes.T[None, :, None], codes)[0, :, 0]  # [K, K], of each class on the code of each
    best, second = logits.topk(2, dim=0).values
    expected = LOGIT_GAIN * squares(num_classes).min(0).values / squares(num_classes).min()
    torch.testing.assert_close(best - second, expected, atol=1e-4, rtol=1e-4)
    assert (best - second).min().item() == pytest.approx(LOGIT_GAIN, abs=1e-4)


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
    on_codes = score_from_mask_image(codes.T[None, :, None], codes)
    torch.testing.assert_close(score_margin(on_codes), torch.ones(1, 1, 1, num_classes), atol=1e-4, rtol=0)
    between = (codes + codes[squares(num_classes).argmin(0)]) / 2
    margin = score_margin(score_from_mask_image(between.T[None, :, None], codes))
    torch.testing.assert_close(margin, torch.zeros(1, 1, 1, num_classes), atol=1e-5, rtol=0)


@EVERY_NUMBER
def test_scores_and_margins_stay_in_range_and_belong_to_their_pixel(num_classes):
    codes, decoded = class_codes(num_classes), 2 * torch.randn(1, 3, 6, 8, generator=torch.Generator().manual_seed(0))
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


@pytest.mark.parametrize("num_classes", [3, 27])
def test_autocast_rounds_no_logit(num_classes):
    codes, decoded = class_codes(num_classes), torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
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


def resized_both_ways(mask, num_classes, size):
    """Return the classes [N, 1, h, w] by resized scores, which is how it is done, and by the resized mask image."""
    codes = class_codes(num_classes)
    image = mask_to_image(mask, codes)
    by_scores = resize_slices(score_from_mask_image(image, codes), size).argmax(1, keepdim=True)
    by_codes = class_logits(resize_slices(image, size), codes).argmax(1, keepdim=True)
    return by_scores, by_codes


@settings(deadline=None, max_examples=60)
@given(
    num_classes=st.integers(3, MOST_CLASSES),
    seed=st.integers(0, 99),
    size=st.tuples(st.integers(2, 31), st.integers(2, 31)),
)
def test_resized_scores_have_only_the_classes_that_meet_there(num_classes, seed, size):
    mask = random_mask(num_classes, seed)
    by_scores, _ = resized_both_ways(mask, num_classes, size)
    assert count_invented(by_scores, mask, num_classes) == 0


def test_resized_codes_invent_a_class_where_two_meet():
    """The mean of (-1, -1, -1) and (1, 1, 1) is the code of a third class: a rim of it around a disc."""
    codes = class_codes(27).tolist()
    disc, rim = codes.index([1, 1, 1]), codes.index([0, 0, 0])
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    mask = disc * ((y - 30) ** 2 + (x - 33) ** 2 < 400)[None, None].float()
    by_scores, by_codes = resized_both_ways(mask, 27, (100, 100))
    assert count_invented(by_scores, mask, 27) == 0 and set(by_scores.unique().tolist()) == {0, disc}
    assert count_invented(by_codes, mask, 27) > 150 and rim in by_codes


def test_three_classes_are_corners_of_a_simplex_and_eight_are_not():
    """Up to four codes have the same distance to each other: there, and only there, resized codes invent nothing."""
    counts = {}
    for num_classes in (3, 4, 8):
        mask = random_mask(num_classes)
        by_scores, by_codes = resized_both_ways(mask, num_classes, (31, 29))
        assert count_invented(by_scores, mask, num_classes) == 0
        counts[num_classes] = count_invented(by_codes, mask, num_classes)
    assert counts[3] == counts[4] == 0 < counts[8]
