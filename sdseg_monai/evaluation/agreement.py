"""Scoring predicted masks against labels, volume by volume or picture by picture on their own grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from monai.metrics import compute_dice, compute_hausdorff_distance, compute_iou, compute_surface_dice
from tqdm import tqdm

from sdseg_monai.evaluation.pairs import case_name, match_cases
from sdseg_monai.io.label_maps import check_label_map, read_mask
from sdseg_monai.io.segments import UNSURE
from sdseg_monai.io.volumes import check_same_grid
from sdseg_monai.metrics import TransUNetDice

Protocol = Literal["native", "official"]
NSD_TOLERANCE = 2.0  # mm
OFFICIAL_SIZE = (256, 256)
UNDEFINED = float("nan")


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How well a predicted mask agrees with a label; NaN stands for what is not defined.

    Attributes:
        dice: 1 for two empty masks, 0 for an empty one and another.
        iou: likewise.
        hd95: 95th percentile of the distances between the two surfaces, each to the other, whichever is larger, in mm
            (in a picture: pixels); not defined where a mask is empty, or where the size of a voxel is not known.
        nsd: normalised surface Dice, the share of both surfaces' voxels that lie within a tolerance of the other
            surface; 1 for two empty masks, 0 for an empty one and another; not defined where the size of a voxel is
            not known.
        volume_difference: predicted volume minus the label's, by the label's; 0 for two empty masks, not defined for an
            empty label alone.
    """

    dice: float
    iou: float
    hd95: float = UNDEFINED
    nsd: float = UNDEFINED
    volume_difference: float = UNDEFINED


METRICS = tuple(field.name for field in fields(Agreement))
BOTH_EMPTY = Agreement(dice=1.0, iou=1.0, nsd=1.0, volume_difference=0.0)
OFFICIALLY_EMPTY = Agreement(dice=0.0, iou=0.0)


@dataclass(frozen=True, kw_only=True)
class CaseMetrics(Agreement):
    """Agreement of one case's foreground, any class (in a picture any light pixel), over the whole of it.

    Attributes:
        case: name.
        classes: agreement in each class that the prediction or the label holds.
        empty: agreement in any other class.
    """

    case: str
    classes: dict[int, Agreement]
    empty: Agreement = BOTH_EMPTY

    def in_class(self, value: int) -> Agreement:
        """Return the agreement in the class with this value."""
        return self.classes.get(value, self.empty)


def evaluate_folders(
    predictions: Path,
    labels: Path,
    progress: bool = True,
    tolerance: float = NSD_TOLERANCE,
    protocol: Protocol = "native",
) -> list[CaseMetrics]:
    """Score every label for which there is a prediction.

    Args:
        predictions: folder of masks.
        labels: folder of labels, named likewise.
        progress: show a bar.
        tolerance: of the surface Dice.
        protocol: see :func:`evaluate_case`.

    Raises:
        InputError: a folder is missing or empty, a prediction has no label, or a pair cannot be compared.
    """
    pairs = match_cases(predictions, labels)
    bar = tqdm(pairs, desc="evaluating", disable=None if progress else True, leave=False)
    return [evaluate_case(prediction, label, tolerance, protocol) for prediction, label in bar]


def evaluate_case(
    prediction: Path, label: Path, tolerance: float = NSD_TOLERANCE, protocol: Protocol = "native"
) -> CaseMetrics:
    """Score one prediction; two empty masks agree fully (1), an empty one and another not at all (0).

    Args:
        prediction: mask file.
        label: mask file on the same grid.
        tolerance: of the surface Dice, in mm (in a picture: pixels).
        protocol: ``native``, on the label's own grid, or ``official``, see :func:`compare_officially`.

    Raises:
        InputError: a file cannot be used or holds other than whole numbers, or the two lie on different grids.
    """
    volumes = read_mask(prediction), read_mask(label)
    check_same_grid(label, volumes[1], prediction, volumes[0])
    for path, volume in zip((prediction, label), volumes, strict=True):
        check_label_map(path, volume.array, most_values=UNSURE, allow_unsure=False)
    predicted, expected = (torch.from_numpy(volume.array) for volume in volumes)  # [X, Y, Z]
    if protocol == "official":
        return compare_officially(case_name(prediction), predicted, expected)
    spacing = np.linalg.norm(volumes[1].affine[:3, :3], axis=0).tolist()
    return compare_masks(case_name(prediction), predicted, expected, spacing, tolerance)


def compare_officially(case: str, predicted: torch.Tensor, expected: torch.Tensor) -> CaseMetrics:
    """Score masks [X, Y, Z] as the published code scores volumes: Dice and IoU over slices brought to 256 x 256.

    Slices are taken across the file's third axis and resized by nearest neighbour. Of empty masks the rule is
    :class:`~sdseg_monai.metrics.TransUNetDice`'s for Dice, and an IoU of 0 for two of them. There are no distances, and
    no difference of volumes. The published code resizes the label only, since its network's score
    lies on that grid; a mask file has been on the image's own grid meanwhile.

    Source: ``calculate_volume_dice`` in scripts/slice2seg.py, lin-tianyu/Stable-Diffusion-Seg.
    """
    predicted, expected = _official_grid(predicted), _official_grid(expected)
    values = sorted({int(value) for mask in (predicted, expected) for value in mask.unique()} - {0})
    classes = {value: _compare_officially(predicted == value, expected == value) for value in values}
    union = _compare_officially(predicted > 0, expected > 0)
    return CaseMetrics(case=case, classes=classes, empty=OFFICIALLY_EMPTY, **vars(union))


def _official_grid(mask: torch.Tensor) -> torch.Tensor:
    slices = mask.movedim(2, 0)[:, None].float()  # [Z, 1, X, Y]
    return torch.nn.functional.interpolate(slices, OFFICIAL_SIZE, mode="nearest-exact")


def _compare_officially(predicted: torch.Tensor, expected: torch.Tensor) -> Agreement:
    masks = [mask.flatten()[None, None] for mask in (predicted, expected)]  # [1, 1, voxels]
    dice = TransUNetDice()
    dice(*masks)
    if not any(mask.any() for mask in masks):
        return OFFICIALLY_EMPTY
    return Agreement(dice=float(dice.aggregate()), iou=float(compute_iou(*masks, ignore_empty=False)))


def compare_masks(
    case: str,
    predicted: torch.Tensor,
    expected: torch.Tensor,
    spacing: Sequence[float] | None = None,
    tolerance: float = NSD_TOLERANCE,
) -> CaseMetrics:
    """Score one mask against another of the same shape, as :func:`evaluate_case` does files.

    Args:
        case: name.
        predicted: class of each voxel, 0 for the background; a binary mask may be bool.
        expected: likewise.
        spacing: edges of a voxel, in mm; None leaves out what needs distances.
        tolerance: of the surface Dice, in mm.
    """
    values = sorted({int(value) for mask in (predicted, expected) for value in mask.unique()} - {0})
    classes = {value: _compare(predicted == value, expected == value, spacing, tolerance) for value in values}
    union = classes[values[0]] if len(values) == 1 else _compare(predicted > 0, expected > 0, spacing, tolerance)
    return CaseMetrics(case=case, classes=classes, **vars(union))


def _compare(
    predicted: torch.Tensor, expected: torch.Tensor, spacing: Sequence[float] | None, tolerance: float
) -> Agreement:
    predicted_size, expected_size = int(predicted.sum()), int(expected.sum())  # voxels
    if not (predicted_size or expected_size):
        return BOTH_EMPTY
    masks = (predicted[None, None], expected[None, None])
    hd95 = nsd = UNDEFINED
    if spacing is not None:
        surface_options = {"include_background": True, "spacing": spacing}
        if predicted_size and expected_size:
            hd95 = float(compute_hausdorff_distance(*masks, percentile=95, **surface_options))
        nsd = float(compute_surface_dice(*masks, [tolerance], **surface_options))
    return Agreement(
        dice=float(compute_dice(*masks, ignore_empty=False)),
        iou=float(compute_iou(*masks, ignore_empty=False)),
        hd95=hd95,
        nsd=nsd,
        volume_difference=(predicted_size - expected_size) / expected_size if expected_size else UNDEFINED,
    )
