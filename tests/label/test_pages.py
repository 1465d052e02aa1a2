"""What the server's pages load, what a client that hangs up leaves, and what names do to the log."""

import socket
import time

import pytest
import requests

from tests.label.client import MODEL, Client
from tests.makers.label_server import needs_label_env

pytestmark = [needs_label_env, pytest.mark.shared]


@pytest.mark.parametrize(
    "path", ["/", "/logs/", "/logs/?html=true&refresh=1", "/info/", "/openapi.json", "/nothing", "/ohif/"]
)
def test_pages_load_nothing_from_elsewhere(client, path):
    answer = client.send("GET", path)
    policy = answer.headers["Content-Security-Policy"]
    assert "http" not in policy and "*" not in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    if path != "/ohif/":
        assert "default-src 'none'" in policy and "<script" not in answer.text and "src=" not in answer.text


def test_the_log_is_text_that_a_browser_reads_again(client):
    answer = client.send("GET", "/logs/", params={"refresh": 1, "lines": 5})
    assert answer.headers["Content-Type"].startswith("text/plain") and answer.headers["Refresh"] == "3"
    assert 0 < answer.text.count("\n") <= 5
    assert "Refresh" not in client.send("GET", "/logs/").headers
    for path in ("/docs", "/redoc"):
        assert client.send("GET", path).status_code == 404


HANG_UPS = {
    "form": (
        f"/infer/{MODEL}",
        "multipart/form-data; boundary=x",
        b'--x\r\nContent-Disposition: form-data; name="params"\r\n\r\n{',
    ),
    "file": (
        "/datastore/image",
        "multipart/form-data; boundary=x",
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.nii"\r\n\r\nabc',
    ),
    "JSON": ("/activelearning/random", "application/json", b'{"a'),
    "no body": ("/activelearning/random", "application/json", b""),
}


@pytest.mark.parametrize("request_of", HANG_UPS.values(), ids=HANG_UPS)
def test_a_client_that_hangs_up(client: Client, request_of):
    path, kind, body = request_of
    method = "PUT" if path == "/datastore/image" else "POST"
    start = len(client.server.log)
    lines = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{client.port}", f"Content-Type: {kind}"]
    with socket.create_connection(("127.0.0.1", client.port), timeout=60) as connection:
        connection.sendall("\r\n".join([*lines, "Content-Length: 5000", "", ""]).encode() + body)
    log = client.log_since(start, "refused")
    time.sleep(0.2)
    assert "refused" in log and "Traceback" not in client.server.log[start:]


def test_a_client_that_does_not_wait_for_the_answer(client):
    start = len(client.server.log)
    with pytest.raises(requests.Timeout):
        requests.post(
            f"{client.server.url}/infer/{MODEL}",
            params={"image": "hippocampus_001"},
            files={"params": (None, "{}")},
            timeout=0.05,
        )
    client.infer()
    assert "Traceback" not in client.server.log[start:]


def test_names_are_printable_in_the_log(client):
    start = len(client.server.log)
    client.send("GET", "/infer/\u202egpj")
    client.send("POST", "/infer/\u202egpj", files={"params": (None, "{}")})
    client.infer({"seed": "\u202e\x9b"})
    log = client.log_since(start, "seed")
    assert "seed=" in log and not set("\u202e\x1b\x9b") & set(log)
