"""Match files of one case by their names: predictions and labels, images and labels, images and predictions."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sdseg_monai.errors import InputError
from sdseg_monai.io.pictures import image_stem, is_picture, list_images

FIRST_CHANNEL = "_0000"  # the end of the names of nnU-Net's images, which their labels do not have


def case_name(path: Path) -> str:
    """Return the name of the case of a volume or picture: the name of the file without its suffix.

    Raises:
        InputError: a file with this suffix cannot be read.
    """
    return image_stem(path)


def list_cases(folder: Path) -> dict[str, Path]:
    """Return the volumes of a folder by the names of their cases, sorted; its pictures if it has no volume.

    Raises:
        InputError: the folder is missing or empty, or two files have the name of one case.
    """
    files: dict[str, Path] = {}
    for file in map(Path, list_images(folder)):
        namesake = files.setdefault(case_name(file), file)
        if namesake != file:
            raise InputError(f"{file}: {namesake.name} has the same name, expected one file a case")
    return files


@dataclass(frozen=True)
class Pairing:
    """The files and the labels of two folders, matched.

    Attributes:
        pairs: each file with its label, in the order of the files.
        files: the files without a label.
        labels: the labels without a file.
    """

    pairs: list[tuple[Path, Path]]
    files: list[Path]
    labels: list[Path]


def pair_cases(files: Mapping[str, Path], labels: Mapping[str, Path], affix: str = "") -> Pairing:
    """Match each file with the label of the same name, or else with the only label that ends in the same number.

    The second rule is for BTCV, where img0001 belongs to label0001. It holds only if no other label, and no other file
    without a label of its own name, ends in that number.

    Args:
        files: files by the names of their cases, as from :func:`list_cases`.
        labels: labels by the names of their cases.
        affix: end of a file's name that the name of its label may lack, such as :data:`FIRST_CHANNEL`.
    """
    label_of: dict[str, str] = {}  # by the file's name
    unmatched_labels = set(labels)
    for name in files:
        label = next((label for label in (name, name.removesuffix(affix)) if label in unmatched_labels), None)
        if label is not None:
            label_of[name] = label
            unmatched_labels.remove(label)
    labels_by_number = _by_number(labels)
    for number, name in _by_number(name for name in files if name not in label_of).items():
        label = labels_by_number.get(number)
        if label in unmatched_labels:
            label_of[name] = label
            unmatched_labels.remove(label)
    return Pairing(
        pairs=[(file, labels[label_of[name]]) for name, file in files.items() if name in label_of],
        files=[file for name, file in files.items() if name not in label_of],
        labels=[label for name, label in labels.items() if name in unmatched_labels],
    )


def match_cases(predictions: Path, labels: Path) -> list[tuple[Path, Path]]:
    """Match each prediction of a folder with its label by :func:`pair_cases`; there may be more labels.

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
    """Return for each prediction the image of the same name; without a folder of images, None for each prediction.

    Raises:
        InputError: the folder is missing or empty, has two files of one case, or a prediction has no image.
    """
    if images is None:
        return [None] * len(predictions)
    image_of_case = list_cases(images)
    unmatched_files = [path for path in predictions if case_name(path) not in image_of_case]
    if unmatched_files:
        raise InputError(f"{unmatched_files[0]}: no image of that name in {images}, expected one for each prediction")
    return [image_of_case[case_name(path)] for path in predictions]


def check_same_kind(file: Path, label: Path) -> None:
    """Raise :class:`InputError` if one of a file and its label is a volume and the other one a picture."""
    if is_picture(file) != is_picture(label):
        raise InputError(f"{label}: is of another kind than {file}, expected two volumes or two pictures")


def _by_number(names: Iterable[str]) -> dict[str, str]:
    """Return the names that end in a number, by that number; without the names that end in the same number."""
    numbers = {name: match.group() for name in names if (match := re.search(r"\d+$", name))}
    counts = Counter(numbers.values())
    return {number: name for name, number in numbers.items() if counts[number] == 1}
