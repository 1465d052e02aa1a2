"""Score the embedded hippocampus model on the validation split, by which it was chosen, and on the test split.

Each split is also scored with mirror images, left and right exchanged: the data show one side of the body, but users
have images of both sides. Writes models/metrics.json and the table of results in the bundle's README.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from lab.bundles import HIPPOCAMPUS, SCORES, score_rows, segment_and_score
from lab.tables import commit, hardware, markdown_table, replace_section
from sdseg_monai.data import read_datalist
from sdseg_monai.errors import report_input_errors
from sdseg_monai.evaluation import summarise
from sdseg_monai.inference.pipeline import Pipeline
from sdseg_monai.metrics import RESAMPLES


def mirror(items: list[dict[str, str]], folder: Path) -> list[dict[str, str]]:
    """Write the mirror images of ``items`` into ``folder``, as the other side of the body would look; return them."""
    mirror_items = []
    for item in items:
        paths = {name: folder / name / Path(path).name for name, path in item.items()}
        for name, path in paths.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            volume = nib.as_closest_canonical(nib.load(item[name]))  # the first axis goes from left to right
            nib.save(nib.Nifti1Image(np.flip(np.asarray(volume.dataobj), 0), volume.affine), path)
        mirror_items.append({name: str(path) for name, path in paths.items()})
    return mirror_items


def read_splits(description: str | None) -> dict[str, list[dict[str, str]]]:
    """Return the cases of validation and test from the folder on the command line."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--dataset_dir", required=True)
    parser.add_argument("--datalist", default=str(HIPPOCAMPUS / "configs" / "datalist.json"))
    report_input_errors()
    options = parser.parse_args()
    return {split: read_datalist(options.datalist, split, options.dataset_dir, "") for split in ("validation", "test")}


def main() -> None:
    """Run the benchmark."""
    splits = read_splits(__doc__)
    pipeline = Pipeline(HIPPOCAMPUS, device="cpu")
    results: dict[str, Any] = {}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        splits |= {f"{split}, mirrored": mirror(items, Path(folder, split)) for split, items in splits.items()}
        for split, items in splits.items():
            cases, seconds = segment_and_score(pipeline, items)
            results[split] = {**summarise(cases), "seconds_per_volume": round(seconds, 2)}
            rows += [[split, *cells, f"{seconds:.2f}"] for cells in score_rows(pipeline, cases)]
    about = {"data": "MSD Task04 hippocampus", "split": "hippocampus_180_20_20", "seed": 0}
    about |= {"hardware": hardware(), "commit": commit(), "command": "benchmarks/embedded.py"}
    (HIPPOCAMPUS / "models" / "metrics.json").write_text(json.dumps({**about, **results}, indent=1) + "\n")
    head = ["split", *SCORES, "median s per volume"]
    note = (
        f"Means over the cases, percentile bootstrap ({RESAMPLES} resamples). Data {about['data']}; split "
        f"{about['split']}; seed 0; {about['hardware']}; commit {about['commit']}."
    )
    replace_section(HIPPOCAMPUS / "docs" / "README.md", "results", f"{markdown_table(head, rows)}\n\n{note}")


if __name__ == "__main__":
    main()
