"""Scoring predicted masks against labels, volume by volume or picture by picture on their own grid."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from monai.metrics import DiceMetric, MeanIoU
from tqdm import tqdm

from sdseg_monai.errors import InputError
from sdseg_monai.io import Volume, check_same_grid, read_volume, write_atomically
from sdseg_monai.pictures import image_stem, is_picture, list_images, read_picture_mask


@dataclass(frozen=True)
class CaseMetrics:
    """Overlap of one case's foreground (any voxel above 0, in a picture any light pixel), over the whole of it."""

    case: str
    dice: float
    iou: float


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
        InputError: a file cannot be used, or the two lie on different grids.
    """
    predicted, expected = _read_mask(prediction), _read_mask(label)
    check_same_grid(label, expected, prediction, predicted)
    masks = (torch.from_numpy(volume.array) for volume in (predicted, expected))  # [X, Y, Z]
    return compare_masks(image_stem(prediction), *masks)


def compare_masks(case: str, predicted: torch.Tensor, expected: torch.Tensor) -> CaseMetrics:
    """Score one binary mask against another of the same shape, as :func:`evaluate_case` does files."""
    masks = (predicted[None, None], expected[None, None])
    return CaseMetrics(case, float(DiceMetric(ignore_empty=False)(*masks)), float(MeanIoU(ignore_empty=False)(*masks)))


def _read_mask(path: Path) -> Volume:
    if is_picture(path):
        return Volume(read_picture_mask(path)[..., None], np.eye(4))
    volume = read_volume(path)
    return Volume(volume.array > 0, volume.affine)


def mean_metrics(cases: list[CaseMetrics]) -> CaseMetrics:
    """Return the mean over cases, named ``mean``."""
    return CaseMetrics("mean", float(np.mean([c.dice for c in cases])), float(np.mean([c.iou for c in cases])))


def write_csv(path: Path, cases: list[CaseMetrics]) -> None:
    """Write one row per case and a last one with the mean.

    Raises:
        InputError: the folder cannot be written.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["case", "dice", "iou"])
    writer.writerows([c.case, f"{c.dice:.8f}", f"{c.iou:.8f}"] for c in [*cases, mean_metrics(cases)])
    write_atomically(path, lambda temporary: temporary.write_text(text.getvalue(), "utf-8", "surrogateescape"))


def _same_number(stem: str, other: str) -> bool:
    numbers = [re.search(r"(\d+)$", name) for name in (stem, other)]
    return all(numbers) and numbers[0].group() == numbers[1].group()  # type: ignore[union-attr]
