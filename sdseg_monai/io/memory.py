"""Whether this machine has the memory that a volume needs, asked before it is read and before it is segmented."""

from __future__ import annotations

import math
from collections.abc import Sequence

import psutil

from sdseg_monai.errors import InputError

# bytes per voxel at the peak, measured with volumes of 160 x 160 x 160 voxels and 1 to 12 scores
READING_BYTES = 18  # stored voxels of up to 8 bytes, twice where they are decompressed, and float32
SEGMENTING_BYTES = 36  # with one score, where a volume does not stream
SCORE_BYTES = 12  # for each score more: float32, once while the slabs are joined and twice while they are resampled


def segmenting_bytes(num_classes: int) -> int:
    """Return the memory that segmenting a volume as a whole takes at the peak, in bytes a voxel.

    Args:
        num_classes: the background included. Of two classes there is one score, of K more there are K.
    """
    num_scores = 1 if num_classes == 2 else num_classes
    return SEGMENTING_BYTES + SCORE_BYTES * (num_scores - 1)


def cleaning_bytes(num_classes: int) -> int:
    """Return the memory that cleaning a mask of a whole volume takes at the peak, in bytes a voxel.

    Measured with clean_mask.json, which makes a mask of each class, on 200 x 200 x 200 voxels of 2 to 14 classes.

    Args:
        num_classes: the background included.
    """
    return 16 + 25 * num_classes


def check_memory(shape: Sequence[int], name: str, voxel_bytes: int = READING_BYTES, task: str = "to be read") -> None:
    """Check that there is the memory for what is to be done with a volume.

    Args:
        shape: number of voxels along each axis.
        name: of the volume in messages.
        voxel_bytes: that are needed at the peak.
        task: for which they are needed, in messages.

    Raises:
        InputError: more memory is needed than is available.
    """
    needed, available = math.prod(int(n) for n in shape) * voxel_bytes, psutil.virtual_memory().available
    if needed > available:
        raise InputError(
            f"{name}: {' x '.join(map(str, shape))} voxels need {needed / 2**30:.1f} GiB of memory {task}, "
            f"{available / 2**30:.1f} GiB are available: crop the volume, or end other programs"
        )
