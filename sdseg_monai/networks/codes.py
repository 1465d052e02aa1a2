"""Class codes: a label map as the three channels of the autoencoder, and the decoded channels as scores again."""

from __future__ import annotations

from functools import cache
from itertools import combinations, product

import torch

from sdseg_monai.errors import InputError

LOGIT_GAIN = 5.0  # sigmoid(5) = 0.993 on a code: Dice and cross-entropy then gain little from more
MOST_CLASSES = 27


def class_codes(num_classes: int) -> torch.Tensor:
    """Return the code of each class, its value in each of the three channels.

    The background, class 0, is (-1, -1, -1). Two classes are black and white, as in the paper. Up to 8 classes have
    codes of two levels, -1 and 1; up to 27 have a third level, 0. The order of the codes keeps them far apart: the
    square of the smallest distance between two is 12 for 2 classes, 8 for up to 4, 4 for up to 8, 2 for up to 14 and 1
    for up to 27. The codes of up to 4 classes are equally far from each other. With 5 classes or more a third code can
    be as near to the midpoint of two codes as these are, with 9 or more even nearer: a blurred edge between two classes
    may then be decoded as a third class.

    Args:
        num_classes: K, including the background.

    Returns:
        [K, 3], float32, on the CPU, values in {-1, 0, 1}.

    Raises:
        InputError: K is not from 2 to 27.

    Example:
        >>> class_codes(3)
        tensor([[-1., -1., -1.],
                [-1.,  1.,  1.],
                [ 1., -1.,  1.]])
    """
    # on the CPU even where a network is built on the meta device: no file of a part holds the codes
    return torch.tensor(_codes(num_classes), dtype=torch.float32, device="cpu")


@cache
def _codes(num_classes: int) -> list[tuple[int, ...]]:
    if not 2 <= num_classes <= MOST_CLASSES:
        raise InputError(f"num_classes={num_classes}: expected 2 to {MOST_CLASSES}, the background included")
    if num_classes == 2:
        return [(-1, -1, -1), (1, 1, 1)]
    # points of a cube: its corners, the even ones of which differ in two channels each, then face centres, then edges
    corners = list(product((-1, 1), repeat=3))
    even_corners = [corner for corner in corners if corner.count(1) % 2 == 0]
    odd_corners = [corner for corner in corners if corner.count(1) % 2 == 1]
    lattice = list(product((-1, 0, 1), repeat=3))
    face_centres = [point for point in lattice if point.count(0) == 2]
    edges_and_centre = [point for point in lattice if point.count(0) in (1, 3)]
    return [*even_corners, *odd_corners, *face_centres, *edges_and_centre][:num_classes]


@cache
def smallest_square_distance(num_classes: int) -> int:
    """Return the square of the smallest distance between two codes of :func:`class_codes`."""
    pairs = combinations(_codes(num_classes), 2)
    return min(sum((a - b) ** 2 for a, b in zip(*pair, strict=True)) for pair in pairs)


def mask_to_image(mask: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Turn a label map into the mask image, the autoencoder's input: each pixel gets the code of its class.

    Args:
        mask: class of each pixel, [B, 1, H, W] in {0..K-1}; a binary mask if there are two classes.
        codes: [K, 3], from :func:`class_codes`.

    Returns:
        [B, 3, H, W] in [-1, 1], in the dtype of ``codes``.

    Example:
        >>> mask_to_image(torch.tensor([[[[0, 1]]]]), class_codes(2))[0, :, 0]
        tensor([[-1.,  1.],
                [-1.,  1.],
                [-1.,  1.]])
    """
    return codes.to(mask.device)[mask[:, 0].long()].movedim(-1, 1).contiguous()


def class_logits(mask_image: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Return one logit per class for a decoded mask image.

    The logit of a class falls with the squared distance between the pixel and the class's code, as if each code were
    the centre of a Gaussian. The scale is such that for a pixel exactly on a code the next class is ``LOGIT_GAIN``
    lower. With two classes the difference of the logits is ``LOGIT_GAIN`` times the mean of the three channels.

    Args:
        mask_image: [B, 3, H, W], about [-1, 1], not clamped.
        codes: [K, 3], from :func:`class_codes`.

    Returns:
        [B, K, H, W], float32.
    """
    codes = codes.to(mask_image.device, torch.float32)
    # -|x - c|^2 without its term |x|^2, which is the same for all classes; autocast would round 2 x.c to bfloat16
    with torch.autocast(mask_image.device.type, enabled=False):
        inner_products = torch.einsum("bchw,kc->bkhw", mask_image.float(), codes)
    squared_norms = (codes**2).sum(dim=1).view(1, -1, 1, 1)
    return LOGIT_GAIN / smallest_square_distance(len(codes)) * (2 * inner_products - squared_norms)


def score_from_mask_image(mask_image: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Turn a decoded mask image into scores.

    Args:
        mask_image: [B, 3, H, W], about [-1, 1], not clamped.
        codes: [K, 3], from :func:`class_codes`.

    Returns:
        float32 in [0, 1]. With two classes the foreground's score, [B, 1, H, W]: each channel is mapped from [-1, 1] to
        [0, 1] and clamped, then the three are averaged (official-behaviour, section 2). With more classes [B, K, H, W],
        which sum to 1: the softmax of :func:`class_logits` of the clamped channels.
    """
    if len(codes) == 2:
        return ((mask_image.float() + 1) / 2).clamp(0, 1).mean(dim=1, keepdim=True)
    return class_logits(mask_image.float().clamp(-1, 1), codes).softmax(dim=1)


def classes_from_score(score: torch.Tensor) -> torch.Tensor:
    """Return the class of each pixel for its scores, as MONAI's ``AsDiscrete`` does by threshold or argmax.

    Args:
        score: the foreground's, [B, 1, ...] in [0, 1], or one per class, [B, K, ...].

    Returns:
        [B, 1, ...], uint8: 1 where the foreground's score is 0.5 or more, or the class with the highest score.

    Example:
        >>> classes_from_score(torch.tensor([[[0.2, 0.5, 0.9]]]))
        tensor([[[0, 1, 1]]], dtype=torch.uint8)
    """
    classes = score >= 0.5 if score.shape[1] == 1 else score.argmax(dim=1, keepdim=True)
    return classes.to(torch.uint8)


def score_margin(score: torch.Tensor) -> torch.Tensor:
    """Return the margin by which each pixel's class is ahead of the next class: how sure the class is.

    With several classes the margin says how much farther, as squared distances, the second-nearest code is than the
    nearest: 1 on a code, 0 half-way between two. With two classes, scored by one channel, this is twice the distance of
    the score from 0.5. With one pass per class it is half the difference of the two highest class maps, 1 where these
    are 1 and -1. It depends on the scores alone, so it can be computed after they were resized.

    Args:
        score: the foreground's, [B, 1, ...] in [0, 1], or one per class, [B, K, ...], which sum to 1.

    Returns:
        [B, 1, ...] in [0, 1].
    """
    if score.shape[1] == 1:
        return (2 * score - 1).abs()
    log_scores = score.topk(2, dim=1).values.clamp_min(torch.finfo(torch.float32).tiny).log()
    return ((log_scores[:, :1] - log_scores[:, 1:]) / LOGIT_GAIN).clamp(0, 1)
