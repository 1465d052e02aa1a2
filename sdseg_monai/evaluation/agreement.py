"""Metrics of predicted masks against labels, for each volume or picture on its own grid."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from monai.metrics import compute_iou
from monai.metrics.utils import get_edge_surface_distance
from scipy.ndimage import find_objects
from tqdm import tqdm

from sdseg_monai.errors import InputError
from sdseg_monai.evaluation.pairs import case_name, match_cases
from sdseg_monai.io.label_maps import TABLE_SIZE, check_label_map, read_mask
from sdseg_monai.io.segments import UNSURE
from sdseg_monai.io.voxel_order import on_same_grid
from sdseg_monai.io.warnings import ImageWarning, log_warnings
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
            the larger of the two; of a single slice that of the outlines. Not defined if a mask is empty, or if the
            size of a voxel is not known.
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
    """The metrics of one case: the mean over its classes, beside them those of the foreground and of each class.

    The mean is over the classes that the prediction or the label of this case contains. So a class that is missed,
    invented or taken for another one counts with Dice 0, and the many classes that a case does not have cannot hide
    it; nnU-Net leaves these out too. A metric that is not defined for some of the classes, such as ``hd95`` of one that
    is missed, is the mean over the others. By the official protocol the metrics are those of the foreground.

    Attributes:
        case: name of the case.
        classes: metrics of each class that the prediction or the label contains.
        foreground: metrics of the foreground, the union of all classes. It does not tell one class from another: if two
            classes are exchanged, its Dice is 1.
        empty: metrics of all other classes.
        protocol: see :func:`evaluate_case`.
        warnings: those about the prediction and the label, by their files; a file without any is left out.
    """

    case: str
    classes: dict[int, Agreement]
    foreground: Agreement
    empty: Agreement = EMPTY_PAIR
    protocol: Protocol = "native"
    warnings: Mapping[Path, Sequence[ImageWarning]] = field(default_factory=dict)

    def in_class(self, value: int) -> Agreement:
        """Return the metrics of the class with this value."""
        return self.classes.get(value, self.empty)

    @property
    def zero_classes(self) -> list[int]:
        """The classes whose Dice is 0, in the order of their values: missed, invented, or at another place."""
        return [value for value, agreement in self.classes.items() if agreement.dice == 0]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Several cases, some of which could perhaps not be evaluated.

    Attributes:
        pairs: files of the prediction and the label of each case, by its name.
        cases: metrics of the cases that could be evaluated, in the order of the pairs.
        failed: why the others could not be, by their names.
    """

    pairs: dict[str, tuple[Path, Path]]
    cases: list[CaseMetrics]
    failed: dict[str, str]


def mean_agreement(agreements: Sequence[Agreement]) -> Agreement:
    """Return the mean of each metric over those of ``agreements`` for which it is defined; NaN if it is for none."""
    values_of_metric = {name: defined_values(agreements, name) for name in METRICS}
    return Agreement(
        **{name: float(np.mean(values)) if values else UNDEFINED for name, values in values_of_metric.items()}
    )


def defined_values(agreements: Sequence[Agreement], name: str) -> list[float]:
    """Return the values of a metric that are defined."""
    return [value for agreement in agreements if not math.isnan(value := getattr(agreement, name))]


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
    return [evaluate_case(prediction, label, tolerance, protocol) for prediction, label in _bar(pairs, progress)]


def evaluate_pairs(
    pairs: Sequence[tuple[Path, Path]],
    progress: bool = True,
    tolerance: float = NSD_TOLERANCE,
    protocol: Protocol = "native",
    keep: Callable[[Evaluation], object] = lambda evaluation: None,
) -> Evaluation:
    """Evaluate predictions with their labels; a pair that cannot be compared does not stop the others.

    Args:
        pairs: files of the prediction and the label of each case, as from
            :func:`~sdseg_monai.evaluation.match_cases`.
        progress: show a progress bar.
        tolerance: of the surface Dice, in mm (of pictures in pixels).
        protocol: see :func:`evaluate_case`.
        keep: is called with the cases so far where the evaluation is interrupted.
    """
    evaluation = Evaluation(pairs={case_name(pair[0]): pair for pair in pairs}, cases=[], failed={})
    try:
        for prediction, label in _bar(pairs, progress):
            try:
                evaluation.cases.append(evaluate_case(prediction, label, tolerance, protocol))
            except InputError as error:
                evaluation.failed[case_name(prediction)] = str(error)
    except KeyboardInterrupt:
        keep(evaluation)
        raise
    return evaluation


def _bar(pairs: Sequence[tuple[Path, Path]], progress: bool) -> tqdm[tuple[Path, Path]]:
    return tqdm(pairs, desc="evaluating", disable=None if progress else True, leave=False)


def evaluate_case(
    prediction: Path, label: Path, tolerance: float = NSD_TOLERANCE, protocol: Protocol = "native"
) -> CaseMetrics:
    """Evaluate one prediction with its label.

    Args:
        prediction: file of the mask.
        label: file of the label, on the same grid; the order of the voxels in the two files may differ.
        tolerance: of the surface Dice, in mm (of a picture in pixels).
        protocol: ``native``, on the label's own grid, or ``official``, see :func:`compare_officially`.

    Returns:
        The metrics, with the warnings about the two files, which are logged too.

    Raises:
        InputError: a file cannot be used or does not hold whole numbers, or the two files have different grids.

    Example:
        >>> from pathlib import Path
        >>> from sdseg_monai.evaluation import evaluate_case
        >>> metrics = evaluate_case(Path("mask.nii.gz"), Path("label.nii.gz"))  # doctest: +SKIP
        >>> metrics.dice, metrics.in_class(1).hd95  # doctest: +SKIP
        (0.91, 1.0)
    """
    predicted_volume, label_volume = read_mask(prediction), read_mask(label)
    volumes = {prediction: predicted_volume, label: label_volume}
    warnings = {path: volume.warnings for path, volume in volumes.items() if volume.warnings}
    for path, file_warnings in warnings.items():
        log_warnings(path, file_warnings)
    predicted_volume = on_same_grid(label, label_volume, prediction, predicted_volume)
    predicted_mask, label_mask = (  # [X, Y, Z]
        torch.from_numpy(check_label_map(path, volume.array, most_values=UNSURE, allow_unsure=False))
        for path, volume in ((prediction, predicted_volume), (label, label_volume))
    )
    if protocol == "official":
        case = compare_officially(case_name(prediction), predicted_mask, label_mask)
    else:
        spacing = np.linalg.norm(label_volume.affine[:3, :3], axis=0).tolist()
        case = compare_masks(case_name(prediction), predicted_mask, label_mask, spacing, tolerance)
    return replace(case, warnings=warnings)


def compare_officially(case: str, predicted: torch.Tensor, expected: torch.Tensor) -> CaseMetrics:
    """Compare two masks as the published code does: Dice and IoU of the slices, resized to 256 x 256 pixels.

    The metrics are those of the foreground: the published code segments the union of the organs. Slices are taken
    across the third axis of the file and resized by nearest neighbour. The Dice of empty masks follows
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
    return CaseMetrics(
        case=case, classes=classes, foreground=union, empty=OFFICIAL_EMPTY_PAIR, protocol="official", **vars(union)
    )


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
    masks = [torch.as_tensor(mask).cpu().numpy() for mask in (predicted, expected)]
    boxes = _boxes(masks)
    classes = {
        value: _compare(masks[0][box] == value, masks[1][box] == value, spacing, tolerance)
        for value, box in boxes.items()
    }
    if len(boxes) == 1:
        (union,) = classes.values()
    else:
        box = _around(list(boxes.values()), masks[0].shape, margin=0)
        union = _compare(masks[0][box] > 0, masks[1][box] > 0, spacing, tolerance)
    mean = mean_agreement(list(classes.values())) if len(classes) > 1 else union
    return CaseMetrics(case=case, classes=classes, foreground=union, **vars(mean))


def _boxes(masks: Sequence[np.ndarray]) -> dict[int, tuple[slice, ...]]:
    """Return a box around each class of two masks, with a margin of one voxel, in the order of their values."""
    boxes: dict[int, list[tuple[slice, ...]]] = {}
    for mask in masks:
        is_small = mask.max(initial=0) < TABLE_SIZE  # find_objects makes a table of all values up to the largest
        values = range(TABLE_SIZE) if is_small else np.union1d(0, mask)
        numbers = (mask if is_small else np.searchsorted(values, mask)).astype(np.int32)
        for value, box in zip(values[1:], find_objects(numbers), strict=False):
            if box is not None:
                boxes.setdefault(int(value), []).append(box)
    return {value: _around(boxes[value], masks[0].shape, margin=1) for value in sorted(boxes)}


def _around(boxes: Sequence[tuple[slice, ...]], shape: Sequence[int], margin: int) -> tuple[slice, ...]:
    """Return the smallest box that holds ``boxes`` and a margin around them, as far as the volume reaches."""
    return tuple(
        slice(
            max(min((box[axis].start for box in boxes), default=0) - margin, 0),
            min(max((box[axis].stop for box in boxes), default=0) + margin, length),
        )
        for axis, length in enumerate(shape)
    )


def _compare(
    predicted_mask: np.ndarray, label_mask: np.ndarray, spacing: Sequence[float] | None, tolerance: float
) -> Agreement:
    """Compare two binary masks, cropped to what they hold and a margin of one voxel where the volume has it."""
    predicted_size, label_size = int(np.count_nonzero(predicted_mask)), int(np.count_nonzero(label_mask))  # voxels
    if not (predicted_size or label_size):
        return EMPTY_PAIR
    common_size = int(np.count_nonzero(predicted_mask & label_mask))
    axes = [axis for axis, length in enumerate(label_mask.shape) if length > 1]
    if len(axes) == 2:  # a single slice: its surface is its outline, in three dimensions it would be all of its pixels
        predicted_mask, label_mask = predicted_mask.squeeze(), label_mask.squeeze()
        spacing = None if spacing is None else [spacing[axis] for axis in axes]
    hd95 = nsd = UNDEFINED
    if spacing is not None and predicted_size and label_size:
        masks = [torch.from_numpy(mask) for mask in (predicted_mask, label_mask)]
        distances = get_edge_surface_distance(*masks, spacing=spacing, symmetric=True)[1]  # once for both metrics
        hd95 = max(float(torch.quantile(distance, 0.95)) for distance in distances)
        num_near = sum(int((distance <= tolerance).sum()) for distance in distances)
        nsd = num_near / sum(len(distance) for distance in distances)
    elif spacing is not None:
        nsd = 0.0
    return Agreement(
        dice=2 * common_size / (predicted_size + label_size),
        iou=common_size / (predicted_size + label_size - common_size),
        hd95=hd95,
        nsd=nsd,
        volume_difference=(predicted_size - label_size) / label_size if label_size else UNDEFINED,
    )
