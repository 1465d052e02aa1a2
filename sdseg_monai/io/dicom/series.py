"""Which image series lie in a folder of DICOM files, and their voxels."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import SimpleITK as sitk

from sdseg_monai.errors import ArgumentError, InputError
from sdseg_monai.io.dicom.extra import require
from sdseg_monai.io.dicom.frames import read_frames
from sdseg_monai.io.dicom.instances import Instance, UnusableFile, read_instance, visible_files
from sdseg_monai.io.dicom.stack import read_stack
from sdseg_monai.io.files import hash_file
from sdseg_monai.io.itk import itk_affine
from sdseg_monai.io.volumes import Volume, checked_volume
from sdseg_monai.io.warnings import ImageWarning

UID = r"\d[\d.]{0,63}"


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
        warnings: about files that were left out and slices with one SOPInstanceUID.
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

    Files are known by their content. Hidden ones, DICOMDIRs and objects that are no images (SEG, SR, RTSTRUCT, PR, KO
    and such) are left out; of damaged ones the series warn that have files in the same folder, or else all. Only
    headers are read. What is a series, and its UIDs: see :func:`group_series`.

    Raises:
        InputError: there is no such file or folder, or pydicom is not installed.
    """
    return _search(source)[0]


def choose_series(source: Path, uid: str | None = None) -> Series:
    """Return the series of that SeriesInstanceUID, by default the only one, see :func:`find_series`.

    Raises:
        InputError: there is none, or several and no ``uid``: the message lists them.
    """
    all_series, reasons = _search(source)
    if not all_series:
        raise InputError(f"{source}: no DICOM images there, expected a series of slices{_listed(reasons)}")
    matches = [series for series in all_series if uid in (None, series.uid)]
    if len(matches) == 1:
        return matches[0]
    listed = "; ".join(map(str, all_series))
    if len(matches) > 1 and uid is not None:
        raise InputError(f"{source}: series {uid} is of several patients or studies, give the folder of one of them")
    if uid is None:
        raise ArgumentError(f"{source}: {len(all_series)} image series, choose one with series=UID: {listed}")
    raise ArgumentError(f"{source}: no image series {uid}, expected series=UID with one of: {listed}")


def group_series(instances: Iterable[Instance]) -> list[Series]:
    """Return the series that instances form: the one rule, for the command and the label server alike.

    Instances of one patient, StudyInstanceUID and SeriesInstanceUID are a series; where de-identification has emptied
    the last, those in one folder. In place of a UID that is empty or spoilt stands one made up of what is there, or
    else of the smallest SOPInstanceUID of the series. So it is the same wherever the folder lies and whoever asks, and
    it changes only when an instance with a smaller SOPInstanceUID arrives.

    Copies of a file count once. An instance with the SOPInstanceUID of another but other content stays, with a warning:
    careless anonymisers make all the same.

    Raises:
        InputError: two files of one SOPInstanceUID cannot be compared, since one is gone.
    """
    paths: dict[str, Path] = {}
    groups: dict[tuple[str, str, str | Path], list[Instance]] = {}
    warnings: dict[Path, ImageWarning] = {}
    for instance in instances:
        path, first = instance.path, paths.setdefault(instance.uid, instance.path)
        if first != path:
            if _is_copy(path, first):
                continue
            text = f"{path}: has the SOPInstanceUID of {first} but is another slice"
            warnings[path] = ImageWarning("same_uid", text)
        key = (instance.patient, instance.study_uid, instance.series_uid or path.parent)
        groups.setdefault(key, []).append(instance)
    return [_make_series(group, warnings) for group in groups.values()]


def read_series(series: Series) -> Volume:
    """Read the voxels: slices along their normal, real values (HU in CT), named by the series' UID.

    Returns:
        ``array`` [X, Y, Z] as columns, rows and slices.

    Raises:
        InputError: a file is gone or damaged, or the slices form no box: see
            :func:`~sdseg_monai.io.dicom.stack.read_stack`; there are several multi-frame files; a voxel is not finite.
    """
    name = f"series {series.uid}"
    if is_multi_frame(series):
        return read_frames(series.files, name)
    image = read_stack(series.files, name)
    return checked_volume(sitk.GetArrayViewFromImage(image).T.copy(), itk_affine(image), name)


def is_multi_frame(series: Series) -> bool:
    """Tell whether a file of the series holds several slices."""
    return series.frames > len(series.files)


def _search(source: Path) -> tuple[list[Series], dict[Path, str]]:
    """Return the series of :func:`find_series`, and why files were left out."""
    if not source.exists():
        raise InputError(f"{source}: no such file or folder, expected DICOM")
    instances: list[Instance] = []
    reasons: dict[Path, str] = {}
    for path in sorted(visible_files(source)) if source.is_dir() else [source]:
        try:
            instance = read_instance(path)
        except UnusableFile as error:
            reasons[path] = str(error)
            continue
        if instance is not None and instance.is_image:
            instances.append(instance)
    all_series = _with_warnings(group_series(instances), reasons)
    return sorted(all_series, key=_study_and_number), reasons


def _study_and_number(series: Series) -> tuple[str, bool, int, str]:
    return series.study_uid, series.number is None, series.number or 0, series.uid


def _with_warnings(all_series: Sequence[Series], reasons: Mapping[Path, str]) -> list[Series]:
    """Have series warn of files left out: those with files in the same folder, where there are none all of them."""
    folders = [{file.parent for file in series.files} for series in all_series]
    all_folders = set[Path]().union(*folders)
    with_warnings = []
    for series, own in zip(all_series, folders, strict=True):
        left_out = (
            ImageWarning("left_out", f"{reason}, left out")
            for path, reason in reasons.items()
            if path.parent in own or path.parent not in all_folders
        )
        with_warnings.append(replace(series, warnings=(*series.warnings, *left_out)))
    return with_warnings


def _is_copy(path: Path, first: Path) -> bool:
    try:
        return hash_file(path) == hash_file(first)
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror})") from error


def _make_series(instances: Sequence[Instance], warnings: Mapping[Path, ImageWarning]) -> Series:
    first = instances[0]
    smallest = min(instance.uid for instance in instances)
    return Series(
        uid=_valid_uid(first.series_uid, "SeriesInstanceUID", smallest),
        study_uid=_valid_uid(first.study_uid, "StudyInstanceUID", smallest),
        modality=first.modality,
        description=first.description,
        number=first.number,
        frames=sum(instance.frames for instance in instances),
        files=tuple(instance.path for instance in instances),
        warnings=tuple(warnings[instance.path] for instance in instances if instance.path in warnings),
    )


def _valid_uid(uid: str, keyword: str, instance: str) -> str:
    """Return a UID, one made up of what is there if it is none: it becomes part of file names."""
    if re.fullmatch(UID, uid):
        return uid
    return str(require("pydicom.uid").generate_uid(entropy_srcs=[keyword, uid or instance]))


def _listed(reasons: Mapping[Path, str]) -> str:
    if not reasons:
        return ""
    first = next(iter(reasons.values()))
    return f"; {len(reasons)} files were left out, the first: {first}" if len(reasons) > 1 else f"; left out: {first}"
