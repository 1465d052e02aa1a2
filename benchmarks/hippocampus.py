"""Score the embedded hippocampus model: validation, on which it was chosen, and test, reported whatever it is.

Writes models/metrics.json and the results table in the bundle's README.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
from tables import ROOT, commit, hardware, markdown_table, replace_section
from tqdm import tqdm

from sdseg_monai.bundle import Segmenter
from sdseg_monai.data import read_datalist
from sdseg_monai.evaluation import evaluate_case, mean_metrics

BUNDLE = ROOT / "bundles" / "hippocampus_sdseg"


def score(segmenter: Segmenter, items: list[dict[str, str]]) -> dict[str, float]:
    """Segment and score ``items``; returns means, the spread of the Dice, and the median seconds per volume."""
    cases, seconds = [], []
    with tempfile.TemporaryDirectory() as folder:
        for item in tqdm(items):
            output = Path(folder) / Path(item["image"]).name
            start = time.perf_counter()
            segmenter.segment_file(Path(item["image"]), output)
            seconds.append(time.perf_counter() - start)
            cases.append(evaluate_case(output, Path(item["label"])))
    dice = np.array([case.dice for case in cases])
    mean = mean_metrics(cases)
    return {
        "cases": len(cases),
        "dice": round(mean.dice, 4),
        "dice_std": round(float(dice.std()), 4),
        "dice_min": round(float(dice.min()), 4),
        "iou": round(mean.iou, 4),
        "seconds_per_volume": round(float(np.median(seconds)), 2),
    }


def read_splits(description: str | None) -> dict[str, list[dict[str, str]]]:
    """Return the cases of validation and test, from the folder that the command line names."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--dataset_dir", required=True)
    parser.add_argument("--datalist", default=str(BUNDLE / "configs" / "datalist.json"))
    options = parser.parse_args()
    return {split: read_datalist(options.datalist, split, options.dataset_dir, "") for split in ("validation", "test")}


def main() -> None:
    """Run the benchmark."""
    splits = read_splits(__doc__)
    segmenter = Segmenter(BUNDLE, device="cpu")
    results = {split: score(segmenter, items) for split, items in splits.items()}
    about = {"data": "MSD Task04 hippocampus, label > 0", "split": "hippocampus_180_20_20", "seed": 0}
    about |= {"hardware": hardware(), "commit": commit(), "command": "benchmarks/hippocampus.py"}
    (BUNDLE / "models" / "metrics.json").write_text(json.dumps({**about, **results}, indent=1) + "\n")
    head = ["split", "cases", "mean 3-D Dice", "std", "worst", "mean IoU", "median s per volume"]
    rows = [[split, *result.values()] for split, result in results.items()]
    note = f"Data {about['data']}; split {about['split']}; seed 0; {about['hardware']}; commit {about['commit']}."
    replace_section(BUNDLE / "docs" / "README.md", "results", f"{markdown_table(head, rows)}\n\n{note}")


if __name__ == "__main__":
    main()
