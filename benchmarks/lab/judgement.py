"""Measures of how well the uncertainty of a segmentation predicts its errors, for a segmentation with a label."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from scipy.ndimage import binary_dilation, maximum_filter, minimum_filter
from scipy.stats import rankdata

from sdseg_monai.inference.results import SegmentationResult
from sdseg_monai.inference.uncertainty import SampledSegmentation, mask_disagreement, predictive_entropy

NEAR = 2  # voxels around the predicted foreground that are judged; farther away every model is right
BINS = 15  # number of bins of the calibration error


@dataclass(frozen=True)
class Case:
    """One result with its label.

    Attributes:
        result: mask, scores and confidence; of several samples also their measures.
        entropy: entropy of each voxel, [X, Y, Z].
        label: class of each voxel, [X, Y, Z].
        volumes: volumes of the classes in the label, [C], in ml.
        is_own: False if mask, scores and confidence are the same as those of a single pass.
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
        """The voxels in and near the predicted foreground; all voxels if nothing is predicted."""
        foreground = self.result.labels > 0
        return binary_dilation(foreground, iterations=NEAR) if foreground.any() else ~foreground

    @property
    def outline(self) -> np.ndarray:
        """The voxels that touch another class of the mask; all voxels if there is one class."""
        mask = self.result.labels
        outline = maximum_filter(mask, size=3) != minimum_filter(mask, size=3)
        return outline if outline.any() else ~outline

    @property
    def wrong(self) -> np.ndarray:
        """The voxels whose class is not that of the label."""
        return self.result.labels != self.label


def measures(case: Case) -> dict[str, float]:
    """Return the measures by which cases are ranked; a higher value means less sure."""
    values = {"entropy near the mask": float(case.entropy[case.near].mean())}
    if case.is_own:
        values["1 - margin at the outline"] = 1 - float(case.result.confidence[case.outline].mean())
    if isinstance(case.result, SampledSegmentation):
        values["disagreement"] = case.result.disagreement
        values["width of the volume range"] = relative_volume_range(case.result.sample_volumes)
    return values


def relative_volume_range(sample_volumes: np.ndarray) -> float:
    """Return the range of the samples' volumes [S, C] divided by their mean, averaged over the classes that occur."""
    mean, width = sample_volumes.mean(axis=0), np.ptp(sample_volumes, axis=0)
    occurs = mean > 0
    return float((width[occurs] / mean[occurs]).mean()) if occurs.any() else 0.0


def once(case: Case) -> Case:
    """Return a ``case`` of flips as a single pass would give it, without the mirror image."""
    attributes = {field.name: getattr(case.result, field.name) for field in fields(SegmentationResult)}
    result = SegmentationResult(**attributes)
    entropy = predictive_entropy(torch.from_numpy(result.scores)).numpy()
    return replace(case, result=result, entropy=entropy, is_own=True)


def kept_dice(case: Case, voxels: np.ndarray) -> float:
    """Return the mean Dice over the classes, of a part of the volume, ``voxels``, [X, Y, Z], bool."""
    return 1 - mask_disagreement([case.result.labels[voxels], case.label[voxels]])


def rank_of_error(values: np.ndarray, dice: np.ndarray, axis: int = -1) -> np.ndarray:
    """Return Spearman's rank correlation of ``values`` with 1 - ``dice`` along ``axis``; 0 if all values are equal.

    scipy's function takes no axis for pairs.
    """
    ranks = (rankdata(values, axis=axis), rankdata(-dice, axis=axis))
    x, y = (rank - rank.mean(axis=axis, keepdims=True) for rank in ranks)
    scale = np.sqrt((x**2).sum(axis=axis) * (y**2).sum(axis=axis))
    return (x * y).sum(axis=axis) / np.where(scale == 0, 1, scale)


def auroc(values: np.ndarray, positive: np.ndarray) -> float:
    """Return the area under the ROC curve: the probability that a positive has a higher value than a negative.

    Ties count half. It is NaN if there are no positives or no negatives.
    """
    count = positive.sum()
    if count in (0, positive.size):
        return float("nan")
    return float((rankdata(values)[positive].mean() - (count + 1) / 2) / (positive.size - count))


def calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """Return the expected calibration error: the mean difference between confidence and accuracy."""
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bins, confidence - right, minlength=BINS)
    return float(np.abs(gaps).sum() / confidence.size)
