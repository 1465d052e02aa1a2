"""Which image series lie in a folder of DICOM files, and their voxels."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import SimpleITK as sitk

from sdseg_monai.errors import ArgumentError, InputError
from sdseg_monai.io.dicom.extra import require
from sdseg_monai.io.dicom.stack import LARGEST_OFFSET, LARGEST_TILT, check_memory, read_stack
from sdseg_monai.io.dicom.terms import NOT_IMAGES, plain_text
from sdseg_monai.io.files import hash_file
from sdseg_monai.io.itk import LPS_TO_RAS, itk_affine
from sdseg_monai.io.volumes import Volume, checked_volume
from sdseg_monai.io.warnings import ImageWarning

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

logger = logging.getLogger(__name__)

MAGIC, MAGIC_START = b"DICM", 128  # of every DICOM file, after its preamble
SUFFIX = ".dcm"  # of most, but files are known by their content
UID = r"\d[\d.]{0,63}"
TOLERANCE = {"rtol": LARGEST_OFFSET, "perpendicular_tol": LARGEST_TILT**2 / 2}  # a cosine's distance from 1
# fmt: off
HEADER = [
    "SOPClassUID", "SOPInstanceUID", "PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SeriesNumber", "Modality",
    "SeriesDescription", "Rows", "Columns", "NumberOfFrames",
]
# fmt: on


@dataclass(frozen=True)
class Series:
    """An image series.

    Attributes:
        uid: SeriesInstanceUID: digits and dots, one made up from its files' where de-identification has emptied it.
        study_uid: StudyInstanceUID, likewise.
        modality: CT, MR and so on.
        description: what the scanner calls it, in ASCII.
        number: that the scanner gave it; None where it gave none.
        frames: number of slices, in all files.
        files: each instance once, sorted by path.
        warnings: what of its folder was left out, and what is odd about its files.
    """

    uid: str
    study_uid: str
    modality: str
    description: str
    number: int | None
    frames: int
    files: tuple[Path, ...]
    warnings: tuple[ImageWarning, ...] = ()

    def __str__(self) -> str:
        return f"{self.uid} ({self.modality}, {self.description!r}, {self.frames} slices)"


@dataclass(frozen=True)
class _Instance:
    """What the header of an image says; UIDs may be empty or none."""

    path: Path
    uid: str
    patient: str
    study_uid: str
    series_uid: str
    modality: str
    description: str
    number: int | None
    frames: int


def has_dicom(folder: Path) -> bool:
    """Tell whether any visible file anywhere below ``folder`` is DICOM, by its content; stops at the first."""
    return any(is_dicom(path) for path in _visible_files(folder))


def find_series(source: Path) -> list[Series]:
    """Return the image series of the DICOM files anywhere below a folder, or of one file, by study and number.

    Files are known by their content. Hidden ones, DICOMDIRs and objects that are no images (SEG, SR, RTSTRUCT, PR, KO
    and such) are left out, damaged ones with a warning. Where de-identification has emptied the UIDs, the files of one
    folder are a series. Only headers are read.

    Raises:
        InputError: there is no such file or folder, or pydicom is not installed.
    """
    if not source.exists():
        raise InputError(f"{source}: no such file or folder, expected DICOM")
    groups: dict[tuple[str, str, str | Path], list[_Instance]] = {}
    seen: dict[str, Path] = {}
    for path in sorted(_visible_files(source)) if source.is_dir() else [source]:
        instance = _read_instance(path)
        if instance is None or _is_copy(path, seen.setdefault(instance.uid, path)):
            continue
        key = (instance.patient, instance.study_uid, instance.series_uid or path.parent)
        groups.setdefault(key, []).append(instance)
    series = map(_make_series, groups.values())
    return sorted(series, key=lambda one: (one.study_uid, one.number is None, one.number or 0, one.uid))


def choose_series(source: Path, uid: str | None = None) -> Series:
    """Return the series of that SeriesInstanceUID, by default the only one, see :func:`find_series`.

    Raises:
        InputError: there is none, or several and no ``uid``: the message lists them.
    """
    found = find_series(source)
    if not found:
        raise InputError(f"{source}: no DICOM images there, expected a series of slices")
    chosen = [series for series in found if uid in (None, series.uid)]
    if len(chosen) == 1:
        return chosen[0]
    listed = "; ".join(map(str, found))
    if len(chosen) > 1 and uid is not None:
        raise InputError(f"{source}: series {uid} is of several patients or studies, give the folder of one of them")
    if uid is None:
        raise ArgumentError(f"{source}: {len(found)} image series, choose one with series=UID: {listed}")
    raise ArgumentError(f"{source}: no image series {uid}, expected series=UID with one of: {listed}")


def read_series(series: Series) -> Volume:
    """Read the voxels: slices along their normal, real values (HU in CT), named by the series' UID.

    Returns:
        ``array`` [X, Y, Z] as columns, rows and slices.

    Raises:
        InputError: a file is gone or damaged, or the slices form no box: see
            :func:`~sdseg_monai.io.dicom.stack.read_stack`; a voxel is not finite.
    """
    name = f"series {series.uid}"
    if is_multi_frame(series):
        return _read_frames(series)
    image = read_stack(series.files, name)
    return checked_volume(sitk.GetArrayViewFromImage(image).T.copy(), itk_affine(image), name)


def is_multi_frame(series: Series) -> bool:
    """Tell whether a file of the series holds several slices."""
    return series.frames > len(series.files)


def open_frames(series: Series) -> Any:
    """Return the multi-frame file of a series as ``highdicom.Image``, and its grid, a ``highdicom.VolumeGeometry``.

    Raises:
        InputError: there are several files, it is damaged, its frames form no box, or highdicom is not installed.
    """
    highdicom, config = require("highdicom"), require("pydicom.config")
    name = f"series {series.uid}"
    if len(series.files) > 1:
        raise InputError(f"{name}: {len(series.files)} multi-frame files, expected one of them")
    try:
        with config.disable_value_validation():
            image = highdicom.imread(series.files[0], lazy_frame_retrieval=True)
            geometry = image.get_volume_geometry(allow_duplicate_positions=False, **TOLERANCE)
    except Exception as error:  # pydicom and highdicom raise whatever a damaged element leads to
        raise InputError(f"{name}: not a readable multi-frame file ({_reason(error)})") from error
    if geometry is None:
        raise InputError(f"{name}: its frames form no box, expected one stack, evenly spaced, none missing or twice")
    return image, geometry


def _read_frames(series: Series) -> Volume:
    name = f"series {series.uid}"
    image, geometry = open_frames(series)
    check_memory(math.prod(geometry.spatial_shape), name)
    try:
        volume = image.get_volume(
            **TOLERANCE,
            dtype=np.float32,
            apply_real_world_transform=False,  # HU are the modality's
            apply_presentation_lut=False,
            apply_palette_color_lut=False,
            apply_icc_profile=False,
        )
    except Exception as error:  # decoders have exceptions of their own
        raise InputError(f"{name}: its frames cannot be read as one volume ({_reason(error)})") from error
    affine = LPS_TO_RAS @ volume.affine[:, [2, 1, 0, 3]]  # highdicom's axes are slices, rows, columns
    return checked_volume(np.ascontiguousarray(volume.array.T), affine, name)


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _visible_files(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        if not any(part[0] == "." for part in path.relative_to(folder).parts) and path.is_file():
            yield path


def is_dicom(path: Path) -> bool:
    """Tell by its content whether a file is DICOM."""
    try:
        with path.open("rb") as file:
            return file.read(MAGIC_START + len(MAGIC))[MAGIC_START:] == MAGIC
    except OSError as error:  # it may not be read, or has gone since it was listed
        logger.warning("%s: cannot be read (%s), left out", path, error.strerror)
        return False


def _read_instance(path: Path) -> _Instance | None:
    """Return what a DICOM file says of its image; None where it is no DICOM, no image, or damaged."""
    if not is_dicom(path):
        if path.suffix.lower() == SUFFIX:
            logger.warning("%s: not DICOM by its content, left out", path)
        return None
    pydicom, config = require("pydicom"), require("pydicom.config")
    try:
        with config.disable_value_validation():
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=HEADER)
            sop_class = (
                header.file_meta.get("MediaStorageSOPClassUID") or header.get("SOPClassUID") or pydicom.uid.UID("")
            )
            has_voxels = bool(_number(header, "Rows") and _number(header, "Columns"))
            instance = _Instance(
                path,
                _text(header, "SOPInstanceUID") or _text(header.file_meta, "MediaStorageSOPInstanceUID") or str(path),
                _text(header, "PatientID"),
                _text(header, "StudyInstanceUID"),
                _text(header, "SeriesInstanceUID"),
                plain_text(_text(header, "Modality")),
                plain_text(_text(header, "SeriesDescription")),
                _number(header, "SeriesNumber"),
                _number(header, "NumberOfFrames") or 1,
            )
    except Exception as error:  # pydicom raises whatever a damaged element leads to, with its value in the message
        logger.warning("%s: not a readable DICOM file (%s), left out", path, type(error).__name__)
        return None
    if instance.modality in NOT_IMAGES or sop_class == pydicom.uid.MediaStorageDirectoryStorage:
        return None
    if has_voxels:
        return instance
    if not instance.modality or sop_class.name.endswith("Image Storage"):  # it has both, were it whole
        logger.warning("%s: its header is not complete, left out", path)
    return None


def _is_copy(path: Path, first: Path) -> bool:
    """Tell whether a file is a copy of the ``first`` of its SOPInstanceUID; careless anonymisers make all the same."""
    if path == first:
        return False
    copy = hash_file(path) == hash_file(first)
    if not copy:
        logger.warning("%s: has the SOPInstanceUID of %s but is another slice", path, first)
    return copy


def _text(header: Dataset, keyword: str) -> str:
    return str(header.get(keyword) or "").strip("\0 ")


def _number(header: Dataset, keyword: str) -> int | None:
    with suppress(ValueError, TypeError):  # not a number, or several
        return int(header.get(keyword))
    return None


def _make_series(instances: Sequence[_Instance]) -> Series:
    first = instances[0]
    some = min(instance.uid for instance in instances)
    return Series(
        uid=_valid_uid(first.series_uid, "SeriesInstanceUID", some),
        study_uid=_valid_uid(first.study_uid, "StudyInstanceUID", some),
        modality=first.modality,
        description=first.description,
        number=first.number,
        frames=sum(instance.frames for instance in instances),
        files=tuple(instance.path for instance in instances),
    )


def _valid_uid(uid: str, keyword: str, instance: str) -> str:
    """Return a UID, one made up of what is there if it is none: it becomes part of file names."""
    if re.fullmatch(UID, uid):
        return uid
    return str(require("pydicom.uid").generate_uid(entropy_srcs=[keyword, uid or instance]))
