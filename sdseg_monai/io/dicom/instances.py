"""The header of one DICOM file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sdseg_monai.errors import InputError
from sdseg_monai.io.dicom.extra import require
from sdseg_monai.io.dicom.terms import NOT_IMAGES, plain_text

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

MAGIC, MAGIC_START = b"DICM", 128  # in every DICOM file, after its preamble
SUFFIX = ".dcm"  # most DICOM files have it, but DICOM is recognised by its content
# fmt: off
HEADER = [
    "SOPClassUID", "SOPInstanceUID", "PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SeriesNumber", "Modality",
    "SeriesDescription", "Rows", "Columns", "NumberOfFrames",
]
# fmt: on


class UnusableFile(InputError):
    """A file that is DICOM, or has DICOM's suffix, cannot be used; the message says which file and why."""


@dataclass(frozen=True, eq=False)
class Instance:
    """The header of a DICOM file, unchanged: its UIDs may be empty or invalid.

    Attributes:
        path: of the file.
        header: the elements that were read.
        is_image: whether it holds the voxels of an image; SEG, SR, RTSTRUCT, PR, KO and the like are no images.
        uid: SOPInstanceUID; where de-identification has emptied it, that of the file's meta information, or the path.
        patient: PatientID.
        study_uid: StudyInstanceUID.
        series_uid: SeriesInstanceUID.
        frames: number of slices.
    """

    path: Path
    header: Dataset
    is_image: bool
    uid: str
    patient: str
    study_uid: str
    series_uid: str
    frames: int

    @property
    def modality(self) -> str:
        """Modality: CT, MR and so on."""
        return plain_text(text_of(self.header, "Modality"))

    @property
    def description(self) -> str:
        """SeriesDescription in ASCII."""
        return plain_text(text_of(self.header, "SeriesDescription"))

    @property
    def number(self) -> int | None:
        """SeriesNumber, None where there is none."""
        return number_of(self.header, "SeriesNumber")


def is_dicom(path: Path) -> bool:
    """Tell by its content whether a file is DICOM; False where it cannot be read."""
    try:
        return _has_magic(path)
    except OSError:
        return False


def has_dicom(folder: Path) -> bool:
    """Tell by its content whether any visible file anywhere below ``folder`` is DICOM."""
    return any(is_dicom(path) for path in visible_files(folder))


def visible_files(folder: Path) -> Iterator[Path]:
    """Yield the files anywhere below ``folder`` that are not hidden: no part of the path below it begins with a dot."""
    for path in folder.rglob("*"):
        if not any(part[0] == "." for part in path.relative_to(folder).parts) and path.is_file():
            yield path


def read_instance(path: Path, keywords: Sequence[str] = ()) -> Instance | None:
    """Read the header of a DICOM file; None for a DICOMDIR, or a file that is not DICOM and has another suffix.

    Args:
        path: of the file.
        keywords: of elements to read in addition to those of :class:`Instance`.

    Raises:
        UnusableFile: the file cannot be read, has DICOM's suffix but is not DICOM, is damaged, or is an image without
            voxels.
        InputError: pydicom is not installed.
    """
    try:
        if not _has_magic(path):
            if path.suffix.lower() == SUFFIX:
                raise UnusableFile(f"{path}: not DICOM by its content")
            return None
    except OSError as error:  # no permission, or it has been removed since it was listed
        raise UnusableFile(f"{path}: cannot be read ({error.strerror})") from error
    pydicom, config = require("pydicom"), require("pydicom.config")
    try:
        with config.disable_value_validation():
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=[*HEADER, *keywords])
            meta = header.file_meta
            sop_class = meta.get("MediaStorageSOPClassUID") or header.get("SOPClassUID") or pydicom.uid.UID("")
            modality = plain_text(text_of(header, "Modality"))
            has_voxels = bool(number_of(header, "Rows") and number_of(header, "Columns"))
            instance = Instance(
                path,
                header,
                is_image=has_voxels and modality not in NOT_IMAGES,
                uid=text_of(header, "SOPInstanceUID") or text_of(meta, "MediaStorageSOPInstanceUID") or str(path),
                patient=text_of(header, "PatientID"),
                study_uid=text_of(header, "StudyInstanceUID"),
                series_uid=text_of(header, "SeriesInstanceUID"),
                frames=number_of(header, "NumberOfFrames") or 1,
            )
    except Exception as error:  # pydicom raises whatever a damaged element leads to, with its value in the message
        raise UnusableFile(f"{path}: not a readable DICOM file ({type(error).__name__})") from error
    if sop_class == pydicom.uid.MediaStorageDirectoryStorage:
        return None
    if not (has_voxels or modality in NOT_IMAGES) and (not modality or sop_class.name.endswith("Image Storage")):
        raise UnusableFile(f"{path}: its header is not complete")  # a complete one has Modality, and an image voxels
    return instance


def text_of(header: Dataset, keyword: str) -> str:
    """Return an element of a header as text, empty where there is none."""
    return str(header.get(keyword) or "").strip("\0 ")


def number_of(header: Dataset, keyword: str) -> int | None:
    """Return an element of a header as a whole number, None where it is missing or has another value."""
    with suppress(ValueError, TypeError):  # not a number, or several numbers
        return int(header.get(keyword))
    return None


def _has_magic(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(MAGIC_START + len(MAGIC))[MAGIC_START:] == MAGIC
