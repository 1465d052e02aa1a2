"""MHA and NRRD files through ITK, with checks that ITK lacks: it would read other files, hang, or invent voxels."""

from __future__ import annotations

import math
import zlib
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from sdseg_monai.errors import InputError

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])  # ITK's axes point left and posterior, NIfTI's right and anterior
HEADER_BYTES = 1 << 16
CHUNK = 1 << 20
GZIP, ZLIB = 31, 15  # zlib's window bits for the two formats


def check_itk_file(path: Path) -> None:
    """Check the header of an MHA or NRRD file and, if its voxels are compressed, that they are complete.

    Raises:
        InputError: the header cannot be read or names another file for the voxels, or the compressed voxels are
            truncated or damaged.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{path!a}: the name is not valid UTF-8, which ITK needs; rename the file") from error
    with path.open("rb") as file:
        head = file.read(HEADER_BYTES)
    fields, start = _mha_header(head) if path.name.lower().endswith(".mha") else _nrrd_header(head)
    sizes = (fields.get("dimsize") or fields.get("sizes") or "").split()
    dimensions = fields.get("ndims") or fields.get("dimension") or ""
    if not start or not all(size.isdigit() for size in sizes) or dimensions != str(len(sizes)):
        raise InputError(f"{path}: not a readable {path.suffix} file, its header is damaged")
    if fields.get("elementdatafile", "LOCAL") != "LOCAL" or {"data file", "datafile"} & fields.keys():
        raise InputError(f"{path}: its voxels lie in another file, expected header and voxels in one file")
    is_compressed = fields.get("compresseddata", "").lower() == "true" or fields.get("encoding") in ("gzip", "gz")
    window = GZIP if "encoding" in fields else ZLIB
    if is_compressed and not _is_complete(path, start, window, math.prod(map(int, sizes))):
        raise InputError(f"{path}: the voxels cannot be read, the file is truncated or damaged")


def _mha_header(head: bytes) -> tuple[dict[str, str], int]:
    """Return the fields of the ``key = value`` lines and the voxels' first byte, 0 where the header has no end."""
    fields: dict[str, str] = {}
    position = 0
    for line in head.splitlines(keepends=True):
        position += len(line)
        key, _, value = line.decode("latin-1").partition("=")
        fields[key.strip().lower()] = value.strip()
        if key.strip().lower() == "elementdatafile":
            return fields, position
    return fields, 0


def _nrrd_header(head: bytes) -> tuple[dict[str, str], int]:
    """Return the fields of the ``key: value`` lines and the voxels' first byte, 0 where the header has no end."""
    fields: dict[str, str] = {}
    position = 0
    for line in head.splitlines(keepends=True):
        position += len(line)
        if not line.strip():
            return fields, position if head.startswith(b"NRRD") else 0
        key, _, value = line.decode("latin-1").partition(":")
        fields[key.strip().lower()] = value.strip()
    return fields, 0


def _is_complete(path: Path, start: int, window: int, voxels: int) -> bool:
    """Tell whether the stream from byte ``start`` ends, its checksum fits and it has 1, 2, 4 or 8 bytes per voxel."""
    stream = zlib.decompressobj(window)
    count = 0
    with path.open("rb") as file:
        file.seek(start)
        while not stream.eof and (chunk := file.read(CHUNK)):
            try:
                while chunk:
                    count += len(stream.decompress(chunk, CHUNK))
                    chunk = stream.unconsumed_tail
            except zlib.error:
                return False
            if count > 8 * voxels:
                return False
    return stream.eof and count in {n * voxels for n in (1, 2, 4, 8)}


def open_itk(path: Path) -> sitk.ImageFileReader:
    """Return a reader of an MHA or NRRD file that has passed :func:`check_itk_file`, with its header read.

    Raises:
        InputError: the file cannot be read or has several values per voxel.
    """
    check_itk_file(path)
    sitk.ProcessObject.SetGlobalWarningDisplay(False)  # it writes to stderr past Python
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise InputError(f"{path}: not a readable {path.suffix} file ({itk_reason(error)})") from error
    if reader.GetNumberOfComponents() != 1:
        raise InputError(f"{path}: {reader.GetNumberOfComponents()} values per voxel, expected one")
    return reader


def itk_affine(image: sitk.Image | sitk.ImageFileReader) -> np.ndarray:
    """Return the affine [4, 4] of an ITK image from voxel to RAS+ millimetres."""
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return LPS_TO_RAS @ affine


def itk_reason(error: BaseException) -> str:
    """Return the line of an ITK error that says what went wrong, without those that say where in ITK's code."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reasons = [line for line in lines if "determinant" in line.lower() or "error" in line.lower()]
    return (reasons or lines or [type(error).__name__])[-1]
