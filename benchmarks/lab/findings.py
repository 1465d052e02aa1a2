"""What a bundle's masks are for, beside their overlap with the labels: rows of a second table for some bundles."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from lab.bundles import mask_path
from lab.comparison import summary
from sdseg_monai.evaluation import measure_ejection
from sdseg_monai.io.class_names import sidecar
from sdseg_monai.io.label_maps import read_mask
from sdseg_monai.io.pictures import image_stem, read_picture_mask
from sdseg_monai.metrics import fit_ellipse

Items = list[dict[str, str]]
INDEX = "index.csv"  # of HC18: id, pixel_mm, head_circumference_mm
PHASE = "_phase"  # between the patient and the number of the phase in a name of Sunnybrook's

HEAD_COLUMNS = ["heads measured", "table - label's ellipse, mm", "mask - label's ellipse, mm (95 %)"]
HEAD_COLUMNS += ["absolute error to the label's ellipse, mm (95 %)", "worst"]
HEART_COLUMNS = [
    "hearts",
    "ejection fraction of the labels, %",
    "error, points (95 %)",
    "absolute error (95 %)",
    "worst",
]
HEART_COLUMNS += ["slices with cavity", "Dice of these slices (95 %)"]


def pixel_sizes(dataset_dir: Path) -> dict[str, float]:
    """Return the edge of a pixel in mm of each picture of a dataset that says it, by its name."""
    return {row["id"]: float(row["pixel_mm"]) for row in _index(dataset_dir) if "pixel_mm" in row}


def head_cells(items: Items, folder: Path, dataset_dir: Path) -> list[str]:
    """Return the cells of :data:`HEAD_COLUMNS` for masks that were written with their pixel sizes."""
    index = {row["id"]: row for row in _index(dataset_dir)}
    table, labels, masks = [], [], []
    for item in items:
        row = index[image_stem(Path(item["image"]))]
        edge = float(row["pixel_mm"])
        label = fit_ellipse(read_picture_mask(Path(item["label"])) > 0, (edge, edge))
        measures = json.loads(sidecar(mask_path(item, folder)).read_text())["case"]["measures"]
        (measure,) = measures.values()
        labels.append(np.nan if label is None else label.circumference)
        masks.append(np.nan if measure["circumference_mm"] is None else measure["circumference_mm"])
        table.append(float(row["head_circumference_mm"]))
    difference = np.subtract(masks, labels)
    return [
        f"{np.isfinite(difference).sum()} of {len(items)}",
        f"{np.mean(np.subtract(table, labels)):.2f}",
        summary([difference]),
        summary([np.abs(difference)]),
        f"{np.nanmax(np.abs(difference)):.1f}",
    ]


def heart_cells(items: Items, folder: Path, dataset_dir: Path) -> list[str]:
    """Return the cells of :data:`HEART_COLUMNS`; the larger of a patient's two cavities in the labels is diastole."""
    by_patient: dict[str, Items] = {}
    slice_dice = []
    for item in items:
        by_patient.setdefault(Path(item["image"]).name.partition(PHASE)[0], []).append(item)
        mask, label = (read_mask(path).array > 0 for path in (mask_path(item, folder), Path(item["label"])))
        overlap, size = (mask & label).sum(axis=(0, 1)), mask.sum(axis=(0, 1)) + label.sum(axis=(0, 1))
        slice_dice += list((2 * overlap / np.maximum(size, 1))[label.any(axis=(0, 1))])
    true, predicted = [], []
    for pair in by_patient.values():
        diastole, systole = sorted(pair, key=lambda item: -read_mask(Path(item["label"])).array.sum())
        true.append(measure_ejection(Path(diastole["label"]), Path(systole["label"])).fraction)
        predicted.append(measure_ejection(mask_path(diastole, folder), mask_path(systole, folder)).fraction)
    error = np.subtract(predicted, true)
    return [
        str(len(error)),
        f"{min(true):.0f} to {max(true):.0f}",
        summary([error]),
        summary([np.abs(error)]),
        f"{np.abs(error).max():.1f}",
        str(len(slice_dice)),
        summary([np.array(slice_dice)], digits=4),
    ]


FINDINGS: dict[str, tuple[list[str], Callable[[Items, Path, Path], list[str]]]] = {
    "fetal_head_sdseg": (HEAD_COLUMNS, head_cells),
    "left_ventricle_sdseg": (HEART_COLUMNS, heart_cells),
}


def _index(dataset_dir: Path) -> list[dict[str, str]]:
    path = dataset_dir / INDEX
    if not path.is_file():
        return []
    with path.open() as file:
        return list(csv.DictReader(file))
