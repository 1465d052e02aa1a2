"""A folder of DICOM files with those methods of a DICOMweb client that MONAI Label's datastore calls.

dicomweb-client has a ``DICOMfileClient`` for this, but the one of version 0.60 cannot read files in Implicit VR Little
Endian, works only in the thread that made it, and keeps files that have been removed.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset

from sdseg_monai.errors import InputError
from sdseg_monai.io.dicom.instances import Instance, UnusableFile, read_dataset, read_instance, visible_files
from sdseg_monai.io.dicom.series import Series, group_series, left_out_warnings
from sdseg_monai.io.files import write_atomically

logger = logging.getLogger(__name__)

SCAN_SECONDS = 1.0  # a new file is seen after this time at the latest
# fmt: off
KEYWORDS = [
    "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "AccessionNumber", "StudyDate", "StudyTime",
    "StudyDescription", "SeriesDate", "SeriesTime", "BodyPartExamined", "ProtocolName", "Manufacturer",
]
# fmt: on


@dataclass(frozen=True)
class _File:
    """The last reading of a file.

    Attributes:
        stamp: time of modification and size, which tell whether the file has changed.
        instance: None where the file holds none that can be used.
        error: why the file cannot be used, None where it is or need not be.
    """

    stamp: tuple[int, int]
    instance: Instance | None
    error: UnusableFile | None = None


class DicomFolder:
    """The series of the DICOM files anywhere below ``folder``: all those that ``sdseg segment`` finds there, and more.

    :func:`~sdseg_monai.io.dicom.series.group_series` says what a series is and which UIDs it has. Warnings about series
    and about files that were left out are logged, since no client could show them. The methods have the names,
    arguments and results of those of dicomweb-client's ``DICOMwebClient``.

    Args:
        folder: with the files.
        ignored_folder: folder whose files do not count, in case it lies in ``folder``.
    """

    def __init__(self, folder: Path, ignored_folder: Path) -> None:
        self.folder = folder.resolve()
        self._ignored_folder = ignored_folder.resolve()
        self.base_url = self.folder.as_uri()
        self._lock = threading.Lock()
        self._files: dict[Path, _File] = {}
        self._series: list[Series] = []
        self._logged: set[str] = set()
        self._scan_time = -math.inf

    def search_for_series(self, search_filters: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
        """Return the header of each series with these values, where ``*`` and ``?`` are wildcards, as DICOM's JSON."""
        instances, all_series = self._scan()
        conditions = (search_filters or {}).items()
        answers = []
        for series in all_series:
            header = Dataset()
            header.update(instances[series.files[0]].header)
            header.StudyInstanceUID, header.SeriesInstanceUID = series.study_uid, series.uid
            header.NumberOfSeriesRelatedInstances = len(series.files)
            if all(fnmatchcase(str(header.get(keyword, "")), str(value)) for keyword, value in conditions):
                answers.append(header.to_json_dict(suppress_invalid_tags=True))
        return answers

    def retrieve_series(self, study_instance_uid: str, series_instance_uid: str) -> list[Dataset]:
        """Return the instances of a series."""
        return self._read(study_instance_uid, series_instance_uid)

    def retrieve_series_metadata(self, study_instance_uid: str, series_instance_uid: str) -> list[dict[str, Any]]:
        """Return the instances of a series without their voxels, as DICOM's JSON."""
        return [
            instance.to_json_dict()
            for instance in self._read(study_instance_uid, series_instance_uid, headers_only=True)
        ]

    def retrieve_instance(self, study_instance_uid: str, series_instance_uid: str, sop_instance_uid: str) -> Dataset:
        """Return one instance.

        Raises:
            InputError: there is no such instance.
        """
        for instance in self._read(study_instance_uid, series_instance_uid, sop_instance_uid):
            return instance
        raise InputError(f"{self.folder}: the DICOM file of {sop_instance_uid} is gone")

    def store_instances(self, datasets: Sequence[Dataset]) -> Dataset:
        """Write instances into ``labels/final`` of the folder, where a folder of volumes also has its labels.

        Raises:
            InputError: the files cannot be written.
        """
        for dataset in datasets:
            path = self.folder / "labels" / "final" / f"{dataset.SOPInstanceUID}.dcm"
            write_atomically(path, _writer(dataset))
        self._scan_time = -math.inf
        return Dataset()  # would list failures; there are none

    def _read(self, study: str, series: str, sop: str | None = None, headers_only: bool = False) -> list[Dataset]:
        """Return the instances of a series, or the one with that SOPInstanceUID, with the UIDs of the series."""
        instances, all_series = self._scan()
        paths = [path for item in all_series if (item.study_uid, item.uid) == (study, series) for path in item.files]
        datasets: list[Dataset] = []
        for path in paths:
            if sop is not None and instances[path].uid != sop:
                continue
            try:
                dataset = read_dataset(path, stop_before_pixels=headers_only)
                for keyword in ("SOPClassUID", "SOPInstanceUID"):
                    if not dataset.get(keyword):
                        setattr(dataset, keyword, dataset.file_meta.get(f"MediaStorage{keyword}"))
            except Exception as error:  # pydicom raises whatever a damaged element leads to
                raise InputError(f"{path}: not a readable DICOM file ({error})") from error
            dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, series
            datasets.append(dataset)
        return datasets

    def _scan(self) -> tuple[dict[Path, Instance], list[Series]]:
        """Return the instances by their files, and the series that they form, first those of images."""
        with self._lock:
            if time.monotonic() - self._scan_time > SCAN_SECONDS:
                files = dict(self._read_files())
                if files != self._files:
                    instances = [file.instance for file in files.values() if file.instance is not None]
                    images = [instance for instance in instances if instance.is_image]
                    other_objects = [instance for instance in instances if not instance.is_image]
                    self._series = [*group_series(images), *group_series(other_objects)]
                    self._log([file.error for file in files.values() if file.error is not None])
                self._files = files
                self._scan_time = time.monotonic()
            return {path: file.instance for path, file in self._files.items() if file.instance}, self._series

    def _log(self, left_out: Sequence[UnusableFile]) -> None:
        """Log each warning once, about files that were ``left_out`` and about the series."""
        texts = [warning.text for warning in left_out_warnings(left_out)]
        texts += [f"series {series.uid}: {warning.text}" for series in self._series for warning in series.warnings]
        for text in texts:
            if text not in self._logged:
                logger.warning("%s", text)
        self._logged = set(texts)

    def _read_files(self) -> Iterator[tuple[Path, _File]]:
        for path in sorted(visible_files(self.folder)):
            if path.is_relative_to(self._ignored_folder):
                continue
            try:
                status = path.stat()
            except OSError as error:  # it may have been removed since it was listed
                logger.warning("%s: cannot be read (%s), left out", path, error.strerror)
                continue
            stamp = (status.st_mtime_ns, status.st_size)
            file = self._files.get(path)
            yield path, file if file and file.stamp == stamp else _read_file(path, stamp)


def _read_file(path: Path, stamp: tuple[int, int]) -> _File:
    try:
        return _File(stamp, read_instance(path, KEYWORDS))
    except UnusableFile as error:
        return _File(stamp, None, error)


def _writer(dataset: Dataset) -> Callable[[Path], None]:
    return lambda temporary: pydicom.dcmwrite(temporary, dataset, write_like_original=False)
