"""How far the predictions of several seeds agree: Table 5 of the paper."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from monai.metrics import MultiScaleSSIMMetric, PSNRMetric, SSIMMetric, compute_dice

from sdseg_monai.metrics.lpips import Lpips

Pairs = Literal["all", "first"]
DATA_RANGE = 1.0  # of scores and masks
PAIRS_AT_ONCE = 16
# Pixels of the shorter side: MS-SSIM's window. Its five scales halve a slice four times, after which the window must
# still fit: the usual 11 pixels need 176.
MS_SSIM_WINDOWS = {176: 11, 112: 7}


@dataclass(frozen=True)
class Stability:
    """Agreement between seeds, as means over every comparison: one slice of one pair of seeds.

    Attributes:
        kind: ``mask`` (score >= 0.5; the paper's Seg) or ``score``.
        lpips: perceptual distance, AlexNet; 0 is equal.
        psnr: peak signal-to-noise ratio in dB, over the comparisons that are not identical; None if all are.
        ssim: structural similarity, Gaussian window of 11 pixels with sigma 1.5; 1 is equal.
        ms_ssim: the same over five scales.
        dice: overlap of the two masks, 1 where both are empty; the same for both kinds.
        comparisons: how many there were.
        identical: how many of them had a mean squared error of 0 in float32.
        ms_ssim_window: pixels of MS-SSIM's Gaussian window, sigma 1.5: 11 for slices from 176 pixels, 7 from 112.
            Figures of different windows are not comparable.
    """

    kind: str
    lpips: float
    psnr: float | None
    ssim: float
    ms_ssim: float
    dice: float
    comparisons: int
    identical: int
    ms_ssim_window: int


def measure_stability(scores: torch.Tensor, lpips: Lpips, pairs: Pairs = "all") -> list[Stability]:
    """Compare the ``scores`` that several seeds gave for the same slices; returns a row for masks and one for scores.

    The data range is 1. The official notebook takes it from each pair, on PNGs of 8 bits, and skips pairs with an empty
    mask; here every slice that is passed counts, and scores keep their precision. Which slices to pass is the caller's
    choice: the official ones are those whose label is not empty.

    Args:
        scores: [M, N, H, W] floats in [0, 1]: M seeds, N slices. May stay on the CPU: slices go one by one to the
            device of ``lpips``.
        lpips: the perceptual distance.
        pairs: ``all``, every two seeds, as the paper says; ``first``, each against the first, as the official notebook
            does.

    Raises:
        ValueError: ``scores`` is not [M, N, H, W] floats in [0, 1] without NaN, has fewer than two seeds or no slice,
            or its slices are too small for MS-SSIM; or ``pairs`` is neither.

    Source: official-behaviour, section 3.1; paper, section 3.3.
    """
    _check(scores)
    window = _ms_ssim_window(min(scores.shape[2:]))
    first, second = _pair_seeds(len(scores), pairs)
    found: dict[str, dict[str, list[torch.Tensor]]] = {"mask": defaultdict(list), "score": defaultdict(list)}
    with torch.no_grad():
        for slice_scores in scores.unbind(1):
            score = slice_scores[:, None].to(lpips.mean)  # [M, 1, H, W]
            mask = (score >= 0.5).to(score)
            for kind, image in (("mask", mask), ("score", score)):
                for measures in _compare(image, mask, lpips, window, first, second):
                    for name, values in measures.items():
                        found[kind][name].append(values.flatten().cpu().double())
    return [_summarise(kind, window, {n: torch.cat(v) for n, v in values.items()}) for kind, values in found.items()]


def _check(scores: torch.Tensor) -> None:
    if scores.ndim != 4 or not scores.is_floating_point():
        raise ValueError(f"scores {tuple(scores.shape)} of {scores.dtype}, expected floats [seeds, slices, H, W]")
    if scores.shape[0] < 2 or scores.shape[1] < 1:
        raise ValueError(
            f"scores of {scores.shape[0]} seeds for {scores.shape[1]} slices, expected at least 2 seeds and 1 slice"
        )
    low, high = map(float, torch.aminmax(scores))
    if not (low >= 0 and high <= 1):  # NaN is neither
        raise ValueError(f"scores from {low:.3g} to {high:.3g}, expected [0, 1]")


def _ms_ssim_window(side: int) -> int:
    fitting = [window for smallest, window in MS_SSIM_WINDOWS.items() if side >= smallest]
    if not fitting:
        raise ValueError(
            f"slices of {side} pixels, expected at least {min(MS_SSIM_WINDOWS)} along each side for the five scales of "
            "MS-SSIM: resize the scores"
        )
    return max(fitting)


def _pair_seeds(seeds: int, pairs: str) -> tuple[torch.Tensor, torch.Tensor]:
    if pairs not in get_args(Pairs):
        raise ValueError(f"pairs={pairs!r}, expected {' or '.join(get_args(Pairs))}")
    first, second = torch.combinations(torch.arange(seeds)).unbind(1)
    kept = (first == 0) | (pairs == "all")
    return first[kept], second[kept]


def _compare(
    image: torch.Tensor, mask: torch.Tensor, lpips: Lpips, window: int, first: torch.Tensor, second: torch.Tensor
) -> Iterator[dict[str, torch.Tensor]]:
    """Yield the measures of a slice, ``PAIRS_AT_ONCE`` pairs of seeds at a time; both images [M, 1, H, W]."""
    activations = lpips.extract((2 * image - 1).expand(-1, 3, -1, -1))
    for i, j in zip(first.split(PAIRS_AT_ONCE), second.split(PAIRS_AT_ONCE), strict=True):
        one, other = image[i], image[j]  # [pairs, 1, H, W]
        yield {
            "lpips": lpips.compare([a[i] for a in activations], [a[j] for a in activations]),
            "psnr": PSNRMetric(DATA_RANGE)(one, other),
            "ssim": SSIMMetric(2, DATA_RANGE)(one, other),
            "ms_ssim": MultiScaleSSIMMetric(2, DATA_RANGE, kernel_size=window)(one, other),
            "dice": compute_dice(mask[i], mask[j], ignore_empty=False),
        }


def _summarise(kind: str, window: int, measures: dict[str, torch.Tensor]) -> Stability:
    """Take the means of ``measures``, each [comparisons]."""
    identical = measures["psnr"].isinf()
    different = measures["psnr"][~identical]
    return Stability(
        kind=kind,
        lpips=measures["lpips"].mean().item(),
        psnr=different.mean().item() if len(different) else None,
        ssim=measures["ssim"].mean().item(),
        ms_ssim=measures["ms_ssim"].mean().item(),
        dice=measures["dice"].mean().item(),
        comparisons=len(identical),
        identical=int(identical.sum()),
        ms_ssim_window=window,
    )
