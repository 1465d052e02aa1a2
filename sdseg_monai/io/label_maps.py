"""The one check of label maps: whole numbers from 0, each the class of its voxel."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sdseg_monai.errors import InputError
from sdseg_monai.io.formats.slicer_segments import check_no_overlap, is_slicer_segmentation
from sdseg_monai.io.pictures import is_picture, read_picture_mask
from sdseg_monai.io.segments import UNSURE
from sdseg_monai.io.volumes import Volume, read_volume

TABLE_SIZE = 65536  # of the table in which values are marked; larger values would need too much memory
ROUNDING = 1e-3  # farthest that a value may lie from its whole number: what scaling and float32 leave
UNSURE_MEANING = f"{UNSURE} stands for an unsure voxel: segment without abstaining, or give these voxels a class or 0"


def read_mask(path: Path) -> Volume:
    """Read the mask of a volume, or that of a picture as a volume of one slice [H, W, 1] in {0, 1}; float32.

    :func:`check_label_map` tells whether the values of a volume are those of a mask.

    Raises:
        InputError: the file cannot be read, see :func:`~sdseg_monai.io.volumes.read_volume` and
            :func:`~sdseg_monai.io.pictures.read_picture_mask`; or it is a segmentation of 3D Slicer whose segments
            overlap.
    """
    if is_picture(path):
        return Volume(read_picture_mask(path)[..., None].astype(np.float32), np.eye(4), str(path))
    if is_slicer_segmentation(path):
        check_no_overlap(path)
    return read_volume(path)


def check_label_map(
    name: str | Path,
    array: np.ndarray,
    *,
    largest: int | None = None,
    most_values: int | None = None,
    allow_unsure: bool = True,
) -> np.ndarray:
    """Refuse an array that is not a label map.

    Args:
        name: of the array in messages, such as its file.
        array: of any shape with at least one voxel, of any real dtype.
        largest: the largest value that a class may have; None for any.
        most_values: the largest number of different values, the background included; None for any.
        allow_unsure: whether voxels may have the value :data:`~sdseg_monai.io.segments.UNSURE`, 255.

    Returns:
        The array with whole numbers, rounded by :func:`rounded_labels`.

    Raises:
        InputError: a voxel is not a whole number from 0 to ``largest``, there are more than ``most_values`` different
            values, or a voxel is unsure where that is not allowed.
    """
    array = rounded_labels(array)
    range_end = "" if largest is None else f" to {largest}"
    _refuse(name, stray_values(array, largest), range_end, "is it an image?")
    if most_values is not None and (count := _count_values(array)) > most_values:
        raise InputError(f"{name}: {count} different values, expected {most_values} classes or fewer; is it an image?")
    if not allow_unsure:
        _refuse(name, array[array == UNSURE], "", UNSURE_MEANING)
    return array


def rounded_labels(array: np.ndarray) -> np.ndarray:
    """Return an array whose values within :data:`ROUNDING` of a whole number are that number; others stay as they are.

    Scale factors and floating-point formats leave such values in label maps. Truncation would turn 0.9999 into 0.
    """
    if array.dtype.kind in "biu":
        return array
    whole = np.rint(array)
    is_close = np.abs(array - whole) <= ROUNDING
    return np.where(is_close, whole + 0, array)  # + 0 makes 0 of -0


def stray_values(array: np.ndarray, largest: int | None = None) -> np.ndarray:
    """Return the voxels, [N], that are no class: not whole numbers from 0 to ``largest``, which None leaves open."""
    is_class = (array >= 0) & (array == np.rint(array))
    if largest is not None:
        is_class &= array <= largest
    return array[~is_class]


def value_text(value: np.generic) -> str:
    """Return a voxel's value with all the digits that tell it from a whole number."""
    return f"{float(str(value)):.9g}"  # numpy's text has the fewest digits that its dtype needs


def _refuse(name: str | Path, voxels: np.ndarray, range_end: str, hint: str) -> None:
    if voxels.size:
        hint = UNSURE_MEANING if (voxels == UNSURE).all() else hint
        raise InputError(
            f"{name}: {voxels.size} voxels are no class, such as {value_text(voxels[0])}, expected whole numbers from "
            f"0{range_end}; {hint}"
        )


def _count_values(array: np.ndarray) -> int:
    """Return the number of different values in a label map."""
    if array.max() >= TABLE_SIZE:
        return len(np.unique(array))
    table = np.zeros(TABLE_SIZE, bool)
    for slab in array:  # one at a time: as indices a whole CT would take twice its own memory
        table[slab.astype(np.intp)] = True
    return int(np.count_nonzero(table))
