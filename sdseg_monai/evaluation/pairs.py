"""Which prediction belongs to which label: by the name of the case."""

from __future__ import annotations

import re
from pathlib import Path

from sdseg_monai.errors import InputError
from sdseg_monai.io.pictures import image_stem, is_picture, list_images


def list_labels(folder: Path) -> dict[str, Path]:
    """Return the label files of ``folder`` by the name of their case, sorted.

    Raises:
        InputError: the folder is missing or empty, or two files are of one case.
    """
    by_name: dict[str, Path] = {}
    for label in map(Path, list_images(folder)):
        if by_name.setdefault(image_stem(label), label) != label:
            raise InputError(f"{label}: {by_name[image_stem(label)].name} has the same name, expected one label a case")
    return by_name


def match_cases(predictions: Path, labels: Path) -> list[tuple[Path, Path]]:
    """Pair predictions with labels of the same name, else with the one label that ends in the same number.

    The second serves BTCV, whose img0001 belongs to label0001.

    Raises:
        InputError: a folder is missing or empty, or a prediction has no or no single label.
    """
    by_name = list_labels(labels)
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


def _same_number(stem: str, other: str) -> bool:
    numbers = [re.search(r"(\d+)$", name) for name in (stem, other)]
    return all(numbers) and numbers[0].group() == numbers[1].group()  # type: ignore[union-attr]
