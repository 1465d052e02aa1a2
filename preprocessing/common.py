"""The common parts of the preprocessing scripts: check a download, and write its datalist with a fixed split."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

from tqdm import tqdm

from sdseg_monai.data import write_datalist
from sdseg_monai.data.datalist import SPLITS
from sdseg_monai.data.splits import split_by_counts
from sdseg_monai.errors import EXIT_BAD_INPUT, InputError
from sdseg_monai.io.files import check_folder

SPLITS_DIR = Path(__file__).parent / "splits"
NOT_DATA = ("__MACOSX", "Illustration")  # folders in archives that contain other files with the names of the data

Item = dict[str, str]  # image and label of a case, paths relative to the dataset folder


@dataclass(frozen=True)
class Dataset:
    """The files of a published dataset, and how they are checked.

    Attributes:
        splits: names of the split manifests in this repository, the default first.
        layouts: pairs of glob patterns for images and labels in the dataset folder, with ``{case}`` for the name of the
            case. The pair that finds the most files is used.
        check_case: is called with the paths of an image and its label; raises :class:`InputError` if they cannot be
            used.
        check_folder: is called with the dataset folder; raises :class:`InputError` if another file in it is wrong.
        other_forms: texts on copies in a form that cannot be used, by the glob patterns that find their files.
        prepare: is called with the dataset folder, the name of a split and an item of it, after all checks; writes new
            files and returns the item for the datalist.
    """

    splits: tuple[str, ...]
    layouts: tuple[tuple[str, str], ...]
    check_case: Callable[[Path, Path], object]
    check_folder: Callable[[Path], None] = lambda dataset_dir: None
    other_forms: Mapping[str, str] = field(default_factory=dict)
    prepare: Callable[[Path, str, Item], Item] = lambda dataset_dir, split, item: item


def read_split(name: str) -> dict:
    """Return the split manifest ``name``: lists of cases, or numbers of cases, and texts about them."""
    return json.loads((SPLITS_DIR / f"{name}.json").read_text())


def find_cases(dataset_dir: Path, pattern: str) -> dict[str, str]:
    """Return the files in ``dataset_dir`` that match ``pattern``, by the names of their cases.

    Raises:
        InputError: two files belong to one case.
    """
    prefix, suffix = Path(pattern).name.split("{case}")
    files: dict[str, str] = {}
    for path in sorted(dataset_dir.glob(pattern.format(case="*"))):
        relative = path.relative_to(dataset_dir)
        case = path.name.removeprefix(prefix).removesuffix(suffix)
        if path.name[0] == "." or set(relative.parts) & set(NOT_DATA):
            continue
        if case in files:
            raise InputError(f"{dataset_dir}: {files[case]} and {relative} are both case {case}, expected one of them")
        files[case] = str(relative)
    return files


def deal_cases(manifest: Mapping, cases: Sequence[str]) -> dict[str, list[str]]:
    """Return the cases of each split.

    If ``manifest`` has numbers of cases instead of names, :func:`~sdseg_monai.data.splits.split_by_counts` splits them.

    Raises:
        InputError: there are more or fewer cases than these numbers.
    """
    if isinstance(manifest["training"], list):
        return {split: manifest[split] for split in SPLITS}
    expected = sum(manifest[split] for split in SPLITS)
    if len(cases) != expected:
        raise InputError(
            f"{len(cases)} images found, expected the {expected} of the split {manifest['name']}: complete the "
            "download or name another --split"
        )
    return split_by_counts(cases, validation=manifest["validation"], test=manifest["test"])


def list_items(dataset: Dataset, dataset_dir: Path, split_name: str) -> tuple[dict[str, list[Item]], list[str]]:
    """Return the items of each split, and the images that are in no split.

    Raises:
        InputError: there are no images, or they are a copy in another form, or their number does not fit the split.
            Missing files are found by
            :func:`find_faults`.
    """
    if not dataset_dir.is_dir():
        raise InputError(f"no dataset folder at {dataset_dir.absolute()}")
    files_by_layout = [tuple(find_cases(dataset_dir, pattern) for pattern in layout) for layout in dataset.layouts]
    layout, (images, labels) = max(
        zip(dataset.layouts, files_by_layout, strict=True), key=lambda pair: sum(map(len, pair[1]))
    )
    if not images:
        for pattern, text in dataset.other_forms.items():
            for file in sorted(dataset_dir.glob(pattern))[:1]:
                raise InputError(f"{file}: {text}")
        expected = " or ".join(dict.fromkeys(image.format(case="*") for image, _ in dataset.layouts))
        raise InputError(f"{dataset_dir}: no images found, expected {expected}")
    splits = deal_cases(read_split(split_name), list(images))
    items = {
        split: [
            {
                "image": images.get(case, layout[0].format(case=case)),
                "label": labels.get(case, layout[1].format(case=case)),
            }
            for case in cases
        ]
        for split, cases in splits.items()
    }
    cases_in_splits = {case for cases in splits.values() for case in cases}
    return items, [path for case, path in images.items() if case not in cases_in_splits]


def find_faults(dataset: Dataset, dataset_dir: Path, items: Sequence[Item]) -> list[str]:
    """Return a text that names all missing files, and a text for each case that cannot be used."""
    missing_files = [path for item in items for path in item.values() if not (dataset_dir / path).is_file()]
    faults = []
    if missing_files:
        faults.append(f"{len(missing_files)} of {2 * len(items)} files are missing: {', '.join(missing_files)}")
    for item in tqdm(items, desc="checking"):
        if not {item["image"], item["label"]} & set(missing_files):
            try:
                dataset.check_case(dataset_dir / item["image"], dataset_dir / item["label"])
            except InputError as error:
                faults.append(str(error))
    return faults


def find_shared_images(dataset_dir: Path, splits: Mapping[str, Sequence[Item]]) -> list[str]:
    """Return a text for each pair of images in different splits whose files are equal byte by byte."""
    places_of_digest: dict[bytes, list[tuple[str, str]]] = {}
    for split, items in splits.items():
        for item in items:
            with (dataset_dir / item["image"]).open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").digest()
            places_of_digest.setdefault(digest, []).append((split, item["image"]))
    return [
        f"{image} in {split} is {other_image} in {other_split}"
        for places in places_of_digest.values()
        for (split, image), (other_split, other_image) in combinations(places, 2)
        if split != other_split
    ]


def make_parser(dataset: Dataset, description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options that all preprocessing scripts have."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--dataset_dir", type=Path, required=True, help="folder of the download")
    parser.add_argument("--output", type=Path, help="datalist to write (default: DATASET_DIR/datalist.json)")
    parser.add_argument("--split", choices=dataset.splits, default=dataset.splits[0], help="default: %(default)s")
    parser.add_argument("--dry-run", action="store_true", help="check the download, write nothing")
    return parser


def run(dataset: Dataset, options: argparse.Namespace, **about: str) -> int:
    """Check the download, and write the datalist, with ``about`` before the cases; return the exit code."""
    dataset_dir = options.dataset_dir
    output = options.output or dataset_dir / "datalist.json"
    try:
        if output.suffix != ".json":
            raise InputError(f"{output}: expected the name of a datalist, ending in .json")
        splits, unused_images = list_items(dataset, dataset_dir, options.split)
        dataset.check_folder(dataset_dir)
        faults = find_faults(dataset, dataset_dir, [item for items in splits.values() for item in items])
        if faults:
            if unused_images:
                faults.append(f"in no split: {', '.join(unused_images)}")
            raise InputError(f"{dataset_dir} cannot be used: {'; '.join(faults)}")
        duplicates = find_shared_images(dataset_dir, splits)
        if not options.dry_run:
            check_folder(output.parent)
            prepared_splits = {
                split: [dataset.prepare(dataset_dir, split, item) for item in tqdm(items, desc=split)]
                for split, items in splits.items()
            }
            texts = {key: value for key, value in read_split(options.split).items() if isinstance(value, str)}
            write_datalist(output, prepared_splits, **texts, **about)
    except (InputError, OSError) as error:  # a name that is too long, a folder that may not be read
        sys.stderr.write(f"error: {error}\n")
        return EXIT_BAD_INPUT
    for text in duplicates:
        sys.stderr.write(f"warning: equal images in two splits: {text}\n")
    counts = ", ".join(f"{len(items)} {split}" for split, items in splits.items())
    rest = f", {len(unused_images)} images in no split" if unused_images else ""
    sys.stdout.write(f"{counts}{rest}; {'nothing written' if options.dry_run else f'wrote {output}'}\n")
    return 0


def main(dataset: Dataset, description: str | None) -> int:
    """Run a preprocessing script without further options; return its exit code."""
    return run(dataset, make_parser(dataset, description).parse_args())
