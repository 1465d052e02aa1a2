"""A client of the real server."""

import json
import socket
import time

import requests

MODEL = "hippocampus_sdseg"
CASES = CASE, OTHER = "hippocampus_001", "hippocampus_003"
JSON = {"Content-Type": "application/json"}


class Client:
    """Sends what a viewer's own client never would.

    Args:
        server: that is attacked.
        volume: content of an image's file.
        label: content of its label's.
        folder: in which the server's studies and files are, and nothing else.
        studies: folder of the images.
    """

    mask: bytes  # of the server's first segmentation

    def __init__(self, server, volume, label, folder=None, studies=None):
        self.server, self.volume, self.label = server, volume, label
        self.folder, self.studies = folder, studies
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

    def check_nothing_left(self):
        """The server segments as before, and no file is there that a client did not mean to put."""
        assert self.infer().content == self.mask
        assert "Traceback" not in self.server.log
        work = self.server.work_dir
        deadline = time.monotonic() + 10  # files are removed after the response
        while any(path.is_file() for path in (work / "uploads").rglob("*")) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not [path for path in (work / "uploads").rglob("*") if path.is_file()]
        assert [path.name for path in self.folder.iterdir()] == ["inside"]
        assert {path.name for path in work.parent.iterdir()} == {"studies", "work"}
        images = {path.name for path in self.studies.glob("[!.]*.*")}
        assert images == {*(f"{case}.nii.gz" for case in CASES), "datastore_v2.json"}
        assert (self.studies / "labels" / "final" / f"{CASE}.nii.gz").read_bytes() == self.label
        assert not list((work / "model").glob(f"{MODEL}/model.pt")), "other weights came into service"
