"""Case-level datalists in MONAI's Decathlon format, with the splits written in the file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from monai.data import load_decathlon_datalist

from sdseg_monai.errors import InputError
from sdseg_monai.io.datalists import SPLITS, read_json
from sdseg_monai.io.files import write_atomically

KEYS = ("image", "label")


def read_datalist(datalist: str | Path, split: str, dataset_dir: str | Path, how_to_get: str) -> list[dict[str, str]]:
    """Read one split of a datalist whose paths are relative to ``dataset_dir``.

    Args:
        datalist: JSON file with the lists ``training``, ``validation`` and ``test``.
        split: name of one of these lists.
        dataset_dir: folder of the data.
        how_to_get: what a user without the data should do; part of the error message.

    Returns:
        One dict per case, with ``image`` and ``label`` as absolute paths.

    Raises:
        InputError: the folder, the datalist or a file that it names is missing, or a case is in two splits.
    """
    dataset_dir = str(dataset_dir)  # a config may give a number, if the folder's name is one
    if not Path(dataset_dir).is_dir():
        raise InputError(f"no dataset folder at {Path(dataset_dir).absolute()}. {how_to_get}")
    if not Path(datalist).is_file():
        raise InputError(f"no datalist at {Path(datalist).absolute()}. {how_to_get}")
    if not _read_splits(datalist).get(split):
        raise InputError(f"{datalist}: no case under {split!r}, expected the lists {', '.join(SPLITS)}")
    items = load_decathlon_datalist(str(datalist), True, split, str(dataset_dir))
    missing_files = [item[key] for item in items for key in KEYS if not Path(item[key]).is_file()]
    if missing_files:
        raise InputError(
            f"{len(missing_files)} files of {datalist} are missing, the first is {missing_files[0]}. {how_to_get}"
        )
    return [{key: item[key] for key in KEYS} for item in items]


def _read_splits(datalist: str | Path) -> dict[str, list[dict[str, str]]]:
    """Return the content of ``datalist``; raise :class:`InputError` if it is malformed or names an image twice."""
    try:
        content = read_json(Path(datalist))
        items = [item for split in SPLITS for item in content.get(split, [])]
        images = [os.path.normpath(item["image"]) for item in items]
        for item in items:
            os.path.normpath(item["label"])
    except (TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"{datalist}: not a datalist ({error!r}), expected lists of {{image, label}}, each a path"
        ) from error
    duplicates = sorted({image for image in images if images.count(image) > 1})
    if duplicates:
        raise InputError(f"{datalist}: {duplicates[0]} stands in two places, expected every case in exactly one split")
    return content


def write_datalist(path: Path, splits: Mapping[str, Sequence[dict[str, str]]], **header: str) -> None:
    """Write a datalist.

    Args:
        path: the JSON file.
        splits: the cases of each split, ``image`` and ``label`` as paths relative to the folder of the data.
        header: further entries, which come first: name, description, licence.

    Raises:
        InputError: the file cannot be written.
    """
    text = json.dumps({**header, **{split: list(items) for split, items in splits.items()}}, indent=1) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text))
