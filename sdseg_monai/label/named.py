"""What viewers call the values of a label, and whether that is what a model calls them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monailabel.interfaces.datastore import Datastore, DefaultLabelTag

from sdseg_monai.errors import InputError
from sdseg_monai.io.segments import Segment
from sdseg_monai.io.volumes import read_volume, volume_stem


def entries_by_value(values: Sequence[int], label_info: object) -> dict[int, Mapping[str, Any]]:
    """Return what a viewer's ``label_info`` says of each value.

    Args:
        values: that the label holds, rising, without 0.
        label_info: entries with ``name`` and more, one for each of ``values``, or where there are more, one for each
            value from 1 on, as Slicer sends them.

    Raises:
        InputError: it is no list of objects.
    """
    entries = label_info or []
    if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
        raise InputError("label_info: expected a list of objects with names and values")
    numbers = values if len(entries) <= len(values) else range(1, len(entries) + 1)
    return dict(zip(numbers, entries, strict=False))


def entry_name(entry: Mapping[str, Any]) -> str:
    """Return the name in an entry, empty where there is none."""
    return str(entry.get("name") or "").strip()


def check_labels(datastore: Datastore, segments: Mapping[int, Segment]) -> None:
    """Make sure that final labels mean what a model of several classes takes their values for.

    Of a single class anything above 0 is foreground, and nothing is checked.

    Args:
        datastore: of the labels.
        segments: the model's, by value.

    Raises:
        InputError: a label holds a value that the model does not have, or calls one by another name.
    """
    if len(segments) < 2:
        return
    expected = ", ".join(f"{value} {segment.name}" for value, segment in segments.items())
    for case in datastore.datalist():
        image = volume_stem(Path(case["image"]))
        values = [int(value) for value in np.unique(read_volume(Path(case["label"])).array) if value != 0]
        info = datastore.get_label_info(image, DefaultLabelTag.FINAL)
        entries = entries_by_value(values, info.get("label_info"))
        for value in values:
            name = entry_name(entries.get(value, {}))
            if value not in segments:
                raise InputError(f"label of {image}: a value of {value}, expected {expected}")
            if name and name.casefold() != segments[value].name.casefold():
                raise InputError(f"label of {image}: {value} is called {name!r}, expected {expected}")
