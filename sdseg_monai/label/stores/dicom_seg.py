"""Writing labels as DICOM SEG with the viewer's names, and reading SEGs onto the grid of a volume."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom_seg
import SimpleITK as sitk
from pydicom.dataset import Dataset

from sdseg_monai.errors import InputError
from sdseg_monai.io.dicom import DICOM_SUFFIX, Series
from sdseg_monai.io.dicom.seg import Code, SegmentTerms, write_terms
from sdseg_monai.io.dicom.terms import ANATOMY, UNKNOWN_STRUCTURE, plain_text
from sdseg_monai.io.segments import Segment, class_colour
from sdseg_monai.io.volumes import read_volume
from sdseg_monai.label.names import entries_by_value, entry_name

logger = logging.getLogger(__name__)

ALGORITHM_TYPES = ("AUTOMATIC", "SEMIAUTOMATIC", "MANUAL")  # DICOM's Segment Algorithm Type (0062,0008)

Segments = Mapping[int, Segment]  # by the mask's value


def write_seg(
    mask: Path, series: Series, label_info: object, models: Iterable[Segments], not_trusted: str = ""
) -> Path:
    """Write ``mask``, a volume on the grid of ``series``, as a DICOM SEG of the values in it.

    Args:
        mask: volume file of whole numbers.
        series: the segmented series; the SEG refers to its slices and takes over patient and study.
        label_info: the viewer's description of the segments, see :func:`describe_segments`.
        models: segments of each served model.
        not_trusted: see :func:`~sdseg_monai.io.dicom.seg.write_terms`.

    Returns:
        A temporary file, which the caller must remove.

    Raises:
        InputError: the mask is empty, ``label_info`` is not a list of objects, or the slices' headers lack elements
            that a SEG needs.
    """
    labels = read_volume(mask).array.astype(np.int64)
    values = [int(value) for value in np.unique(labels) if value != 0]
    if not values:
        raise InputError("the label is empty, expected at least one voxel above 0 for a DICOM SEG")
    entries = describe_segments(values, label_info, models)
    try:
        terms = {value: _terms(entry["segmentAttribute"]) for value, entry in zip(values, entries, strict=True)}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"label_info: an entry cannot be used ({error!r})") from error
    handle, name = tempfile.mkstemp(suffix=DICOM_SUFFIX)
    os.close(handle)
    path = Path(name)
    try:
        write_terms(path, labels, series, terms, not_trusted)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path


def _terms(attribute: Mapping[str, Any]) -> SegmentTerms:
    """Return the description of a segment from a ``segmentAttribute``, the form that viewers send."""
    red, green, blue = (int(level) for level in attribute["recommendedDisplayRGBValue"])
    if not all(0 <= level <= 255 for level in (red, green, blue)):
        raise ValueError(f"a colour of {red}, {green}, {blue}, expected 0 to 255")
    algorithm_type = str(attribute["SegmentAlgorithmType"])
    if algorithm_type not in ALGORITHM_TYPES:
        raise ValueError(f"SegmentAlgorithmType {algorithm_type!r}, expected one of {', '.join(ALGORITHM_TYPES)}")
    ignored = [name for name in attribute if name.endswith("ModifierCodeSequence") or name.endswith("ModifierSequence")]
    if ignored:
        logger.warning("label_info: %s is not written to the DICOM SEG", ", ".join(ignored))
    region = attribute.get("AnatomicRegionSequence")
    return SegmentTerms(
        label=plain_text(str(attribute["SegmentLabel"])),
        colour=(red, green, blue),
        property_type=_code(attribute["SegmentedPropertyTypeCodeSequence"]),
        property_category=_code(attribute["SegmentedPropertyCategoryCodeSequence"]),
        description=plain_text(str(attribute["SegmentDescription"])),
        algorithm_type=algorithm_type,
        algorithm_name=plain_text(str(attribute["SegmentAlgorithmName"])),
        anatomic_region=None if region is None else _code(region),
    )


def _code(code: Mapping[str, str]) -> Code:
    return str(code["CodeValue"]), str(code["CodingSchemeDesignator"]), plain_text(str(code["CodeMeaning"]))


def describe_segments(values: Sequence[int], label_info: object, models: Iterable[Segments]) -> list[dict[str, Any]]:
    """Return a complete ``label_info`` in MONAI Label's form: an entry for each of ``values``, in their order.

    Args:
        values: in the mask, sorted, without 0.
        label_info: entries of the viewer with ``name``, ``description``, ``color`` and ``segmentAttribute`` (in the
            form of MONAI Label's templates), each of them optional, see :func:`entries_by_value`.
        models: segments of each served model, for what the entries lack.

    Raises:
        InputError: ``label_info`` is not a list of objects, or a colour or attribute in it is invalid.
    """
    entries = entries_by_value(values, label_info)
    models = list(models)
    try:
        return [_describe(value, entries.get(value, {}), models) for value in values]
    except (TypeError, ValueError) as error:
        raise InputError(f"label_info: an entry cannot be used ({error})") from error


def _describe(value: int, entry: Mapping[str, Any], models: Sequence[Segments]) -> dict[str, Any]:
    segment = _find_segment(value, entry_name(entry), models)
    attribute = {
        "SegmentLabel": plain_text(segment.name) or f"Label {value}",
        "SegmentDescription": plain_text(str(entry.get("description") or segment.name)) or f"Label {value}",
        "SegmentAlgorithmType": "SEMIAUTOMATIC",  # a person has checked it
        "SegmentAlgorithmName": "SDSeg",
        "SegmentedPropertyCategoryCodeSequence": _code_sequence(ANATOMY),
        "SegmentedPropertyTypeCodeSequence": _code_sequence(segment.code or UNKNOWN_STRUCTURE),
        "recommendedDisplayRGBValue": [int(level) for level in list(entry.get("color") or segment.colour)[:3]],
        **entry.get("segmentAttribute", {}),
        "labelID": value,
    }
    return {"model_name": "Segmentation", **entry, "name": segment.name, "segmentAttribute": attribute}


def _code_sequence(code: Code) -> dict[str, str]:
    return dict(zip(("CodeValue", "CodingSchemeDesignator", "CodeMeaning"), code, strict=True))


def _find_segment(value: int, name: str, models: Sequence[Segments]) -> Segment:
    """Return the models' segment of that name, or without a name, that of the value if all models agree on it."""
    if name:
        matches = [s for segments in models for s in segments.values() if s.name.casefold() == name.casefold()]
        return matches[0] if matches else Segment(name, class_colour(value), None)
    matches = [segments[value] for segments in models if value in segments]
    return matches[0] if len(set(matches)) == 1 else Segment(f"Label {value}", class_colour(value), None)


def read_seg(seg: Dataset, image: Path, models: Iterable[Segments]) -> tuple[sitk.Image, dict[int, str]]:
    """Return the segments of a DICOM SEG as a mask on the grid of the volume file ``image``, by nearest neighbour.

    Values are those of the served models if these have segments of all names in the SEG, else the segment numbers.

    Returns:
        The mask, uint16, and the names of the values in it.

    Raises:
        InputError: the SEG is of a kind that cannot be read, such as with overlapping or fractional segments, or no
            segment lies within the image.
    """
    reference = sitk.ReadImage(str(image))
    name = f"DICOM SEG {seg.get('SOPInstanceUID')}"
    try:
        measures = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        measures.setdefault("SpacingBetweenSlices", reference.GetSpacing()[2])  # may differ from SliceThickness
        result = pydicom_seg.MultiClassReader().read(seg)
        resampled = sitk.Resample(result.image, reference, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
        names = {number: plain_text(str(info.SegmentLabel)) for number, info in result.segment_infos.items()}
    except Exception as error:  # each missing or invalid attribute has an exception of its own
        raise InputError(f"{name}: cannot be read as one mask ({error})") from error
    numbers = sitk.GetArrayFromImage(resampled)
    if not numbers.any():
        raise InputError(f"{name}: no segment lies within the image")
    values = np.arange(max(names) + 1, dtype=np.uint16)
    values_by_label: dict[str, tuple[int, str]] = {}  # values and names of the models' segments
    for segments in models:
        for value, segment in segments.items():
            values_by_label.setdefault(plain_text(segment.name).casefold(), (value, segment.name))
    if all(label.casefold() in values_by_label for label in names.values()):
        for number, label in names.items():
            values[number], names[number] = values_by_label[label.casefold()]
    else:
        logger.info("%s: no model has segments of all names %s, values are the segment numbers", name, names)
    mask = sitk.GetImageFromArray(values[numbers])
    mask.CopyInformation(reference)
    return mask, {int(values[number]): names[number] for number in np.unique(numbers).tolist() if number}
