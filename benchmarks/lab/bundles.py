"""Scores of a bundle's network on files with labels, as rows of a table."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from lab.comparison import summary
from lab.tables import ROOT
from sdseg_monai.evaluation import Agreement, CaseMetrics, evaluate_case
from sdseg_monai.inference.pipeline import Pipeline

HIPPOCAMPUS = ROOT / "bundles" / "hippocampus_sdseg"
SCORES = ["cases", "structure", "3-D Dice (95 %)", "worst", "HD95, mm (95 %)"]


def segment_and_score(pipeline: Pipeline, items: list[dict[str, str]]) -> tuple[list[CaseMetrics], float]:
    """Segment and score ``items``; return the metrics of each case and the median seconds for a volume."""
    cases, seconds = [], []
    with tempfile.TemporaryDirectory() as folder:
        for item in tqdm(items):
            output = Path(folder) / Path(item["image"]).name
            start = time.perf_counter()
            pipeline(item["image"]).save(output)
            seconds.append(time.perf_counter() - start)
            cases.append(evaluate_case(output, Path(item["label"])))
    return cases, float(np.median(seconds))


def score_rows(pipeline: Pipeline, cases: list[CaseMetrics]) -> list[list[Any]]:
    """Return a row of :data:`SCORES` for the union and for each class: means with their bootstrap intervals."""
    structures: dict[str, list[Agreement]] = {"union": [case.foreground for case in cases]}
    for value, segment in pipeline.segments.items():
        structures[segment.name] = [case.in_class(value) for case in cases]
    return [[len(cases), name, *structure_cells(agreements)] for name, agreements in structures.items()]


def structure_cells(agreements: list[Agreement]) -> list[str]:
    """Return the cells of one structure: the means with their bootstrap intervals, and the worst Dice."""
    dice, hd95 = (np.array([getattr(agreement, name) for agreement in agreements]) for name in ("dice", "hd95"))
    return [summary([dice], digits=4), f"{dice.min():.4f}", summary([hd95])]
