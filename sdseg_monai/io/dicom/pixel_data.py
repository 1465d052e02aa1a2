"""Whether the pixel data of a file are all there, and are those of as many frames as its header says."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from sdseg_monai.errors import InputError
from sdseg_monai.io.dicom.instances import number_of, read_dataset

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

KEYWORDS = ["Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "BitsAllocated", "ExtendedOffsetTable"]
PIXEL_DATA, FLOATS = (0x7FE0, 0x0010), ((0x7FE0, 0x0008), (0x7FE0, 0x0009))
ITEM, DELIMITER = (0xFFFE, 0xE000), (0xFFFE, 0xE0DD)
UNDEFINED_LENGTH = 0xFFFFFFFF
# a frame of JPEG and JPEG-LS, JPEG 2000 without and with its container, and RLE with its number of segments
FRAME_START = re.compile(
    rb"\xff\xd8|\xff\x4f\xff\x51|\x00\x00\x00\x0cjP  |[\x01-\x0f]\x00\x00\x00\x40\x00\x00\x00", re.DOTALL
)
LONGEST_START = 8  # bytes of a fragment in which FRAME_START is looked for


@dataclass(frozen=True)
class _Fragments:
    """The fragments of compressed pixel data.

    Attributes:
        table: the Basic Offset Table: for each frame the position of its first fragment, or nothing.
        positions: of the fragments, counted as the table does, in bytes.
        starts: first bytes of each fragment.
    """

    table: tuple[int, ...]
    positions: tuple[int, ...]
    starts: tuple[bytes, ...]


def check_is_whole(file: BinaryIO, header: Dataset, name: str) -> None:
    """Check that the pixel data of a file are all there, and no more: some decoders fill in or leave out the rest.

    Args:
        file: at its pixel data, where reading its header ended; where the whole file is compressed (deflated), pydicom
            has already read it to the end.
        header: of the file, with the elements :data:`KEYWORDS`.
        name: of the file in messages.

    Raises:
        InputError: there are none, they are floating-point numbers, they are cut off, or there is a row, a column or a
            frame more or less than the header says.
    """
    syntax = header.file_meta.TransferSyntaxUID
    if syntax.is_deflated:
        file.seek(0)
        pixels = read_dataset(file, specific_tags=["PixelData"]).get("PixelData") or b""
        _check_length(len(pixels), header, name)
        return
    order = "<" if syntax.is_little_endian else ">"
    head = file.read(12)
    tag = struct.unpack(f"{order}HH", head[:4]) if len(head) == 12 else None
    if tag in FLOATS:
        raise InputError(f"{name}: its pixels are floating-point numbers, expected whole numbers")
    if tag != PIXEL_DATA:
        raise InputError(f"{name}: has no pixel data: truncated, damaged, or only a header")
    start = file.tell()
    if syntax.is_implicit_VR:
        start -= 4
    (length,) = struct.unpack(f"{order}I", head[4:8] if syntax.is_implicit_VR else head[8:])
    size = file.seek(0, 2)
    if length == UNDEFINED_LENGTH:
        _check_fragments(_read_fragments(file, start, size, name), header, name)
    elif size - start < length:
        raise _cut_off(name)
    else:
        _check_length(length, header, name)


def _cut_off(name: str) -> InputError:
    return InputError(f"{name}: its pixel data are cut off: truncated, damaged, or not yet copied")


def _frame_count(header: Dataset) -> int:
    count = number_of(header, "NumberOfFrames")
    return 1 if count is None else count


def _frames(count: int) -> str:
    return "1 frame" if count == 1 else f"{count} frames"


def _check_length(length: int, header: Dataset, name: str) -> None:
    """Check the ``length`` of uncompressed pixel data, in bytes; less than a row or column may follow them."""
    bytes_per_pixel = (number_of(header, "BitsAllocated") or 16) // 8 * (number_of(header, "SamplesPerPixel") or 1)
    rows, columns, frames = number_of(header, "Rows") or 0, number_of(header, "Columns") or 0, _frame_count(header)
    expected = rows * columns * frames * bytes_per_pixel
    surplus = length - expected - expected % 2  # the length is even
    is_compressed = header.file_meta.TransferSyntaxUID.is_compressed
    is_cut_off = length < expected
    is_too_long = surplus >= min(rows, columns) * bytes_per_pixel > 0 and not is_compressed
    if frames < 1 or is_cut_off or is_too_long:
        remark = ": cut off (truncated, damaged, or not yet copied), or of another header" if is_cut_off else ""
        raise InputError(
            f"{name}: pixel data of {length} bytes, expected {expected} for its {rows} rows, {columns} columns and "
            f"{_frames(frames)}{remark}"
        )


def _read_fragments(file: BinaryIO, start: int, size: int, name: str) -> _Fragments:
    """Read where the fragments from byte ``start`` of a file of ``size`` bytes lie.

    Raises:
        InputError: they do not end as they must.
    """
    table: tuple[int, ...] | None = None
    first_position = start
    positions: list[int] = []
    starts: list[bytes] = []
    while start + 8 <= size:
        file.seek(start)
        group, element, length = struct.unpack("<HHI", file.read(8))
        if (group, element) == DELIMITER:
            return _Fragments(table or (), tuple(positions), tuple(starts))
        if (group, element) != ITEM or start + 8 + length > size:
            break
        if table is None:
            table = struct.unpack(f"<{length // 4}I", file.read(length // 4 * 4))
            first_position = start + 8 + length
        else:
            positions.append(start - first_position)
            starts.append(file.read(min(LONGEST_START, length)))
        start += 8 + length
    raise _cut_off(name)


def _check_fragments(fragments: _Fragments, header: Dataset, name: str) -> None:
    """Check that compressed pixel data are those of as many frames as the header says, and their tables of offsets.

    A frame may have several fragments, so that those count with which one begins. In compressions in which this cannot
    be told, the fragments must be as many as the frames, or the frame a single one.
    """
    frames = _frame_count(header)
    frame_positions = [
        position
        for position, start in zip(fragments.positions, fragments.starts, strict=True)
        if FRAME_START.match(start)
    ]
    if not frame_positions:
        frame_positions = list(fragments.positions[:1] if frames == 1 else fragments.positions)
        if len(frame_positions) != frames:
            raise InputError(
                f"{name}: compressed pixel data in which no frame is known to begin (a video?), expected "
                f"{_frames(frames)} of JPEG, JPEG 2000 or RLE"
            )
    if len(frame_positions) != frames:
        raise InputError(
            f"{name}: compressed pixel data of {_frames(len(frame_positions))}, expected {frames} as its header says "
            "(NumberOfFrames)"
        )
    extended = header.get("ExtendedOffsetTable") or b""
    tables = fragments.table, struct.unpack(f"<{len(extended) // 8}Q", extended[: len(extended) // 8 * 8])
    if frames > 1 and any(table and list(table) != frame_positions for table in tables):
        raise InputError(
            f"{name}: its table of offsets contradicts its compressed pixel data of {_frames(frames)}, expected one "
            "entry for each frame, where it begins"
        )
