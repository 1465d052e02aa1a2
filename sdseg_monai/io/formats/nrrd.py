"""The header of an NRRD file, read strictly.

Source: https://teem.sourceforge.net/nrrd/format.html
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from sdseg_monai.io.formats.content import START_BYTES, content_name
from sdseg_monai.io.formats.geometry import LPS_TO_RAS, Geometry, ignored_unit, scaled
from sdseg_monai.io.formats.layouts import (
    HeaderError,
    Layout,
    header_lines,
    read_layout,
    real_numbers,
    spatial_shape,
    whole_numbers,
)
from sdseg_monai.io.warnings import ImageWarning

MAGIC = re.compile(rb"NRRD000[1-5]\r?\n")
# of a field name that may be written in several ways, the one used here
NAMES = {
    "axismaxs": "axis maxs",
    "axismins": "axis mins",
    "blocksize": "block size",
    "byteskip": "byte skip",
    "centers": "centerings",
    "datafile": "data file",
    "lineskip": "line skip",
    "oldmax": "old max",
    "oldmin": "old min",
    "sampleunits": "sample units",
}
# fields that say nothing of a scalar volume's voxels and places
REMARKS = {
    *("centerings", "content", "labels", "max", "measurement frame", "min", "number", "sample units", "thicknesses"),
}
# fields that cannot be used, and what they mean
UNUSABLE = {
    "axis maxs": "'axis maxs': a position outside any space, expected 'space directions' and 'space origin'",
    "axis mins": "'axis mins': a position outside any space, expected 'space directions' and 'space origin'",
    "block size": "'block size': voxels that are blocks of bytes, expected one number each",
    "data file": "its voxels lie in another file, expected header and voxels in one file",
    "old max": "'old max': voxels that stand for other values, expected intensities",
    "old min": "'old min': voxels that stand for other values, expected intensities",
}
USED = {
    *("byte skip", "dimension", "encoding", "endian", "kinds", "line skip", "sizes", "space", "space dimension"),
    *("space directions", "space origin", "space units", "spacings", "type", "units"),
}
TYPES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}
DTYPES = {name: code for code, names in TYPES.items() for name in names}
ENCODINGS = {
    **{"raw": "raw", "gzip": "gzip", "gz": "gzip", "bzip2": "bzip2", "bz2": "bzip2", "hex": "hex"},
    **{"ascii": "ascii", "text": "ascii", "txt": "ascii"},
}
# from the axes of a space to RAS+; the last ones say nothing of the patient, and are taken for LPS, as ITK does
TO_RAS = {
    "right-anterior-superior": np.eye(4),
    "ras": np.eye(4),
    "left-anterior-superior": np.diag([-1.0, 1, 1, 1]),
    "las": np.diag([-1.0, 1, 1, 1]),
    "left-posterior-superior": LPS_TO_RAS,
    "lps": LPS_TO_RAS,
    "scanner-xyz": LPS_TO_RAS,
    "3d-right-handed": LPS_TO_RAS,
}
NO_ANATOMY = ("", "scanner-xyz", "3d-right-handed")
SPATIAL_KINDS = ("domain", "space", "???", "none")
MILLIMETRES = {
    **dict.fromkeys(("", "mm", "millimeter", "millimeters", "millimetre", "millimetres"), 1.0),
    **dict.fromkeys(("um", "\u00b5m", "\u03bcm", "micron", "microns", "micrometer", "micrometers"), 1e-3),
    **dict.fromkeys(("cm", "centimeter", "centimeters"), 10.0),
    **dict.fromkeys(("m", "meter", "meters", "metre", "metres"), 1e3),
}


def read_nrrd_header(path: Path) -> Layout:
    """Read and check the header of an NRRD file.

    ITK does not apply ``space units``: :attr:`~sdseg_monai.io.formats.geometry.Geometry.itk_affine` is without them.

    Raises:
        InputError: the file is no NRRD file, its voxels lie in another one, or a field is unknown, missing, doubtful,
            or has a value that cannot be used.
    """
    return read_layout(path, lambda head: _layout(*_fields(head)))


def _fields(head: bytes) -> tuple[dict[str, str], int]:
    """Return the fields of the header by the names used here, and the voxels' first byte."""
    if not MAGIC.match(head):
        reason = content_name(head[:START_BYTES]) or "expected NRRD0001 to NRRD0005 in the first line"
        raise HeaderError(f"not a readable .nrrd file: {reason}")
    fields: dict[str, str] = {}
    lines = header_lines(head)
    next(lines)
    while True:
        line, position = next(lines)
        if not line.strip():
            return fields, position
        if line.startswith("#"):
            continue
        key, separator, value = line.partition(":")
        if separator and value.startswith("="):  # NAME:=VALUE, a remark of the program that wrote the file
            continue
        name = NAMES.get(key.strip().lower(), key.strip().lower())
        if not separator:
            raise HeaderError(f"the header is damaged: the line {line[:60]!r}, expected NAME: VALUE")
        if name in UNUSABLE:
            raise HeaderError(UNUSABLE[name])
        if name not in USED | REMARKS:
            raise HeaderError(f"the field {name[:60]!r} is unknown, so what it changes is too")
        if name in fields:
            raise HeaderError(f"{name!r} is given twice")
        fields[name] = value.strip()


def _layout(fields: dict[str, str], start: int) -> Layout:
    for name in ("dimension", "sizes", "type", "encoding"):
        if name not in fields:
            raise HeaderError(f"the header is damaged: no {name!r}")
    for name in ("line skip", "byte skip"):
        if fields.get(name, "0") != "0":
            raise HeaderError(f"{name!r} {fields[name][:60]}: bytes between header and voxels, expected none")
    sizes = whole_numbers("sizes", fields["sizes"])
    if whole_numbers("dimension", fields["dimension"]) != (len(sizes),):
        raise HeaderError(f"the header is damaged: dimension {fields['dimension']}, but {len(sizes)} numbers in sizes")
    type_name = " ".join(fields["type"].lower().split())
    if type_name not in DTYPES:
        raise HeaderError(f"voxels of type {type_name[:60]!r}, expected one of {', '.join(DTYPES)}")
    encoding = ENCODINGS.get(fields["encoding"].lower())
    if encoding is None:
        raise HeaderError(f"the encoding {fields['encoding'][:60]!r}, expected one of {', '.join(ENCODINGS)}")
    dtype = np.dtype(DTYPES[type_name])
    order = fields.get("endian", "").lower()
    if order not in ("little", "big") and dtype.itemsize > 1 and encoding != "ascii":
        raise HeaderError(f"'endian' {order!r}, expected little or big")
    directions = _vectors("space directions", fields["space directions"]) if "space directions" in fields else None
    if directions is not None and len(directions) != len(sizes):
        raise HeaderError(f"{len(directions)} vectors in 'space directions', expected {len(sizes)}")
    spatial = _spatial_axes(fields, len(sizes), directions)
    return Layout(
        shape=spatial_shape(sizes, spatial),
        dtype=dtype.newbyteorder(">" if order == "big" else "<"),
        encoding=encoding,  # type: ignore[arg-type]
        start=start,
        geometry=_geometry(fields, sizes, spatial, directions),
    )


def _spatial_axes(fields: dict[str, str], count: int, directions: list[np.ndarray | None] | None) -> list[bool]:
    """Tell which axes are spatial: those with a direction and of a spatial kind; without both the first three."""
    spatial = [True] * count if directions is None else [direction is not None for direction in directions]
    if "kinds" in fields:
        kinds = fields["kinds"].lower().split()
        if len(kinds) != count:
            raise HeaderError(f"{len(kinds)} words in 'kinds', expected {count}")
        spatial = [is_spatial and kind in SPATIAL_KINDS for is_spatial, kind in zip(spatial, kinds, strict=True)]
    if sum(spatial) > 3:
        spatial[3:] = [False] * (count - 3)
    return spatial


def _geometry(
    fields: dict[str, str], sizes: tuple[int, ...], spatial: list[bool], directions: list[np.ndarray | None] | None
) -> Geometry:
    axes = [axis for axis, is_spatial in enumerate(spatial) if is_spatial]
    if len(axes) != 3:
        return Geometry(np.eye(4))  # the caller refuses what is not 3-D
    space = fields.get("space", "").lower()
    if space and "space dimension" in fields:
        raise HeaderError("'space' and 'space dimension', expected one of the two")
    if (space and space not in TO_RAS) or fields.get("space dimension", "3") != "3":
        raise HeaderError(
            f"the space {(space or fields['space dimension'])[:60]!r}, expected left-posterior-superior, "
            "right-anterior-superior or left-anterior-superior"
        )
    itk_affine = np.eye(4)
    if directions is not None:
        if "spacings" in fields and any(word.lower() != "nan" for word in fields["spacings"].split()):
            raise HeaderError("'spacings' and 'space directions', expected one of the two")
        itk_affine[:3, :3] = np.stack([vector for axis in axes if (vector := directions[axis]) is not None], axis=1)
    else:
        spacings = fields.get("spacings", "").split()
        if len(spacings) != len(sizes):
            raise HeaderError("it does not say how large its voxels are, expected 'space directions' in mm")
        lengths = real_numbers("spacings", " ".join(spacings[axis] for axis in axes), 3)
        if not (lengths > 0).all():
            raise HeaderError(f"'spacings' {fields['spacings'][:60]}, expected lengths above 0")
        itk_affine[:3, :3] = np.diag(lengths)
    if "space origin" in fields:
        origin = _vectors("space origin", fields["space origin"])
        if len(origin) != 1 or origin[0] is None:
            raise HeaderError(f"'space origin' {fields['space origin'][:60]!r}, expected one vector")
        itk_affine[:3, 3] = origin[0]
    itk_affine = TO_RAS.get(space, LPS_TO_RAS) @ itk_affine
    scale = _millimetres(fields, axes, len(sizes), has_directions=directions is not None)
    texts = []
    if directions is None or space in NO_ANATOMY:
        known = f"its space {space!r} says" if space and directions is not None else "its header says"
        texts.append(
            f"{known} nothing of the patient's left and right: the orientation is a guess, that of "
            "left-posterior-superior"
        )
    elif "space origin" not in fields:
        texts.append("its header has no 'space origin': its position is a guess, with the first voxel at (0, 0, 0)")
    # without directions the axes of the volume, of which the units are, are those of the space
    affine = scaled(itk_affine, scale)
    is_other = bool((scale != 1).any())
    if is_other:
        texts.append(ignored_unit([sizes[axis] for axis in axes], affine, itk_affine))
    return Geometry(affine, itk_affine if is_other else None, tuple(ImageWarning("geometry", text) for text in texts))


def _millimetres(fields: dict[str, str], axes: list[int], count: int, has_directions: bool) -> np.ndarray:
    """Return the millimetres of one unit along each axis, [3]: of the space or, without directions, of the volume."""
    of_space, of_axes = _units("space units", fields, 3), _units("units", fields, count)[axes]
    used, unused = (of_space, of_axes) if has_directions else (of_axes, of_space)
    if (unused != 1).any():
        raise HeaderError(
            f"{'units' if has_directions else 'space units'!r}: of axes that the header does not describe"
        )
    return used


def _units(name: str, fields: dict[str, str], count: int) -> np.ndarray:
    """Return the millimetres of each unit in a field, [count]; an unknown unit, the empty word, is taken for mm."""
    text = fields.get(name, '""' * count)
    words = [word.strip().lower() for word in re.findall(r'"([^"]*)"', text)]
    is_quoted = not re.sub(r'"[^"]*"', "", text).strip()
    if not is_quoted or len(words) != count or not set(words) <= MILLIMETRES.keys():
        raise HeaderError(f"{name!r} {text[:60]}, expected mm, um, cm or m for each of {count} axes")
    return np.array([MILLIMETRES[word] for word in words])


def _vectors(name: str, text: str) -> list[np.ndarray | None]:
    """Return the vectors ``(x,y,z)`` in the text of a field, each [3]; None for ``none``."""
    vectors: list[np.ndarray | None] = []
    for word in re.findall(r"\([^()]*\)|[^()\s]+|[()]", text):
        if word.lower() == "none":
            vectors.append(None)
        elif word.startswith("(") and word.endswith(")"):
            vectors.append(real_numbers(name, word[1:-1].replace(",", " "), 3))
        else:
            raise HeaderError(f"the header is damaged: {name!r} {text[:60]}, expected vectors such as (1,0,0)")
    return vectors
