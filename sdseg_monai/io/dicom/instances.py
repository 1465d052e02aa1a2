"""The header of one DICOM file, and which files are DICOM."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from sdseg_monai.errors import InputError
from sdseg_monai.io.dicom.extra import require
from sdseg_monai.io.dicom.terms import NOT_IMAGES, plain_text

if TYPE_CHECKING:
    from pydicom.dataset import Dataset
    from pydicom.uid import UID

MAGIC, MAGIC_START = b"DICM", 128  # in a DICOM file, after its preamble
SUFFIXES = (".dcm", ".ima")  # many DICOM files have them, but DICOM is recognised by its content
HEAD = 4096  # bytes that are read to recognise a file
LONGEST_FIRST_VALUE = 1024  # bytes of an element at the beginning of a file, but for sequences and the like
FIRST_GROUPS = (0x0002, 0x0008)  # with an element of one of them a file without a preamble begins
# fmt: off
VALUE_REPRESENTATIONS = {
    b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL", b"SS",
    b"ST", b"TM", b"UI", b"UL", b"US",
}
LONG_REPRESENTATIONS = {  # two bytes are reserved after these, and their lengths have four
    b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV",
}
HEADER = [
    "SpecificCharacterSet", "SOPClassUID", "SOPInstanceUID", "PatientID", "StudyInstanceUID", "SeriesInstanceUID",
    "SeriesNumber", "Modality", "SeriesDescription", "Rows", "Columns", "NumberOfFrames", "SliceThickness",
    "SpacingBetweenSlices",
]
# fmt: on
TEXTS = ("PatientID", "SeriesDescription")
REPLACEMENT = "\ufffd"  # in the place of letters that are not of the character set


class UnusableFile(InputError):
    """A file in a folder of DICOM cannot be used; the message is the file's path, a colon and why.

    Attributes:
        path: of the file.
        reason: why it cannot be used.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class NotDicom(UnusableFile):
    """A file has another content than DICOM, and no suffix of DICOM: a text, or a preview picture."""


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

    @property
    def doubtful_character_set(self) -> str | None:
        """The character set that the header names, where that is none of DICOM's or not that of its texts."""
        value = self.header.get("SpecificCharacterSet") or ""
        names = [value] if isinstance(value, str) else list(map(str, value))
        is_known = all(name in require("pydicom.charset").python_encoding for name in names)
        is_readable = not any(REPLACEMENT in text_of(self.header, keyword) for keyword in TEXTS)
        return None if is_known and is_readable else plain_text("/".join(names))


def is_dicom(path: Path) -> bool:
    """Tell by its content whether a file is DICOM, with or without the preamble; False where it cannot be read."""
    try:
        with path.open("rb") as file:
            return _is_dicom(file.read(HEAD))
    except OSError:
        return False


def has_dicom(folder: Path) -> bool:
    """Tell by its content whether any visible file anywhere below ``folder`` is DICOM."""
    return any(is_dicom(path) for path in visible_files(folder))


def visible_files(folder: Path) -> Iterator[Path]:
    """Yield the files anywhere below ``folder`` that are not hidden: no part of the path below it begins with a dot.

    Links that lead nowhere or to a folder, which is not searched, are among them, since slices may be missing there.
    """
    for path in folder.rglob("*"):
        if any(part[0] == "." for part in path.relative_to(folder).parts):
            continue
        if path.is_file() or (path.is_symlink() and (path.is_dir() or not path.exists())):
            yield path


def read_dataset(file: Path | BinaryIO, **options: Any) -> Dataset:
    """Read a DICOM file by pydicom, also one without the preamble or the meta information that files begin with.

    The dataset always has a TransferSyntaxUID, as pixel data need it; where the file has none, it is that of
    uncompressed data in the encoding that was found.

    Args:
        file: its path, or the file, opened to be read as bytes.
        options: of ``pydicom.dcmread``.

    Raises:
        Exception: whatever pydicom raises.
    """
    if isinstance(file, Path):
        with file.open("rb") as opened:
            return read_dataset(opened, **options)
    head = file.read(HEAD)
    file.seek(0)
    pydicom = require("pydicom")
    dataset = pydicom.dcmread(file, force=_is_dicom(head), **options)
    if not dataset.file_meta.get("TransferSyntaxUID"):
        is_implicit, is_little = _encoding(dataset)
        uncompressed = pydicom.uid.ExplicitVRLittleEndian if is_little else pydicom.uid.ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian if is_implicit else uncompressed
    return dataset


def read_instance(path: Path, keywords: Sequence[str] = ()) -> Instance | None:
    """Read the header of a DICOM file; None for a DICOMDIR.

    Args:
        path: of the file.
        keywords: of elements to read in addition to those of :class:`Instance`.

    Raises:
        NotDicom: the file is not DICOM and does not have its suffix either.
        UnusableFile: the file cannot be read, is empty, has DICOM's suffix but is not DICOM, is damaged, is an image
            without voxels, or may be an image but is not surely one.
        InputError: pydicom is not installed.
    """
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
    except OSError as error:  # no permission, or it has been removed since it was listed
        raise UnusableFile(path, f"cannot be read ({error.strerror})") from error
    if not head:
        raise UnusableFile(path, "the file is empty")
    if not _is_dicom(head):
        if path.suffix.lower() in SUFFIXES:
            raise UnusableFile(path, "not DICOM by its content")
        raise NotDicom(path, "not DICOM")
    pydicom, config = require("pydicom"), require("pydicom.config")
    try:
        with config.disable_value_validation():
            header = read_dataset(path, stop_before_pixels=True, specific_tags=[*HEADER, *keywords])
            meta = header.file_meta
            sop_classes = [meta.get("MediaStorageSOPClassUID"), header.get("SOPClassUID")]
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
                frames=max(number_of(header, "NumberOfFrames") or 1, 1),
            )
    except Exception as error:  # pydicom raises whatever a damaged element leads to, with its value in the message
        raise UnusableFile(path, f"not a readable DICOM file ({type(error).__name__})") from error
    if pydicom.uid.MediaStorageDirectoryStorage in sop_classes and not has_voxels:
        return None
    if not instance.is_image:
        _check_is_other_object(path, modality, [sop_class for sop_class in sop_classes if sop_class])
    return instance


def _check_is_other_object(path: Path, modality: str, sop_classes: Sequence[UID]) -> None:
    """Check that a file is surely no image, but a SEG, a report and the like, so that no slice vanishes unseen.

    Args:
        path: of a file without voxels, or that is no image by its modality.
        modality: of the file.
        sop_classes: those that it and its meta information name.

    Raises:
        UnusableFile: it is an image whose header is not complete, says two things, or does not say what it is.
    """
    image_class = next((sop_class.name for sop_class in sop_classes if sop_class.name.endswith("Image Storage")), None)
    if not modality or (image_class and modality not in NOT_IMAGES):
        raise UnusableFile(path, "its header is not complete")  # a complete one has Modality, and an image voxels
    if image_class:
        raise UnusableFile(path, f"no image by its Modality ({modality}), but one by its SOP class ({image_class})")
    is_known = [not sop_class.is_private and (modality in NOT_IMAGES or sop_class.type) for sop_class in sop_classes]
    if not (is_known and all(is_known)):
        uid = plain_text(str(sop_classes[0])) if sop_classes else "none"
        raise UnusableFile(path, f"neither an image nor a known other object (Modality {modality}, SOP class {uid})")


def text_of(header: Dataset, keyword: str) -> str:
    """Return an element of a header as text, empty where there is none."""
    return str(header.get(keyword) or "").strip("\0 ")


def number_of(header: Dataset, keyword: str) -> int | None:
    """Return an element of a header as a whole number, None where it is missing or has another value."""
    with suppress(ValueError, TypeError):  # not a number, or several numbers
        return int(header.get(keyword))
    return None


def decimal_of(header: Dataset, keyword: str) -> float | None:
    """Return an element of a header as a finite number, None where it is missing or has another value."""
    with suppress(ValueError, TypeError):  # not a number, or several numbers
        number = float(header.get(keyword))
        return number if math.isfinite(number) else None
    return None


def slice_thickness(header: Dataset) -> float | None:
    """Return SliceThickness, else SpacingBetweenSlices, in millimetres; None where the slice says neither."""
    # the latter is negative in some files
    return abs(decimal_of(header, "SliceThickness") or decimal_of(header, "SpacingBetweenSlices") or 0) or None


def _encoding(dataset: Dataset) -> tuple[bool, bool]:
    """Return whether a dataset was read as implicit VR, and whether as little endian."""
    if hasattr(dataset, "original_encoding"):  # pydicom 3, which warns of the names of pydicom 2
        is_implicit, is_little = dataset.original_encoding
    else:
        is_implicit, is_little = dataset.read_implicit_vr, dataset.read_little_endian
    return bool(is_implicit), bool(is_little)


def _is_dicom(head: bytes) -> bool:
    """Tell whether the first bytes of a file are those of DICOM.

    Files without a preamble, as some archives and programs write them, begin with elements of the meta information or
    of the dataset; the first three must be such that no other kind of file has them by chance.
    """
    if head[MAGIC_START : MAGIC_START + len(MAGIC)] == MAGIC:
        return True
    return any(_begins_with_elements(head, *encoding) for encoding in (("<", True), ("<", False), (">", True)))


def _begins_with_elements(head: bytes, byte_order: str, is_explicit: bool) -> bool:
    position, last_tag = 0, (0, 0)
    for index in range(3):
        if position + 12 > len(head):
            return is_explicit and index > 0  # a long element
        tag = struct.unpack_from(f"{byte_order}HH", head, position)
        if tag <= last_tag or (index == 0 and tag[0] not in FIRST_GROUPS):
            return False
        last_tag = tag
        representation = head[position + 4 : position + 6]
        if not is_explicit:
            (length,), start = struct.unpack_from(f"{byte_order}I", head, position + 4), 8
        elif representation in LONG_REPRESENTATIONS:
            (length,), start = struct.unpack_from(f"{byte_order}I", head, position + 8), 12
        elif representation in VALUE_REPRESENTATIONS:
            (length,), start = struct.unpack_from(f"{byte_order}H", head, position + 6), 8
            if length > LONGEST_FIRST_VALUE:
                return False
        else:
            return False
        if length == 0xFFFFFFFF:  # a sequence
            return is_explicit and index > 0
        if length % 2:
            return False
        position += start + length
    return True
