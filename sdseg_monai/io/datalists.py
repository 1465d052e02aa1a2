"""Lists of images: JSON datalists in MONAI's form, dataset files of the Decathlon and of nnU-Net, and CSV files."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

from sdseg_monai.errors import ArgumentError, InputError, printable

DATALIST_SUFFIXES = (".csv", ".json")
SPLITS = ("training", "validation", "test")
COLUMN = "image"
PIXEL_SIZE = "pixel_mm"
UTF_16 = (b"\xff\xfe", b"\xfe\xff")  # byte order marks, with which spreadsheet programs begin "Unicode text"
LONGEST_TEXT = 100  # characters of column names in a message
EXPECTED = "expected JSON lists of {image} or CSV with a column image"


def read_datalist(path: Path, dataset_dir: Path, split: str | None) -> list[str]:
    """Return the paths of the images that a datalist names.

    Args:
        path: the file, JSON or CSV by its suffix.
        dataset_dir: folder to which its paths are relative.
        split: which list of a JSON file, needed where it has several.

    Raises:
        InputError: it is no datalist, is not UTF-8, names no image, or an image has no name. The message does not quote
            what is in the file, but for the names of columns and lists.
    """
    images = [item[COLUMN] for item in _items(path, split)]
    if not images:
        raise InputError(f"{path}: names no image, expected at least one")
    if not all(images):
        raise InputError(f"{path}: an image without a name, expected a path in each row")
    return [str(dataset_dir / image) for image in images]


def read_pixel_sizes(path: Path, split: str | None) -> list[float | None]:
    """Return the edges of the pixels, in mm, of the images of :func:`read_datalist`; None where the list names none.

    They stand in a column of a CSV file or under a name of a JSON item, both called ``pixel_mm``.

    Raises:
        InputError: it is no datalist, or one is not a finite number above 0.
    """
    return [_pixel_size(path, number, item.get(PIXEL_SIZE)) for number, item in enumerate(_items(path, split), 1)]


def _pixel_size(path: Path, number: int, value: Any) -> float | None:
    if value is None or value == "":
        return None
    try:
        size = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        size = math.nan
    if not 0 < size < math.inf:
        raise InputError(
            f"{path}: {PIXEL_SIZE} of image {number} is no finite number above 0, expected mm, such as 0.2"
        )
    return size


def _items(path: Path, split: str | None) -> list[dict[str, Any]]:
    """Return what a list says of its images, each at least with its path, which may be empty."""
    return (_csv_items if path.suffix.lower() == ".csv" else _json_items)(path, split)


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        InputError: it cannot be read or is no JSON in UTF-8. The message does not quote what is in it.
    """
    text = _read_text(path)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: not a datalist ({error.msg}, line {error.lineno}), {EXPECTED}") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, lists in lists without end
        raise InputError(f"{path}: not a datalist ({type(error).__name__}), {EXPECTED}") from None


def _read_text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    if content.startswith(UTF_16) or b"\0" in content[:2]:
        raise InputError(f"{path}: not a datalist that can be read (text in UTF-16): save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise InputError(
            f"{path}: not a datalist that can be read (line {line} is not UTF-8, perhaps Latin-1): save it as UTF-8"
        ) from None


def _csv_items(path: Path, split: str | None) -> list[dict[str, Any]]:
    if split is not None:
        raise ArgumentError(f"{path}: split={split!r}: a CSV file has no splits, expected a JSON datalist")
    reader = csv.DictReader(io.StringIO(_read_text(path), newline=""))
    try:
        columns = list(reader.fieldnames or [])
        rows = list(reader)
    except csv.Error as error:
        raise InputError(f"{path}: not a datalist ({error}), {EXPECTED}") from error
    if columns and COLUMN not in columns:
        raise InputError(f"{path}: {_column_fault(columns)}, expected one called {COLUMN}")
    return [{**row, COLUMN: row[COLUMN] or ""} for row in rows]


def _column_fault(columns: list[str]) -> str:
    for delimiter, name in ((";", "semicolons"), ("\t", "tabs")):
        if len(columns) == 1 and delimiter in columns[0]:
            return f"columns are separated by {name}, expected commas, and"
    for column in columns:
        if column.strip().strip("'\"").lower() == COLUMN:
            return f"a column {column!r}, in small letters and without spaces"
    return f"columns {printable(', '.join(columns)):.{LONGEST_TEXT}}"


def _json_items(path: Path, split: str | None) -> list[dict[str, Any]]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: not a datalist (no object with lists), {EXPECTED}")
    lists = {name: items for name, items in content.items() if isinstance(items, list) and name in (*SPLITS, split)}
    if split is None and len(lists) > 1:
        raise ArgumentError(f"{path}: has the lists {', '.join(lists)}: choose one with split=NAME")
    if split is None and not lists:
        raise InputError(f"{path}: not a datalist, it has no list of images, expected one of {', '.join(SPLITS)}")
    name = next(iter(lists)) if split is None else split
    if name not in lists:
        raise InputError(f"{path}: no list {name!r}, expected one of {', '.join(lists or SPLITS)}")
    return [_json_item(path, name, number, item) for number, item in enumerate(lists[name], 1)]


def _json_item(path: Path, name: str, number: int, item: Any) -> dict[str, Any]:
    # a test list of the Medical Segmentation Decathlon holds bare paths
    content = item if isinstance(item, dict) else {COLUMN: item}
    if not isinstance(content.get(COLUMN), str):
        raise InputError(f"{path}: not a datalist (item {number} of {name} has no path as its image), {EXPECTED}")
    return content
