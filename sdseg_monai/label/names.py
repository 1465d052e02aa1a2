"""The names that viewers give to the values of a label, and a check of them against a model's names."""

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
    """Return the entry of a viewer's ``label_info`` for each value.

    Args:
        values: in the label, sorted, without 0.
        label_info: a list of entries with ``name`` and more, one for each of ``values``; a longer list has one for each
            value from 1, as Slicer sends it.

    Raises:
        InputError: it is not a list of objects.
    """
    entries = label_info or []
    if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
        raise InputError("label_info: expected a list of objects with names and values")
    numbers = values if len(entries) <= len(values) else range(1, len(entries) + 1)
    return dict(zip(numbers, entries, strict=False))


def entry_name(entry: Mapping[str, Any]) -> str:
    """Return the name in an entry of ``label_info``, empty where there is none."""
    return str(entry.get("name") or "").strip()


def check_labels(datastore: Datastore, segments: Mapping[int, Segment]) -> None:
    """Check that the values of all final labels are a model's classes, under the same names.

    Nothing is checked for a model of a single class, to which any value above 0 is foreground.

    Args:
        datastore: of the labels.
        segments: of the model, by value.

    Raises:
        InputError: a label holds a value that the model lacks, or has another name for a value.
    """
    if len(segments) < 2:
        return
    classes = ", ".join(f"{value} {segment.name}" for value, segment in segments.items())
    for case in datastore.datalist():
        image = volume_stem(Path(case["image"]))
        values = [int(value) for value in np.unique(read_volume(Path(case["label"])).array) if value != 0]
        info = datastore.get_label_info(image, DefaultLabelTag.FINAL)
        entries = entries_by_value(values, info.get("label_info"))
        for value in values:
            name = entry_name(entries.get(value, {}))
            if value not in segments:
                raise InputError(f"label of {image}: a value of {value}, expected {classes}")
            if name and name.casefold() != segments[value].name.casefold():
                raise InputError(f"label of {image}: {value} is called {name!r}, expected {classes}")
