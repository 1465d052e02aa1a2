"""The same grid in another order of its voxels: axes that are flipped or exchanged, as between LPS and RAS."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation

from sdseg_monai.errors import InputError
from sdseg_monai.io.volumes import Volume, check_same_grid


def on_same_grid(reference_path: Path, reference: Volume, path: Path, volume: Volume) -> Volume:
    """Return a volume that lies on the grid of a reference, in the reference's order of voxels.

    If axes are flipped or exchanged, they are flipped and exchanged back: every voxel keeps its value and its place,
    and nothing is resampled.

    Args:
        reference_path: of the reference, for messages.
        reference: the volume whose grid is expected.
        path: of the volume, for messages.
        volume: the volume to check.

    Raises:
        InputError: it lies on another grid, see :func:`~sdseg_monai.io.volumes.check_same_grid`; or it fits both as it
            is and reordered, because the reference's header has two places that mirror each other.
    """
    reordered_volume = _in_order_of(reference, volume)
    if reordered_volume is volume or not _fits(reference_path, reference, path, reordered_volume):
        check_same_grid(reference_path, reference, path, volume)  # its message has the file's own shape
        return volume
    if _fits(reference_path, reference, path, volume):
        raise InputError(
            f"{path}: fits {reference_path} in two ways, mirrored and not, since the places in the header of that file "
            "(sform and qform) mirror each other: make them agree"
        )
    return reordered_volume


def _fits(reference_path: Path, reference: Volume, path: Path, volume: Volume) -> bool:
    try:
        check_same_grid(reference_path, reference, path, volume)
    except InputError:
        return False
    return True


def _in_order_of(reference: Volume, volume: Volume) -> Volume:
    """Return the volume with its axes permuted and flipped to those of the reference that they are closest to."""
    orientation = io_orientation(np.linalg.inv(reference.affine) @ volume.affine)
    if np.isnan(orientation).any() or np.array_equal(orientation, [[0, 1], [1, 1], [2, 1]]):
        return volume
    array = np.ascontiguousarray(apply_orientation(volume.array, orientation))
    return Volume(array, volume.affine @ inv_ornt_aff(orientation, volume.array.shape), volume.name)
