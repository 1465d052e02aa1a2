"""Agreement between the predictions of several seeds: Table 5 of the paper."""

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
PAIRS_PER_BATCH = 16
# smallest shorter side of a slice: MS-SSIM's window, both in pixels. MS-SSIM halves a slice four times, and the window
# must not be larger than the smallest of the five scales: the usual window of 11 pixels needs slices of 176.
MS_SSIM_WINDOWS = {176: 11, 112: 7}


@dataclass(frozen=True)
class Stability:
    """Agreement between seeds: means over all comparisons, each of one slice and one pair of seeds.

    Attributes:
        kind: ``mask`` (score >= 0.5; the paper's Seg) or ``score``.
        lpips: LPIPS with AlexNet; 0 for equal images.
        psnr: peak signal-to-noise ratio in dB, over the comparisons that are not identical; None if all are.
        ssim: structural similarity, Gaussian window of 11 pixels with sigma 1.5; 1 for equal images.
        ms_ssim: multi-scale structural similarity, over five scales; 1 for equal images.
        dice: Dice of the two masks, 1 if both are empty; the same for both kinds.
        comparisons: number of comparisons.
        identical: number of comparisons with a mean squared error of 0 in float32.
        ms_ssim_window: size in pixels of MS-SSIM's Gaussian window, sigma 1.5: 11 for slices of 176 pixels and more, 7
            from 112. Do not compare figures of different windows.
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
    """Compare the scores that several seeds gave for the same slices.

    The data range is 1. The official notebook takes the data range from each pair, from PNGs of 8 bits, and skips pairs
    with an empty mask; here every slice counts, and scores keep their precision. The caller chooses the slices: the
    official ones are those whose label is not empty.

    Args:
        scores: [M, N, H, W] floats in [0, 1]: M seeds, N slices. They may be on the CPU: slices are moved one by one to
            the device of ``lpips``.
        lpips: the perceptual distance.
        pairs: ``all``, every pair of seeds, as in the paper; ``first``, each seed with the first, as in the official
            notebook.

    Returns:
        Two rows, for masks and for scores.

    Raises:
        ValueError: ``scores`` is not [M, N, H, W] floats in [0, 1] without NaN, has fewer than two seeds or no slice,
            or its slices are too small for MS-SSIM; or ``pairs`` is unknown.

    Source: official-behaviour, section 3.1; paper, section 3.3.
    """
    _check(scores)
    window = _ms_ssim_window(min(scores.shape[2:]))
    first, second = _pair_seeds(len(scores), pairs)
    values: dict[str, dict[str, list[torch.Tensor]]] = {"mask": defaultdict(list), "score": defaultdict(list)}
    with torch.no_grad():
        for slice_scores in scores.unbind(1):
            score = slice_scores[:, None].to(lpips.mean)  # [M, 1, H, W]
            mask = (score >= 0.5).to(score)
            for kind, image in (("mask", mask), ("score", score)):
                for batch in _compare(image, mask, lpips, window, first, second):
                    for name, batch_values in batch.items():
                        values[kind][name].append(batch_values.flatten().cpu().double())
    return [
        _summarise(kind, window, {name: torch.cat(batches) for name, batches in measures.items()})
        for kind, measures in values.items()
    ]


def _check(scores: torch.Tensor) -> None:
    if scores.ndim != 4 or not scores.is_floating_point():
        raise ValueError(f"scores {tuple(scores.shape)} of {scores.dtype}, expected floats [seeds, slices, H, W]")
    if scores.shape[0] < 2 or scores.shape[1] < 1:
        raise ValueError(
            f"scores of {scores.shape[0]} seeds for {scores.shape[1]} slices, expected at least 2 seeds and 1 slice"
        )
    low, high = map(float, torch.aminmax(scores))
    if not (low >= 0 and high <= 1):  # both comparisons are false for NaN
        raise ValueError(f"scores from {low:.3g} to {high:.3g}, expected [0, 1]")


def _ms_ssim_window(side: int) -> int:
    windows = [window for smallest_side, window in MS_SSIM_WINDOWS.items() if side >= smallest_side]
    if not windows:
        raise ValueError(
            f"slices of {side} pixels, expected at least {min(MS_SSIM_WINDOWS)} along each side for the five scales of "
            "MS-SSIM: resize the scores"
        )
    return max(windows)


def _pair_seeds(seeds: int, pairs: str) -> tuple[torch.Tensor, torch.Tensor]:
    if pairs not in get_args(Pairs):
        raise ValueError(f"pairs={pairs!r}, expected {' or '.join(get_args(Pairs))}")
    first, second = torch.combinations(torch.arange(seeds)).unbind(1)
    is_compared = (first == 0) | (pairs == "all")
    return first[is_compared], second[is_compared]


def _compare(
    image: torch.Tensor, mask: torch.Tensor, lpips: Lpips, window: int, first: torch.Tensor, second: torch.Tensor
) -> Iterator[dict[str, torch.Tensor]]:
    """Yield the measures of a slice, for ``PAIRS_PER_BATCH`` pairs of seeds at a time; both images [M, 1, H, W]."""
    activations = lpips.extract((2 * image - 1).expand(-1, 3, -1, -1))
    for i, j in zip(first.split(PAIRS_PER_BATCH), second.split(PAIRS_PER_BATCH), strict=True):
        images = image[i], image[j]  # each [pairs, 1, H, W]
        yield {
            "lpips": lpips.compare([a[i] for a in activations], [a[j] for a in activations]),
            "psnr": PSNRMetric(DATA_RANGE)(*images),
            "ssim": SSIMMetric(2, DATA_RANGE)(*images),
            "ms_ssim": MultiScaleSSIMMetric(2, DATA_RANGE, kernel_size=window)(*images),
            "dice": compute_dice(mask[i], mask[j], ignore_empty=False),
        }


def _summarise(kind: str, window: int, measures: dict[str, torch.Tensor]) -> Stability:
    """Return the means of ``measures``, each [comparisons]."""
    is_identical = measures["psnr"].isinf()
    finite_psnr = measures["psnr"][~is_identical]
    return Stability(
        kind=kind,
        lpips=measures["lpips"].mean().item(),
        psnr=finite_psnr.mean().item() if len(finite_psnr) else None,
        ssim=measures["ssim"].mean().item(),
        ms_ssim=measures["ms_ssim"].mean().item(),
        dice=measures["dice"].mean().item(),
        comparisons=len(is_identical),
        identical=int(is_identical.sum()),
        ms_ssim_window=window,
    )
