"""Measures of how unsure a model is of a volume, from several scores of it; they need no label."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch

from sdseg_monai.inference.assembly import Assembly, iter_parts
from sdseg_monai.inference.results import SegmentationResult
from sdseg_monai.io.arrays import chunk_slices, make_array, put
from sdseg_monai.io.sources import is_photograph
from sdseg_monai.networks.codes import classes_from_score

NUM_VALUES = 256  # that a voxel of a mask may have


@dataclass(frozen=True, kw_only=True, repr=False)
class SampledSegmentation(SegmentationResult):
    """The result of ``uncertainty``: a segmentation, and how far its S samples differ, on the grid of the image.

    Attributes:
        entropy: entropy of the samples' mean score in each voxel, [X, Y, Z], float32 in [0, 1], see
            :func:`predictive_entropy`.
        disagreement: :func:`mask_disagreement` of the samples' masks, in [0, 1].
        sample_volumes: volume of each class in the mask of each sample, [S, C], float64, in ml.

    Example:
        >>> from sdseg_monai import segment
        >>> result = segment("scan.nii.gz", uncertainty="flips")  # doctest: +SKIP
        >>> result.disagreement, result.volume_range.shape  # doctest: +SKIP
        (0.03, (2, 2))
        >>> result.save("mask.nii.gz", maps={"entropy": "mask_entropy.nii.gz"})  # doctest: +SKIP
    """

    entropy: np.ndarray
    disagreement: float
    sample_volumes: np.ndarray

    @property
    def maps(self) -> dict[str, np.ndarray]:
        """The maps of a :class:`SegmentationResult`, and ``entropy``."""
        return {**super().maps, "entropy": self.entropy}

    @property
    def volume_range(self) -> np.ndarray:
        """Smallest and largest volume of each class in the samples, [2, C], float64, in ml.

        This is not a confidence interval of the true volume. A further sample would lie in the range with a probability
        of (S - 1)/(S + 1).
        """
        return np.stack([self.sample_volumes.min(axis=0), self.sample_volumes.max(axis=0)])

    @property
    def sizes(self) -> dict[str, dict[str, Any]]:
        """For JSON: the volumes of a :class:`SegmentationResult`, each with the smallest and largest of the samples."""
        sizes = super().sizes
        if is_photograph(self.source):
            return sizes
        ranges = self.volume_range.round(4).tolist()
        rows = zip(sizes["volume_ml"].items(), *ranges, strict=True)
        return {"volume_ml": {name: {"mask": ml, "smallest": low, "largest": high} for (name, ml), low, high in rows}}

    @property
    def summary(self) -> dict[str, Any]:
        """For JSON: the number of samples, and how far they differ."""
        return {"samples": len(self.sample_volumes), "disagreement": round(self.disagreement, 4)}


def compare_samples(
    assembly: Assembly,
    samples: Sequence[Assembly],
    slabs: Iterable[torch.Tensor],
    combine: Callable[[torch.Tensor], torch.Tensor],
) -> SampledSegmentation:
    """Compare several scores of one volume.

    Args:
        assembly: of the result, empty.
        samples: of the mask of each sample, empty.
        slabs: S samples of the volume's score, [S, K, X, Y, z] each, in order along the slice axis.
        combine: makes the score of the result, [K, X, Y, z], from the samples of a slab.
    """
    segmenter = assembly.segmenter
    entropy = make_array(assembly.shape, np.float32)
    for part, slab in iter_parts(segmenter, assembly.item, slabs):
        assembly.add(part, combine(slab))
        mean = slab.mean(dim=0)
        entropy_of_part = predictive_entropy(mean[1:] if len(mean) > 1 else mean)[None]
        put(entropy, part.box, segmenter.invert(part.item, entropy_of_part)["pred"][0].float().numpy())
        for sample, classes in zip(samples, classes_from_score(slab)[:, 0], strict=True):
            sample.add(part, _score_of(classes, num_scores=len(mean)))
    masks, volumes = [], []
    for sample in samples:
        result = sample.finish()
        masks.append(result.labels)
        volumes.append(result.voxel_counts * result.voxel_ml)
    return SampledSegmentation(
        **vars(assembly.finish()),
        entropy=entropy,
        disagreement=mask_disagreement(masks),
        sample_volumes=np.array(volumes),
    )


def predictive_entropy(scores: torch.Tensor) -> torch.Tensor:
    """Return the entropy of class probabilities, divided by the logarithm of the number of classes, [...] in [0, 1].

    It is 0 where one class is certain, and 1 where all classes are equally probable.

    Args:
        scores: probabilities of all classes without the background, [C, ...]; the background has the rest up to 1.
    """
    entropy = torch.special.entr((1 - scores.sum(dim=0)).clamp_min(0))
    for probability in scores:  # class by class, to save memory
        entropy += torch.special.entr(probability)
    return (entropy / math.log(len(scores) + 1)).clamp(0, 1)


def mask_disagreement(masks: Sequence[np.ndarray]) -> float:
    """Return 1 minus the mean Dice over all pairs of ``masks`` and all classes, in [0, 1]: 0 where all masks agree.

    The classes are those that occur in any mask, without the background. Two masks that both lack a class agree in it,
    and empty masks agree.

    Args:
        masks: class of each voxel, 0 for the background; at least two masks, all of one shape.

    Raises:
        ValueError: there are fewer than two masks, or their shapes differ.
    """
    if len(masks) < 2 or len({mask.shape for mask in masks}) > 1:
        raise ValueError(f"masks of shapes {[mask.shape for mask in masks]}: expected at least two, all of one shape")
    # of each pair of masks the number of voxels by the classes in the two
    counts = {pair: np.zeros((NUM_VALUES, NUM_VALUES), dtype=np.int64) for pair in combinations(range(len(masks)), 2)}
    for part in chunk_slices(masks[0]):
        values = [mask[..., part].astype(np.intp) for mask in masks]
        for (first, second), count in counts.items():
            pairs = values[first] * NUM_VALUES + values[second]
            count += np.bincount(pairs.ravel(), minlength=count.size).reshape(count.shape)
    occurs = np.any([count.any(axis=axis) for count in counts.values() for axis in (0, 1)], axis=0)
    dice = []
    for value in np.flatnonzero(occurs[1:]) + 1:
        for count in counts.values():
            total = count[value].sum() + count[:, value].sum()
            dice.append(2 * count[value, value] / total if total else 1.0)
    return 1 - float(np.mean(dice)) if dice else 0.0


def _score_of(classes: torch.Tensor, num_scores: int) -> torch.Tensor:
    """Return scores of 0 and 1, [K, X, Y, z], for classes [X, Y, z].

    They can be resampled, while interpolation between numbers of classes means nothing.
    """
    values = torch.arange(num_scores) if num_scores > 1 else torch.ones(1)
    return (classes == values.view(-1, 1, 1, 1)).float()
