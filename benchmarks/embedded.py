"""Score a bundle's own weights on the validation split, by which they were chosen, and on the test split.

With --mirrored each split is also scored with mirror images, left and right exchanged: the hippocampi show one side of
the body, but users have images of both sides. Writes models/metrics.json and the table of results in the bundle's
README, pictures of a usual and of the worst test cases, and for heads and hearts a table of what their masks measure.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from lab.bundles import BUNDLES, HIPPOCAMPUS, SCORES, SCORES_OF_PICTURES, score_rows, segment_and_score
from lab.findings import FINDINGS, pixel_sizes
from lab.gallery import draw_usual_and_worst
from lab.tables import ROOT, check_section, commit, hardware, markdown_table, replace_section
from sdseg_monai.data import read_datalist
from sdseg_monai.errors import report_input_errors
from sdseg_monai.evaluation import summarise
from sdseg_monai.inference.pipeline import Pipeline
from sdseg_monai.io.pictures import is_picture
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


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", default=HIPPOCAMPUS.name)
    parser.add_argument("--dataset_dir", type=Path, required=True)
    parser.add_argument("--datalist", type=Path, help="default: the bundle's")
    parser.add_argument("--mirrored", action="store_true", help="score mirror images too")
    return parser


def main() -> None:
    """Run the benchmark."""
    report_input_errors()
    options = make_parser().parse_args()
    root = BUNDLES / options.bundle
    readme, datalist = root / "docs" / "README.md", options.datalist or root / "configs" / "datalist.json"
    columns, find = FINDINGS.get(options.bundle, ([], None))
    for section in ("results", *(["findings"] if find else [])):
        check_section(readme, section)
    splits = {split: read_datalist(datalist, split, options.dataset_dir, "") for split in ("validation", "test")}
    pictures = is_picture(Path(splits["test"][0]["image"]))
    pipeline = Pipeline(root, device="cpu", force=True)
    results: dict[str, Any] = {}
    rows, finding_rows = [], []
    with tempfile.TemporaryDirectory() as folder:
        if options.mirrored:
            splits |= {f"{split}, mirrored": mirror(items, Path(folder, split)) for split, items in splits.items()}
        for number, (split, items) in enumerate(splits.items()):
            masks = Path(folder, f"masks{number}")
            masks.mkdir()
            cases, seconds, num_refused = segment_and_score(pipeline, items, masks, pixel_sizes(options.dataset_dir))
            results[split] = {**summarise(cases), "seconds_per_image": round(seconds, 2)}
            rows += [[split, *cells, num_refused, f"{seconds:.2f}"] for cells in score_rows(pipeline, cases, pictures)]
            if split == "test" and root != HIPPOCAMPUS:  # whose pictures are those of its studies
                usual, worst = ROOT / "docs" / "images" / f"{root.name}.png", root / "docs" / "images" / "worst.png"
                draw_usual_and_worst(items, [case.foreground.dice for case in cases], masks, usual, worst)
            if find:
                finding_rows.append([split, *find(items, masks, options.dataset_dir)])
    about = {"split": json.loads(datalist.read_text())["name"], "seed": 0}
    about |= {"hardware": hardware(), "commit": commit(), "command": "benchmarks/embedded.py"}
    (root / "models" / "metrics.json").write_text(json.dumps({**about, **results}, indent=1) + "\n")
    head = ["split", *(SCORES_OF_PICTURES if pictures else SCORES), "refused without --force", "median s per image"]
    note = (
        f"Means over the cases, percentile bootstrap ({RESAMPLES} resamples). Split {about['split']}; seed 0; "
        f"{about['hardware']}; commit {about['commit']}; benchmarks/embedded.py."
    )
    replace_section(readme, "results", f"{markdown_table(head, rows)}\n\n{note}")
    if find:
        replace_section(readme, "findings", f"{markdown_table(['split', *columns], finding_rows)}\n\n{note}")


if __name__ == "__main__":
    main()
