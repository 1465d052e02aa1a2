"""What the preprocessing scripts share: a committed split by case, a check of the download, one datalist out."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from sdseg_monai.data import write_datalist
from sdseg_monai.data.datalist import SPLITS
from sdseg_monai.errors import EXIT_BAD_INPUT, InputError
from sdseg_monai.io import check_same_grid, read_volume

SPLITS_DIR = Path(__file__).parent / "splits"


@dataclass(frozen=True)
class VolumeDataset:
    """How a published set of volumes lies on disk.

    Attributes:
        split: name of the committed split manifest.
        layouts: pairs of patterns for image and label below the dataset folder, ``{case}`` standing for the case;
            the first whose image folder exists is taken.
        label_values: what labels may hold.
    """

    split: str
    layouts: tuple[tuple[str, str], ...]
    label_values: frozenset[int]


def read_split(name: str) -> dict:
    """Return the committed split manifest ``name``: lists of case ids and texts about them."""
    return json.loads((SPLITS_DIR / f"{name}.json").read_text())


def find_layout(dataset: VolumeDataset, dataset_dir: Path) -> tuple[str, str]:
    """Return the patterns that fit ``dataset_dir``; raise :class:`InputError` if none does."""
    for layout in dataset.layouts:
        if (dataset_dir / layout[0]).parent.is_dir():
            return layout
    expected = " or ".join(str(dataset_dir / Path(image).parent) for image, _ in dataset.layouts)
    raise InputError(f"{dataset_dir}: no images found, expected a folder {expected}")


def list_cases(dataset: VolumeDataset, dataset_dir: Path) -> dict[str, list[dict[str, str]]]:
    """Return the datalist, paths relative to ``dataset_dir``; raise :class:`InputError` if a file is missing."""
    image, label = find_layout(dataset, dataset_dir)
    manifest = read_split(dataset.split)
    splits = {
        split: [{"image": image.format(case=case), "label": label.format(case=case)} for case in manifest[split]]
        for split in SPLITS
    }
    paths = [path for items in splits.values() for item in items for path in item.values()]
    missing = [path for path in paths if not (dataset_dir / path).is_file()]
    if missing:
        raise InputError(f"{dataset_dir}: {len(missing)} of {len(paths)} files are missing: {', '.join(missing[:5])}")
    return splits


def verify_case(dataset: VolumeDataset, dataset_dir: Path, item: dict[str, str]) -> None:
    """Raise :class:`InputError` if image and label of a case are unreadable, differ in grid, or hold other labels."""
    image_path, label_path = (dataset_dir / item[key] for key in ("image", "label"))
    label = read_volume(label_path)
    check_same_grid(image_path, read_volume(image_path), label_path, label)
    values = {float(value) for value in np.unique(label.array)}
    if not values <= dataset.label_values:
        raise InputError(
            f"{label_path}: holds the values {sorted(values - dataset.label_values)}, expected only "
            f"{sorted(dataset.label_values)}"
        )


def main(dataset: VolumeDataset, description: str, arguments: list[str] | None = None) -> int:
    """Run a preprocessing script; returns its exit code."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--dataset_dir", type=Path, required=True, help="folder of the download")
    parser.add_argument("--output", type=Path, help="datalist to write (default: DATASET_DIR/datalist.json)")
    parser.add_argument("--dry-run", action="store_true", help="check the download, write nothing")
    options = parser.parse_args(arguments)
    output = options.output or options.dataset_dir / "datalist.json"
    problems = []
    try:
        splits = list_cases(dataset, options.dataset_dir)
        for item in tqdm([item for items in splits.values() for item in items], desc="checking"):
            try:
                verify_case(dataset, options.dataset_dir, item)
            except InputError as error:
                problems.append(str(error))
        if problems:
            raise InputError(f"{len(problems)} cases cannot be used: " + "; ".join(problems))
        if not options.dry_run:
            about = {k: v for k, v in read_split(dataset.split).items() if isinstance(v, str)}
            write_datalist(output, splits, **about)
    except InputError as error:
        sys.stderr.write(f"error: {error}\n")
        return EXIT_BAD_INPUT
    counts = ", ".join(f"{len(items)} {split}" for split, items in splits.items())
    sys.stdout.write(f"{counts}; {'nothing written' if options.dry_run else f'wrote {output}'}\n")
    return 0
