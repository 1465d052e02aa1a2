"""A segmentation beside its label, and how to judge what it says of its own uncertainty."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from scipy.ndimage import binary_dilation, maximum_filter, minimum_filter
from scipy.stats import rankdata

from sdseg_monai.inference.results import SegmentationResult
from sdseg_monai.inference.uncertainty import SampledSegmentation, mask_disagreement, predictive_entropy

NEAR = 2  # voxels around the predicted foreground in which voxels are judged; farther away every model is right
BINS = 15  # of the calibration error


@dataclass(frozen=True)
class Case:
    """One result beside its label.

    Attributes:
        result: mask, scores and margin, and what the samples say, where there are some.
        entropy: [X, Y, Z].
        label: class of each voxel, [X, Y, Z].
        volumes: of the label's classes, [C], in ml.
        is_own: False where mask, scores and margin are those of the model's single score.
    """

    result: SegmentationResult
    entropy: np.ndarray
    label: np.ndarray
    volumes: np.ndarray
    is_own: bool

    @property
    def dice(self) -> float:
        """Mean Dice over the classes."""
        return 1 - mask_disagreement([self.result.labels, self.label])

    @property
    def near(self) -> np.ndarray:
        """The predicted foreground and what lies around it, or all where nothing is predicted."""
        foreground = self.result.labels > 0
        return binary_dilation(foreground, iterations=NEAR) if foreground.any() else ~foreground

    @property
    def outline(self) -> np.ndarray:
        """Voxels that touch another class of the mask, or all where there is one class."""
        mask = self.result.labels
        outline = maximum_filter(mask, size=3) != minimum_filter(mask, size=3)
        return outline if outline.any() else ~outline

    @property
    def wrong(self) -> np.ndarray:
        """Voxels of another class than the label's."""
        return self.result.labels != self.label


def measures(case: Case) -> dict[str, float]:
    """Return what ranks cases, the higher the less sure."""
    found = {"entropy near the mask": float(case.entropy[case.near].mean())}
    if case.is_own:
        found["1 - margin at the outline"] = 1 - float(case.result.confidence[case.outline].mean())
    if isinstance(case.result, SampledSegmentation):
        found["disagreement"] = case.result.disagreement
        found["width of the volume range"] = relative_volume_range(case.result.sample_volumes)
    return found


def relative_volume_range(sample_volumes: np.ndarray) -> float:
    """Return the width of the samples' volumes [S, C] by their mean, averaged over the classes that occur, else 0."""
    mean, width = sample_volumes.mean(axis=0), np.ptp(sample_volumes, axis=0)
    occurs = mean > 0
    return float((width[occurs] / mean[occurs]).mean()) if occurs.any() else 0.0


def once(case: Case) -> Case:
    """Return what the model says of the volume of a ``case`` of flips without the mirror image."""
    own = {field.name: getattr(case.result, field.name) for field in fields(SegmentationResult)}
    result = SegmentationResult(**own)
    entropy = predictive_entropy(torch.from_numpy(result.scores)).numpy()
    return replace(case, result=result, entropy=entropy, is_own=True)


def kept_dice(case: Case, kept: np.ndarray) -> float:
    """Return the mean Dice over the classes of the voxels that are ``kept``, [X, Y, Z]."""
    return 1 - mask_disagreement([case.result.labels[kept], case.label[kept]])


def rank_of_error(values: np.ndarray, dice: np.ndarray, axis: int = -1) -> np.ndarray:
    """Return Spearman's correlation of ``values`` with 1 - ``dice`` along ``axis``; scipy's knows one pair only.

    It is 0 where all values are equal, which rank nothing.
    """
    ranks = (rankdata(values, axis=axis), rankdata(-dice, axis=axis))
    one, other = (rank - rank.mean(axis=axis, keepdims=True) for rank in ranks)
    scale = np.sqrt((one**2).sum(axis=axis) * (other**2).sum(axis=axis))
    return (one * other).sum(axis=axis) / np.where(scale == 0, 1, scale)


def auroc(values: np.ndarray, positive: np.ndarray) -> float:
    """Return the chance that a positive has a higher value than a negative, ties counted half; NaN without both."""
    count = positive.sum()
    if count in (0, positive.size):
        return float("nan")
    return float((rankdata(values)[positive].mean() - (count + 1) / 2) / (positive.size - count))


def calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """Return the expected difference between the probability of the class taken and how often it is right."""
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bins, confidence - right, minlength=BINS)
    return float(np.abs(gaps).sum() / confidence.size)
