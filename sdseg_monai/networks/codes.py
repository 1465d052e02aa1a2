"""Classes as colours: how a label map becomes the three channels that an autoencoder knows, and how it comes back."""

from __future__ import annotations

from functools import cache
from itertools import combinations, product

import torch

from sdseg_monai.errors import InputError

LOGIT_GAIN = 5.0  # sigmoid(5) = 0.993 on a code: Dice and cross-entropy then ask for little more
MOST_CLASSES = 27


def class_codes(num_classes: int) -> torch.Tensor:
    """Return the code of each class, [K, 3] in {-1, 0, 1}; class 0 is the background, (-1, -1, -1).

    Two classes are the paper's black and white. Up to eight are corners of the cube, two levels a channel, the first
    four of them two channels apart; up to 27 have a third level. Any two codes differ by the most that so many allow
    in this order: the square of their smallest distance is 12 for 2 classes, 8 to 4, 4 to 8, 2 to 14 and 1 to 27. Up to
    four are equally far apart. From five on a third code can lie as near to the middle of two as these do, from nine on
    nearer, so that a blurred edge may show a third class.

    Args:
        num_classes: K, the background's included.

    Raises:
        InputError: K is not within 2 and 27.
    """
    # on the CPU also where networks are made without memory, to be filled from a file: codes are in no part's file
    return torch.tensor(_codes(num_classes), dtype=torch.float32, device="cpu")


@cache
def _codes(num_classes: int) -> list[tuple[int, ...]]:
    if not 2 <= num_classes <= MOST_CLASSES:
        raise InputError(f"num_classes={num_classes}: expected 2 to {MOST_CLASSES}, the background included")
    if num_classes == 2:
        return [(-1, -1, -1), (1, 1, 1)]
    corners = list(product((-1, 1), repeat=3))
    even = [c for c in corners if c.count(1) % 2 == 0]
    odd = [c for c in corners if c.count(1) % 2 == 1]
    lattice = list(product((-1, 0, 1), repeat=3))
    faces = [c for c in lattice if c.count(0) == 2]
    others = [c for c in lattice if c.count(0) in (1, 3)]
    return [*even, *odd, *faces, *others][:num_classes]


@cache
def smallest_square_distance(num_classes: int) -> int:
    """Return the square of the smallest distance between two codes of :func:`class_codes`."""
    pairs = combinations(_codes(num_classes), 2)
    return min(sum((a - b) ** 2 for a, b in zip(*pair, strict=True)) for pair in pairs)


def mask_to_image(mask: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Turn a label map ``mask`` [B, 1, H, W] in {0..K-1} into the autoencoder's input [B, 3, H, W] in [-1, 1].

    Args:
        mask: class of each pixel; of two classes it is a binary mask.
        codes: [K, 3], from :func:`class_codes`.
    """
    return codes.to(mask.device)[mask[:, 0].long()].movedim(-1, 1).contiguous()


def class_logits(mask_image: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Return one logit per class, [B, K, H, W], float32, for a decoded ``mask_image`` [B, 3, H, W], not clamped.

    A logit falls with the square of the distance to the class's code, as if each code were the centre of a Gaussian,
    so scaled that on a code the next class lies ``LOGIT_GAIN`` below. Of two classes the difference of the logits is
    ``LOGIT_GAIN`` times the mean of the three channels.
    """
    codes = codes.to(mask_image.device, torch.float32)
    # |x - c|^2 without |x|^2, which no class has to itself; autocast would round the product to bfloat16
    with torch.autocast(mask_image.device.type, enabled=False):
        inner = torch.einsum("bchw,kc->bkhw", mask_image.float(), codes)
    squares = (codes**2).sum(dim=1).view(1, -1, 1, 1)
    return LOGIT_GAIN / smallest_square_distance(len(codes)) * (2 * inner - squares)


def score_from_mask_image(mask_image: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Turn a decoded ``mask_image`` [B, 3, H, W], about [-1, 1], into scores in [0, 1], float32.

    Of two classes [B, 1, H, W], the foreground's: each channel is mapped from [-1, 1] and clamped, then their mean
    (official-behaviour, section 2). Of more [B, K, H, W], which sum to 1: the softmax of :func:`class_logits` of the
    clamped channels.
    """
    if len(codes) == 2:
        return ((mask_image.float() + 1) / 2).clamp(0, 1).mean(dim=1, keepdim=True)
    return class_logits(mask_image.float().clamp(-1, 1), codes).softmax(dim=1)


def cut_score(score: torch.Tensor) -> torch.Tensor:
    """Return the classes [N, 1, ...], uint8, of scores [N, 1, ...], cut at 0.5, or [N, K, ...], the highest."""
    classes = score >= 0.5 if score.shape[1] == 1 else score.argmax(dim=1, keepdim=True)
    return classes.to(torch.uint8)


def score_margin(score: torch.Tensor) -> torch.Tensor:
    """Return how sure each pixel's class is, [B, 1, ...] in [0, 1], for scores [B, 1, ...] or [B, K, ...].

    Of several classes it is how much farther, in squared distance, the second-nearest code is than the nearest, 1 on
    a code and 0 half-way between two. Of two classes, scored by one channel, it is the same: twice the distance of
    the score from 0.5. Of one pass per class it is half the distance between the two highest maps, 1 where these are
    1 and -1. It lives as long as scores do: it can be taken after they were resized.
    """
    if score.shape[1] == 1:
        return (2 * score - 1).abs()
    best = score.topk(2, dim=1).values.clamp_min(torch.finfo(torch.float32).tiny).log()
    return ((best[:, :1] - best[:, 1:]) / LOGIT_GAIN).clamp(0, 1)
