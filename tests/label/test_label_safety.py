"""The label server under hostile and clumsy clients: a mistake is a 4xx, with one line in the answer and the log."""

import gzip
import json
import shutil
import socket
import subprocess
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import nibabel as nib
import numpy as np
import psutil
import pytest
import requests

from tests.makers.label_server import LabelServer, monailabel_server, needs_label_env
from tests.makers.places import LABEL_BIN, ROOT

pytestmark = [needs_label_env, pytest.mark.shared]

MODEL = "hippocampus_sdseg"
CASES = CASE, OTHER = "hippocampus_001", "hippocampus_003"
NAME = "expected a plain name"
RESERVED = "not for clients to set"
NOT_JSON = "expected a JSON object"
JSON = {"Content-Type": "application/json"}


class Client:
    """Sends what a viewer's own client never would.

    Args:
        server: that is attacked.
        volume: content of an image's file.
        label: content of its label's.
    """

    def __init__(self, server, volume, label):
        self.server, self.volume, self.label = server, volume, label
        self.port = int(server.url.rpartition(":")[2])

    def send(self, method, path, **options):
        return requests.request(method, self.server.url + path, timeout=60, **options)

    def infer(self, params="{}", file=None, **query):
        text = params if isinstance(params, str) else json.dumps(params)
        query = {"output": "image", **(query or {"image": CASE} if file is None else query)}
        files = {"params": (None, text), **({} if file is None else {"file": file})}
        return self.send("POST", f"/infer/{MODEL}", params=query, files=files)

    def put_image(self, name="x.nii.gz", content=None, params="{}", **query):
        files = {"params": (None, params), "file": (name, self.volume if content is None else content)}
        return self.send("PUT", "/datastore/image", params=query, files=files)

    def put_label(self, name="x.nii.gz", content=None, params="{}", **query):
        files = {"params": (None, params), "label": (name, self.label if content is None else content)}
        return self.send("PUT", "/datastore/label", params={"image": CASE, "tag": "final", **query}, files=files)

    def put_session(self, *names, **query):
        return self.send("PUT", "/session/", params=query, files=[("files", (name, self.volume)) for name in names])

    def raw(self, method, target, *headers, body=b""):
        """Send a request as it stands, for ``requests`` makes paths and headers good."""
        host = [] if any(header.startswith("Host:") for header in headers) else [f"Host: 127.0.0.1:{self.port}"]
        lines = [f"{method} {target} HTTP/1.1", *host, "Connection: close", *headers, "", ""]
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as connection:
            connection.sendall("\r\n".join(lines).encode() + body)
            received = b"".join(iter(lambda: connection.recv(1 << 16), b""))
        head, _, content = received.partition(b"\r\n\r\n")
        answer = requests.Response()
        answer.status_code, answer._content = int(head.split()[1]), content
        return answer

    def check_refused(self, send, status, reason):
        """Send a request and check that the answer and the log say why it is refused, in one line each."""
        start = len(self.server.log)
        answer = send(self)
        assert answer.status_code == status, answer.text
        detail = answer.json()["detail"]
        assert reason in detail and "\n" not in detail
        log = self.log_since(start, detail)
        assert log.count("] (sdseg_monai.label.guard:") == 1 and f": {detail}\n" in log, log
        assert "Traceback" not in log

    def log_since(self, start, words):
        deadline = time.monotonic() + 5  # another process writes it
        while words not in self.server.log[start:] and time.monotonic() < deadline:
            time.sleep(0.01)
        return self.server.log[start:]

    def wait(self, path):
        """Return the state of the last task once it has come to its end."""
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            state = self.send("GET", path).json()
            if state["status"] not in ("SUBMITTED", "RUNNING"):
                return state
            time.sleep(0.1)
        raise TimeoutError(state)


@pytest.fixture(scope="module")
def client(hippocampus, tmp_path_factory):
    """A client of a server on two real volumes, one of them labelled, in a folder of its own."""
    folder = tmp_path_factory.mktemp("safety")
    studies, labels = folder / "inside" / "studies", folder / "inside" / "studies" / "labels" / "final"
    labels.mkdir(parents=True)
    for case in CASES:
        shutil.copy(hippocampus / "images" / f"{case}.nii.gz", studies)
    shutil.copy(hippocampus / "labels" / f"{CASE}.nii.gz", labels)
    with LabelServer(studies, folder / "inside" / "work", MONAI_LABEL_AUTO_UPDATE_SCORING="false") as server:
        client = Client(server, (studies / f"{CASE}.nii.gz").read_bytes(), (labels / f"{CASE}.nii.gz").read_bytes())
        client.folder, client.studies, client.mask = folder, studies, client.infer().content
        yield client


def test_binds_to_this_machine_only(client):
    addresses = {
        c.laddr.ip for c in psutil.Process(client.server.process.pid).net_connections() if c.status == "LISTEN"
    }
    assert addresses == {"127.0.0.1"}


IMAGES = ["../../etc/passwd", "/etc/passwd", "..", ".hidden", "a/b", "a\\b", "a\0b", "a\nb", "\x1b[31m", "x" * 300]


@pytest.mark.parametrize("name", IMAGES, ids=repr)
@pytest.mark.parametrize("parameter", ["image", "session_id", "id", "tag", "label"])
def test_names_are_no_paths(client, parameter, name):
    requests_of = {
        "image": lambda c: c.infer(image=name),
        "session_id": lambda c: c.infer(session_id=name),
        "id": lambda c: c.send("DELETE", "/datastore/image", params={"id": name}),
        "tag": lambda c: c.put_label(tag=name),
        "label": lambda c: c.send("GET", "/datastore/label/info", params={"label": name, "tag": "final"}),
    }
    client.check_refused(requests_of[parameter], 400, NAME)


PARAMS = {  # of an inference
    '{"image": "/etc/passwd"}': RESERVED,
    '{"image": ["x"]}': RESERVED,
    '{"model": [1]}': RESERVED,
    '{"session": "/../x"}': RESERVED,
    '{"label": "/../x"}': RESERVED,
    '{"timeout": 0.001}': RESERVED,
    '{"result_extension": "/../../x"}': "expected .nii.gz or",
    '{"result_extension": ".nii.gz/../../etc"}': "expected .nii.gz or",
    '{"result_extension": ".exe"}': "expected .nii.gz or",
    '{"result_extension": 5}': "expected .nii.gz or",
    '{"save_label": true, "label_tag": "../../x"}': NAME,
    '{"save_label": true, "label_tag": 5}': NAME,
    '{"save_label": true, "label_tag": "%s"}' % ("x" * 400): NAME,
    '{"save_label": "false"}': "expected true or false",
    '{"seed": -1}': "expected a whole number from 0",
    '{"seed": 1.5}': "expected a whole number from 0",
    '{"seed": "seven"}': "expected a number",
    '{"seed": "nan"}': "expected a number",
    '{"seed": true}': "expected a number",
    '{"seed": [1]}': "expected a number",
    '{"seed": 18446744073709551616}': "expected a whole number from 0",
    '{"seed": "1e999999999"}': "expected a whole number from 0",
    '{"seed": 1e400}': NOT_JSON,
    '{"seed": NaN}': NOT_JSON,
    '{"seed": %s}' % ("9" * 5000): NOT_JSON,
    '{"batch_size": 0}': "expected a whole number from 1 to 32",
    '{"batch_size": 1024}': "expected a whole number from 1 to 32",
    '{"batch_size": {"a": 1}}': "expected a number",
    '{"device": "cpu; rm"}': "expected cpu, or cuda",
    '{"device": "meta"}': "expected cpu, or cuda",
    '{"device": 5}': "expected a device's name",
    '{"device": {"a": 1}}': "expected a device's name",
    '{"weights": "../../x"}': "expected latest or original",
    '{"weights": [[1]]}': "expected latest or original",
    '{"weights": "\\ud800"}': NOT_JSON,
    "{x": NOT_JSON,
    "[1]": NOT_JSON,
    "5": NOT_JSON,
    "null": NOT_JSON,
    "[" * 100_000: NOT_JSON,
    '{"a": %s}' % ("[" * 900 + "]" * 900): NOT_JSON,
    '{"a": %s}' % ("[" * 30 + "]" * 30): "at most 20 levels",
}


@pytest.mark.parametrize("params", PARAMS, ids=lambda text: text[:50])
def test_options_of_an_inference(client, params):
    client.check_refused(lambda c: c.infer(params), 422, PARAMS[params])


@pytest.mark.parametrize("seed", ["7", "7.00", "1e3", 1e16, 2**63 - 1, None])
def test_numbers_as_viewers_write_them(client, seed):
    assert client.infer({"seed": seed, "device": ["cpu"]}).content == client.mask


FILES = [
    "noext",
    "x.nii.gz.exe",
    "../../x.py",
    "meta.info",
    "x.zip",
    "a\0b.nii.gz",
    "x" * 300 + ".nii.gz",
    ".nii.gz",
    "..",
]


@pytest.mark.parametrize("name", FILES, ids=lambda name: repr(name[:20]))
@pytest.mark.parametrize("route", ["infer", "put_image", "put_label", "put_session"])
def test_names_of_files(client, route, name):
    requests_of = {
        "infer": lambda c: c.infer(file=(name, c.volume)),
        "put_image": lambda c: c.put_image(name),
        "put_label": lambda c: c.put_label(name),
        "put_session": lambda c: c.put_session(name),
    }
    client.check_refused(requests_of[route], 422, NAME)


def nifti(array, at=None, values=b""):
    """Return a gzipped NIfTI file of ``array``, with ``values`` in its header from byte ``at`` on."""
    content = bytearray(nib.Nifti1Image(array, np.eye(4)).to_bytes())
    if at is not None:
        content[at : at + len(values)] = values
    return gzip.compress(bytes(content))


BLOCK = np.zeros((4, 4, 4), np.uint8)
CONTENTS = {
    "empty": (b"", "the file is empty"),
    "text": (b"hello", "not a readable NIfTI file"),
    "truncated": (None, "truncated or damaged"),
    "huge": (
        nifti(BLOCK, 42, np.array([30000] * 3, "<i2").tobytes()),
        "the header claims 30000 x 30000 x 30000 voxels",
    ),
    "NaN affine": (nifti(BLOCK, 280, np.full(12, np.nan, "<f4").tobytes()), "the affine is singular"),
    "4-D": (nifti(np.zeros((4, 4, 4, 2), np.uint8)), "expected one 3-D volume"),
    "NaN": (nifti(np.full((4, 4, 4), np.nan, np.float32)), "NaN or infinite"),
}


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("route", ["infer", "put_image", "put_label"])
def test_contents_of_files(client, route, content):
    data, reason = CONTENTS[content]
    data = client.volume[: len(client.volume) // 2] if data is None else data
    requests_of = {
        "infer": lambda c: c.infer(file=("x.nii.gz", data)),
        "put_image": lambda c: c.put_image(content=data, image="new"),
        "put_label": lambda c: c.put_label(content=data),
    }
    client.check_refused(requests_of[route], 422, reason)


def test_an_upload_is_no_series(client):
    volume = ("x.nii.gz", client.volume)
    client.check_refused(
        lambda c: c.infer(file=volume, image=OTHER, output="dicom_seg"), 422, "an image of the studies"
    )


def test_files_outside_the_upload_are_not_read(client):
    nrrd = b"NRRD0004\ntype: uchar\ndimension: 3\nsizes: 4 4 4\nencoding: raw\ndata file: /etc/passwd\n\n"
    client.check_refused(lambda c: c.infer(file=("x.nrrd", nrrd)), 422, "upload: its voxels lie in another file")


BODIES = [  # of tasks
    (f"/train/{MODEL}", '{"bundle_path": "/tmp"}', RESERVED),  # MONAI Label puts it on the PYTHONPATH of a process
    (f"/scoring/{MODEL}_flips", '{"bundle_path": "/tmp"}', RESERVED),
    (f"/batch/infer/{MODEL}", '{"bundle_path": "/tmp"}', RESERVED),
    ("/train/", f'{{"{MODEL}": {{"bundle_path": "/tmp"}}}}', RESERVED),
    (f"/train/{MODEL}", '{"model": "x"}', RESERVED),
    (f"/scoring/{MODEL}_flips", '{"method": "x"}', RESERVED),
    ("/activelearning/random", '{"strategy": ["x"]}', RESERVED),
    (f"/train/{MODEL}", '{"max_epochs": 0}', "expected a whole number from 1"),
    (f"/train/{MODEL}", '{"val_split": 2}', "expected a number from 0.01"),
    (f"/train/{MODEL}", '{"learning_rate": "nan"}', "expected a number"),
    (f"/train/{MODEL}", '{"weights": "../x"}', "expected latest or original"),
    (f"/train/{MODEL}", '{"device": 5}', "expected a device's name"),
    (f"/train/{MODEL}", '{"gpus": 5}', "expected numbers with commas"),
    (f"/train/{MODEL}", "[1]", NOT_JSON),
    (f"/train/{MODEL}", "{x", "JSON decode error"),
    (f"/train/{MODEL}", '{"a": NaN}', NOT_JSON),
    ("/train/", f'{{"{MODEL}": {{"max_epochs": "x"}}}}', "expected a number"),
    ("/train/", f'{{"{MODEL}": 5}}', "expected an object"),
    ("/scoring/", f'{{"{MODEL}_flips": 5}}', "expected an object"),
    (f"/scoring/{MODEL}_flips", '{"device": [5]}', "expected a device's name"),
    ("/activelearning/random", "[1]", NOT_JSON),
    ("/activelearning/random", '{"client_id": {"a": 1}}', "expected a text"),
    (f"/batch/infer/{MODEL}", '{"label_tag": "../../x"}', NAME),
    (f"/batch/infer/{MODEL}", '{"images": 5}', "expected a list of images"),
    (f"/batch/infer/{MODEL}", '{"images": ["../../x"]}', NAME),
    (f"/batch/infer/{MODEL}", '{"max_batch_size": "x"}', "expected a whole number"),
    (f"/batch/infer/{MODEL}", '{"max_workers": "x"}', "expected a whole number"),
]


@pytest.mark.parametrize(("path", "body", "reason"), BODIES)
def test_options_of_tasks(client, path, body, reason):
    client.check_refused(lambda c: c.send("POST", path, data=body, headers=JSON), 422, reason)


@pytest.mark.parametrize("kind", ["application/form+json", "text/plain", "application/json; a=multipart/form-data"])
def test_another_type_does_not_hide_options(client, kind):
    body = {"data": '{"bundle_path": "/tmp"}', "headers": {"Content-Type": kind}}
    client.check_refused(lambda c: c.send("POST", f"/train/{MODEL}", **body), 422, RESERVED)


UNKNOWN = [
    ("POST", "/infer/nothing", 404, "expected hippocampus_sdseg"),
    ("POST", "/batch/infer/nothing", 404, "expected hippocampus_sdseg"),
    ("POST", "/train/nothing", 404, "expected hippocampus_sdseg"),
    ("POST", "/scoring/nothing", 404, f"expected {MODEL}_flips"),
    ("POST", "/activelearning/nothing", 404, "expected random"),
    ("DELETE", "/datastore/image?id=nothing", 404, "not found"),
    ("DELETE", "/session/nothing", 404, "Not Found"),
    ("POST", f"/infer/{MODEL}?image=nothing", 422, "no such image"),
    ("POST", f"/infer/{MODEL}?session_id=nothing", 422, "no such image"),
    ("POST", f"/infer/{MODEL}", 422, "no image, session_id or file"),
    ("POST", f"/infer/{MODEL}?image={CASE}&output=dicom_seg", 422, "cannot become a DICOM SEG"),
    ("POST", f"/infer/{MODEL}?image={CASE}&output=evil", 422, "query.output"),
    ("GET", "/datastore/?output=evil", 422, "query.output"),
    ("GET", "/datastore/dataset?limit_cases=x", 422, "query.limit_cases"),
    ("DELETE", "/datastore/image", 422, "query.id: Field required"),
    ("GET", "/logs/?lines=99999999999999999999", 400, "expected a number"),
    ("POST", f"/train/{MODEL}?run_sync=true", 400, "run_sync"),
    ("POST", f"/batch/infer/{MODEL}?run_sync=1", 400, "run_sync"),
    ("POST", "/info/", 405, "Method Not Allowed"),
    # routes of MONAI Label that are not served: they load files that anyone sent, or take no part here
    ("DELETE", f"/model/{MODEL}", 404, "Not Found"),
    ("PUT", f"/model/{MODEL}", 404, "Not Found"),
    ("POST", f"/infer/wsi/{MODEL}", 404, "Not Found"),
    ("POST", f"/infer/wsi_v2/{MODEL}", 404, "Not Found"),
    ("POST", "/reload", 404, "Not Found"),
    ("POST", "/proxy/dicom/stow/studies", 404, "the studies are a folder"),
]


@pytest.mark.parametrize(("method", "path", "status", "reason"), UNKNOWN)
def test_what_is_not_there(client, method, path, status, reason):
    client.check_refused(lambda c: c.send(method, path), status, reason)


@pytest.mark.parametrize(
    "path", ["/session/nothing", "/datastore/image?image=nothing", "/proxy/dicom/studies", "/train/"]
)
def test_looking_for_what_is_not_there_is_no_warning(client, path):
    """Viewers ask every few seconds whether a training runs."""
    start = len(client.server.log)
    assert client.send("GET", path).status_code == 404
    assert "WARNING" not in client.server.log[start:]


def test_no_gpu_to_tell_of(client):
    assert client.send("GET", "/logs/gpu").status_code == (404 if shutil.which("nvidia-smi") is None else 200)


LABELS = {
    "unknown image": ({"image": "nothing"}, "there is no such image here"),
    "other grid": ({"image": OTHER}, "the two must lie on the same grid"),
    "too few bytes": ({"name": "label.bin", "content": b"123"}, "3 bytes, expected 62475"),
    "params not JSON": ({"params": "{x"}, NOT_JSON),
    "params a list": ({"params": "[1]"}, NOT_JSON),
    "the server's": ({"params": '{"strategy": 5}'}, "the server keeps its own"),
}


@pytest.mark.parametrize("mistake", LABELS)
def test_labels(client, mistake):
    options, reason = LABELS[mistake]
    client.check_refused(lambda c: c.put_label(**options), 422, reason)


@pytest.mark.parametrize(
    ("info", "reason"),
    [
        ("[1]", NOT_JSON),
        ("5", NOT_JSON),
        ('{"a": NaN}', NOT_JSON),
        ('{"a": "\\ud800"}', NOT_JSON),
        ('{"strategy": 5}', "the server keeps its own"),
        (f'{{"{MODEL}_flips": {{"score": "x"}}}}', "the server keeps its own"),
    ],
)
def test_what_is_stored_of_an_image(client, info, reason):
    """It would be read again: by the strategies, and by everyone who lists the datastore."""
    files = {"info": (None, info)}
    client.check_refused(
        lambda c: c.send("PUT", "/datastore/image/info", params={"image": CASE}, files=files), 422, reason
    )
    assert client.send("GET", "/datastore/?output=all").ok


TARGETS = [
    ("GET", "/session/..", 400),
    ("DELETE", "/session/%2e%2e", 400),
    ("DELETE", "/session/%2e%2e%2f%2e%2e", 400),
    ("DELETE", "/session/..%2fuploads", 400),
    ("DELETE", "/session/..%5cuploads", 400),
    ("GET", "/session/%00", 400),
    ("GET", "/ohif/../../../../../etc/passwd", 400),
    ("GET", "/static/..%2f..%2fconfig.py", 400),
    ("GET", "/static/%00", 400),
    ("GET", "/proxy/dicom/%2e%2e/system", 400),
    ("GET", "/proxy/dicom/%252e%252e/system", 400),
    ("GET", "/%0a[2026-01-01]%20a%20forged%20line", 400),
    ("GET", "/%1b[31m", 400),
    ("POST", f"/infer/{MODEL}?image=%2e%2e%2f%2e%2e%2fetc%2fpasswd", 400),
    ("POST", f"/infer/{MODEL}?image={CASE}&image=..%2fx", 400),
]


@pytest.mark.parametrize(("method", "target", "status"), TARGETS)
def test_paths(client, method, target, status):
    client.check_refused(lambda c: c.raw(method, target), status, "expected")


HEADERS = {
    "other host": (("Host: evil.example",), 400, "Host 'evil.example'"),
    "other page": (("Origin: http://evil.example",), 403, "this server's own pages only"),
    "no page": (("Origin: null",), 403, "this server's own pages only"),
    "half an address": (("Origin: http://[",), 403, "this server's own pages only"),
    "large": (
        ("Content-Length: 99999999999", "Content-Type: multipart/form-data; boundary=a"),
        413,
        "at most 2147483648",
    ),
    "large JSON": (("Content-Length: 99999999", "Content-Type: application/json"), 413, "at most 16777216"),
}


@pytest.mark.parametrize("mistake", HEADERS)
def test_headers(client, mistake):
    headers, status, reason = HEADERS[mistake]
    client.check_refused(lambda c: c.raw("POST", f"/train/{MODEL}", *headers), status, reason)


def test_its_own_page_may_ask(client):
    assert client.send("GET", "/info/", headers={"Origin": client.server.url}).ok
    assert client.send("GET", "/ohif/", headers={"Host": f"localhost:{client.port}"}).ok


def test_large_bodies_without_their_length(client):
    large, long = (b" " * (1 << 20) for _ in range(17)), iter([b'{"a": "' + b"x" * 20_000, b'"}'])
    for body, reason in ((large, "body: expected at most 16777216"), (long, "options of 20009 bytes")):
        client.check_refused(
            lambda c, body=body: c.send("POST", f"/train/{MODEL}", data=body, headers=JSON), 413, reason
        )


def test_broken_forms(client):
    def post(kind, body=b"xx", *more):
        headers = (f"Content-Type: {kind}", f"Content-Length: {len(body)}", *more)
        return lambda c: c.raw("POST", f"/infer/{MODEL}?image={CASE}", *headers, body=body)

    client.check_refused(post("multipart/form-data"), 400, "Missing boundary")
    client.check_refused(post("multipart/form-data; boundary=a"), 400, "Invalid multipart data")
    client.check_refused(lambda c: c.put_session("x.nii.gz", "y.nii.gz"), 400, "Too many files")
    client.check_refused(lambda c: c.infer("x" * (2 << 20)), 400, "exceeded maximum size")
    client.check_refused(lambda c: c.put_session("x.nii.gz", uncompress=True), 400, "archives are not unpacked")


def test_a_client_that_goes_away(client):
    start = len(client.server.log)
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", client.port)) as connection:
            head = f"PUT /session/ HTTP/1.1\r\nHost: 127.0.0.1:{client.port}\r\nContent-Length: 1000\r\n"
            kind = "Content-Type: multipart/form-data; boundary=a\r\n\r\n"
            part = '--a\r\nContent-Disposition: form-data; name="files"; filename="x.nii.gz"\r\n\r\nabc'
            connection.sendall((head + kind + part).encode())
    assert "Traceback" not in client.log_since(start, "parsing the body")


def test_an_uploads_folder_is_the_clients(client):
    """Slicer sends where the file lay; that is no reason to write there."""
    for name in ("../../x.nii.gz", "/tmp/x.nii.gz", "C:\\Users\\first.last\\x.nii.gz"):
        session = client.put_session(name).json()
        image = session["session_info"]["image"]
        assert image == str(client.server.work_dir / "sessions" / session["session_id"] / "x.nii.gz")
        assert client.send("DELETE", f"/session/{session['session_id']}").ok
    session = client.put_session("x.nii.gz").json()
    assert client.infer(session_id=session["session_id"]).content == client.mask


def test_names_with_dots_do_not_replace_each_other(client):
    assert client.put_image("scan.1.nii.gz").json() == {"image": "scan.1"}
    assert client.put_image("scan.2.nii.gz").json() == {"image": "scan.2"}
    assert {"scan.1", "scan.2"} <= client.send("GET", "/datastore/?output=all").json()["objects"].keys()
    for image in ("scan.1", "scan.2"):
        assert client.send("DELETE", "/datastore/image", params={"id": image}).ok


def test_next_sample_twice_in_a_second(client):
    """MONAI Label's random choice fails where every image was served just now."""
    assert [client.send("POST", "/activelearning/random", json={}).json()["id"] for _ in range(4)] == [OTHER] * 4


def test_batch_goes_on_after_a_bad_image(client):
    """With MONAI Label's own options, which are for GPUs."""
    bad = client.studies / "bad.nii.gz"
    bad.write_bytes(b"not a volume")
    try:
        deadline = time.monotonic() + 20
        while client.send("GET", "/datastore/").json()["total"] < 3 and time.monotonic() < deadline:
            time.sleep(0.1)
        start = len(client.server.log)
        assert client.send("POST", f"/batch/infer/{MODEL}").ok
        assert client.wait("/batch/infer")["status"] == "DONE"
        log = client.server.log[start:]
        assert "bad: not segmented" in log and "not a readable NIfTI file" in log and "Traceback" not in log
        labels = client.studies / "labels" / "original"
        assert {path.name for path in labels.iterdir()} == {f"{case}.nii.gz" for case in CASES}
    finally:
        bad.unlink()


def test_stopping_what_does_not_run(client):
    for path in ("/train/", "/scoring/"):
        assert client.send("DELETE", path).json() is None


def test_dataset_leaves_no_archive(client):
    assert client.send("GET", "/datastore/dataset").content.startswith(b"PK")


def test_nothing_is_left_behind(client):
    """After all of the above: the server segments as before, and no file is there that a client did not mean to put."""
    assert client.infer().content == client.mask
    assert "Traceback" not in client.server.log
    work = client.server.work_dir
    deadline = time.monotonic() + 10  # files are removed after the response
    while any(path.is_file() for path in (work / "uploads").rglob("*")) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [path for path in (work / "uploads").rglob("*") if path.is_file()]
    assert [path.name for path in client.folder.iterdir()] == ["inside"]
    assert {path.name for path in work.parent.iterdir()} == {"studies", "work"}
    images = {path.name for path in client.studies.glob("[!.]*.*")}
    assert images == {*(f"{case}.nii.gz" for case in CASES), "datastore_v2.json"}
    assert (client.studies / "labels" / "final" / f"{CASE}.nii.gz").read_bytes() == client.label
    assert not list((work / "model").glob(f"{MODEL}/model.pt")), "other weights came into service"


@pytest.mark.slow
def test_too_many_inferences(client):
    """Those that cannot wait are told so; meanwhile the server answers, and takes labels."""
    process = psutil.Process(client.server.process.pid)
    before = process.memory_info().rss
    with ThreadPoolExecutor(40) as pool:
        answers = [pool.submit(client.infer) for _ in range(40)]
        time.sleep(1)
        start = time.monotonic()
        assert client.send("GET", "/info/").ok and client.put_label(tag="original").ok
        assert time.monotonic() - start < 5
        statuses = Counter(answer.result().status_code for answer in answers)
    assert statuses == {200: 32, 429: 8}
    assert process.memory_info().rss - before < 500e6
    assert client.infer().content == client.mask


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
        command = [LABEL_BIN / "sdseg", "label", *words, *port]
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
