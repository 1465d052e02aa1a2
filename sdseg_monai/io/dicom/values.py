"""What the pixels of a slice mean: refusal of what is not applied here, and a form that ITK reads as DICOM means it.

A voxel has the value of the modality (HU in CT): the stored value after the Modality LUT or RescaleSlope and
RescaleIntercept. What only a display needs does not count: MONOCHROME1, windows, VOI LUT and overlays. The real world
value mapping, a second scale in other units, does not count either.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from sdseg_monai.errors import InputError
from sdseg_monai.io.dicom.extra import require
from sdseg_monai.io.dicom.instances import decimal_of, number_of, read_dataset, text_of
from sdseg_monai.io.dicom.terms import plain_text

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

# fmt: off
KEYWORDS = [
    "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "ImageType", "PixelPresentation", "RedPaletteColorLookupTableDescriptor", "DoseGridScaling", "ModalityLUTSequence",
    "RescaleSlope", "RescaleIntercept", "SpacingBetweenSlices",
]
# fmt: on
GREY = ("", "MONOCHROME1", "MONOCHROME2")  # ITK takes a missing element for MONOCHROME2
PIXEL_DATA, FLOATS = (0x7FE0, 0x0010), ((0x7FE0, 0x0008), (0x7FE0, 0x0009))
ITEM, DELIMITER = (0xFFFE, 0xE000), (0xFFFE, 0xE0DD)
UNDEFINED_LENGTH = 0xFFFFFFFF


def check_values(header: Dataset, name: str) -> None:
    """Check that nothing changes the meaning of the pixels of a slice, or of a multi-frame file, that is not applied.

    Args:
        header: with the elements :data:`KEYWORDS`.
        name: of the slice or file in messages.

    Raises:
        InputError: it has several values per voxel or colours, is a mosaic of slices or a map of dose, its pixels have
            an unusual number of bits, or its RescaleSlope is 0.
    """
    samples = number_of(header, "SamplesPerPixel")
    if samples not in (None, 1):
        raise InputError(f"{name}: {samples} values per voxel, expected one")
    photometric = plain_text(text_of(header, "PhotometricInterpretation"))
    if photometric not in GREY:
        raise InputError(f"{name}: its pixels are colours ({photometric}), expected intensities")
    presentation = plain_text(text_of(header, "PixelPresentation"))
    has_palette = "RedPaletteColorLookupTableDescriptor" in header
    if presentation in ("COLOR", "MIXED", "TRUE_COLOR") or (has_palette and presentation != "MONOCHROME"):
        raise InputError(f"{name}: some of its pixels are colours (a supplemental palette), expected intensities")
    if "MOSAIC" in _image_types(header):
        raise InputError(f"{name}: a Siemens MOSAIC, many slices in one picture: convert it to one file for each slice")
    if "DoseGridScaling" in header:
        raise InputError(f"{name}: a map of radiation dose (DoseGridScaling), expected an image")
    allocated, stored, high = (number_of(header, keyword) for keyword in ("BitsAllocated", "BitsStored", "HighBit"))
    is_odd = allocated not in (8, 16, 32) or (stored or allocated) > allocated
    if is_odd or (allocated == 32 and stored not in (None, 32)):  # of 32 bits ITK needs all
        raise InputError(f"{name}: pixels of {stored} bits in {allocated}, expected up to 16 bits, or 32")
    if stored is not None and high is not None and high != stored - 1:
        raise InputError(f"{name}: pixels whose highest of {stored} bits is bit {high}, expected bit {stored - 1}")
    for keyword in ("RescaleSlope", "RescaleIntercept"):
        if text_of(header, keyword) and decimal_of(header, keyword) is None:  # for which ITK would take another number
            raise InputError(f"{name}: its {keyword} is not a number, expected one")
    if decimal_of(header, "RescaleSlope") == 0:
        raise InputError(f"{name}: its RescaleSlope is 0, expected intensities")


def image_type(header: Dataset) -> str:
    """Return ImageType, such as ``ORIGINAL/PRIMARY/AXIAL``, in ASCII."""
    return plain_text("/".join(_image_types(header)))


def _image_types(header: Dataset) -> list[str]:
    value = header.get("ImageType") or []
    return [value] if isinstance(value, str) else list(map(str, value))


def check_is_whole(file: BinaryIO, header: Dataset, name: str) -> None:
    """Check that the pixel data of a file are all there, since some decoders fill in what is missing.

    Args:
        file: at its pixel data, where reading its header ended; where the whole file is compressed (deflated), pydicom
            has already read it to the end.
        header: of the file, with Rows and Columns.
        name: of the file in messages.

    Raises:
        InputError: there are none, they are floating-point numbers, they are cut off, or there is a row or a column
            more than the header says.
    """
    syntax = header.file_meta.TransferSyntaxUID
    if syntax.is_deflated:
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
        is_whole = _has_all_items(file, start, size)
    else:
        bytes_per_pixel = (number_of(header, "BitsAllocated") or 16) // 8 * (number_of(header, "SamplesPerPixel") or 1)
        rows, columns = number_of(header, "Rows") or 0, number_of(header, "Columns") or 0
        expected = rows * columns * bytes_per_pixel
        is_whole = length >= expected and size - start >= length
        if not syntax.is_compressed and length - expected >= min(rows, columns) * bytes_per_pixel > 0:
            raise InputError(
                f"{name}: pixel data of {length} bytes, expected {expected} for its {rows} rows and {columns} columns"
            )
    if not is_whole:
        raise InputError(f"{name}: its pixel data are cut off: truncated, damaged, or not yet copied")


def _has_all_items(file: BinaryIO, start: int, size: int) -> bool:
    """Tell whether compressed pixel data, items from byte ``start`` of a file of ``size`` bytes, end as they must."""
    while start + 8 <= size:
        file.seek(start)
        group, element, length = struct.unpack("<HHI", file.read(8))
        if (group, element) != ITEM:
            return (group, element) == DELIMITER
        start += 8 + length
    return False


def is_misread(header: Dataset) -> bool:
    """Tell whether ITK reads a slice otherwise than DICOM means it, or not at all.

    ITK inverts MONOCHROME1, as a display would (https://github.com/SimpleITK/SimpleITK/issues/1795), passes over a
    Modality LUT, and refuses slices that are 0 mm apart.
    """
    is_for_display = text_of(header, "PhotometricInterpretation") == "MONOCHROME1"
    return is_for_display or "ModalityLUTSequence" in header or decimal_of(header, "SpacingBetweenSlices") == 0


def write_for_itk(path: Path, target: Path) -> None:
    """Write a slice so that ITK reads its values rightly, and before a Modality LUT its stored values.

    The copy holds the pixel data as they are, the elements that describe them and the slice's place, but nothing of the
    patient.

    Args:
        path: of the slice.
        target: file to write.

    Raises:
        Exception: whatever pydicom raises for a damaged file.
    """
    dataset = read_dataset(path)
    left_out = ["VOILUTSequence", "ModalityLUTSequence"]
    if "ModalityLUTSequence" in dataset:  # it stands in place of the other two
        left_out += ["RescaleSlope", "RescaleIntercept"]
    places = ("SOPClassUID", "SOPInstanceUID", "ImagePositionPatient", "ImageOrientationPatient", "PixelData")
    tag_for_keyword = require("pydicom.datadict").tag_for_keyword
    kept = {tag_for_keyword(keyword) for keyword in places}
    unwanted = {tag_for_keyword(keyword) for keyword in left_out}
    for tag in list(dataset.keys()):
        if (tag.group != 0x0028 and tag not in kept) or tag in unwanted:
            del dataset[tag]
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.preamble = bytes(128)
    dataset.save_as(target)


def modality_values(pixels: np.ndarray, header: Dataset) -> np.ndarray:
    """Return stored values after the Modality LUT of a header, float32, in the same shape."""
    apply = require("pydicom.pixel_data_handlers").apply_modality_lut
    return np.asarray(apply(pixels.astype(np.int32), header), dtype=np.float32)


def stored_values(pixels: np.ndarray, header: Dataset) -> np.ndarray:
    """Return whole numbers without the bits above BitsStored, which may hold overlays; signed ones keep their sign."""
    unused_bits = 8 * pixels.itemsize - (number_of(header, "BitsStored") or 8 * pixels.itemsize)
    return (pixels << unused_bits) >> unused_bits if unused_bits > 0 else pixels
