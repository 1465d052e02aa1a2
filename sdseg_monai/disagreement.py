"""How much a model's masks of one volume disagree: what tells, without a label, which volume to look at next."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from itertools import combinations
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from monai.metrics import compute_dice

from sdseg_monai.bundle import Segmenter
from sdseg_monai.errors import InputError

Signal = Literal["flips", "seeds"]
SIGNALS: tuple[Signal, ...] = get_args(Signal)
NUM_SEEDS = 5  # as many as Table 5 compares here


def measure_disagreement(segmenter: Segmenter, path: Path, signal: Signal) -> float:
    """Segment the volume file ``path`` several times and return the :func:`mask_disagreement`, on the file's grid.

    Args:
        segmenter: the model.
        path: the volume.
        signal: what differs from mask to mask: ``flips``, see :func:`flip_scores`, or ``seeds``, see
            :func:`seed_scores`.

    Raises:
        InputError: the file cannot be used, or the model has no start noise to draw seeds for.
    """
    check_signal(segmenter, signal)
    item = segmenter.prepare(path)
    scores = flip_scores if signal == "flips" else seed_scores
    return mask_disagreement([segmenter.finish(item, score).mask for score in scores(segmenter, item["image"])])


def check_signal(segmenter: Segmenter, signal: Signal) -> None:
    """Refuse a signal that would say nothing of this model.

    Raises:
        InputError: ``seeds`` is asked of a model without start noise, whose masks are all the same.
        ValueError: the signal is unknown.
    """
    if signal not in SIGNALS:
        raise ValueError(f"signal={signal!r} is unknown: expected one of {', '.join(SIGNALS)}")
    if signal == "seeds" and getattr(segmenter.network, "start_noise", "zeros") == "zeros":
        raise InputError(
            "seeds of a network without start noise, which gives one mask whatever the seed: use flips instead"
        )


def mask_disagreement(masks: Sequence[np.ndarray]) -> float:
    """Return 1 minus the mean Dice of every two ``masks``, in [0, 1]: 0 where all agree, 1 where no two overlap.

    Two empty masks agree.

    Args:
        masks: binary, all of one shape.

    Raises:
        ValueError: there are fewer than two masks, or their shapes differ.
    """
    if len(masks) < 2 or len({mask.shape for mask in masks}) > 1:
        raise ValueError(f"masks of shapes {[mask.shape for mask in masks]}: expected at least two, all of one shape")
    tensors = [torch.from_numpy(mask)[None, None] for mask in masks]  # [1, 1, X, Y, Z]
    dice = [compute_dice(one, other, ignore_empty=False).item() for one, other in combinations(tensors, 2)]
    return 1 - float(np.mean(dice))


def flip_scores(segmenter: Segmenter, image: torch.Tensor, axis: int | None = None) -> Iterator[torch.Tensor]:
    """Yield the score of a prepared ``image`` and that of its mirror image, mirrored back.

    The body is nearly symmetric from left to right, so that the mirror image is one that another patient, or the other
    side of this one, could have given, while nobody lies head down. Across the slice axis a mirror would only
    reorder the slices, each of which the network sees for itself.

    Args:
        segmenter: the model.
        image: [C, X, Y, Z] in RAS orientation, from :meth:`Segmenter.prepare`.
        axis: spatial axis to mirror; None for left-right, or the next one where slices are taken across that.

    Yields:
        Scores [1, X, Y, Z] in [0, 1], float32. A model with start noise starts from the same one both times.
    """
    if axis is None:
        axis = 1 if segmenter.inferer.slice_axis == 0 else 0
    yield segmenter.predict(image)
    yield segmenter.predict(image.flip(axis + 1)).flip(axis + 1)


def seed_scores(segmenter: Segmenter, image: torch.Tensor, num_seeds: int = NUM_SEEDS) -> Iterator[torch.Tensor]:
    """Yield the scores of a prepared ``image`` [C, X, Y, Z] from the start noises of seeds 0 to ``num_seeds`` - 1.

    Each slice has a noise of its own, whatever the bundle's inferer has, keyed by the seed, the file's name and the
    slice's index. Scores are [1, X, Y, Z] in [0, 1], float32.
    """
    inferer = copy(segmenter.inferer)
    inferer.noise = "per_slice"
    for seed in range(num_seeds):
        inferer.seed = seed
        yield segmenter.predict(image, inferer)
