"""Whether this machine has the memory that a volume needs, asked before it is read and before it is segmented."""

from __future__ import annotations

import math
from collections.abc import Sequence

import psutil

from sdseg_monai.errors import InputError

VOXEL_BYTES = 18  # of memory per voxel, measured while a volume of two classes is segmented
CLASS_BYTES = 12  # for each class more: its float32 scores, resampled to the image's grid, and a copy while they join


def needed_bytes(shape: Sequence[int], num_classes: int = 2) -> int:
    """Return the memory that the segmentation of a volume takes at its peak, in bytes.

    Args:
        shape: number of voxels along each axis.
        num_classes: of the network, the background included. Of two classes there is one score, of K more there are K.
    """
    num_scores = 1 if num_classes <= 2 else num_classes
    return math.prod(int(n) for n in shape) * (VOXEL_BYTES + CLASS_BYTES * (num_scores - 1))


def check_memory(shape: Sequence[int], name: str, *, num_classes: int = 2) -> None:
    """Check that a volume can be segmented in the memory that is available now.

    Args:
        shape: number of voxels along each axis.
        name: of the volume in messages.
        num_classes: of the network, see :func:`needed_bytes`.

    Raises:
        InputError: more memory is needed than is available.
    """
    needed, available = needed_bytes(shape, num_classes), psutil.virtual_memory().available
    if needed > available:
        raise InputError(
            f"{name}: {' x '.join(map(str, shape))} voxels in {num_classes} classes need {needed / 2**30:.1f} GiB of "
            f"memory, {available / 2**30:.1f} GiB are available: crop the volume, or end other programs"
        )
