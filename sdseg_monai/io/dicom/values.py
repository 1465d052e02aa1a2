"""What the pixels of a slice mean: refusal of what is not applied here, and a form that ITK reads as DICOM means it.

A voxel has the value of the modality (HU in CT): the stored value after the Modality LUT or RescaleSlope and
RescaleIntercept. What only a display needs does not count: MONOCHROME1, windows, VOI LUT and overlays. The real world
value mapping, a second scale in other units, does not count either.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

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
    check_meaning(header, name)
    allocated, stored, high = (number_of(header, keyword) for keyword in ("BitsAllocated", "BitsStored", "HighBit"))
    is_odd = allocated not in (8, 16, 32) or (stored or allocated) > allocated
    if is_odd or (allocated == 32 and stored not in (None, 32)):  # of 32 bits ITK needs all
        raise InputError(f"{name}: pixels of {stored} bits in {allocated}, expected up to 16 bits, or 32")
    if stored is not None and high is not None and high != stored - 1:
        raise InputError(f"{name}: pixels whose highest of {stored} bits is bit {high}, expected bit {stored - 1}")


def check_meaning(header: Dataset, name: str) -> None:
    """Check what says of pixels, whatever their bits, that they are no intensities; see :func:`check_values`.

    Args:
        header: of a slice or file, or an item of the functional groups of a multi-frame file.
        name: of it in messages.

    Raises:
        InputError: its pixels are colours, a mosaic of slices or a map of dose, or it has a RescaleSlope that is 0, or
            that is no number.
    """
    presentation = plain_text(text_of(header, "PixelPresentation"))
    has_palette = "RedPaletteColorLookupTableDescriptor" in header
    if presentation in ("COLOR", "MIXED", "TRUE_COLOR") or (has_palette and presentation != "MONOCHROME"):
        raise InputError(f"{name}: some of its pixels are colours (a supplemental palette), expected intensities")
    if "MOSAIC" in _image_types(header):
        raise InputError(f"{name}: a Siemens MOSAIC, many slices in one picture: convert it to one file for each slice")
    if "DoseGridScaling" in header:
        raise InputError(f"{name}: a map of radiation dose (DoseGridScaling), expected an image")
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
