"""A real Orthanc with its DICOMweb plugin."""

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

import pydicom
import requests
from pydicom.dataset import Dataset

ORTHANC = shutil.which("Orthanc", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin:/opt/orthanc/bin")
DICOMWEB_PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
HAS_ORTHANC = ORTHANC is not None and DICOMWEB_PLUGIN.is_file()
NO_ORTHANC = "no Orthanc with DICOMweb here; Debian has it: apt install orthanc orthanc-dicomweb"


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
