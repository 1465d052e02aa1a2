"""Measure what ``--tta mirror`` changes: the mean score of an image and its mirror image, on the validation split.

Writes the section ``mirror`` of the bundle's README.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from lab.bundles import HIPPOCAMPUS, segment_and_score
from lab.comparison import summary
from lab.tables import check_section, commit, hardware, markdown_table, replace_section
from sdseg_monai.data import read_datalist
from sdseg_monai.errors import report_input_errors
from sdseg_monai.evaluation import CaseMetrics
from sdseg_monai.inference.pipeline import Pipeline
from sdseg_monai.metrics import RESAMPLES


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset_dir", required=True)
    parser.add_argument("--bundle", type=Path, default=HIPPOCAMPUS)
    report_input_errors()
    options = parser.parse_args()
    readme = options.bundle / "docs" / "README.md"
    check_section(readme, "mirror")
    items = read_datalist(options.bundle / "configs" / "datalist.json", "validation", options.dataset_dir, "")
    pipelines = Pipeline(options.bundle, device="cpu"), Pipeline(options.bundle, device="cpu", tta="mirror")
    with tempfile.TemporaryDirectory() as folder:
        (once, seconds_once, _), (mean, seconds_mean, _) = (
            segment_and_score(p, items, Path(folder)) for p in pipelines
        )
    names = {0: "union", **{value: segment.name for value, segment in pipelines[0].segments.items()}}
    rows = []
    for value, name in names.items():
        before, after = (_dice(cases, value) for cases in (once, mean))
        rows.append(
            [name, f"{before.mean():.4f}", f"{after.mean():.4f}", summary([100 * (after - before)])],
        )
    head = ["structure", "3-D Dice, once", "with the mirror image", "difference, points (95 %)"]
    note = (
        f"Means over {len(items)} cases of the validation split; the difference is of pairs, percentile bootstrap "
        f"({RESAMPLES} resamples). Median time for a volume: {seconds_once:.2f} s and {seconds_mean:.2f} s. "
        f"{hardware()}; commit {commit()}; benchmarks/mirror.py."
    )
    replace_section(readme, "mirror", f"{markdown_table(head, rows)}\n\n{note}")


def _dice(cases: list[CaseMetrics], value: int) -> np.ndarray:
    """Return the Dice of each case in one class, or of all classes together where ``value`` is 0."""
    return np.array([(case.in_class(value) if value else case.foreground).dice for case in cases])


if __name__ == "__main__":
    main()
