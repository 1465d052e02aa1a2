"""Unusual paths, headers and bodies of requests, and clients that close the connection."""

import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from tests.label.client import CASE, CASES, JSON, MODEL, OTHER
from tests.makers.label_server import needs_label_env

pytestmark = [needs_label_env, pytest.mark.shared]
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


@pytest.mark.slow
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
    """After all of the above."""
    client.check_nothing_left()


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
