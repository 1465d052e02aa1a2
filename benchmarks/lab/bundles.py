"""Scores of a bundle's network on files with labels, as rows of a table."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from lab.comparison import summary
from lab.tables import ROOT
from sdseg_monai.evaluation import Agreement, CaseMetrics, evaluate_case
from sdseg_monai.inference.pipeline import Pipeline
from sdseg_monai.io.pictures import image_stem, is_picture

BUNDLES = ROOT / "bundles"
HIPPOCAMPUS = BUNDLES / "hippocampus_sdseg"
SCORES = ["cases", "structure", "3-D Dice (95 %)", "worst", "HD95, mm (95 %)"]
SCORES_OF_PICTURES = ["pictures", "structure", "Dice (95 %)", "worst", "HD95, pixels (95 %)", "Jaccard (95 %)"]


def segment_and_score(
    pipeline: Pipeline, items: list[dict[str, str]], folder: Path, pixel_sizes: Mapping[str, float] | None = None
) -> tuple[list[CaseMetrics], float, int]:
    """Segment and score ``items``; return the metrics of each case, the median seconds, and how many are not trusted.

    Args:
        pipeline: the model; with ``force`` also images that it would refuse are scored.
        items: the cases, each with ``image`` and ``label``.
        folder: for the masks, which are named as :func:`mask_path` says.
        pixel_sizes: edge of a pixel in mm of pictures, by their names without suffix.
    """
    cases, seconds, num_refused = [], [], 0
    for item in tqdm(items, leave=False):
        image, output = Path(item["image"]), mask_path(item, folder)
        start = time.perf_counter()
        result = pipeline(image, pixel_mm=(pixel_sizes or {}).get(image_stem(image)))
        result.save(output)
        num_refused += not result.trusted
        seconds.append(time.perf_counter() - start)
        cases.append(evaluate_case(output, Path(item["label"])))
    return cases, float(np.median(seconds)), num_refused


def mask_path(item: Mapping[str, str], folder: Path) -> Path:
    """Return the file of the mask of a case in ``folder``."""
    image = Path(item["image"])
    return folder / (f"{image_stem(image)}.png" if is_picture(image) else image.name)


def score_rows(pipeline: Pipeline, cases: list[CaseMetrics], pictures: bool = False) -> list[list[Any]]:
    """Return a row of :data:`SCORES` for the union and for each class: means with their bootstrap intervals.

    The union is left out where there is one class. Rows of pictures are of :data:`SCORES_OF_PICTURES`.
    """
    structures = {
        segment.name: [case.in_class(value) for case in cases] for value, segment in pipeline.segments.items()
    }
    if len(structures) > 1:
        structures = {"union": [case.foreground for case in cases], **structures}
    rows = []
    for name, agreements in structures.items():
        jaccard = [summary([np.array([agreement.iou for agreement in agreements])], digits=4)] if pictures else []
        rows.append([len(cases), name, *structure_cells(agreements), *jaccard])
    return rows


def structure_cells(agreements: list[Agreement]) -> list[str]:
    """Return the cells of one structure: the means with their bootstrap intervals, and the worst Dice."""
    dice, hd95 = (np.array([getattr(agreement, name) for agreement in agreements]) for name in ("dice", "hd95"))
    return [summary([dice], digits=4), f"{dice.min():.4f}", summary([hd95])]
