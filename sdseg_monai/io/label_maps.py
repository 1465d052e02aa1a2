"""The one check of label maps: whole numbers from 0, each the class of its voxel."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sdseg_monai.errors import InputError
from sdseg_monai.io.pictures import is_picture, read_picture_mask
from sdseg_monai.io.segments import UNSURE
from sdseg_monai.io.volumes import Volume, read_volume

TABLE_SIZE = 65536  # of the table in which values are marked; larger values would need too much memory


def read_mask(path: Path) -> Volume:
    """Read the mask of a volume, or that of a picture as a volume of one slice [H, W, 1] in {0, 1}; float32.

    :func:`check_label_map` tells whether the values of a volume are those of a mask.

    Raises:
        InputError: the file cannot be read, see :func:`~sdseg_monai.io.volumes.read_volume` and
            :func:`~sdseg_monai.io.pictures.read_picture_mask`.
    """
    if is_picture(path):
        return Volume(read_picture_mask(path)[..., None].astype(np.float32), np.eye(4), str(path))
    return read_volume(path)


def check_label_map(
    name: str | Path,
    array: np.ndarray,
    *,
    largest: int | None = None,
    most_values: int | None = None,
    allow_unsure: bool = True,
) -> None:
    """Refuse an array that is not a label map.

    Args:
        name: of the array in messages, such as its file.
        array: of any shape with at least one voxel, of any real dtype.
        largest: the largest value that a class may have; None for any.
        most_values: the largest number of different values, the background included; None for any.
        allow_unsure: whether voxels may have the value :data:`~sdseg_monai.io.segments.UNSURE`, 255.

    Raises:
        InputError: a voxel is not a whole number from 0 to ``largest``, there are more than ``most_values`` different
            values, or a voxel is unsure where that is not allowed.
    """
    range_end = "" if largest is None else f" to {largest}"
    _refuse(name, stray_values(array, largest), f"{range_end}; is it an image?")
    if most_values is not None and (count := _count_values(array)) > most_values:
        raise InputError(f"{name}: {count} different values, expected {most_values} classes or fewer; is it an image?")
    if not allow_unsure:
        _refuse(name, array[array == UNSURE], f"; {UNSURE} stands for an unsure voxel")


def stray_values(array: np.ndarray, largest: int | None = None) -> np.ndarray:
    """Return the voxels, [N], that are no class: not whole numbers from 0 to ``largest``, which None leaves open."""
    is_class = (array >= 0) & (array == np.rint(array))
    if largest is not None:
        is_class &= array <= largest
    return array[~is_class]


def _refuse(name: str | Path, voxels: np.ndarray, hint: str) -> None:
    if voxels.size:
        raise InputError(
            f"{name}: {voxels.size} voxels are no class, such as {voxels[0]:g}, expected whole numbers from 0{hint}"
        )


def _count_values(array: np.ndarray) -> int:
    """Return the number of different values in a label map."""
    if array.max() >= TABLE_SIZE:
        return len(np.unique(array))
    table = np.zeros(TABLE_SIZE, bool)
    for slab in array:  # one at a time: as indices a whole CT would take twice its own memory
        table[slab.astype(np.intp)] = True
    return int(np.count_nonzero(table))
