"""A folder of DICOM files, behind the few calls of a DICOMweb client that MONAI Label's datastore makes.

dicomweb-client has a ``DICOMfileClient`` for this, but that of 0.60 reads no file in Implicit VR Little Endian, answers
in no thread but the one that made it, and never forgets a file that is gone.
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
from sdseg_monai.io.dicom.instances import Instance, UnusableFile, read_instance, visible_files
from sdseg_monai.io.dicom.series import Series, group_series
from sdseg_monai.io.files import write_atomically

logger = logging.getLogger(__name__)

SCAN_SECONDS = 1.0  # a file that arrives is seen after this at the latest
# fmt: off
KEYWORDS = [
    "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "AccessionNumber", "StudyDate", "StudyTime",
    "StudyDescription", "SeriesDate", "SeriesTime", "BodyPartExamined", "ProtocolName", "Manufacturer",
]
# fmt: on


@dataclass(frozen=True)
class _File:
    """What was read of a file: the instance, none where it holds none that can be used."""

    stamp: tuple[int, int]  # time and size
    instance: Instance | None


class DicomFolder:
    """The series of the DICOM files anywhere below ``folder``, those that ``sdseg segment`` finds there among them.

    What is a series, and its UIDs: see :func:`~sdseg_monai.io.dicom.series.group_series`. What the slices warn of is
    logged, as no client could show it. Methods are named and answer as those of dicomweb-client's ``DICOMwebClient``.

    Args:
        folder: with the files.
        leave_out: folder whose files do not count, should it lie in that one.
    """

    def __init__(self, folder: Path, leave_out: Path) -> None:
        self.folder = folder.resolve()
        self._leave_out = leave_out.resolve()
        self.base_url = self.folder.as_uri()
        self._lock = threading.Lock()
        self._files: dict[Path, _File] = {}
        self._series: list[Series] = []
        self._scanned = -math.inf

    def search_for_series(self, search_filters: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
        """Return what is known of each series whose header has these values, with ``*`` and ``?`` as wildcards."""
        files, all_series = self._scan()
        conditions = (search_filters or {}).items()
        answers = []
        for series in all_series:
            header = Dataset()
            header.update(files[series.files[0]].header)
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
            InputError: there is none.
        """
        for instance in self._read(study_instance_uid, series_instance_uid, sop_instance_uid):
            return instance
        raise InputError(f"{self.folder}: the DICOM file of {sop_instance_uid} is gone")

    def store_instances(self, datasets: Sequence[Dataset]) -> Dataset:
        """Write instances into ``labels/final`` of the folder, where a folder of volumes has its labels too.

        Raises:
            InputError: that cannot be written.
        """
        for dataset in datasets:
            path = self.folder / "labels" / "final" / f"{dataset.SOPInstanceUID}.dcm"
            write_atomically(path, _writer(dataset))
        self._scanned = -math.inf
        return Dataset()  # of failures; there is none

    def _read(self, study: str, series: str, sop: str | None = None, headers_only: bool = False) -> list[Dataset]:
        """Return the instances of a series, or the one of that SOPInstanceUID, with the UIDs of the series."""
        instances, all_series = self._scan()
        datasets: list[Dataset] = []
        for path in (
            path for item in all_series if (item.study_uid, item.uid) == (study, series) for path in item.files
        ):
            if sop is not None and instances[path].uid != sop:
                continue
            try:
                dataset = pydicom.dcmread(path, stop_before_pixels=headers_only)
                for keyword in ("SOPClassUID", "SOPInstanceUID"):
                    if not dataset.get(keyword):
                        setattr(dataset, keyword, dataset.file_meta.get(f"MediaStorage{keyword}"))
            except Exception as error:  # pydicom raises whatever a damaged element leads to
                raise InputError(f"{path}: not a readable DICOM file ({error})") from error
            dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, series
            datasets.append(dataset)
        return datasets

    def _scan(self) -> tuple[dict[Path, Instance], list[Series]]:
        """Return the instances by their files, and the series that they form: those of images, then the others."""
        with self._lock:
            if time.monotonic() - self._scanned > SCAN_SECONDS:
                files = dict(self._read_files())
                if files != self._files:
                    instances = [file.instance for file in files.values() if file.instance is not None]
                    images = [instance for instance in instances if instance.is_image]
                    others = [instance for instance in instances if not instance.is_image]
                    logged = {warning for series in self._series for warning in series.warnings}
                    self._series = [*group_series(images), *group_series(others)]
                    for warning in {warning for series in self._series for warning in series.warnings} - logged:
                        logger.warning("%s", warning.text)
                self._files = files
                self._scanned = time.monotonic()
            return {path: file.instance for path, file in self._files.items() if file.instance}, self._series

    def _read_files(self) -> Iterator[tuple[Path, _File]]:
        for path in sorted(visible_files(self.folder)):
            if path.is_relative_to(self._leave_out):
                continue
            try:
                status = path.stat()
            except OSError as error:  # it may have gone since it was listed
                logger.warning("%s: cannot be read (%s), left out", path, error.strerror)
                continue
            stamp = (status.st_mtime_ns, status.st_size)
            known = self._files.get(path)
            yield path, known if known and known.stamp == stamp else _File(stamp, _read_instance(path))


def _read_instance(path: Path) -> Instance | None:
    try:
        return read_instance(path, KEYWORDS)
    except UnusableFile as error:
        logger.warning("%s, left out", error)
        return None


def _writer(dataset: Dataset) -> Callable[[Path], None]:
    return lambda temporary: pydicom.dcmwrite(temporary, dataset, write_like_original=False)
