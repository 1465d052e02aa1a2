"""The header of a MetaImage (MHA), read strictly.

Source: https://docs.itk.org/en/latest/learn/metaio.html and ITK's metaImage.cxx for what the page leaves open.
"""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np

from sdseg_monai.io.formats.content import START_BYTES, content_name
from sdseg_monai.io.formats.geometry import LPS_TO_RAS, Geometry, ignored_unit, scaled
from sdseg_monai.io.formats.layouts import (
    NUMBER,
    HeaderError,
    Layout,
    header_lines,
    read_layout,
    real_numbers,
    spatial_shape,
    whole_numbers,
)
from sdseg_monai.io.warnings import ImageWarning

# the fields on which voxels and places depend, by their other names; all other fields are remarks
NAMES = {
    "BinaryDataByteOrderMSB": "ElementByteOrderMSB",
    "Origin": "Offset",
    "Position": "Offset",
    "Orientation": "TransformMatrix",
    "Rotation": "TransformMatrix",
}
# the fields of which only one value can be used, and what another one would mean
FIXED = {
    "ObjectType": ("Image", "no image"),
    "ElementNumberOfChannels": ("1", "several values per voxel"),
    "HeaderSize": ("0", "bytes between header and voxels"),
    "HeaderSizePerSlice": ("0", "bytes between slices"),
    "ElementToIntensityFunctionSlope": ("1", "voxels that are scaled"),
    "ElementToIntensityFunctionOffset": ("0", "voxels that are shifted"),
}
FIELDS = {
    *NAMES.keys(),
    *NAMES.values(),
    *FIXED,
    *("AnatomicalOrientation", "BinaryData", "CompressedData", "CompressedDataSize", "DimSize", "DistanceUnits"),
    *("ElementDataFile", "ElementSize", "ElementSpacing", "ElementType", "NDims"),
}
BY_LOWER_CASE = {name.lower(): name for name in FIELDS}
# MetaIO's LONG has four bytes on every machine
TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
TRUTHS = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}
MILLIMETRES = {"um": 1e-3, "mm": 1.0, "cm": 10.0, "m": 1e3, "?": 1.0}
LARGEST_ERROR = 1e-2  # of the length of a direction


def read_metaimage_header(path: Path) -> Layout:
    """Read and check the header of an MHA file.

    ITK does not apply ``DistanceUnits``: :attr:`~sdseg_monai.io.formats.geometry.Geometry.itk_affine` is without it.

    Raises:
        InputError: the file is no MHA file, or a field is missing, doubtful, or has a value that cannot be used.
    """
    return read_layout(path, lambda head: _layout(*_fields(head)))


def _fields(head: bytes) -> tuple[dict[str, str], int]:
    """Return the fields on which voxels and places depend, by their first names, and the voxels' first byte."""
    if b"=" not in head.partition(b"\n")[0]:
        reason = content_name(head[:START_BYTES]) or "expected lines NAME = VALUE"
        raise HeaderError(f"not a readable .mha file: {reason}")
    fields: dict[str, str] = {}
    lines = header_lines(head)
    while True:
        line, position = next(lines)
        key, separator, value = (part.strip() for part in line.partition("="))
        if not separator or ":" in key:
            raise HeaderError(f"the header is damaged: the line {line[:60]!r}, expected NAME = VALUE")
        if key not in FIELDS:
            if key.lower() in BY_LOWER_CASE:
                raise HeaderError(f"the field {key}, expected it to be spelt {BY_LOWER_CASE[key.lower()]}")
            continue
        name = NAMES.get(key, key)
        if name in fields:
            raise HeaderError(f"{name} is given twice")
        fields[name] = value
        if name == "ElementDataFile":
            return fields, position


def _layout(fields: dict[str, str], start: int) -> Layout:
    if fields["ElementDataFile"].upper() != "LOCAL":
        raise HeaderError("its voxels lie in another file, expected header and voxels in one file")
    for name, (expected, meaning) in FIXED.items():
        value = fields.get(name, expected)
        if value != expected and not (NUMBER.fullmatch(value) and f"{float(value):g}" == expected):
            raise HeaderError(f"{name} = {value[:60]} ({meaning}), expected {expected}")
    for name in ("NDims", "DimSize", "ElementType"):
        if name not in fields:
            raise HeaderError(f"the header is damaged: no {name}")
    shape = whole_numbers("DimSize", fields["DimSize"])
    if whole_numbers("NDims", fields["NDims"]) != (len(shape),):
        raise HeaderError(f"the header is damaged: NDims {fields['NDims']}, but {len(shape)} numbers in DimSize")
    if fields["ElementType"] not in TYPES:
        raise HeaderError(f"ElementType = {fields['ElementType'][:60]}, expected one of {', '.join(TYPES)}")
    order = ">" if _truth(fields, "ElementByteOrderMSB", False) else "<"
    is_compressed = _truth(fields, "CompressedData", False)
    is_text = not _truth(fields, "BinaryData", True)
    if is_text and is_compressed:
        raise HeaderError("voxels as compressed text, expected one of the two")
    return Layout(
        shape=spatial_shape(shape, [axis < 3 for axis in range(len(shape))]),
        dtype=np.dtype(order + TYPES[fields["ElementType"]]),
        encoding="zlib" if is_compressed else "ascii" if is_text else "raw",
        start=start,
        geometry=_geometry(fields, shape),
    )


def _truth(fields: dict[str, str], name: str, default: bool) -> bool:
    value = fields.get(name, str(default))
    if value.lower() not in TRUTHS:
        raise HeaderError(f"{name} = {value[:60]}, expected True or False")
    return TRUTHS[value.lower()]


def _geometry(fields: dict[str, str], shape: tuple[int, ...]) -> Geometry:
    count = len(shape)
    if count < 3:
        return Geometry(np.eye(4))  # the caller refuses what is not 3-D
    spacing_name = "ElementSpacing" if "ElementSpacing" in fields else "ElementSize"
    if spacing_name not in fields:
        raise HeaderError("it does not say how large its voxels are, expected ElementSpacing in mm")
    spacing = real_numbers(spacing_name, fields[spacing_name], count)
    if not (spacing > 0).all():
        raise HeaderError(f"{spacing_name} = {fields[spacing_name][:60]}, expected lengths above 0")
    has_place = "TransformMatrix" in fields and "Offset" in fields
    identity = " ".join(map(str, np.eye(count, dtype=int).ravel()))
    # the three numbers that follow one another are the direction of one axis
    directions = real_numbers("TransformMatrix", fields.get("TransformMatrix", identity), count**2)
    directions = directions.reshape(count, count).T
    offset = real_numbers("Offset", fields.get("Offset", " ".join("0" * count)), count)
    axes = directions[:3, :3]
    if (np.abs(np.linalg.norm(axes, axis=0) - 1) > LARGEST_ERROR).any():
        raise HeaderError(
            f"TransformMatrix = {fields.get('TransformMatrix', '')[:60]}, expected directions of length 1"
        )
    unit = fields.get("DistanceUnits", "mm")
    if unit not in MILLIMETRES:
        raise HeaderError(f"DistanceUnits = {unit[:60]}, expected one of {', '.join(MILLIMETRES)}")
    itk_affine = np.eye(4)
    itk_affine[:3, :3], itk_affine[:3, 3] = axes * spacing[:3], offset[:3]
    itk_affine = LPS_TO_RAS @ itk_affine
    texts = []
    if not has_place:
        texts.append(
            "no TransformMatrix or no Offset in the header: position and orientation are a guess, left and right may "
            "be swapped"
        )
    if not _fits(fields.get("AnatomicalOrientation", "???"), itk_affine):
        texts.append(
            f"AnatomicalOrientation {fields['AnatomicalOrientation'][:8]!r} contradicts TransformMatrix, by which the "
            "image is placed: check left and right"
        )
    affine = scaled(itk_affine, MILLIMETRES[unit])
    if MILLIMETRES[unit] != 1:
        texts.append(ignored_unit(shape[:3], affine, itk_affine))
    return Geometry(
        affine,
        itk_affine=None if MILLIMETRES[unit] == 1 else itk_affine,
        warnings=tuple(ImageWarning("geometry", text) for text in texts),
    )


def _fits(orientation: str, affine: np.ndarray) -> bool:
    """Tell whether AnatomicalOrientation can mean the directions of ``affine`` [4, 4].

    ITK writes where each axis comes from (its RAI is LPS in other programs), MetaIO's manual says where it goes to, and
    many programs write RAI whatever the directions are.
    """
    if orientation in ("RAI", "???") or np.linalg.matrix_rank(affine[:3, :3]) < 3:
        return True
    codes = "".join(nib.aff2axcodes(affine))
    return orientation in (codes, codes.translate(str.maketrans("RLAPSI", "LRPAIS")))
