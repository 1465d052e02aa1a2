"""Arrays of volumes: in memory where they are small, in a temporary file of the system where they are large.

A file holds what memory need not: its pages are in memory only while they are used, and the array goes with its last
reference. A process that is killed leaves nothing, because the file has no name.
"""

from __future__ import annotations

import math
import mmap
import os
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from sdseg_monai.errors import InputError

IN_MEMORY_BYTES = 1 << 26  # a volume of 64 slices of 512 x 512 in float32
CHUNK_BYTES = 1 << 24  # of a large array that are worked on at once


def make_array(shape: Sequence[int], dtype: DTypeLike, *, on_disk: bool = True) -> np.ndarray:
    """Return an array of zeros whose first axis is the fastest, as in the files of volumes.

    Args:
        shape: length of each axis, the last axis the slowest.
        dtype: of the elements.
        on_disk: whether an array of more than :data:`IN_MEMORY_BYTES` lies in a temporary file.

    Raises:
        InputError: the folder of temporary files has not the space.
    """
    size = math.prod(int(length) for length in shape) * np.dtype(dtype).itemsize
    if not on_disk or size <= IN_MEMORY_BYTES:
        return np.zeros(shape, dtype, order="F")
    try:
        with tempfile.TemporaryFile() as file:
            os.posix_fallocate(file.fileno(), 0, size)  # a page without space on the disk would kill the process later
            pages = mmap.mmap(file.fileno(), size)
    except OSError as error:
        raise InputError(
            f"{tempfile.gettempdir()}: {size / 2**30:.1f} GiB for a volume of {' x '.join(map(str, shape))} do not fit "
            f"({error.strerror}): free space, or name a folder on another disk by TMPDIR"
        ) from error
    return np.ndarray(shape, dtype, buffer=pages, order="F")


def release(array: np.ndarray) -> None:
    """Let the pages of an array of :func:`make_array`, or of a part of it, leave the memory; its values stay."""
    pages = _pages(array)
    if pages is not None:
        pages.madvise(mmap.MADV_DONTNEED)


def take(array: np.ndarray, box: tuple[slice, ...]) -> np.ndarray:
    """Return the part of an array in a box, [X, Y, Z]; a copy where the array lies in a file.

    A thin slab across the last axis lies in all pages of the file. They are read and released one after the other.
    """
    if _pages(array) is None:
        return array[box]
    view = array[..., box[-1]]
    part = np.empty(view[box[:-1]].shape, array.dtype, order="F")
    for chunk in chunk_slices(view):
        part[..., chunk] = view[*box[:-1], chunk]
        release(array)
    return part


def put(array: np.ndarray, box: tuple[slice, ...], part: np.ndarray) -> None:
    """Set the part of an array [X, Y, Z] in a box; the pages of a file are released as they are written.

    Raises:
        ValueError: the part is not as large as the box; numpy might spread it over the box.
    """
    view = array[..., box[-1]]
    if part.shape != view[box[:-1]].shape:
        raise ValueError(f"a part of shape {part.shape} for a box of shape {view[box[:-1]].shape}")
    for chunk in chunk_slices(view):
        view[*box[:-1], chunk] = part[..., chunk]
        release(array)


def _pages(array: np.ndarray) -> mmap.mmap | None:
    """Return the file in memory of which an array is a part; None where it is in no file."""
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    return base if isinstance(base, mmap.mmap) else None


def chunk_slices(array: np.ndarray) -> Iterator[slice]:
    """Yield slices along the last axis of an array, each of about :data:`CHUNK_BYTES` of it."""
    last_axis = array.shape[-1]
    length = max(1, CHUNK_BYTES * last_axis // max(array.nbytes, 1))
    for start in range(0, last_axis, length):
        yield slice(start, min(start + length, last_axis))


def chunks(array: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the parts of an array at its :func:`chunk_slices`, and release each after its use."""
    for part in chunk_slices(array):
        yield array[..., part]
        release(array)
