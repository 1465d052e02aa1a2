"""Scoring predicted masks against labels, volume by volume or picture by picture on their own grid."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from monai.metrics import compute_dice, compute_hausdorff_distance, compute_iou
from tqdm import tqdm

from sdseg_monai.errors import InputError
from sdseg_monai.io import Volume, check_same_grid, read_volume, write_atomically
from sdseg_monai.pictures import image_stem, is_picture, list_images, read_picture_mask
from sdseg_monai.segments import UNSURE

METRICS = ("dice", "iou", "hd95")


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How well two masks agree.

    Attributes:
        dice: 1 for two empty masks, 0 for an empty one and another.
        iou: likewise.
        hd95: 95th percentile of the distances between the two surfaces, each to the other, whichever is larger, in mm
            (in a picture: pixels); NaN where a mask is empty, or where the size of a voxel is not known.
    """

    dice: float
    iou: float
    hd95: float


BOTH_EMPTY = Agreement(dice=1.0, iou=1.0, hd95=float("nan"))


@dataclass(frozen=True, kw_only=True)
class CaseMetrics(Agreement):
    """Agreement of one case's foreground, any class (in a picture any light pixel), over the whole of it.

    Attributes:
        case: name.
        classes: agreement in each class that the prediction or the label holds; in any other it is
            :data:`BOTH_EMPTY`.
    """

    case: str
    classes: dict[int, Agreement]


def evaluate_folders(predictions: Path, labels: Path, progress: bool = True) -> list[CaseMetrics]:
    """Score every label for which there is a prediction.

    Raises:
        InputError: a folder is missing or empty, a prediction has no label, or a pair cannot be compared.
    """
    pairs = match_cases(predictions, labels)
    return [
        evaluate_case(*pair) for pair in tqdm(pairs, desc="evaluating", disable=None if progress else True, leave=False)
    ]


def match_cases(predictions: Path, labels: Path) -> list[tuple[Path, Path]]:
    """Pair predictions with labels of the same name, else with the one label that ends in the same number.

    The second serves BTCV, whose img0001 belongs to label0001.

    Raises:
        InputError: a folder is missing or empty, or a prediction has no or no single label.
    """
    by_name: dict[str, Path] = {}
    for label in map(Path, list_images(labels)):
        if by_name.setdefault(image_stem(label), label) != label:
            raise InputError(f"{label}: {by_name[image_stem(label)].name} has the same name, expected one label a case")
    pairs: list[tuple[Path, Path]] = []
    for prediction in map(Path, list_images(predictions)):
        stem = image_stem(prediction)
        found = [by_name[stem]] if stem in by_name else [p for s, p in by_name.items() if _same_number(s, stem)]
        if len(found) != 1:
            raise InputError(
                f"{prediction}: {len(found)} labels for it in {labels}, expected one of the same name or number"
            )
        if is_picture(prediction) != is_picture(found[0]):
            raise InputError(f"{prediction}: its label {found[0]} is of another kind, expected two volumes or pictures")
        if found[0] in (label for _, label in pairs):
            raise InputError(f"{prediction}: {found[0]} belongs to another prediction too, expected one a case")
        pairs.append((prediction, found[0]))
    return pairs


def evaluate_case(prediction: Path, label: Path) -> CaseMetrics:
    """Score one prediction; two empty masks agree fully (1), an empty one and another not at all (0).

    Raises:
        InputError: a file cannot be used or holds other than whole numbers, or the two lie on different grids.
    """
    predicted, expected = _read_mask(prediction), _read_mask(label)
    check_same_grid(label, expected, prediction, predicted)
    _check_classes(prediction, predicted.array)
    _check_classes(label, expected.array)
    spacing = np.linalg.norm(expected.affine[:3, :3], axis=0).tolist()
    one, other = (torch.from_numpy(volume.array) for volume in (predicted, expected))  # [X, Y, Z]
    return compare_masks(image_stem(prediction), one, other, spacing)


def compare_masks(
    case: str, predicted: torch.Tensor, expected: torch.Tensor, spacing: Sequence[float] | None = None
) -> CaseMetrics:
    """Score one mask against another of the same shape, as :func:`evaluate_case` does files.

    Args:
        case: name.
        predicted: class of each voxel, 0 for the background; a binary mask may be bool.
        expected: likewise.
        spacing: edges of a voxel, in mm; None leaves the distance out.
    """
    values = sorted({int(value) for mask in (predicted, expected) for value in mask.unique()} - {0})
    classes = {value: _compare(predicted == value, expected == value, spacing) for value in values}
    union = classes[values[0]] if len(values) == 1 else _compare(predicted > 0, expected > 0, spacing)
    return CaseMetrics(case=case, classes=classes, **vars(union))


def _compare(predicted: torch.Tensor, expected: torch.Tensor, spacing: Sequence[float] | None) -> Agreement:
    if not (predicted.any() or expected.any()):
        return BOTH_EMPTY
    masks = (predicted[None, None], expected[None, None])
    hd95 = float("nan")
    if spacing is not None and predicted.any() and expected.any():
        hd95 = float(compute_hausdorff_distance(*masks, include_background=True, percentile=95, spacing=spacing))
    return Agreement(
        dice=float(compute_dice(*masks, ignore_empty=False)),
        iou=float(compute_iou(*masks, ignore_empty=False)),
        hd95=hd95,
    )


def _read_mask(path: Path) -> Volume:
    if is_picture(path):
        return Volume(read_picture_mask(path)[..., None], np.eye(4))
    return read_volume(path)


def _check_classes(path: Path, mask: np.ndarray) -> None:
    values = len(np.unique(mask))
    if values > UNSURE:
        raise InputError(
            f"{path}: {values} different values, expected the classes of a mask; is this an image or score?"
        )
    wrong = mask[(mask < 0) | (mask != np.rint(mask)) | (mask == UNSURE)]
    if wrong.size:
        raise InputError(
            f"{path}: {wrong.size} voxels are no class, such as {wrong[0]:g}, expected whole numbers from 0; {UNSURE} "
            "stands for an unsure voxel"
        )


def mean_metrics(cases: Sequence[CaseMetrics]) -> CaseMetrics:
    """Return the mean over cases, named ``mean``, of each metric; distances over the cases that have one."""
    values = sorted({value for case in cases for value in case.classes})
    classes = {value: _mean([case.classes.get(value, BOTH_EMPTY) for case in cases]) for value in values}
    return CaseMetrics(case="mean", classes=classes, **vars(_mean(cases)))


def _mean(agreements: Sequence[Agreement]) -> Agreement:
    distances = [a.hd95 for a in agreements if not math.isnan(a.hd95)]
    return Agreement(
        dice=float(np.mean([a.dice for a in agreements])),
        iou=float(np.mean([a.iou for a in agreements])),
        hd95=float(np.mean(distances)) if distances else float("nan"),
    )


def summarise(cases: Sequence[CaseMetrics]) -> dict[str, object]:
    """Return number of cases, means of the foreground and, where there are several, of each class, as for JSON.

    ``hd95_cases`` says over how many cases the mean of ``hd95`` goes, which is None for none.
    """
    mean = mean_metrics(cases)
    summary: dict[str, object] = {"cases": len(cases), **_summarise(mean, cases)}
    if len(mean.classes) > 1:
        summary["classes"] = {
            value: _summarise(agreement, [case.classes.get(value, BOTH_EMPTY) for case in cases])
            for value, agreement in mean.classes.items()
        }
    return summary


def _summarise(mean: Agreement, agreements: Sequence[Agreement]) -> dict[str, object]:
    return {
        "dice": round(mean.dice, 6),
        "iou": round(mean.iou, 6),
        "hd95": None if math.isnan(mean.hd95) else round(mean.hd95, 6),
        "hd95_cases": sum(not math.isnan(agreement.hd95) for agreement in agreements),
    }


def write_csv(path: Path, cases: Sequence[CaseMetrics]) -> None:
    """Write one row per case and a last one with the mean: the foreground's metrics, then, of several, each class's.

    Raises:
        InputError: the folder cannot be written.
    """
    mean = mean_metrics(cases)
    classes = sorted(mean.classes) if len(mean.classes) > 1 else []
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["case", *METRICS, *(f"{name}_{value}" for value in classes for name in METRICS)])
    for case in (*cases, mean):
        agreements = [case, *(case.classes.get(value, BOTH_EMPTY) for value in classes)]
        writer.writerow([case.case, *(f"{getattr(a, name):.8f}" for a in agreements for name in METRICS)])
    write_atomically(path, lambda temporary: temporary.write_text(text.getvalue(), "utf-8", "surrogateescape"))


def _same_number(stem: str, other: str) -> bool:
    numbers = [re.search(r"(\d+)$", name) for name in (stem, other)]
    return all(numbers) and numbers[0].group() == numbers[1].group()  # type: ignore[union-attr]
