"""DICOM for the tests: MR series of volumes, and a real Orthanc with its DICOMweb plugin."""

from __future__ import annotations

import io
import json
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pydicom
import requests
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid
from pydicom.valuerep import DSfloat

from tests.makers.volumes import load_nifti

ORTHANC = shutil.which("Orthanc", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin:/opt/orthanc/bin")
DICOMWEB_PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
HAS_ORTHANC = ORTHANC is not None and DICOMWEB_PLUGIN.is_file()
NO_ORTHANC = "no Orthanc with DICOMweb here; Debian has it: apt install orthanc orthanc-dicomweb"


def write_mr_series(volume: Path, folder: Path, **attributes: object) -> list[Path]:
    """Write a NIfTI volume as an MR series, one file a slice along the third axis; ``attributes`` replace elements.

    Whole numbers of 16 bits stay as they are, other intensities are scaled to them. The axes must be orthogonal.
    """
    image = load_nifti(volume)
    array = np.asarray(image.dataobj, dtype=np.float64)  # [X, Y, Z]
    if array.min() < 0 or array.max() > 65535 or (array != np.rint(array)).any():
        array = (array - array.min()) / max(array.max() - array.min(), 1e-9) * 65535
    array = np.rint(array).astype(np.uint16)
    affine = np.diag([-1, -1, 1, 1]) @ image.affine  # to LPS
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    axes = affine[:3, :3] / spacing
    assert np.allclose(axes.T @ axes, np.eye(3), atol=1e-5), "DICOM slices cannot be sheared"
    series = Dataset()
    series.SOPClassUID = MRImageStorage
    series.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND"]
    series.Modality = "MR"
    series.PatientName, series.PatientID = "Hippocampus^Test", "TEST-1"
    series.PatientBirthDate, series.PatientSex = "19700101", "O"
    series.StudyDate, series.StudyTime = "20240102", "101500"
    series.SeriesDate, series.SeriesTime = series.ContentDate, series.ContentTime = "20240102", "101600"
    series.StudyID, series.AccessionNumber, series.ReferringPhysicianName = "1", "A1", ""
    series.StudyDescription, series.SeriesDescription, series.SeriesNumber = "Test study", "T1", 1
    series.Manufacturer, series.BodyPartExamined, series.PatientPosition = "tests", "HEAD", "HFS"
    series.ScanningSequence, series.SequenceVariant, series.ScanOptions = "GR", "NONE", ""
    series.MRAcquisitionType, series.EchoTime, series.RepetitionTime, series.EchoTrainLength = "3D", "4", "10", "1"
    series.PositionReferenceIndicator = ""
    for name in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        setattr(series, name, generate_uid())
    series.ImageOrientationPatient = [DSfloat(cosine, auto_format=True) for cosine in axes[:, :2].T.ravel()]
    series.PixelSpacing = [DSfloat(edge, auto_format=True) for edge in spacing[[1, 0]]]  # of rows, of columns
    series.SliceThickness = series.SpacingBetweenSlices = DSfloat(spacing[2], auto_format=True)
    series.Columns, series.Rows = array.shape[:2]
    series.SamplesPerPixel, series.PhotometricInterpretation = 1, "MONOCHROME2"
    series.BitsAllocated, series.BitsStored, series.HighBit, series.PixelRepresentation = 16, 16, 15, 0
    low, high = np.percentile(array, (1, 99))
    series.WindowCenter, series.WindowWidth = (DSfloat(n, auto_format=True) for n in ((low + high) / 2, high - low + 1))
    for name, value in attributes.items():
        setattr(series, name, value)
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for index in range(array.shape[2]):
        path = folder / f"{index + 1:04}.dcm"
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = MRImageStorage, ExplicitVRLittleEndian
        dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
        dataset.update(series)
        dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID = generate_uid()
        dataset.InstanceNumber = index + 1
        position = affine[:3, :3] @ [0, 0, index] + affine[:3, 3]
        dataset.ImagePositionPatient = [DSfloat(coordinate, auto_format=True) for coordinate in position]
        dataset.PixelData = np.ascontiguousarray(array[:, :, index].T).tobytes()
        pydicom.dcmwrite(path, dataset, enforce_file_format=True)
        files.append(path)
    return files


class OrthancServer:
    """An empty Orthanc on a free port, which answers this machine alone; everything goes at the end.

    Args:
        users: passwords by name; without any, nobody is asked.
    """

    def __init__(self, users: dict[str, str] | None = None) -> None:
        self.users = users or {}
        self.url = f"http://127.0.0.1:{free_port()}"
        self.dicomweb_url = f"{self.url}/dicom-web"

    def __enter__(self) -> OrthancServer:
        self._folder = tempfile.TemporaryDirectory()
        folder = Path(self._folder.name)
        config = {
            "Name": "sdseg-tests",
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "storage"),
            "Plugins": [str(DICOMWEB_PLUGIN)],
            "HttpPort": int(self.url.rpartition(":")[2]),
            "HttpBindAddresses": ["127.0.0.1"],  # of 2025's Orthanc; older ones listen everywhere ...
            "RemoteAccessAllowed": False,  # ... and refuse what other machines ask
            "DicomServerEnabled": False,
            "AuthenticationEnabled": bool(self.users),
            "RegisteredUsers": self.users,
            "DicomWeb": {"Enable": True},
        }
        (folder / "orthanc.json").write_text(json.dumps(config))
        self._log = (folder / "log.txt").open("w+")
        command = [str(ORTHANC), str(folder / "orthanc.json")]
        self._process = subprocess.Popen(command, cwd=folder, stdout=self._log, stderr=subprocess.STDOUT)
        for _ in range(300):
            try:
                if self._process.poll() is None and self._get("/system").ok:
                    return self
            except requests.ConnectionError:
                pass
            if self._process.poll() is not None:
                break
            time.sleep(0.1)
        self._log.seek(0)
        log = self._log.read()
        self.__exit__()
        raise RuntimeError(f"Orthanc did not start:\n{log}")

    def __exit__(self, *error: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()
        self._folder.cleanup()

    def upload(self, files: Iterable[Path]) -> None:
        """Store DICOM files."""
        for file in files:
            requests.post(f"{self.url}/instances", file.read_bytes(), auth=self._auth, timeout=30).raise_for_status()

    def instances(self, **query: str) -> list[Dataset]:
        """Return the stored instances whose elements have these values, by Orthanc's own interface."""
        files = [self._get(f"/instances/{name}/file").content for name in self._find("Instance", query)]
        return [pydicom.dcmread(io.BytesIO(file)) for file in files]

    def delete(self, series_uid: str) -> None:
        """Remove a series."""
        for name in self._find("Series", {"SeriesInstanceUID": series_uid}):
            requests.delete(f"{self.url}/series/{name}", auth=self._auth, timeout=30).raise_for_status()

    @property
    def _auth(self) -> tuple[str, str] | None:
        return next(iter(self.users.items()), None)

    def _find(self, level: str, query: dict[str, str]) -> list[str]:
        return requests.post(
            f"{self.url}/tools/find", json={"Level": level, "Query": query}, auth=self._auth, timeout=30
        ).json()

    def _get(self, path: str) -> requests.Response:
        return requests.get(self.url + path, auth=self._auth, timeout=30)


def free_port() -> int:
    """Return a port of this machine that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
