"""Names of a mask's values, where the mask itself or the JSON file beside it says them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

from sdseg_monai.io.formats.nifti_labels import read_label_names
from sdseg_monai.io.formats.slicer_segments import is_slicer_segmentation, read_segment_names
from sdseg_monai.io.volumes import NIFTI_SUFFIXES


def sidecar(mask: Path) -> Path:
    """Return the path of the JSON file beside a mask: ``case.json`` beside ``case.nii.gz``.

    Where that file belongs to another mask that is there, such as ``case.dcm``, it is ``case.nii.gz.json``.
    """
    stem = mask.name.removesuffix(".gz")
    path = mask.with_name(f"{stem[: -len(Path(stem).suffix)]}.json")
    owner = _owner(path)
    if owner not in ("", mask.name) and mask.with_name(owner).is_file():
        return mask.with_name(f"{mask.name}.json")
    return path


def read_class_names(mask: Path) -> dict[int, str]:
    """Return the names of a mask's values, without the background; empty where nothing names them.

    They are in a NIfTI file's label table, see :func:`~sdseg_monai.io.formats.nifti_labels.read_label_names`, or in 3D
    Slicer's fields of a ``.seg.nrrd`` file; otherwise in the JSON file that ``sdseg segment`` writes beside a mask.

    Args:
        mask: a file that can be read as a mask.
    """
    names: dict[int, str] = {}
    if mask.name.lower().endswith(NIFTI_SUFFIXES):
        names = read_label_names(mask)
    elif is_slicer_segmentation(mask):
        names = read_segment_names(mask)
    names = names or _names_beside(sidecar(mask))
    return {value: name for value, name in names.items() if value > 0 and name}


def names_by_value(masks: Iterable[Path]) -> dict[int, list[str]]:
    """Return the different names that masks give each value, by the value; one name where they agree."""
    names: dict[int, list[str]] = {}
    for mask in masks:
        for value, name in read_class_names(mask).items():
            if name not in names.setdefault(value, []):
                names[value].append(name)
    return dict(sorted(names.items()))


def _owner(file: Path) -> str:
    """Return the name of the mask that the JSON file ``file`` belongs to, empty where it does not say it."""
    try:
        return Path(json.loads(file.read_text("utf-8"))["mask"]).name
    except (OSError, ValueError, TypeError, KeyError, RecursionError):  # another program's, an older one, or none
        return ""


def _names_beside(file: Path) -> dict[int, str]:
    try:
        labels = json.loads(file.read_text("utf-8"))["labels"]
        return {int(value): str(label["name"]) for value, label in labels.items() if re.fullmatch(r"\d+", value)}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):  # another program's, or none
        return {}
