"""What 3D Slicer writes about segments into the header of a ``.seg.nrrd`` file: names, values and layers."""

from __future__ import annotations

import re
from pathlib import Path

from sdseg_monai.errors import InputError
from sdseg_monai.io.formats.layouts import read_header
from sdseg_monai.io.volumes import SLICER_SUFFIX

HEADER_END = re.compile(rb"\r?\n\r?\n")
FIELD = re.compile(r"^Segment(\d+)_(Name|LabelValue|Layer):=(.*?)\r?$", re.MULTILINE)


def is_slicer_segmentation(path: Path) -> bool:
    """Tell from its name whether ``path`` is a segmentation of 3D Slicer."""
    return path.name.lower().endswith(SLICER_SUFFIX)


def check_no_overlap(path: Path) -> None:
    """Refuse a segmentation whose segments lie in several layers, where a voxel may belong to several of them.

    Raises:
        InputError: it has more than one layer.
    """
    segments = _read_segments(path)
    layers = {segment["Layer"] for segment in segments.values() if "Layer" in segment}
    if len(layers) > 1:
        names = ", ".join(segment.get("Name", "?") for segment in segments.values())
        raise InputError(
            f"{path}: its segments ({names}) lie in {len(layers)} layers because some of them overlap, expected one "
            "class a voxel: in 3D Slicer, export the segments to a labelmap"
        )


def read_segment_names(path: Path) -> dict[int, str]:
    """Return the names of the segments by their values in the voxels; without those whose value is not given."""
    names = {}
    for segment in _read_segments(path).values():
        if "Name" in segment and segment.get("LabelValue", "").isdecimal():
            names[int(segment["LabelValue"])] = segment["Name"]
    return names


def _read_segments(path: Path) -> dict[int, dict[str, str]]:
    """Return the fields of each segment by its number; none where the file cannot be read."""
    try:
        header = HEADER_END.split(read_header(path), maxsplit=1)[0]
    except InputError:
        return {}
    segments: dict[int, dict[str, str]] = {}
    for number, field, value in FIELD.findall(header.decode("utf-8", "replace")):
        segments.setdefault(int(number), {})[field] = value.strip()
    return segments
