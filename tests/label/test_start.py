"""How the server starts, and with which options it does not; a DICOMweb server; MONAI Label's own command."""

import gzip
import shutil
import socket
import subprocess
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import nibabel as nib
import pytest
import requests

from tests.label.client import CASE, MODEL, Client
from tests.makers.label_server import LabelServer, monailabel_server, needs_label_env
from tests.makers.places import LABEL_BIN, ROOT

pytestmark = [needs_label_env, pytest.mark.shared]
ARGUMENTS = {
    "no folder": ("--studies nothing", "nothing: no such folder"),
    "a file": ("--studies afile", "afile: no such folder"),
    "port in use": ("--studies . --port {busy}", "Address already in use"),
    "no port": ("--studies . --port 99999", "port must be 0-65535"),
    "not our address": ("--studies . --host 192.0.2.1", "Cannot assign requested address"),
    "no host": ("--studies . --host=", "no --host"),
    "work folder a file": ("--studies . --work-dir afile", "afile: cannot write here"),
}
BUNDLES = {
    "no weights": ("--studies . --bundle sdseg", "this bundle has no weights to serve"),
    "unknown bundle": ("--studies . --bundle nothing", "no bundle of that name"),
    "one name": (f"--studies . --bundle {MODEL} --bundle copy/{MODEL}", "two bundles of one name"),
}


@pytest.mark.parametrize(
    "mistake", [*ARGUMENTS, *(pytest.param(mistake, marks=pytest.mark.slow) for mistake in BUNDLES)]
)
def test_arguments(tmp_path, mistake):
    (tmp_path / "afile").touch()
    shutil.copytree(ROOT / "bundles" / MODEL / "configs", tmp_path / "copy" / MODEL / "configs")
    shutil.copytree(ROOT / "bundles" / MODEL / "models", tmp_path / "copy" / MODEL / "models")
    arguments, reason = {**ARGUMENTS, **BUNDLES}[mistake]
    with socket.create_server(("127.0.0.1", 0)) as busy:
        words = arguments.format(busy=busy.getsockname()[1]).split()
        port = [] if "--port" in words else ["--port", "0"]
        command = [str(LABEL_BIN / "sdseg"), "label", *words, *port]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and reason in done.stderr


class Recorder(BaseHTTPRequestHandler):
    """A DICOMweb server without studies that keeps the paths it is asked for."""

    paths: list = []  # noqa: RUF012

    def do_GET(self):
        self.paths.append(self.path)
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"[]")

    def log_message(self, *_):
        pass


@pytest.mark.slow
def test_proxy_stays_below_the_dicomweb_root(tmp_path):
    """``requests``, by which MONAI Label passes requests on, would make /system of /dicom-web/%2e%2e/system."""
    orthanc = ThreadingHTTPServer(("127.0.0.1", 0), Recorder)
    Thread(target=orthanc.serve_forever, daemon=True).start()
    with LabelServer(f"http://127.0.0.1:{orthanc.server_port}/dicom-web", tmp_path / "work") as server:
        client = Client(server, b"", b"")
        assert client.raw("GET", "/proxy/dicom/qido/studies").content == b"[]"
        for target in ("%2e%2e/system", "%252e%252e/system", "%25252e%25252e/system", "..%5csystem", ".%252e/system"):
            client.check_refused(
                lambda c, target=target: c.raw("GET", f"/proxy/dicom/{target}"), 400, "expected no '..'"
            )
        assert Recorder.paths and all(path.startswith("/dicom-web/") for path in Recorder.paths)
        orthanc.shutdown()
        orthanc.server_close()
        client.check_refused(lambda c: c.raw("GET", "/proxy/dicom/qido/studies"), 502, "refused")
        client.check_refused(lambda c: c.send("GET", "/info/"), 422, "no usable answer from the DICOMweb server")


@pytest.mark.slow
def test_monailabels_own_command(hippocampus, tmp_path):
    """``monailabel start_server --app``, guarded when it is told to use our web application."""
    shutil.copytree(ROOT / "sdseg_monai" / "label", tmp_path / "label", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "studies").mkdir()
    shutil.copy(hippocampus / "images" / f"{CASE}.nii.gz", tmp_path / "studies")
    guard = ("--uvicorn_app", "sdseg_monai.label.server:app")
    quiet = {"MONAI_LABEL_AUTO_UPDATE_SCORING": "false"}
    with monailabel_server(tmp_path, tmp_path / "label", tmp_path / "studies", *guard, **quiet) as url:
        query = {"image": CASE, "output": "image"}
        mask = requests.post(f"{url}/infer/{MODEL}", params=query, timeout=60)
        assert nib.Nifti1Image.from_bytes(gzip.decompress(mask.content)).get_fdata().any()
        assert requests.post(f"{url}/infer/{MODEL}", params={"image": "../x"}, timeout=60).status_code == 400
        assert requests.post(f"{url}/train/{MODEL}", json={"bundle_path": "/tmp"}, timeout=60).status_code == 422
        assert requests.get(f"{url}/info/", headers={"Host": "evil.example"}, timeout=60).status_code == 400
