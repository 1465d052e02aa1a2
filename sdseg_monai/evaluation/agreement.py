"""Metrics of predicted masks against labels, for each volume or picture on its own grid."""

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
    """How well a predicted mask agrees with a label. A metric that is not defined is NaN.

    Attributes:
        dice: Dice coefficient, in [0, 1]; 1 if both masks are empty, 0 if only one of them is.
        iou: intersection over union (Jaccard index), in [0, 1]; of empty masks as ``dice``.
        hd95: 95th percentile of the Hausdorff distance, in mm (of a picture in pixels): of each surface to the other,
            the larger of the two. Not defined if a mask is empty, or if the size of a voxel is not known.
        nsd: normalised surface Dice, in [0, 1]: the share of both surfaces that lies within a tolerance of the other
            surface; of empty masks as ``dice``. Not defined if the size of a voxel is not known.
        volume_difference: (predicted volume - volume of the label) / volume of the label; 0 if both masks are empty.
            Not defined if only the label is empty.
    """

    dice: float
    iou: float
    hd95: float = UNDEFINED
    nsd: float = UNDEFINED
    volume_difference: float = UNDEFINED


METRICS = tuple(field.name for field in fields(Agreement))
EMPTY_PAIR = Agreement(dice=1.0, iou=1.0, nsd=1.0, volume_difference=0.0)
OFFICIAL_EMPTY_PAIR = Agreement(dice=0.0, iou=0.0)


@dataclass(frozen=True, kw_only=True)
class CaseMetrics(Agreement):
    """The metrics of one case: of its foreground, which is the union of all classes, and of each class.

    Attributes:
        case: name of the case.
        classes: metrics of each class that the prediction or the label contains.
        empty: metrics of all other classes.
    """

    case: str
    classes: dict[int, Agreement]
    empty: Agreement = EMPTY_PAIR

    def in_class(self, value: int) -> Agreement:
        """Return the metrics of the class with this value."""
        return self.classes.get(value, self.empty)


def evaluate_folders(
    predictions: Path,
    labels: Path,
    progress: bool = True,
    tolerance: float = NSD_TOLERANCE,
    protocol: Protocol = "native",
) -> list[CaseMetrics]:
    """Evaluate each prediction of a folder with its label.

    Args:
        predictions: folder of masks.
        labels: folder of labels, matched by :func:`match_cases`; it may hold more labels than there are predictions.
        progress: show a progress bar.
        tolerance: of the surface Dice, in mm (of pictures in pixels).
        protocol: see :func:`evaluate_case`.

    Returns:
        The metrics of each case, in the order of the names.

    Raises:
        InputError: a folder is missing or empty, a prediction has no label, or a pair cannot be compared.

    Example:
        >>> from pathlib import Path
        >>> from sdseg_monai.evaluation import evaluate_folders, summarise
        >>> cases = evaluate_folders(Path("masks"), Path("labels"))  # doctest: +SKIP
        >>> summarise(cases)["dice"]  # doctest: +SKIP
        0.88
    """
    pairs = match_cases(predictions, labels)
    bar = tqdm(pairs, desc="evaluating", disable=None if progress else True, leave=False)
    return [evaluate_case(prediction, label, tolerance, protocol) for prediction, label in bar]


def evaluate_case(
    prediction: Path, label: Path, tolerance: float = NSD_TOLERANCE, protocol: Protocol = "native"
) -> CaseMetrics:
    """Evaluate one prediction with its label.

    Args:
        prediction: file of the mask.
        label: file of the label, on the same grid.
        tolerance: of the surface Dice, in mm (of a picture in pixels).
        protocol: ``native``, on the label's own grid, or ``official``, see :func:`compare_officially`.

    Raises:
        InputError: a file cannot be used or does not hold whole numbers, or the two files have different grids.

    Example:
        >>> from pathlib import Path
        >>> from sdseg_monai.evaluation import evaluate_case
        >>> metrics = evaluate_case(Path("mask.nii.gz"), Path("label.nii.gz"))  # doctest: +SKIP
        >>> metrics.dice, metrics.in_class(1).hd95  # doctest: +SKIP
        (0.91, 1.0)
    """
    volumes = read_mask(prediction), read_mask(label)
    check_same_grid(label, volumes[1], prediction, volumes[0])
    for path, volume in zip((prediction, label), volumes, strict=True):
        check_label_map(path, volume.array, most_values=UNSURE, allow_unsure=False)
    predicted_mask, label_mask = (torch.from_numpy(volume.array) for volume in volumes)  # [X, Y, Z]
    if protocol == "official":
        return compare_officially(case_name(prediction), predicted_mask, label_mask)
    spacing = np.linalg.norm(volumes[1].affine[:3, :3], axis=0).tolist()
    return compare_masks(case_name(prediction), predicted_mask, label_mask, spacing, tolerance)


def compare_officially(case: str, predicted: torch.Tensor, expected: torch.Tensor) -> CaseMetrics:
    """Compare two masks as the published code does: Dice and IoU of the slices, resized to 256 x 256 pixels.

    Slices are taken across the third axis of the file and resized by nearest neighbour. The Dice of empty masks follows
    the rule of :class:`~sdseg_monai.metrics.TransUNetDice`; the IoU of two empty masks is 0. ``hd95``, ``nsd`` and
    ``volume_difference`` are not defined. One difference remains: in the published code the score of the network is
    already on this grid and only the label is resized; here both are resized.

    Args:
        case: name of the case.
        predicted: class of each voxel, [X, Y, Z], 0 for the background.
        expected: the label, in the same form.

    Source: ``calculate_volume_dice`` in scripts/slice2seg.py, lin-tianyu/Stable-Diffusion-Seg.
    """
    predicted, expected = _official_grid(predicted), _official_grid(expected)
    values = sorted({int(value) for mask in (predicted, expected) for value in mask.unique()} - {0})
    classes = {value: _compare_officially(predicted == value, expected == value) for value in values}
    union = _compare_officially(predicted > 0, expected > 0)
    return CaseMetrics(case=case, classes=classes, empty=OFFICIAL_EMPTY_PAIR, **vars(union))


def _official_grid(mask: torch.Tensor) -> torch.Tensor:
    slices = mask.movedim(2, 0)[:, None].float()  # [Z, 1, X, Y]
    return torch.nn.functional.interpolate(slices, OFFICIAL_SIZE, mode="nearest-exact")


def _compare_officially(predicted_mask: torch.Tensor, label_mask: torch.Tensor) -> Agreement:
    masks = [mask.flatten()[None, None] for mask in (predicted_mask, label_mask)]  # [1, 1, voxels]
    dice = TransUNetDice()
    dice(*masks)
    if not any(mask.any() for mask in masks):
        return OFFICIAL_EMPTY_PAIR
    return Agreement(dice=float(dice.aggregate()), iou=float(compute_iou(*masks, ignore_empty=False)))


def compare_masks(
    case: str,
    predicted: torch.Tensor,
    expected: torch.Tensor,
    spacing: Sequence[float] | None = None,
    tolerance: float = NSD_TOLERANCE,
) -> CaseMetrics:
    """Compare two masks of the same shape, as :func:`evaluate_case` does with files.

    Args:
        case: name of the case.
        predicted: class of each voxel, [X, Y, Z], 0 for the background; a binary mask may be bool.
        expected: the label, in the same form.
        spacing: lengths of the edges of a voxel, in mm; None: ``hd95`` and ``nsd`` are not defined.
        tolerance: of the surface Dice, in mm.

    Example:
        >>> import torch
        >>> from sdseg_monai.evaluation import compare_masks
        >>> mask = torch.zeros(8, 8, 8, dtype=torch.uint8)
        >>> mask[2:6, 2:6, 2:6] = 1
        >>> metrics = compare_masks("case_0", mask, mask, spacing=(1, 1, 1))
        >>> metrics.dice, metrics.hd95
        (1.0, 0.0)
    """
    values = sorted({int(value) for mask in (predicted, expected) for value in mask.unique()} - {0})
    classes = {value: _compare(predicted == value, expected == value, spacing, tolerance) for value in values}
    union = classes[values[0]] if len(values) == 1 else _compare(predicted > 0, expected > 0, spacing, tolerance)
    return CaseMetrics(case=case, classes=classes, **vars(union))


def _compare(
    predicted_mask: torch.Tensor, label_mask: torch.Tensor, spacing: Sequence[float] | None, tolerance: float
) -> Agreement:
    predicted_size, label_size = int(predicted_mask.sum()), int(label_mask.sum())  # voxels
    if not (predicted_size or label_size):
        return EMPTY_PAIR
    masks = (predicted_mask[None, None], label_mask[None, None])
    hd95 = nsd = UNDEFINED
    if spacing is not None:
        surface_options = {"include_background": True, "spacing": spacing}
        if predicted_size and label_size:
            hd95 = float(compute_hausdorff_distance(*masks, percentile=95, **surface_options))
        nsd = float(compute_surface_dice(*masks, [tolerance], **surface_options))
    return Agreement(
        dice=float(compute_dice(*masks, ignore_empty=False)),
        iou=float(compute_iou(*masks, ignore_empty=False)),
        hd95=hd95,
        nsd=nsd,
        volume_difference=(predicted_size - label_size) / label_size if label_size else UNDEFINED,
    )
