"""Which files belong to one case, by their names: predictions and labels, images and labels, images and predictions."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sdseg_monai.errors import InputError
from sdseg_monai.io.pictures import image_stem, is_picture, list_images

FIRST_CHANNEL = "_0000"  # by which the names of nnU-Net's images differ from those of their labels


def case_name(path: Path) -> str:
    """Return the name of the case that a volume or picture file is of: the file's, without its suffix.

    Raises:
        InputError: the suffix is none that is read here.
    """
    return image_stem(path)


def list_cases(folder: Path) -> dict[str, Path]:
    """Return the volume files of ``folder``, or, where it has none, its pictures, by the name of their case, sorted.

    Raises:
        InputError: the folder is missing or empty, or two files are of one case.
    """
    files: dict[str, Path] = {}
    for file in map(Path, list_images(folder)):
        namesake = files.setdefault(case_name(file), file)
        if namesake != file:
            raise InputError(f"{file}: {namesake.name} has the same name, expected one file a case")
    return files


@dataclass(frozen=True)
class Pairing:
    """The files of two folders, case by case.

    Attributes:
        pairs: each a file and its label, in the order of the files.
        files: that have no label.
        labels: that have no file.
    """

    pairs: list[tuple[Path, Path]]
    files: list[Path]
    labels: list[Path]


def pair_cases(files: Mapping[str, Path], labels: Mapping[str, Path], affix: str = "") -> Pairing:
    """Pair files with labels of the same name, else with the one label that ends in the same number.

    The second serves BTCV, whose img0001 belongs to label0001: no other label may end in that number, and no other file
    without a label of its name.

    Args:
        files: by the name of their case, as from :func:`list_cases`.
        labels: likewise.
        affix: end of a file's name that its label's may lack, such as :data:`FIRST_CHANNEL`.
    """
    label_of: dict[str, str] = {}  # by the file's name
    unpaired = set(labels)
    for name in files:
        label = next((label for label in (name, name.removesuffix(affix)) if label in unpaired), None)
        if label is not None:
            label_of[name] = label
            unpaired.remove(label)
    labels_by_number = _by_number(labels)
    for number, name in _by_number(name for name in files if name not in label_of).items():
        label = labels_by_number.get(number)
        if label in unpaired:
            label_of[name] = label
            unpaired.remove(label)
    return Pairing(
        pairs=[(file, labels[label_of[name]]) for name, file in files.items() if name in label_of],
        files=[file for name, file in files.items() if name not in label_of],
        labels=[label for name, label in labels.items() if name in unpaired],
    )


def match_cases(predictions: Path, labels: Path) -> list[tuple[Path, Path]]:
    """Pair each prediction of a folder with its label by :func:`pair_cases`; there may be more labels.

    Raises:
        InputError: a folder is missing or empty, has two files of one case, or a prediction has no label of its kind.
    """
    pairing = pair_cases(list_cases(predictions), list_cases(labels))
    if pairing.files:
        raise InputError(
            f"{pairing.files[0]}: no label for it in {labels}, expected one of the same name, or a single one that "
            "ends in the same number"
        )
    for prediction, label in pairing.pairs:
        check_same_kind(prediction, label)
    return pairing.pairs


def match_images(predictions: Sequence[Path], images: Path | None) -> list[Path | None]:
    """Return the image of each prediction, of the very same name; None for each without a folder of images.

    Raises:
        InputError: the folder is missing or empty, has two files of one case, or a prediction has no image.
    """
    if images is None:
        return [None] * len(predictions)
    by_name = list_cases(images)
    missing = [path for path in predictions if case_name(path) not in by_name]
    if missing:
        raise InputError(f"{missing[0]}: no image of that name in {images}, expected one for each prediction")
    return [by_name[case_name(path)] for path in predictions]


def check_same_kind(file: Path, label: Path) -> None:
    """Raise :class:`InputError` unless a file and its label are two volumes or two pictures."""
    if is_picture(file) != is_picture(label):
        raise InputError(f"{label}: is of another kind than {file}, expected two volumes or two pictures")


def _by_number(names: Iterable[str]) -> dict[str, str]:
    """Return the names that end in a number, by it, but for those whose number others end in too."""
    numbers = {name: match.group() for name in names if (match := re.search(r"\d+$", name))}
    counts = Counter(numbers.values())
    return {number: name for name, number in numbers.items() if counts[number] == 1}
