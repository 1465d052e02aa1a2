"""What a label map is: whole numbers from 0, each the class of its voxel; asked here and nowhere else."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sdseg_monai.errors import InputError
from sdseg_monai.io.pictures import is_picture, read_picture_mask
from sdseg_monai.io.segments import UNSURE
from sdseg_monai.io.volumes import Volume, read_volume

COUNTED_TO = 65535  # values beyond are too many to keep a list of them


def read_mask(path: Path) -> Volume:
    """Read the mask of a volume or, as a volume of one slice [H, W, 1] in {0, 1}, of a picture.

    Whether a volume is a mask at all is for :func:`check_label_map` to say.

    Raises:
        InputError: the file cannot be used.
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
    """Refuse an array that is no label map.

    Args:
        name: what the error calls the array, such as its file.
        array: of any shape with one voxel or more.
        largest: value that a class may have; None for any.
        most_values: number of different values, the background's included; None for any.
        allow_unsure: whether the value :data:`~sdseg_monai.io.segments.UNSURE`, 255, may be a class.

    Raises:
        InputError: a voxel is no whole number from 0 to ``largest``, there are more than ``most_values`` different
            values, or a voxel is unsure where that is not allowed.
    """
    limit = "" if largest is None else f" to {largest}"
    _refuse(name, stray_values(array, largest), f"{limit}; is it an image?")
    if most_values is not None and (count := _count_values(array)) > most_values:
        raise InputError(f"{name}: {count} different values, expected {most_values} classes or fewer; is it an image?")
    if not allow_unsure:
        _refuse(name, array[array == UNSURE], f"; {UNSURE} stands for an unsure voxel")


def stray_values(array: np.ndarray, largest: int | None = None) -> np.ndarray:
    """Return the voxels, [N], that are no class: no whole number from 0 to ``largest`` (None: to any)."""
    is_class = (array >= 0) & (array == np.rint(array))
    if largest is not None:
        is_class &= array <= largest
    return array[~is_class]


def _refuse(name: str | Path, stray: np.ndarray, hint: str) -> None:
    if stray.size:
        raise InputError(
            f"{name}: {stray.size} voxels are no class, such as {stray[0]:g}, expected whole numbers from 0{hint}"
        )


def _count_values(array: np.ndarray) -> int:
    """Return how many different values a label map has."""
    if array.max() > COUNTED_TO:
        return len(np.unique(array))
    present = np.zeros(COUNTED_TO + 1, bool)
    for slab in array:  # one by one: as indices a whole CT would take twice its own memory
        present[slab.astype(np.intp)] = True
    return int(np.count_nonzero(present))
