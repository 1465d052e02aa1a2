"""Masks as DICOM SEG and back: what a segment is called, and the grid it comes back on."""

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
from sdseg_monai.io.segments import UNKNOWN_COLOUR, Segment
from sdseg_monai.io.volumes import read_volume
from sdseg_monai.label.named import entries_by_value, entry_name

logger = logging.getLogger(__name__)

Segments = Mapping[int, Segment]  # by the mask's value


def write_seg(mask: Path, series: Series, label_info: object, models: Iterable[Segments]) -> Path:
    """Write ``mask``, a volume on the grid of ``series``, as DICOM SEG of the segments that it holds.

    Args:
        mask: volume file of whole numbers.
        series: that was segmented; the SEG refers to its slices and takes over patient and study.
        label_info: what the viewer says of the segments, see :func:`describe_segments`.
        models: segments of each served model.

    Returns:
        The file, which is the caller's to remove.

    Raises:
        InputError: the mask is empty, ``label_info`` is no list of objects, or the slices' headers lack what a SEG
            needs.
    """
    labels = read_volume(mask).array.astype(np.int64)
    values = [int(value) for value in np.unique(labels) if value != 0]
    if not values:
        raise InputError("the label is empty: it holds no voxel to make a DICOM SEG of")
    entries = describe_segments(values, label_info, models)
    try:
        terms = {value: _terms(entry["segmentAttribute"]) for value, entry in zip(values, entries, strict=True)}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"label_info: an entry cannot be used ({error!r})") from error
    handle, name = tempfile.mkstemp(suffix=DICOM_SUFFIX)
    os.close(handle)
    path = Path(name)
    try:
        write_terms(path, labels, series, terms)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path


def _terms(attribute: Mapping[str, Any]) -> SegmentTerms:
    """Return what a SEG says of a segment, out of dcmqi's terms."""
    red, green, blue = (int(level) for level in attribute["recommendedDisplayRGBValue"])
    if not all(0 <= level <= 255 for level in (red, green, blue)):
        raise ValueError(f"a colour of {red}, {green}, {blue}, expected 0 to 255")
    region = attribute.get("AnatomicRegionSequence")
    return SegmentTerms(
        label=plain_text(str(attribute["SegmentLabel"])),
        colour=(red, green, blue),
        property_type=_triple(attribute["SegmentedPropertyTypeCodeSequence"]),
        property_category=_triple(attribute["SegmentedPropertyCategoryCodeSequence"]),
        description=plain_text(str(attribute["SegmentDescription"])),
        algorithm_type=str(attribute["SegmentAlgorithmType"]),
        algorithm_name=plain_text(str(attribute["SegmentAlgorithmName"])),
        anatomic_region=None if region is None else _triple(region),
    )


def _triple(code: Mapping[str, str]) -> Code:
    return str(code["CodeValue"]), str(code["CodingSchemeDesignator"]), plain_text(str(code["CodeMeaning"]))


def describe_segments(values: Sequence[int], label_info: object, models: Iterable[Segments]) -> list[dict[str, Any]]:
    """Return ``label_info`` as MONAI Label reads it: an entry for each of ``values``, in their order, none left out.

    Args:
        values: that the mask holds, rising, without 0.
        label_info: entries of the viewer with ``name``, ``description``, ``color`` and ``segmentAttribute`` (dcmqi's
            terms), each optional, see :func:`entries_by_value`.
        models: segments of each served model, which say what the entries do not.

    Raises:
        InputError: ``label_info`` is no list of objects, or a colour or attribute in it none.
    """
    by_value = entries_by_value(values, label_info)
    models = list(models)
    try:
        return [_describe(value, by_value.get(value, {}), models) for value in values]
    except (TypeError, ValueError) as error:
        raise InputError(f"label_info: an entry cannot be used ({error})") from error


def _describe(value: int, entry: Mapping[str, Any], models: Sequence[Segments]) -> dict[str, Any]:
    segment = _known_segment(value, entry_name(entry), models)
    attribute = {
        "SegmentLabel": plain_text(segment.name) or f"Label {value}",
        "SegmentDescription": plain_text(str(entry.get("description") or segment.name)) or f"Label {value}",
        "SegmentAlgorithmType": "SEMIAUTOMATIC",  # a person has seen it
        "SegmentAlgorithmName": "SDSeg",
        "SegmentedPropertyCategoryCodeSequence": _code(ANATOMY),
        "SegmentedPropertyTypeCodeSequence": _code(segment.code or UNKNOWN_STRUCTURE),
        "recommendedDisplayRGBValue": [int(level) for level in list(entry.get("color") or segment.colour)[:3]],
        **entry.get("segmentAttribute", {}),
        "labelID": value,
    }
    return {"model_name": "Segmentation", **entry, "name": segment.name, "segmentAttribute": attribute}


def _code(code: tuple[str, str, str]) -> dict[str, str]:
    return dict(zip(("CodeValue", "CodingSchemeDesignator", "CodeMeaning"), code, strict=True))


def _known_segment(value: int, name: str, models: Sequence[Segments]) -> Segment:
    """Return what is known of a segment by its name, or without one by its value if all models agree on that."""
    if name:
        same = [s for segments in models for s in segments.values() if s.name.casefold() == name.casefold()]
        return same[0] if same else Segment(name, UNKNOWN_COLOUR, None)
    same = [segments[value] for segments in models if value in segments]
    return same[0] if len(set(same)) == 1 else Segment(f"Label {value}", UNKNOWN_COLOUR, None)


def read_seg(seg: Dataset, image: Path, models: Iterable[Segments]) -> tuple[sitk.Image, dict[int, str]]:
    """Return the segments of a DICOM SEG as a mask on the grid of the volume file ``image``, by nearest neighbour.

    Values are the served models' where they know all names, else the segments' numbers.

    Returns:
        The mask, and the names of the values that it holds.

    Raises:
        InputError: it is of a kind that cannot be read (overlapping or fractional segments among them), or no segment
            lies within the image.
    """
    reference = sitk.ReadImage(str(image))
    name = f"DICOM SEG {seg.get('SOPInstanceUID')}"
    try:
        measures = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        measures.setdefault("SpacingBetweenSlices", reference.GetSpacing()[2])  # the thickness may be another
        result = pydicom_seg.MultiClassReader().read(seg)
        resampled = sitk.Resample(result.image, reference, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
        names = {number: plain_text(str(info.SegmentLabel)) for number, info in result.segment_infos.items()}
    except Exception as error:  # each attribute that is missing or odd has an exception of its own
        raise InputError(f"{name}: cannot be read as one mask ({error})") from error
    numbers = sitk.GetArrayFromImage(resampled)
    if not numbers.any():
        raise InputError(f"{name}: no segment lies within the image")
    values = np.arange(max(names) + 1, dtype=np.uint16)
    known: dict[str, tuple[int, str]] = {}
    for segments in models:
        for value, segment in segments.items():
            known.setdefault(plain_text(segment.name).casefold(), (value, segment.name))
    if all(label.casefold() in known for label in names.values()):
        for number, label in names.items():
            values[number], names[number] = known[label.casefold()]
    else:
        logger.info("%s: segments %s are not all known by name, values are their numbers", name, names)
    renumbered = sitk.GetImageFromArray(values[numbers])
    renumbered.CopyInformation(reference)
    return renumbered, {int(values[number]): names[number] for number in np.unique(numbers).tolist() if number}
