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
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset
from pydicom.misc import is_dicom
from pydicom.uid import MediaStorageDirectoryStorage, generate_uid

from sdseg_monai.errors import InputError
from sdseg_monai.io.files import write_atomically

logger = logging.getLogger(__name__)

SCAN_SECONDS = 1.0  # a file that arrives is seen after this at the latest
UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
# fmt: off
HEADER = [
    *UIDS, "SOPClassUID", "Modality", "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID",
    "AccessionNumber", "StudyDate", "StudyTime", "StudyDescription", "SeriesNumber", "SeriesDate", "SeriesTime",
    "SeriesDescription", "BodyPartExamined", "ProtocolName", "Manufacturer",
]
# fmt: on


_Header = tuple[tuple[int, int], Dataset | None]  # time and size of the file when it was read; None: no instance


class DicomFolder:
    """The series of the DICOM files anywhere below ``folder``; files are known by content, hidden ones left out.

    Where de-identification has emptied the UIDs, files of one folder are a series. Methods are named and answer as
    those of dicomweb-client's ``DICOMwebClient``.

    Args:
        folder: with the files.
        leave_out: folder whose files do not count, should it lie in that one.
    """

    def __init__(self, folder: Path, leave_out: Path) -> None:
        self.folder = folder.resolve()
        self._leave_out = leave_out
        self.base_url = self.folder.as_uri()
        self._lock = threading.Lock()
        self._headers: dict[Path, _Header] = {}
        self._scanned = -math.inf

    def search_for_series(self, search_filters: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
        """Return what is known of each series whose header has these values, with ``*`` and ``?`` as wildcards."""
        wanted = (search_filters or {}).items()
        series: dict[str, list[Dataset]] = {}
        for header in self._instances().values():
            if all(fnmatchcase(str(header.get(keyword, "")), str(value)) for keyword, value in wanted):
                series.setdefault(header.SeriesInstanceUID, []).append(header)
        answers = []
        for headers in series.values():
            answer = Dataset()
            answer.update(headers[0])
            answer.NumberOfSeriesRelatedInstances = len(headers)
            answers.append(answer.to_json_dict())
        return answers

    def retrieve_series(self, study_instance_uid: str, series_instance_uid: str) -> list[Dataset]:
        """Return the instances of a series."""
        return self._read(study_instance_uid, series_instance_uid)

    def retrieve_series_metadata(self, study_instance_uid: str, series_instance_uid: str) -> list[dict[str, Any]]:
        """Return the instances of a series without their voxels, as DICOM's JSON."""
        return [
            instance.to_json_dict()
            for instance in self._read(study_instance_uid, series_instance_uid, stop_before_pixels=True)
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

    def _read(self, *uids: str, stop_before_pixels: bool = False) -> list[Dataset]:
        """Return the instances of a study, a series in it or an instance in that."""
        instances: list[Dataset] = []
        for path, header in self._instances().items():
            if all(header[keyword].value == uid for keyword, uid in zip(UIDS, uids, strict=False)):
                try:
                    instance = pydicom.dcmread(path, stop_before_pixels=stop_before_pixels)
                    instances.append(self._identified(instance, path))
                except Exception as error:  # pydicom raises whatever a damaged element leads to
                    raise InputError(f"{path}: not a readable DICOM file ({error})") from error
        return instances

    def _instances(self) -> dict[Path, Dataset]:
        """Return the header of each instance; of two files of one instance the first counts."""
        with self._lock:
            if time.monotonic() - self._scanned > SCAN_SECONDS:
                self._headers = dict(self._scan(self._headers))
                self._scanned = time.monotonic()
            unique: dict[str, tuple[Path, Dataset]] = {}
            for path, (_, header) in self._headers.items():
                if header is not None:
                    unique.setdefault(header.SOPInstanceUID, (path, header))
            return dict(unique.values())

    def _scan(self, known: Mapping[Path, _Header]) -> Iterator[tuple[Path, _Header]]:
        for path in _visible_files(self.folder, self._leave_out):
            try:
                status = path.stat()
                stamp = (status.st_mtime_ns, status.st_size)
                last = known.get(path)
                yield path, last if last and last[0] == stamp else (stamp, self._read_header(path))
            except OSError as error:  # it may have gone since it was listed
                logger.warning("%s: cannot be read (%s)", path, error.strerror)

    def _read_header(self, path: Path) -> Dataset | None:
        """Return what a file says of its series, None where it is no DICOM file or a DICOMDIR."""
        if not is_dicom(path):
            return None
        try:
            header = self._identified(pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(HEADER)), path)
            header.to_json_dict()  # reads the values
        except Exception as error:  # pydicom raises whatever a damaged element leads to
            logger.warning("%s: not a readable DICOM file (%s)", path, error)
            return None
        return None if header.SOPClassUID == MediaStorageDirectoryStorage else header

    def _identified(self, dataset: Dataset, path: Path) -> Dataset:
        """Fill in UIDs that de-identification has emptied, the same each time, wherever ``folder`` is moved."""
        dataset.SOPClassUID = dataset.get("SOPClassUID") or dataset.file_meta.MediaStorageSOPClassUID
        dataset.SOPInstanceUID = dataset.get("SOPInstanceUID") or dataset.file_meta.MediaStorageSOPInstanceUID
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID"):
            if not dataset.get(keyword):
                source = str(path.parent.relative_to(self.folder))
                setattr(dataset, keyword, generate_uid(entropy_srcs=[keyword, source]))
        return dataset


def _visible_files(folder: Path, leave_out: Path) -> list[Path]:
    """Return the files anywhere below ``folder``, sorted, without hidden ones and those of the folder ``leave_out``."""
    folder, leave_out = folder.resolve(), leave_out.resolve()
    return [
        path
        for path in sorted(folder.rglob("*"))
        if not any(part[0] == "." for part in path.relative_to(folder).parts)
        and not path.is_relative_to(leave_out)
        and path.is_file()
    ]


def _writer(dataset: Dataset) -> Callable[[Path], None]:
    return lambda temporary: pydicom.dcmwrite(temporary, dataset, write_like_original=False)
