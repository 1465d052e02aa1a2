"""Voxels have the modality's values, never a display's; what changes their meaning and is not applied is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    RLELossless,
)

from sdseg_monai.errors import InputError
from sdseg_monai.io.dicom import choose_series, read_series
from tests.io.dicom.series import edit, make_enhanced, make_series
from tests.makers.dicom import slice_grid

SHAPE = (14, 10, 4)  # GDCM cannot read RLE of much smaller slices
STRAIGHT = slice_grid(np.diag([1.0, 1, 1]))
SYNTAXES = [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian, RLELossless, JPEGLSLossless]
INVERTED, NORMAL = "MONOCHROME1", "MONOCHROME2"


@pytest.fixture
def files(tmp_path) -> list[Path]:
    return make_series(tmp_path / "in", STRAIGHT, SHAPE)


def read(files: list[Path]) -> np.ndarray:
    return read_series(choose_series(files[0].parent)).array


def store(files: list[Path], allocated: int, stored: int, signed: bool, overlays: bool = False, **elements: object):
    """Store random pixels of so many bits in slices, the largest and the smallest among them; return them [X, Y, Z]."""
    rng = np.random.default_rng(stored)
    low, high = (-(1 << stored - 1), (1 << stored - 1) - 1) if signed else (0, (1 << stored) - 1)
    voxels = rng.integers(low, high, SHAPE, endpoint=True)
    voxels[0, 0], voxels[-1, -1] = low, high
    raw = voxels & ((1 << stored) - 1 if overlays else (1 << allocated) - 1)
    if overlays:
        raw |= rng.integers(0, 1 << (allocated - stored), SHAPE) << stored
    for index, file in enumerate(files):
        pixels = raw[:, :, index].T.astype(f"<u{allocated // 8}").tobytes()
        bits = {"BitsAllocated": allocated, "BitsStored": stored, "HighBit": stored - 1}
        edit(file, PixelRepresentation=int(signed), PixelData=pixels, **bits, **elements)
        dataset = pydicom.dcmread(file)
        dataset["PixelData"].VR = "OB" if allocated == 8 else "OW"
        dataset.save_as(file)
    return voxels


def recode(file: Path, syntax: UID) -> None:
    dataset = pydicom.dcmread(file)
    if syntax in (RLELossless, JPEGLSLossless):
        dataset.compress(syntax, generate_instance_uid=False)
        dataset.save_as(file)
        return
    if syntax == ExplicitVRBigEndian:
        dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()
    dataset.file_meta.TransferSyntaxUID = syntax
    copy = Dataset()
    copy.update(dataset)
    copy.file_meta = dataset.file_meta
    is_implicit, is_little = syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
    pydicom.dcmwrite(file, copy, implicit_vr=is_implicit, little_endian=is_little, enforce_file_format=True)


@pytest.mark.parametrize("photometric", [[INVERTED], [INVERTED, NORMAL], [NORMAL]], ids=["inverted", "mixed", "normal"])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(("allocated", "stored"), [(8, 8), (16, 16), (16, 12), (16, 10), (32, 32)])
def test_values_are_those_of_the_modality(files, photometric, signed, allocated, stored):
    """https://github.com/SimpleITK/SimpleITK/issues/1795."""
    voxels = store(files, allocated, stored, signed).astype(float)
    for index, file in enumerate(files):
        slope, intercept = ("1", "0") if index == 0 else (f"{index * 0.37:.2f}", "-1024.5")
        voxels[:, :, index] = voxels[:, :, index] * float(slope) + float(intercept)
        edit(file, RescaleSlope=slope, RescaleIntercept=intercept)
        edit(file, PhotometricInterpretation=photometric[index % len(photometric)])
    np.testing.assert_array_equal(read(files), voxels.astype(np.float32))


@pytest.mark.parametrize("syntax", SYNTAXES, ids=[uid.keyword for uid in SYNTAXES])
def test_values_in_each_transfer_syntax(files, syntax):
    voxels = store(files, 16, 12, signed=False, PhotometricInterpretation=INVERTED)
    for file in files:
        recode(file, syntax)
    np.testing.assert_array_equal(read(files), voxels)


@pytest.mark.parametrize("photometric", [INVERTED, NORMAL])
@pytest.mark.parametrize("signed", [False, True])
def test_an_overlay_in_the_high_bits_is_no_value(files, photometric, signed):
    voxels = store(files, 16, 12, signed, overlays=True, PhotometricInterpretation=photometric)
    np.testing.assert_array_equal(read(files), voxels)


@pytest.mark.parametrize("photometric", [INVERTED, NORMAL])
def test_frames_have_the_same_values(files, tmp_path, photometric):
    voxels = store(files, 16, 12, signed=True)
    make_enhanced(files, tmp_path / "enhanced/e.dcm", [0, 1, 2, 3])
    frames = pydicom.dcmread(tmp_path / "enhanced/e.dcm").pixel_array
    overlays = np.random.default_rng(0).integers(0, 16, frames.shape) << 12
    pixels = ((frames & 0xFFF) | overlays).astype("<u2").tobytes()
    edit(tmp_path / "enhanced/e.dcm", PhotometricInterpretation=photometric, PixelData=pixels)
    array = read_series(choose_series(tmp_path / "enhanced")).array
    np.testing.assert_array_equal(array[:, :, ::-1], voxels)  # frames are read against their normal


@pytest.mark.parametrize("photometric", [INVERTED, NORMAL])
def test_a_modality_lut_is_applied(files, photometric):
    """It stands in place of RescaleSlope and RescaleIntercept (DICOM PS3.3, C.11.1)."""
    voxels = store(files, 16, 8, signed=False, PhotometricInterpretation=photometric)
    table = np.random.default_rng(1).integers(0, 65536, 200)
    lut = Dataset()
    lut.LUTDescriptor, lut.ModalityLUTType = [len(table), 20, 16], "US"
    lut.add_new(0x00283006, "OW", table.astype("<u2").tobytes())
    for file in files[1:]:
        edit(file, ModalityLUTSequence=[lut], RescaleSlope="3", RescaleIntercept="7")
    expected = table[(voxels - 20).clip(0, len(table) - 1)]  # values outside of the table have that of its end
    expected[:, :, 0] = voxels[:, :, 0]
    np.testing.assert_array_equal(read(files), expected)


def test_what_only_a_display_needs_does_not_count(files):
    voxels = store(files, 16, 12, signed=False)
    mapping, window = Dataset(), Dataset()
    mapping.RealWorldValueFirstValueMapped, mapping.RealWorldValueLastValueMapped = 0, 4095
    mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept = 1e-6, 5.0
    window.LUTDescriptor = [2, 0, 16]
    window.add_new(0x00283006, "OW", bytes(4))
    for file in files:
        edit(file, RealWorldValueMappingSequence=[mapping], VOILUTSequence=[window], PresentationLUTShape="INVERSE")
        edit(file, WindowCenter="3", WindowWidth="2", SpacingBetweenSlices="0")
    np.testing.assert_array_equal(read(files), voxels)


@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]}, "MOSAIC"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "M", *["FILTERED"] * 9, "MOSAIC"]}, "MOSAIC"),
        ({"DoseGridScaling": "0.001"}, "dose"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "colours .PALETTE COLOR"),
        ({"PixelPresentation": "MIXED"}, "palette"),
        ({"BitsStored": 12, "HighBit": 15}, "highest of 12 bits is bit 15"),
        ({"BitsStored": 24, "BitsAllocated": 32, "HighBit": 23, "PixelData": bytes(560)}, "24 bits in 32"),
        ({"BitsStored": 64, "BitsAllocated": 64, "HighBit": 63, "PixelData": bytes(1120)}, "64 bits in 64"),
    ],
)
def test_what_is_not_applied_is_refused(files, tmp_path, elements, reason):
    edit(files[1], **elements)
    with pytest.raises(InputError, match=reason) as caught:
        read(files)
    assert files[1].name in str(caught.value)


def test_floating_point_pixels_are_refused(files):
    dataset = pydicom.dcmread(files[2])
    del dataset.PixelData
    dataset.FloatPixelData = np.zeros(140, "<f4").tobytes()
    dataset.save_as(files[2])
    with pytest.raises(InputError, match=r"0003\.dcm: its pixels are floating-point"):
        read(files)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, *SYNTAXES])
@pytest.mark.parametrize("cut", [2, 8, 20])
def test_pixel_data_that_are_cut_off_are_refused(files, syntax, cut):
    recode(files[-1], syntax)
    files[-1].write_bytes(files[-1].read_bytes()[:-cut])
    try:
        array = read(files)
    except InputError as error:
        assert files[-1].name in str(error)
    else:  # a deflated file, which is cut as a whole
        assert syntax == DeflatedExplicitVRLittleEndian and array.shape[2] == SHAPE[2] - 1
        (warning,) = choose_series(files[0].parent).warnings
        assert files[-1].name in warning.text
