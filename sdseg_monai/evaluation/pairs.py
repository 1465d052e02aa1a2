"""Match files of one case by their names: predictions and labels, images and labels, images and predictions.

The one rule, for every command: first the same name; then the same name without the endings that programs give to
labels and to the first channel (:data:`LABEL_ENDING`); then without the ending that names what an image is
(:data:`IMAGE_ENDING`); then, for predictions and labels, the only file that ends in the same number.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from sdseg_monai.errors import InputError
from sdseg_monai.io.pictures import image_stem, is_picture, list_images

# BIDS's and ITK-SNAP's labels, and others that are common; nnU-Net's images of one channel (_0001 is another channel)
LABEL_ENDING = re.compile(r"(?<=.)([_-](dseg|seg|segmentation|labels?|labelmap|masks?|gt)|_0000)$", re.IGNORECASE)
IMAGE_ENDING = re.compile(
    r"(?<=.)[_-](images?|img|t1w?|t1ce?|t1gd|t2w?|flair|pdw?|dwi|adc|bold|mri?|ct|pet|us)$|"
    r"^(?P<bids>sub-[^_]+(_[^_-]+-[^_]+)*)_[a-z][a-z0-9]*$",
    re.IGNORECASE,
)
ENDINGS = "endings such as _seg, _dseg, -label, _0000 and _T1w do not count"


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


def pair_cases(files: Mapping[str, Path], labels: Mapping[str, Path], numbers: bool = True) -> Pairing:
    """Match each file with its label by the rule of this module.

    A number matches if no other label, and no other file without a label of its own name, ends in it. This is for BTCV,
    where img0001 belongs to label0001.

    Args:
        files: files by the names of their cases, as from :func:`list_cases`.
        labels: labels by the names of their cases.
        numbers: whether names may differ in all but the number at their end.

    Raises:
        InputError: without their endings two files, or two labels, have one name, and not each has a partner of its
            full name.
    """
    label_of = {name: name for name in files if name in labels}  # by the file's name
    label_of |= _match(files, labels, label_of, _without_label_ending)
    files_left = {name: file for name, file in files.items() if name not in label_of}
    matched_labels = set(label_of.values())
    labels_left = {name: label for name, label in labels.items() if name not in matched_labels}
    label_of |= _match(files_left, labels_left, {}, _without_endings)
    matched_labels = set(label_of.values())
    if numbers:
        labels_by_number = _by_number(labels)
        for number, name in _by_number(name for name in files if name not in label_of).items():
            label = labels_by_number.get(number)
            if label is not None and label not in matched_labels:
                label_of[name] = label
                matched_labels.add(label)
    return Pairing(
        pairs=[(file, labels[label_of[name]]) for name, file in files.items() if name in label_of],
        files=[file for name, file in files.items() if name not in label_of],
        labels=[label for name, label in labels.items() if name not in matched_labels],
    )


def match_cases(predictions: Path, labels: Path) -> list[tuple[Path, Path]]:
    """Match each prediction of a folder with its label by :func:`pair_cases`; there may be more labels.

    Raises:
        InputError: a folder is missing or empty, has two files of one case, or a prediction has no label of its kind.
    """
    label_of_case = list_cases(labels)
    pairing = pair_cases(list_cases(predictions), label_of_case)
    if pairing.files:
        raise InputError(
            f"{pairing.files[0]}: no label for it in {labels}, expected one of the same name, or a single one that "
            f"ends in the same number ({ENDINGS}){_closest(pairing.files[0], label_of_case)}"
        )
    for prediction, label in pairing.pairs:
        check_same_kind(prediction, label)
    return pairing.pairs


def match_images(predictions: Sequence[Path], images: Path | None) -> list[Path | None]:
    """Return for each prediction its image by :func:`pair_cases`, numbers aside; without a folder, None for each.

    Raises:
        InputError: the folder is missing or empty, has two files of one case, or a prediction has no image.
    """
    if images is None:
        return [None] * len(predictions)
    image_of_case = list_cases(images)
    pairing = pair_cases({case_name(path): path for path in predictions}, image_of_case, numbers=False)
    if pairing.files:
        raise InputError(
            f"{pairing.files[0]}: no image of that name in {images}, expected one for each prediction ({ENDINGS})"
            f"{_closest(pairing.files[0], image_of_case)}"
        )
    return [image for _, image in pairing.pairs]


def check_same_kind(file: Path, label: Path) -> None:
    """Raise :class:`InputError` if one of a file and its label is a volume and the other one a picture."""
    if is_picture(file) != is_picture(label):
        raise InputError(f"{label}: is of another kind than {file}, expected two volumes or two pictures")


def _without_label_ending(name: str) -> str:
    while match := LABEL_ENDING.search(name):
        name = name[: match.start()]
    return name


def _without_endings(name: str) -> str:
    name = _without_label_ending(name)
    while match := IMAGE_ENDING.search(name):
        name = _without_label_ending(match["bids"] or name[: match.start()])
    return name


def _match(
    files: Mapping[str, Path], labels: Mapping[str, Path], label_of: Mapping[str, str], bare_name: Callable[[str], str]
) -> dict[str, str]:
    """Return the label's name, by the file's name, of those that have one bare name and are not in ``label_of`` yet."""
    files_of, labels_of = (_group(names, bare_name) for names in (files, labels))
    matched_labels = set(label_of.values())
    matches = {}
    for name in sorted(files_of.keys() & labels_of.keys()):
        if set(files_of[name]) <= label_of.keys() and set(labels_of[name]) <= matched_labels:
            continue
        for group, paths in ((files_of[name], files), (labels_of[name], labels)):
            if len(group) > 1:
                first, second, *_ = (paths[member] for member in group)
                raise InputError(
                    f"{second}: {first.name} is of the same case, {name}, expected one file a case; move one of them "
                    "to another folder"
                )
        matches[files_of[name][0]] = labels_of[name][0]
    return matches


def _group(names: Iterable[str], bare_name: Callable[[str], str]) -> dict[str, list[str]]:
    """Return the names by their bare names."""
    groups = defaultdict(list)
    for name in names:
        groups[bare_name(name)].append(name)
    return dict(groups)


def _closest(path: Path, candidates: Mapping[str, Path]) -> str:
    """Return a hint at the candidate whose name is most like that of ``path``; empty where none is."""
    return "".join(
        f"; the closest is {candidates[name].name}" for name in get_close_matches(case_name(path), candidates, 1)
    )


def _by_number(names: Iterable[str]) -> dict[str, str]:
    """Return the names that end in a number, by that number; without the names that end in the same number."""
    numbers = {name: match.group() for name in names if (match := re.search(r"\d+$", _without_endings(name)))}
    counts = Counter(numbers.values())
    return {number: name for name, number in numbers.items() if counts[number] == 1}
