"""Whether this machine has the memory that a volume needs, asked before it is read and before it is segmented."""

from __future__ import annotations

import math
from collections.abc import Sequence

import psutil

from sdseg_monai.errors import InputError

# bytes per voxel at the peak, measured with volumes of 160 x 160 x 160 voxels and 1 to 12 scores
READING_BYTES = 18  # stored voxels of up to 8 bytes, twice where they are decompressed, and float32
SEGMENTING_BYTES = 36  # with one score
SCORE_BYTES = 12  # for each score more: float32, once while the slabs are joined and twice while they are resampled


def needed_bytes(shape: Sequence[int], num_classes: int | None = None) -> int:
    """Return the memory that a volume takes at the peak, in bytes.

    Args:
        shape: number of voxels along each axis.
        num_classes: of the network that segments it, the background included; None where it is only read. Of two
            classes there is one score, of K more there are K.
    """
    if num_classes is None:
        voxel_bytes = READING_BYTES
    else:
        num_scores = 1 if num_classes == 2 else num_classes
        voxel_bytes = SEGMENTING_BYTES + SCORE_BYTES * (num_scores - 1)
    return math.prod(int(n) for n in shape) * voxel_bytes


def check_memory(shape: Sequence[int], name: str, *, num_classes: int | None = None) -> None:
    """Check that a volume can be read, or segmented, in the memory that is available now.

    Args:
        shape: number of voxels along each axis.
        name: of the volume in messages.
        num_classes: see :func:`needed_bytes`.

    Raises:
        InputError: more memory is needed than is available.
    """
    needed, available = needed_bytes(shape, num_classes), psutil.virtual_memory().available
    if needed > available:
        task = "to be read" if num_classes is None else f"to be segmented into {num_classes} classes"
        raise InputError(
            f"{name}: {' x '.join(map(str, shape))} voxels need {needed / 2**30:.1f} GiB of memory {task}, "
            f"{available / 2**30:.1f} GiB are available: crop the volume, or end other programs"
        )
