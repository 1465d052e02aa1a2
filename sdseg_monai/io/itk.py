"""Volumes of ITK, and what ITK does not check: it would follow files elsewhere, hang, or invent voxels."""

from __future__ import annotations

import math
import zlib
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from sdseg_monai.errors import InputError

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])  # ITK counts to the left and back, NIfTI to the right and front
HEADER_BYTES = 1 << 16
CHUNK = 1 << 20
GZIP, ZLIB = 31, 15  # zlib's window bits for the two containers


def check_itk_file(path: Path) -> None:
    """Check the header of an MHA or NRRD file and, if its voxels are compressed, that they are whole.

    Raises:
        InputError: the header cannot be read, names another file for the voxels, or the compressed voxels are damaged.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{path!a}: the name is no valid UTF-8, which ITK needs; rename the file") from error
    with path.open("rb") as file:
        head = file.read(HEADER_BYTES)
    fields, start = _mha_header(head) if path.name.lower().endswith(".mha") else _nrrd_header(head)
    sizes = (fields.get("dimsize") or fields.get("sizes") or "").split()
    dimensions = fields.get("ndims") or fields.get("dimension") or ""
    if not start or not all(size.isdigit() for size in sizes) or dimensions != str(len(sizes)):
        raise InputError(f"{path}: not a readable {path.suffix} file, its header is damaged")
    if fields.get("elementdatafile", "LOCAL") != "LOCAL" or {"data file", "datafile"} & fields.keys():
        raise InputError(f"{path}: its voxels lie in another file, expected them in the same")
    compressed = fields.get("compresseddata", "").lower() == "true" or fields.get("encoding") in ("gzip", "gz")
    if compressed and not _is_whole(path, start, GZIP if "encoding" in fields else ZLIB, math.prod(map(int, sizes))):
        raise InputError(f"{path}: the voxels cannot be read, the file is truncated or damaged")


def _mha_header(head: bytes) -> tuple[dict[str, str], int]:
    """Return the fields of ``key = value`` lines and where the voxels start, 0 where there is no end of the header."""
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
    """Return the fields of ``key: value`` lines and where the voxels start, 0 where there is no end of the header."""
    fields: dict[str, str] = {}
    position = 0
    for line in head.splitlines(keepends=True):
        position += len(line)
        if not line.strip():
            return fields, position if head.startswith(b"NRRD") else 0
        key, _, value = line.decode("latin-1").partition(":")
        fields[key.strip().lower()] = value.strip()
    return fields, 0


def _is_whole(path: Path, start: int, window: int, voxels: int) -> bool:
    """Say whether the stream from ``start`` ends where it says, by its checksum, with 1, 2, 4 or 8 bytes a voxel."""
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
    """Return a reader of an MHA or NRRD file that has read the header and passed :func:`check_itk_file`.

    Raises:
        InputError: the file cannot be read, or has several values per voxel.
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
    """Return what ITK says went wrong, out of the lines that say where in its code."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "determinant" in line.lower() or "error" in line.lower()]
    return (telling or lines or [type(error).__name__])[-1]
