"""The image series in a folder of DICOM files, and their voxels."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sdseg_monai.errors import ArgumentError, InputError
from sdseg_monai.io.dicom.extra import require
from sdseg_monai.io.dicom.frames import read_frames
from sdseg_monai.io.dicom.instances import (
    Instance,
    NotDicom,
    UnusableFile,
    read_instance,
    slice_thickness,
    visible_files,
)
from sdseg_monai.io.dicom.stack import file_names, read_stack
from sdseg_monai.io.files import hash_file
from sdseg_monai.io.volumes import Volume
from sdseg_monai.io.warnings import ImageWarning

UID = r"\d[\d.]{0,63}"
FILES_SHOWN = 3  # of those that were left out for one reason, with a warning of their own
NAMES_SHOWN = 20  # in the one warning about more files


@dataclass(frozen=True)
class Series:
    """An image series.

    Attributes:
        uid: SeriesInstanceUID: digits and dots; where de-identification has emptied it, one that is made from the
            headers, see :func:`group_series`.
        study_uid: StudyInstanceUID, likewise.
        modality: CT, MR and so on; of slices of several modalities all of them, such as ``CT/MR``.
        description: SeriesDescription, in ASCII.
        number: SeriesNumber, None where there is none.
        frames: number of slices, in all files.
        files: each instance once, sorted by path.
        warnings: about files that were left out, slices that share a SOPInstanceUID, a single slice whose thickness is
            unknown, and texts in a character set that is not known.
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


def find_series(source: Path) -> list[Series]:
    """Return the image series of the DICOM files anywhere below a folder, or of one file, by study and number.

    DICOM files are recognised by their content, with or without a preamble. Hidden files, DICOMDIRs and objects that
    are not images (SEG, SR, RTSTRUCT, PR, KO and the like) are left out. So are files that are empty, damaged or not
    DICOM; the series with files in the same folder have warnings about them, or all series where there are none. Only
    headers are read. :func:`group_series` says what a series is and which UIDs it has.

    Raises:
        InputError: there is no such file or folder, or pydicom is not installed.
    """
    return _search(source)[0]


def choose_series(source: Path, uid: str | None = None) -> Series:
    """Return the series with that SeriesInstanceUID, by default the only series, see :func:`find_series`.

    Raises:
        InputError: there is none, or there are several and no ``uid``; the message lists them.
    """
    all_series, left_out = _search(source)
    if not all_series:
        raise InputError(f"{source}: no DICOM images there, expected a series of slices{_left_out_text(left_out)}")
    matches = [series for series in all_series if uid in (None, series.uid)]
    if len(matches) == 1:
        return matches[0]
    series_list = "; ".join(map(str, all_series))
    if len(matches) > 1 and uid is not None:
        raise InputError(f"{source}: series {uid} is of several patients or studies, give the folder of one of them")
    if uid is None:
        raise ArgumentError(f"{source}: {len(all_series)} image series, choose one with series=UID: {series_list}")
    raise ArgumentError(f"{source}: no image series {uid}, expected series=UID with one of: {series_list}")


def group_series(instances: Iterable[Instance]) -> list[Series]:
    """Return the series that instances form: the one rule, for the command and the label server alike.

    Instances with the same PatientID, StudyInstanceUID and SeriesInstanceUID are one series; where de-identification
    has emptied the SeriesInstanceUID, those in the same folder are. A UID that is invalid is replaced by one that is
    generated from it; one that is empty, by one generated from the smallest SOPInstanceUID of the series. So a series
    has the same UID wherever its folder lies and whichever program reads it, and the UID changes only when an instance
    with a smaller SOPInstanceUID arrives.

    Copies of a file count once. An instance with the SOPInstanceUID of another instance but with other content stays,
    with a warning: careless anonymisation gives all instances the same UID.

    Raises:
        InputError: two files with the same SOPInstanceUID cannot be compared, since one cannot be read.
    """
    paths: dict[str, Path] = {}
    groups: dict[tuple[str, str, str | Path], list[Instance]] = {}
    warnings: dict[Path, ImageWarning] = {}
    for instance in instances:
        path, first_path = instance.path, paths.setdefault(instance.uid, instance.path)
        if first_path != path:
            if _is_copy(path, first_path):
                continue
            text = f"{path}: has the SOPInstanceUID of {first_path} but is another slice"
            warnings[path] = ImageWarning("same_uid", text)
        key = (instance.patient, instance.study_uid, instance.series_uid or path.parent)
        groups.setdefault(key, []).append(instance)
    return [_make_series(group, warnings) for group in groups.values()]


def read_series(series: Series, *, on_disk: bool = False) -> Volume:
    """Read the voxels of a series as a volume that is named by its SeriesInstanceUID.

    Args:
        series: the series.
        on_disk: whether the array of many slices may lie in a temporary file, see
            :func:`~sdseg_monai.io.arrays.make_array`; a multi-frame file is read into memory.

    Returns:
        Real values (HU in CT), float32, [X, Y, Z] as columns, rows and slices; slices lie in order along their normal,
        the frames of a multi-frame file against it.

    Raises:
        InputError: a file is missing or damaged, the slices do not form a regular grid or hold no intensities, see
            :func:`~sdseg_monai.io.dicom.stack.read_stack`, there are several multi-frame files, or a voxel is not
            finite.
    """
    name = f"series {series.uid}"
    if is_multi_frame(series):
        return read_frames(series.files, name)
    return read_stack(series.files, name, on_disk=on_disk)


def is_multi_frame(series: Series) -> bool:
    """Tell whether a file of the series holds several slices."""
    return series.frames > len(series.files)


def left_out_warnings(files: Sequence[UnusableFile]) -> list[ImageWarning]:
    """Return the warnings about files that were left out.

    A few files have a warning each, but many that were left out for the same reason have one, and so have all files
    that are not DICOM, such as texts and preview pictures.
    """
    by_reason: dict[str, list[Path]] = {}
    for file in files:
        by_reason.setdefault(file.reason, []).append(file.path)
    others = {file.reason for file in files if isinstance(file, NotDicom)}
    texts = []
    for reason, paths in sorted(by_reason.items(), key=lambda item: item[0] in others):
        if reason not in others and len(paths) <= FILES_SHOWN:
            texts += [f"{path}: {reason}, left out" for path in paths]
            continue
        count = "1 file" if len(paths) == 1 else f"{len(paths)} files"
        names = _names(paths, FILES_SHOWN if reason in others else NAMES_SHOWN)
        texts.append(f"{count} left out ({reason}): {names}")
    return [ImageWarning("left_out", text) for text in texts]


def _names(paths: Sequence[Path], shown: int) -> str:
    """Return the names of files; of many only the first ones, with the number of files of each suffix."""
    names = file_names(paths)
    if len(paths) <= shown:
        return ", ".join(names)
    suffixes = Counter(path.suffix.lower() or "without suffix" for path in paths)
    kinds = ", ".join(f"{count} {suffix}" for suffix, count in suffixes.most_common(FILES_SHOWN))
    return f"{', '.join(names[:shown])} and {len(paths) - shown} more ({kinds})"


def _search(source: Path) -> tuple[list[Series], list[UnusableFile]]:
    """Return the series of :func:`find_series`, and the files that were left out."""
    if not source.exists():
        raise InputError(f"{source}: no such file or folder, expected DICOM")
    instances: list[Instance] = []
    left_out: list[UnusableFile] = []
    for path in sorted(visible_files(source)) if source.is_dir() else [source]:
        try:
            instance = read_instance(path)
        except UnusableFile as error:
            left_out.append(error)
            continue
        if instance is not None and instance.is_image:
            instances.append(instance)
    all_series = _with_warnings(group_series(instances), left_out)
    return sorted(all_series, key=_study_and_number), left_out


def _study_and_number(series: Series) -> tuple[str, bool, int, str]:
    return series.study_uid, series.number is None, series.number or 0, series.uid


def _with_warnings(all_series: Sequence[Series], left_out: Sequence[UnusableFile]) -> list[Series]:
    """Add warnings about files left out to the series with files in the same folder, or to all where there are none."""
    folders_by_series = [{file.parent for file in series.files} for series in all_series]
    all_folders = set[Path]().union(*folders_by_series)
    result = []
    for series, folders in zip(all_series, folders_by_series, strict=True):
        files = [file for file in left_out if file.path.parent in folders or file.path.parent not in all_folders]
        result.append(replace(series, warnings=(*series.warnings, *left_out_warnings(files))))
    return result


def _is_copy(path: Path, first_path: Path) -> bool:
    try:
        return hash_file(path) == hash_file(first_path)
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror})") from error


def _make_series(instances: Sequence[Instance], warnings: Mapping[Path, ImageWarning]) -> Series:
    first_instance = instances[0]
    own_warnings = [warnings[instance.path] for instance in instances if instance.path in warnings]
    is_slice = first_instance.is_image and sum(instance.frames for instance in instances) == 1
    if is_slice and slice_thickness(first_instance.header) is None:
        text = (
            "a single slice without SliceThickness or SpacingBetweenSlices: it counts as 1 mm thick, so volumes in ml "
            "are not to be trusted"
        )
        own_warnings.append(ImageWarning("thickness", text))
    doubtful_sets = sorted({name for instance in instances if (name := instance.doubtful_character_set) is not None})
    if doubtful_sets:
        text = (
            f"its headers name a character set that is none of DICOM's, or not that of their texts "
            f"({', '.join(doubtful_sets)}): names may be wrong, the voxels are not affected"
        )
        own_warnings.append(ImageWarning("text", text))
    smallest_uid = min(instance.uid for instance in instances)
    return Series(
        uid=_valid_uid(first_instance.series_uid, "SeriesInstanceUID", smallest_uid),
        study_uid=_valid_uid(first_instance.study_uid, "StudyInstanceUID", smallest_uid),
        modality="/".join(sorted({instance.modality for instance in instances} - {""})),
        description=first_instance.description,
        number=first_instance.number,
        frames=sum(instance.frames for instance in instances),
        files=tuple(instance.path for instance in instances),
        warnings=tuple(own_warnings),
    )


def _valid_uid(uid: str, keyword: str, instance_uid: str) -> str:
    """Return ``uid``, which becomes part of file names, or where it is invalid one that is generated from it.

    Where it is empty, the new one is generated from ``instance_uid``.
    """
    if re.fullmatch(UID, uid):
        return uid
    return str(require("pydicom.uid").generate_uid(entropy_srcs=[keyword, uid or instance_uid]))


def _left_out_text(left_out: Sequence[UnusableFile]) -> str:
    if len(left_out) < 2:
        return "".join(f"; left out: {file}" for file in left_out)
    return f"; {len(left_out)} files were left out, the first: {left_out[0]}"
