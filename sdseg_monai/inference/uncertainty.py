"""How unsure a model is of a volume, measured on several scores of it: no label is needed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from monai.metrics import compute_dice

from sdseg_monai.inference.results import SegmentationResult
from sdseg_monai.inference.segmenter import Segmenter
from sdseg_monai.io.sources import is_photograph
from sdseg_monai.networks.codes import classes_from_score


@dataclass(frozen=True, kw_only=True, repr=False)
class SampledSegmentation(SegmentationResult):
    """The segmentation that S samples result in, and how far they differ, on the file's grid; C as in ``scores``.

    Attributes:
        entropy: of the samples' mean score, [X, Y, Z], float32, see :func:`predictive_entropy`.
        disagreement: :func:`mask_disagreement` of the samples' masks, in [0, 1].
        sample_volumes: of each class in each sample's mask, [S, C], float64, in ml.
    """

    entropy: np.ndarray
    disagreement: float
    sample_volumes: np.ndarray

    @property
    def maps(self) -> dict[str, np.ndarray]:
        """What can be written beside the mask, ``entropy`` too, see :attr:`SegmentationResult.maps`."""
        return {**super().maps, "entropy": self.entropy}

    @property
    def volume_range(self) -> np.ndarray:
        """Smallest and largest volume of each class in the samples, [2, C], in ml.

        It holds what the samples say, no more: of S samples of one source a further one would lie in it with a
        probability of (S - 1)/(S + 1); the true volume need not.
        """
        return np.stack([self.sample_volumes.min(axis=0), self.sample_volumes.max(axis=0)])

    @property
    def sizes(self) -> dict[str, dict[str, Any]]:
        """As of :class:`SegmentationResult`, with the samples' smallest and largest volume beside the mask's."""
        sizes = super().sizes
        if is_photograph(self.source):
            return sizes
        ranges = self.volume_range.round(4).tolist()
        rows = zip(sizes["volume_ml"].items(), *ranges, strict=True)
        return {"volume_ml": {name: {"mask": ml, "smallest": low, "largest": high} for (name, ml), low, high in rows}}

    @property
    def summary(self) -> dict[str, Any]:
        """How many samples there are, and how far they differ, as for JSON."""
        return {"samples": len(self.sample_volumes), "disagreement": round(self.disagreement, 4)}


def compare_samples(
    segmenter: Segmenter,
    item: Mapping[str, Any],
    slabs: Iterable[torch.Tensor],
    combine: Callable[[torch.Tensor], torch.Tensor],
) -> SampledSegmentation:
    """Compare several scores of one volume.

    The scores of one slab are held for all samples at once, of the whole volume only the result's, the entropy, and a
    class per sample and voxel.

    Args:
        segmenter: what takes scores back to the grid of the file.
        item: of :meth:`Segmenter.prepare`.
        slabs: S samples of its score, [S, K, X, Y, z] each, in order along the slice axis.
        combine: what makes of a slab the score that is the result, [K, X, Y, z].
    """
    scores, entropies, classes = [], [], []
    for slab in slabs:
        scores.append(combine(slab))
        mean = slab.mean(dim=0)
        entropies.append(predictive_entropy(mean[1:] if len(mean) > 1 else mean)[None])
        classes.append(classes_from_score(slab)[:, 0])
    axis = segmenter.inferer.slice_axis + 1
    score, entropy, sampled_classes = (torch.cat(parts, dim=axis) for parts in (scores, entropies, classes))
    masks, volumes = [], []
    for sample_classes in sampled_classes:  # [X, Y, Z]
        sample = _on_grid(segmenter, item, sample_classes, len(score))
        masks.append(sample.labels)
        volumes.append(sample.voxel_counts * sample.voxel_ml)
    return SampledSegmentation(
        **vars(segmenter.finish(item, score)),
        entropy=segmenter.invert(item, entropy)[0].numpy(),
        disagreement=mask_disagreement(masks),
        sample_volumes=np.array(volumes),
    )


def predictive_entropy(scores: torch.Tensor) -> torch.Tensor:
    """Return the entropy of class probabilities by the logarithm of their number, [...] in [0, 1].

    It is 0 where one class is certain, 1 where all are equally probable.

    Args:
        scores: probabilities of all classes but the background, [C, ...], which has the rest.
    """
    entropy = torch.special.entr((1 - scores.sum(dim=0)).clamp_min(0))
    for probability in scores:  # one by one: all at once would need the memory of another score
        entropy += torch.special.entr(probability)
    return (entropy / math.log(len(scores) + 1)).clamp(0, 1)


def mask_disagreement(masks: Sequence[np.ndarray]) -> float:
    """Return 1 minus the mean Dice of every two ``masks`` and every class, in [0, 1]: 0 where all agree.

    The classes are those that occur in any mask, the background left out. Two masks without a class agree in it; so do
    masks without any.

    Args:
        masks: class of each voxel, 0 for the background, all of one shape.

    Raises:
        ValueError: there are fewer than two masks, or their shapes differ.
    """
    if len(masks) < 2 or len({mask.shape for mask in masks}) > 1:
        raise ValueError(f"masks of shapes {[mask.shape for mask in masks]}: expected at least two, all of one shape")
    tensors = [torch.from_numpy(mask)[None, None] for mask in masks]  # [1, 1, X, Y, Z]
    dice = [
        compute_dice(one == value, other == value, ignore_empty=False).item()
        for value in sorted({value for mask in masks for value in np.unique(mask).tolist()} - {0})
        for one, other in combinations(tensors, 2)
    ]
    return 1 - float(np.mean(dice)) if dice else 0.0


def _on_grid(
    segmenter: Segmenter, item: Mapping[str, Any], classes: torch.Tensor, num_scores: int
) -> SegmentationResult:
    """Take the ``classes`` [X, Y, Z] of a prepared item to the file's grid as scores of 0 and 1, which resize well."""
    values = torch.arange(num_scores) if num_scores > 1 else torch.ones(1)
    return segmenter.finish(item, (classes == values.view(-1, 1, 1, 1)).float())
