"""Writing masks of DICOM series as DICOM SEG, and reading them back."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sdseg_monai.about import __version__
from sdseg_monai.errors import InputError
from sdseg_monai.io.dicom.extra import require
from sdseg_monai.io.dicom.frames import frame_grid, open_multi_frame
from sdseg_monai.io.dicom.grid import slice_order
from sdseg_monai.io.dicom.instances import read_dataset, slice_thickness
from sdseg_monai.io.dicom.series import Series, is_multi_frame
from sdseg_monai.io.dicom.terms import ANATOMY, LONGEST_NAME, LONGEST_TEXT, UNKNOWN_STRUCTURE, plain_text
from sdseg_monai.io.files import write_atomically
from sdseg_monai.io.formats.geometry import LPS_TO_RAS
from sdseg_monai.io.segments import UNSURE, UNSURE_SEGMENT, Segment, class_colour
from sdseg_monai.io.volumes import Volume
from sdseg_monai.io.warnings import NOT_TRUSTED

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

DICOM_SUFFIX = ".dcm"
UNKNOWN_LABEL = "Label "
MANUFACTURER, PROGRAM = "SDSeg", "sdseg-monai"
SERIES_NUMBER = 1000  # larger than those that scanners give
DESCRIPTION = "SDSeg segmentation, research use only"
# fmt: off
PATIENT = [
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex",
    "StudyID", "StudyDate", "StudyTime", "AccessionNumber",
]
# fmt: on


Code = tuple[str, str, str]  # value, scheme, meaning


@dataclass(frozen=True)
class SegmentTerms:
    """The description of one segment in a DICOM SEG.

    Attributes:
        label: SegmentLabel, in ASCII, at most 64 characters.
        colour: red, green and blue, 0 to 255, for RecommendedDisplayCIELabValue.
        property_type: SegmentedPropertyType.
        property_category: SegmentedPropertyCategory.
        description: SegmentDescription, left out where empty.
        algorithm_type: AUTOMATIC, SEMIAUTOMATIC (a person has checked it) or MANUAL.
        algorithm_name: SegmentAlgorithmName.
        anatomic_region: AnatomicRegion, None to leave it out.
    """

    label: str
    colour: tuple[int, int, int]
    property_type: Code
    property_category: Code = ANATOMY
    description: str = ""
    algorithm_type: str = "AUTOMATIC"
    algorithm_name: str = PROGRAM
    anatomic_region: Code | None = None


def write_seg(
    path: Path, labels: np.ndarray, series: Series, segments: Mapping[int, Segment], not_trusted: str = ""
) -> None:
    """Write a model's mask of a series as DICOM SEG, see :func:`write_terms`.

    All ``segments`` are described, also those without a voxel. Other values in the mask become segments that are called
    ``Label 7`` and the like, 255 becomes ``unsure``.

    Args:
        path: file to write; it appears under its name only when it is complete.
        labels: on the grid of :func:`~sdseg_monai.io.dicom.series.read_series`, [X, Y, Z], uint8, 0 for the background.
        series: the segmented series; only its headers are read.
        segments: what the values stand for.
        not_trusted: see :func:`write_terms`.

    Raises:
        InputError: ``labels`` are not uint8 or not of the series' shape, there is neither a segment nor a voxel, files
            of the series are missing, damaged or without UIDs, ``path`` cannot be written, or highdicom is not
            installed.
    """
    if labels.dtype != np.uint8:
        raise InputError(f"labels of type {labels.dtype}, expected uint8")
    segments_and_unsure = {UNSURE: UNSURE_SEGMENT, **segments}
    terms = {}
    for value in sorted({*segments, *np.unique(labels).tolist()} - {0}):
        terms[value] = _terms(value, segments_and_unsure.get(value) or Segment("", class_colour(value), None))
    write_terms(path, labels, series, terms, not_trusted)


def write_terms(
    path: Path, labels: np.ndarray, series: Series, terms: Mapping[int, SegmentTerms], not_trusted: str = ""
) -> None:
    """Write a mask of a series as DICOM SEG of the type BINARY, uncompressed, which today's viewers can read.

    The SEG refers to the slices, lies on their grid and takes over patient and study. Segments are numbered from 1 in
    the order of their values. Frames without a voxel are left out; for an empty mask one slice is written, with a frame
    for each segment.

    Args:
        path: file to write; it appears under its name only when it is complete.
        labels: on the grid of :func:`~sdseg_monai.io.dicom.series.read_series`, [X, Y, Z], whole numbers, 0 for the
            background.
        series: the segmented series; only its headers are read.
        terms: description of each value as a segment.
        not_trusted: ``NOT TRUSTED: `` and why, for a mask of an image that contradicts the model's training. It stands
            in SeriesDescription, where it may be cut, in ContentDescription without the reason, and at the beginning of
            each SegmentDescription.

    Raises:
        InputError: ``labels`` are not of the series' shape, ``terms`` are empty, files of the series are missing,
            damaged or without UIDs, ``path`` cannot be written, or highdicom is not installed.
        KeyError: a value has no terms.
    """
    highdicom, config = require("highdicom"), require("pydicom.config")
    values = sorted(terms)
    if not values:
        raise InputError("the mask is empty and no segment is known, expected one to describe in a DICOM SEG")
    numbers = _segment_numbers(labels, values)
    descriptions = [_describe(number, terms[value], not_trusted) for number, value in enumerate(values, 1)]
    with config.disable_value_validation(), warnings.catch_warnings():  # the slices' elements are copied unchanged
        warnings.simplefilter("ignore")  # warnings would quote the patient's name
        place_voxels = _place_frames if is_multi_frame(series) else _place_slices
        frames = place_voxels(np.ascontiguousarray(numbers.T), series)
        source = frames["source_images"][0]
        patient_elements = [source[keyword] for keyword in PATIENT if keyword in source]
        for keyword in PATIENT:  # highdicom would refuse invalid values and quote them in its message
            source.pop(keyword, None)
            setattr(source, keyword, None)
        try:
            seg = highdicom.seg.Segmentation(
                **frames,
                segmentation_type="BINARY",
                segment_descriptions=descriptions,
                series_instance_uid=highdicom.UID(),
                series_number=SERIES_NUMBER,
                series_description=textwrap.shorten(
                    plain_text(not_trusted, LONGEST_TEXT), LONGEST_NAME, placeholder="..."
                )
                or DESCRIPTION,
                sop_instance_uid=highdicom.UID(),
                instance_number=1,
                manufacturer=MANUFACTURER,
                manufacturer_model_name=PROGRAM,
                software_versions=__version__,
                device_serial_number=__version__,  # software has no serial number but its version
                content_label="SEGMENTATION",
                content_description=f"{NOT_TRUSTED}; {DESCRIPTION}" if not_trusted else DESCRIPTION,
                omit_empty_frames=bool(numbers.any()),
            )
            seg.SpecificCharacterSet = source.SpecificCharacterSet
            for element in patient_elements:
                seg.add(element)
            seg.ContentCreatorName = None  # DICOM requires the element but allows it to be empty
            write_atomically(path, lambda temporary: seg.save_as(temporary))  # with highdicom's file meta information
        except InputError:
            raise
        except Exception as error:  # invalid headers fail in many ways, with the patient's data in the message
            raise InputError(
                f"series {series.uid}: no DICOM SEG can be made of its headers ({type(error).__name__})"
            ) from error


def read_seg(path: Path, grid: Volume, segments: Mapping[int, Segment]) -> np.ndarray:
    """Read a DICOM SEG of :func:`write_seg` back, onto the grid of the series for which it was written.

    Args:
        path: of the SEG.
        grid: the series' volume, of :func:`~sdseg_monai.io.dicom.series.read_series`.
        segments: those with which it was written.

    Returns:
        Labels [X, Y, Z], uint8.

    Raises:
        InputError: the SEG is damaged, lies on another grid or has a segment of another name.
    """
    highdicom, config = require("highdicom"), require("pydicom.config")
    values = {_label(segment, value): value for value, segment in {UNSURE: UNSURE_SEGMENT, **segments}.items()}
    try:
        with config.disable_value_validation():
            seg = highdicom.seg.segread(path)
            volume = seg.get_volume(combine_segments=True)  # slices, rows, columns
        labels = np.zeros(seg.number_of_segments + 1, np.uint8)
        for number in seg.segment_numbers:
            name = seg.get_segment_description(number).segment_label
            labels[number] = values[name] if name in values else int(name.removeprefix(UNKNOWN_LABEL))
        to_grid = np.linalg.inv(grid.affine) @ LPS_TO_RAS @ volume.affine
        voxels = np.argwhere(volume.array)
        indices = np.rint(voxels @ to_grid[:3, :3].T + to_grid[:3, 3]).astype(int)
        if (indices < 0).any():
            raise IndexError("voxels outside the grid")
        mask = np.zeros(grid.array.shape, np.uint8)
        mask[tuple(indices.T)] = labels[volume.array[tuple(voxels.T)]]
    except Exception as error:  # pydicom and highdicom raise whatever a damaged element leads to
        raise InputError(f"{path}: not a DICOM SEG on the grid of {grid.name} ({type(error).__name__})") from error
    return mask


def is_whole_seg(path: Path) -> bool:
    """Tell whether ``path`` is a BINARY DICOM SEG with all of its frames."""
    try:
        seg = require("pydicom").dcmread(path)
        return len(seg.PixelData) >= seg.Rows * seg.Columns * seg.NumberOfFrames / 8
    except Exception:  # pydicom raises whatever a damaged element leads to
        return False


def _label(segment: Segment, value: int) -> str:
    return plain_text(segment.name) or f"{UNKNOWN_LABEL}{value}"


def _terms(value: int, segment: Segment) -> SegmentTerms:
    label = _label(segment, value)
    code, scheme, meaning = segment.code or UNKNOWN_STRUCTURE
    return SegmentTerms(label, segment.colour, property_type=(code, scheme, plain_text(meaning) or label))


def _segment_numbers(labels: np.ndarray, values: Sequence[int]) -> np.ndarray:
    """Return the segments' numbers in place of their ``values``, which are sorted; uint8 or uint16."""
    number_of = {0: 0} | {value: number for number, value in enumerate(values, 1)}
    numbers = np.zeros(labels.shape, np.uint8 if len(values) < 256 else np.uint16)
    for value in np.unique(labels).tolist():  # np.unique's own positions would take 8 bytes a voxel
        numbers[labels == value] = number_of[value]
    return numbers


def _describe(number: int, terms: SegmentTerms, not_trusted: str) -> Any:
    highdicom, codes = require("highdicom"), require("pydicom.sr.codedict").codes
    concept = highdicom.sr.CodedConcept
    description = highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=terms.label,
        segmented_property_category=concept(*terms.property_category),
        segmented_property_type=concept(*terms.property_type),
        algorithm_type=terms.algorithm_type,
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            terms.algorithm_name, family=codes.cid7162.ArtificialIntelligence, version=__version__
        ),
        anatomic_regions=terms.anatomic_region and [concept(*terms.anatomic_region)],
    )
    text = "; ".join(filter(None, (not_trusted, terms.description)))
    if text:
        description.SegmentDescription = plain_text(text, LONGEST_TEXT)
    description.RecommendedDisplayCIELabValue = _lab(terms.colour)
    return description


def _lab(colour: Sequence[int]) -> list[int]:
    """Return a colour as a RecommendedDisplayCIELabValue: L* 0..100, a* and b* -128..127, each scaled to 0..65535."""
    from skimage.color import rgb2lab  # imported here since reading DICOM does not need it

    lab = (rgb2lab(np.array(colour) / 255) - [0, -128, -128]) / [100, 255, 255]
    return np.rint(lab.clip(0, 1) * 65535).astype(int).tolist()


def _place_slices(voxels: np.ndarray, series: Series) -> dict[str, Any]:
    """Return ``voxels`` [Z, Y, X] and the headers of their slices, as highdicom takes them."""
    highdicom = require("highdicom")
    headers = [_read_header(path, series) for path in series.files]
    _fill_references(headers, series)
    try:
        cosines, positions = (
            np.array([header[keyword].value for header in headers], dtype=np.float64)
            for keyword in ("ImageOrientationPatient", "ImagePositionPatient")
        )
        headers = [headers[index] for index in slice_order(cosines[0], positions)]
        size = (len(headers), headers[0].Rows, headers[0].Columns)
    except Exception as error:  # attributes that are missing, are not numbers or too few
        raise InputError(
            f"series {series.uid}: its slices do not say where they lie ({type(error).__name__})"
        ) from error
    _check_shape(voxels, size, series)
    spacing = float(np.linalg.norm(np.ptp(positions, axis=0))) / max(len(positions) - 1, 1)
    for header in headers:  # spacing and thickness in the slices are often wrong
        header.ImageOrientationPatient = headers[0].ImageOrientationPatient
        if len(headers) > 1:
            header.SpacingBetweenSlices = _decimal(spacing)
        if not header.get("SliceThickness"):
            header.SliceThickness = _decimal(spacing or slice_thickness(header) or 1)
    if voxels.any():
        return {"source_images": headers, "pixel_array": voxels}
    position = highdicom.PlanePositionSequence("PATIENT", headers[0].ImagePositionPatient)
    return {"source_images": headers, "pixel_array": voxels[:1], "plane_positions": [position]}


def _place_frames(voxels: np.ndarray, series: Series) -> dict[str, Any]:
    """Return ``voxels`` [Z, Y, X] in the order of a file's frames, and its header, as highdicom takes them."""
    highdicom = require("highdicom")
    open_multi_frame(series.files, f"series {series.uid}")
    header = _read_header(series.files[0], series)
    _fill_references([header], series)
    grid = frame_grid(header, f"series {series.uid}")
    _check_shape(voxels, grid.shape[::-1], series)
    shared_groups, frame_groups = header.SharedFunctionalGroupsSequence[0], header.PerFrameFunctionalGroupsSequence
    for keyword in ("PlaneOrientationSequence", "PixelMeasuresSequence"):  # equal in all frames of a regular grid
        if keyword not in shared_groups:
            setattr(shared_groups, keyword, frame_groups[0][keyword].value)
    if voxels.any():
        return {"source_images": [header], "pixel_array": voxels[np.argsort(grid.order)]}
    point = frame_groups[grid.order[0]].PlanePositionSequence[0].ImagePositionPatient
    position = highdicom.PlanePositionSequence("PATIENT", point)
    return {"source_images": [header], "pixel_array": voxels[:1], "plane_positions": [position]}


def _decimal(number: float) -> Any:
    return require("pydicom.valuerep").DSfloat(number, auto_format=True)


def _check_shape(voxels: np.ndarray, expected: tuple[int, ...], series: Series) -> None:
    if voxels.shape != tuple(expected):
        raise InputError(
            f"labels of shape {voxels.shape[::-1]}, expected {tuple(expected)[::-1]} as in series {series.uid}"
        )


def _read_header(path: Path, series: Series) -> Dataset:
    """Return the header of a slice; UIDs that de-identification has emptied are filled from ``series``."""
    try:
        header = read_dataset(path, stop_before_pixels=True)
        header.decode()  # from the slice's own character set
        header.SpecificCharacterSet = "ISO_IR 192"  # UTF-8, also for the SEG
        for keyword in ("SOPClassUID", "SOPInstanceUID"):
            if not header.get(keyword):
                setattr(header, keyword, header.file_meta[f"MediaStorage{keyword}"].value)
    except Exception as error:  # pydicom raises whatever a damaged element leads to, with its value in the message
        raise InputError(f"{path}: not a readable DICOM file ({type(error).__name__})") from error
    if not header.SOPInstanceUID:
        raise InputError(f"{path}: has no SOPInstanceUID, to which a DICOM SEG would have to refer")
    header.StudyInstanceUID = header.get("StudyInstanceUID") or series.study_uid
    header.SeriesInstanceUID = header.get("SeriesInstanceUID") or series.uid
    return header


def _fill_references(headers: Sequence[Dataset], series: Series) -> None:
    """Give the headers that have no FrameOfReferenceUID that of the others, or where none has one, one of its own."""
    uids = [header.FrameOfReferenceUID for header in headers if header.get("FrameOfReferenceUID")]
    generate_uid = require("pydicom.uid").generate_uid
    uid = uids[0] if uids else generate_uid(entropy_srcs=["FrameOfReferenceUID", series.uid])
    for header in headers:
        header.FrameOfReferenceUID = header.get("FrameOfReferenceUID") or uid
