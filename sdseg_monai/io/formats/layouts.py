"""Volume files with a text header, NRRD and MetaImage: what their headers have in common, and reading their voxels.

There is one parser of each header, this package's, and its strictness is the point. A second, looser reader of the same
bytes (ITK has one for each format) may find other voxels than the first has checked, or those of another file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

import numpy as np

from sdseg_monai.errors import InputError
from sdseg_monai.io.arrays import chunks
from sdseg_monai.io.formats.geometry import Geometry
from sdseg_monai.io.formats.streams import Encoding, check_end, open_stream, read_bytes

HEADER_BYTES = 1 << 22  # a header of Slicer's takes about a kilobyte for each segment
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
TEXT_BYTES = 64  # of a number in a text, with white space


class HeaderError(ValueError):
    """What a header says that cannot be used; the message does not name the file."""


@dataclass(frozen=True)
class Layout:
    """How the voxels lie in a file, and in the patient.

    Attributes:
        shape: number of voxels along each axis; the first axis is the fastest in the file.
        dtype: of a voxel, with its byte order.
        encoding: of the voxels: as they are, compressed, or as text in decimal or hexadecimal digits.
        start: their first byte.
        geometry: where they lie.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    encoding: Encoding | Literal["ascii", "hex"]
    start: int
    geometry: Geometry


def read_header(path: Path) -> bytes:
    """Return as many bytes of the beginning of a file as a header may have.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(HEADER_BYTES)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def read_layout(path: Path, parse: Callable[[bytes], Layout]) -> Layout:
    """Return what ``parse`` makes of the beginning of a file, its header.

    Raises:
        InputError: the file cannot be read, or ``parse`` raised a :class:`HeaderError`.
    """
    try:
        return parse(read_header(path))
    except HeaderError as error:
        raise InputError(f"{path}: {error}") from error


def header_lines(head: bytes) -> Iterator[tuple[str, int]]:
    """Yield each line of a header without its end, a line feed with or without a return, and the position after it.

    The iterator ends by an error only: its caller knows the header's last line.

    Raises:
        HeaderError: a line has a control character, or the lines have no end.
    """
    position = 0
    while (end := head.find(b"\n", position)) >= 0:
        line = head[position:end].removesuffix(b"\r").decode("utf-8", "replace")
        position = end + 1
        if CONTROL.search(line):
            raise HeaderError(f"the header is damaged: a control character in the line {line[:60]!r}")
        yield line, position
    raise HeaderError("the header is damaged: it has no end")


def whole_numbers(name: str, text: str) -> tuple[int, ...]:
    """Return the numbers from 0 in the text of a field.

    Raises:
        HeaderError: there is something else.
    """
    if not re.fullmatch(r"[0-9]{1,18}(\s+[0-9]{1,18})*", text):
        raise HeaderError(f"the header is damaged: {name} {text[:60]!r}, expected whole numbers")
    return tuple(map(int, text.split()))


def real_numbers(name: str, text: str, count: int) -> np.ndarray:
    """Return the ``count`` numbers in the text of a field, float64.

    Raises:
        HeaderError: there is something else, or not as many.
    """
    words = text.split()
    if len(words) != count or not all(NUMBER.fullmatch(word) for word in words):
        raise HeaderError(f"the header is damaged: {name} {text[:60]!r}, expected {count} numbers")
    return np.array(words, dtype=float)


def read_voxels(path: Path, layout: Layout, array: np.ndarray) -> None:
    """Fill ``array`` [X, Y, Z], float32, with the voxels of a file.

    Raises:
        InputError: the file is truncated or damaged, or holds more voxels than its header says.
    """
    encoding: Encoding = "raw" if layout.encoding in ("ascii", "hex") else layout.encoding  # type: ignore[assignment]
    try:
        with open_stream(path, encoding, layout.start) as stream:
            if layout.encoding in ("ascii", "hex"):
                array[...] = _decoded_text(stream, layout)
                return
            for part in chunks(array):
                content = read_bytes(stream, part.size * layout.dtype.itemsize)
                part[...] = np.frombuffer(content, dtype=layout.dtype).reshape(part.shape, order="F")
            check_end(stream)
    except MemoryError:
        raise
    except Exception as error:  # zlib, gzip and bz2 each have exceptions of their own for a damaged stream
        raise InputError(f"{path}: the voxels cannot be read, the file is truncated or damaged ({error})") from error


def _decoded_text(stream: IO[bytes], layout: Layout) -> np.ndarray:
    count = math.prod(layout.shape)
    if layout.encoding == "ascii":
        words = _rest(stream, count * TEXT_BYTES).split()
        if len(words) != count:
            raise ValueError(f"{len(words)} numbers, expected {count}")
        numbers = np.array(words, dtype=np.float64).reshape(layout.shape, order="F")
        with np.errstate(all="ignore"):
            is_in_type = (numbers.astype(layout.dtype) == numbers) | (layout.dtype.kind == "f")
        if not is_in_type.all():
            raise ValueError(f"the number {numbers[~is_in_type][0]:.15g}, expected voxels of type {layout.dtype.name}")
        return numbers
    size = count * layout.dtype.itemsize
    content = bytearray.fromhex(_rest(stream, size * 4).decode("ascii"))
    if len(content) != size:
        raise ValueError(f"{len(content)} bytes, expected {size}")
    return np.frombuffer(content, dtype=layout.dtype).reshape(layout.shape, order="F")


def _rest(stream: IO[bytes], limit: int) -> bytes:
    text = stream.read(limit + 1)
    if len(text) > limit:
        raise ValueError("the text is longer than the header's voxels take")
    return text.strip(b"\0 \t\r\n")


def spatial_shape(shape: Sequence[int], spatial: Sequence[bool]) -> tuple[int, ...]:
    """Return the shape without the axes that are not spatial.

    Raises:
        HeaderError: such an axis has more than one value, as of several layers or colours.
    """
    for axis, (size, is_spatial) in enumerate(zip(shape, spatial, strict=True)):
        if not is_spatial and size != 1:
            raise HeaderError(
                f"shape {tuple(shape)} with {size} values per voxel along axis {axis} (layers, colours, times), "
                "expected one 3-D volume"
            )
    return tuple(size for size, is_spatial in zip(shape, spatial, strict=True) if is_spatial)
