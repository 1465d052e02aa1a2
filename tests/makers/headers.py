"""Files of NRRD, MetaImage and NIfTI whose headers are written field by field, right or wrong."""

from __future__ import annotations

import bz2
import gzip
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np

PLACE = np.array([[-1.0, 0, 0, 37.5], [0, 0, 2.0, -21.25], [0, 1.5, 0, 12.75], [0, 0, 0, 1]])  # to RAS+ mm
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
SPACES = {
    "left-posterior-superior": LPS,
    "right-anterior-superior": np.eye(4),
    "left-anterior-superior": np.diag([-1.0, 1, 1, 1]),
    "LPS": LPS,
    "RAS": np.eye(4),
    "LAS": np.diag([-1.0, 1, 1, 1]),
}
PACK: dict[str, Callable[[bytes], bytes]] = {
    "raw": bytes,
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "hex": lambda content: content.hex("\n", 20).encode(),
}


def ramp(shape: tuple[int, int, int] = (4, 5, 6), dtype: str = "<u2") -> np.ndarray:
    """Return an array in which every voxel has a value of its own, up to 119."""
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def vector(numbers: np.ndarray) -> str:
    """Return numbers as NRRD writes a vector."""
    return "(" + ",".join(f"{number:.10g}" for number in numbers) + ")"


def nrrd_fields(array: np.ndarray, affine: np.ndarray = PLACE, space: str = "left-posterior-superior") -> dict:
    """Return the fields of a good header, by their names, in order."""
    placed = np.linalg.inv(SPACES.get(space, LPS)) @ affine
    return {
        "type": {"u1": "uchar", "u2": "ushort", "i2": "short", "f4": "float", "f8": "double", "i8": "longlong"}[
            array.dtype.str[1:]
        ],
        "dimension": "3",
        "space": space,
        "sizes": " ".join(map(str, array.shape)),
        "space directions": " ".join(vector(placed[:3, axis]) for axis in range(3)),
        "kinds": "domain domain domain",
        "endian": "big" if array.dtype.byteorder == ">" else "little",
        "encoding": "raw",
        "space origin": vector(placed[:3, 3]),
    }


def write_nrrd(path: Path, array: np.ndarray, fields: dict, extra: str = "", line_end: str = "\n") -> Path:
    """Write an NRRD file; a field whose value is None is left out."""
    content = array.tobytes("F")
    encoding = str(fields.get("encoding")).lower()
    if encoding == "ascii":
        content = " ".join(map(str, array.ravel("F"))).encode()
    elif encoding in PACK:
        content = PACK[encoding](content)
    lines = ["NRRD0004", "# a remark", *(f"{key}: {value}" for key, value in fields.items() if value is not None)]
    text = "".join(line + line_end for line in lines) + extra + line_end
    path.write_bytes(text.encode() + content)
    return path


def mha_fields(array: np.ndarray, affine: np.ndarray = PLACE) -> dict:
    """Return the fields of a good header, by their names, in order; the voxels follow the last one."""
    placed = LPS @ affine
    spacing = np.linalg.norm(placed[:3, :3], axis=0)
    types = {"u1": "UCHAR", "u2": "USHORT", "i2": "SHORT", "f4": "FLOAT", "f8": "DOUBLE", "i8": "LONG_LONG"}
    return {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": str(array.dtype.byteorder == ">"),
        "CompressedData": "False",
        "TransformMatrix": " ".join(f"{number:g}" for number in (placed[:3, :3] / spacing).T.ravel()),
        "Offset": " ".join(f"{number:g}" for number in placed[:3, 3]),
        "CenterOfRotation": "0 0 0",
        "AnatomicalOrientation": "RAI",
        "ElementSpacing": " ".join(f"{number:g}" for number in spacing),
        "DimSize": " ".join(map(str, array.shape)),
        "ElementType": f"MET_{types[array.dtype.str[1:]]}",
        "ElementDataFile": "LOCAL",
    }


def write_mha(path: Path, array: np.ndarray, fields: dict, line_end: str = "\n") -> Path:
    """Write an MHA file; a field whose value is None is left out."""
    content = array.tobytes("F")
    if str(fields.get("CompressedData")).lower() in ("true", "t", "1"):
        content = zlib.compress(content)
    if fields.get("BinaryData") == "False":
        content = " ".join(map(str, array.ravel("F"))).encode()
    lines = [f"{key} = {value}" for key, value in fields.items() if value is not None]
    path.write_bytes("".join(line + line_end for line in lines).encode() + content)
    return path


# byte offsets in a NIfTI-1 header, by the standard
NIFTI_FIELDS = {
    "dim": ("<8h", 40),
    "intent_p1": ("<f", 56),
    "intent_code": ("<h", 68),
    "pixdim": ("<8f", 76),
    "vox_offset": ("<f", 108),
    "xyzt_units": ("<B", 123),
    "descrip": ("<80s", 148),
    "aux_file": ("<24s", 228),
    "qform_code": ("<h", 252),
    "sform_code": ("<h", 254),
    "intent_name": ("<16s", 328),
    "db_name": ("<18s", 14),
}


def nifti_bytes(array: np.ndarray, affine: np.ndarray = PLACE, **fields: object) -> bytes:
    """Return an uncompressed NIfTI-1 file with sform and qform, and header fields as they are given, right or wrong."""
    image = nib.Nifti1Image(array, affine)
    image.set_qform(affine, 1)
    image.set_sform(affine, 1)
    image.header.set_slope_inter(1, 0)
    content = bytearray(image.to_bytes())
    for name, value in fields.items():
        form, start = NIFTI_FIELDS[name]
        struct.pack_into(form, content, start, *(value if isinstance(value, tuple) else (value,)))
    return bytes(content)
