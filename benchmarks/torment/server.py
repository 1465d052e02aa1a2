"""The label server: killed during an upload or a training, and many requests at the same time."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random

import nibabel as nib
import numpy as np
import psutil
import requests

from lab.label_server import wait_for_server
from lab.tables import ROOT
from sdseg_monai.demo.phantom import make_phantom
from torment.children import Program, files_left, processes_left, start
from torment.examples import BUNDLE
from torment.kills import after, when_there, while_writing
from torment.tries import Group, Setting, Try

PYTHON = ROOT / ".venv-label" / "bin" / "python"
IMAGES = ("image_a", "image_b")
SUFFIX = ".nii.gz"
UPLOAD, TRAINING = "during uploads of labels", "during a training"
KINDS = (*[UPLOAD] * 4, *[TRAINING] * 4)
ANSWER_SECONDS = 120
ANSWERED_SECONDS = 10  # in which the file of an answer goes
MANY_EPOCHS = 500  # more than are trained before the kill


def obstacle() -> str:
    """Return why no server can run here; empty where one can."""
    return "" if PYTHON.is_file() else "there is no .venv-label here; make label-env makes it"


@dataclass
class Server:
    """A running server, in the folder of a try: the studies and its work folder are beside its log.

    Attributes:
        program: its process.
        url: its address.
        folder: of the try.
    """

    program: Program
    url: str
    folder: Path

    @property
    def studies(self) -> Path:
        """The folder of the images and labels."""
        return self.folder / "studies"

    @property
    def work(self) -> Path:
        """The server's own folder."""
        return self.folder / "work"

    def send(self, method: str, path: str, **options: object) -> requests.Response:
        """Send a request and return the answer."""
        return requests.request(method, f"{self.url}{path}", timeout=ANSWER_SECONDS, **options)  # type: ignore[arg-type]

    def infer(self, image: str) -> requests.Response:
        """Segment an image of the studies."""
        form = {"params": (None, json.dumps({"device": "cpu", "result_extension": SUFFIX}))}
        return self.send("POST", f"/infer/{BUNDLE}", params={"image": image, "output": "image"}, files=form)

    def put_label(self, image: str, content: bytes) -> requests.Response:
        """Store a label."""
        form = {"params": (None, "{}"), "label": (f"{image}{SUFFIX}", content)}
        return self.send("PUT", "/datastore/label", params={"image": image, "tag": "final"}, files=form)

    def get_label(self, image: str) -> requests.Response:
        """Return a stored label."""
        return self.send("GET", "/datastore/label", params={"label": image, "tag": "final"})


def write_studies(folder: Path) -> tuple[bytes, bytes]:
    """Write two artificial volumes into ``folder``; return two different labels that fit either of them."""
    folder.mkdir(parents=True)
    for seed, name in enumerate(IMAGES):
        nib.save(nib.Nifti1Image(make_phantom(seed)[0], np.eye(4)), folder / f"{name}{SUFFIX}")
    label = make_phantom()[1]
    paths = [folder.with_name(f"label_{name}{SUFFIX}") for name in "ab"]
    for path, array in zip(paths, (label, np.where(label == 2, 0, label).astype(np.uint8)), strict=True):
        nib.save(nib.Nifti1Image(array, np.eye(4)), path)
    first, second = (path.read_bytes() for path in paths)
    return first, second


def start_server(folder: Path, name: str) -> Server:
    """Start a server on ``folder``/studies and wait until it answers.

    Raises:
        SystemExit: it does not start.
    """
    command = [PYTHON, "-m", "sdseg_monai.cli", "label", "--studies", folder / "studies", "--bundle", BUNDLE]
    variables = {"MONAI_LABEL_AUTO_UPDATE_SCORING": "false"}
    program = start([*command, "--port", "0", "--work-dir", folder / "work"], folder, name, **variables)
    try:
        return Server(program, wait_for_server(program.process, program.log), folder)
    except BaseException:
        program.kill()
        raise


@contextmanager
def running_server(folder: Path, name: str) -> Iterator[Server]:
    """Run a server as :func:`start_server`; it is interrupted at the end, as by Ctrl-C."""
    server = start_server(folder, name)
    try:
        yield server
    finally:
        server.program.process.terminate()
        server.program.wait(60)


def attempt(setting: Setting, index: int) -> Try:
    """Kill a server, start it again, and look for what was lost or left."""
    kind, random = KINDS[index], setting.random(index)
    place = setting.place(index)
    labels = write_studies(place / "studies")
    try:
        return (_kill_in_upload if kind == UPLOAD else _kill_in_training)(index, place, labels, random)
    except (SystemExit, requests.RequestException) as error:
        left = processes_left(str(place), 0)
        return Try(index, kind, "a server", "", f"the server does not answer: {str(error)[-1500:]}", left)


def _kill_in_upload(index: int, place: Path, labels: tuple[bytes, bytes], random: Random) -> Try:
    server = start_server(place, "killed.txt")
    image = IMAGES[0]
    stored = [_store(server, image, label) for label in labels]
    mask = server.infer(image).content
    known = _all_files(server)
    stop = threading.Event()
    sender = threading.Thread(target=_upload_until, args=(stop, server, image, labels), daemon=True)
    sender.start()
    seconds, count = random.uniform(0.2, 3), random.randint(1, 20)
    is_late = after(10)
    is_time = random.choice((after(seconds), while_writing(server.studies, count, 0)))
    was_killed = server.program.kill_when(lambda: is_time() or is_late())
    stop.set()
    sender.join()
    what = f"killed between {seconds:.2f} s and upload {count}"
    return _start_again(index, UPLOAD, what, server, was_killed, known, stored, mask)


def _store(server: Server, image: str, label: bytes) -> str:
    answer = server.put_label(image, label)
    if not answer.ok:
        raise SystemExit(f"a good label is refused: {answer.text[:500]}")
    return hashlib.sha256(server.get_label(image).content).hexdigest()


def _upload_until(stop: threading.Event, server: Server, image: str, labels: Sequence[bytes]) -> None:
    number = 0
    while not stop.is_set():
        try:
            server.put_label(image, labels[number % len(labels)])
        except requests.RequestException:  # it was killed
            return
        number += 1


def _kill_in_training(index: int, place: Path, labels: tuple[bytes, bytes], random: Random) -> Try:
    server = start_server(place, "killed.txt")
    stored = [_store(server, image, label) for image, label in zip(IMAGES, labels, strict=True)]
    mask = server.infer(IMAGES[0]).content
    known = _all_files(server)
    options = {"max_epochs": MANY_EPOCHS, "val_split": 0.5, "device": "cpu"}
    answer = server.send("POST", f"/train/{BUNDLE}", json=options)
    if not answer.ok:
        raise SystemExit(f"a training is refused: {answer.text[:500]}")
    moments: dict[str, Callable[[], bool]] = {
        "when its folder appeared": when_there(server.work, "**/datalist.json", 1),
        "while its first file was written": while_writing(server.work, 1, 1),
        "when its first weights had appeared": when_there(server.work, "**/runs/*/model.pt", 1),
        "when its first checkpoint had appeared": when_there(server.work, "**/runs/*/checkpoint.pt", 1),
    }
    what = random.choice(sorted(moments))
    was_killed = server.program.kill_when(moments[what], ANSWER_SECONDS)
    failure = "" if was_killed else server.program.output[-1000:]
    return _start_again(index, TRAINING, f"killed {what} {failure}", server, was_killed, known, stored, mask)


def _all_files(server: Server) -> set[Path]:
    return {path for folder in (server.studies, server.work) for path in folder.rglob("*")}


def _start_again(
    index: int,
    kind: str,
    what: str,
    server: Server,
    was_killed: bool,
    known: set[Path],
    stored: Sequence[str],
    mask: bytes,
) -> Try:
    """Start a killed server again; compare what it stored and what it segments with those before the kill."""
    if not was_killed:
        server.program.kill()
    left = processes_left(server.program.mark)
    failure = "" if was_killed else "that moment did not come"
    with running_server(server.folder, "again.txt") as again:
        images = IMAGES if kind == TRAINING else IMAGES[:1]
        for image in images:
            answer = again.get_label(image)
            if not answer.ok or hashlib.sha256(answer.content).hexdigest() not in stored:
                failure = f"the label of {image} is not one that was stored: {answer.status_code} {answer.text[:200]!r}"
        listed = again.send("GET", "/datastore/", params={"output": "all"}).json()
        if sorted(listed["objects"]) != sorted(IMAGES):
            failure = f"the datastore lists {sorted(listed['objects'])}"
        if again.infer(IMAGES[0]).content != mask:
            failure = failure or "an image has another mask than before"
        new_files = _all_files(again) - known
        hidden = tuple(str(path) for path in sorted(new_files) if path.name[0] == ".")
        left += hidden + files_left(server.folder / "temporary")
        left += _uploads_left(again)
    left += processes_left(server.program.mark)
    return Try(index, kind, what, "", failure, left)


def _uploads_left(server: Server) -> tuple[str, ...]:
    """Return the files in a server's folder of uploads; it removes an answer's file just after the answer."""
    deadline = time.monotonic() + ANSWERED_SECONDS
    while True:
        left = tuple(str(path) for path in (server.work / "uploads").rglob("*") if path.is_file())
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.1)


KILLS = Group(
    name="server",
    title="The label server, killed",
    about="`sdseg label` is killed with SIGKILL while a client stores labels, or while it trains. Right is that "
    "what it started ends with it, that it starts again, that the label of each image is one that was stored "
    "and complete, that an image has the same mask as before, and that no temporary file is left once it has "
    "started again.",
    number=len(KINDS),
    quick=2,
    attempt=attempt,
    obstacle=obstacle,
)

# many requests

CLIENTS = 8
MEGABYTES = 1500  # by which the server's memory may grow
GOOD = "request that can be answered"
HOSTILE = "hostile request"


@dataclass(frozen=True)
class Request:
    """A request and what the answer must be.

    Attributes:
        kind: :data:`GOOD` or :data:`HOSTILE`.
        what: it asks for.
        send: sends it.
        statuses: that are right.
    """

    kind: str
    what: str
    send: Callable[[Server], requests.Response]
    statuses: tuple[int, ...] = (200,)


def make_request(random: Random, number: int, labels: Sequence[bytes]) -> Request:
    """Return one of the requests that a viewer sends, or a hostile one."""
    image = random.choice(IMAGES)
    good: dict[str, Callable[[Server], requests.Response]] = {
        "info": lambda server: server.send("GET", "/info/"),
        "the datastore": lambda server: server.send("GET", "/datastore/", params={"output": "all"}),
        "an image's file": lambda server: server.send("GET", "/datastore/image", params={"image": image}),
        "an inference": lambda server: server.infer(image),
        "to store a label": lambda server: server.put_label(image, random.choice(labels)),
        "to store an image": partial(_put_image, name=f"new_{number}{SUFFIX}"),
        "the next image": lambda server: server.send("POST", "/activelearning/random", json={}),
    }
    if random.random() < 0.6:
        what = random.choice(sorted(good))
        return Request(GOOD, what, good[what])
    what = random.choice(sorted(HOSTILE_REQUESTS))
    return Request(HOSTILE, what, HOSTILE_REQUESTS[what], tuple(range(400, 500)))


def _put_image(server: Server, name: str, content: bytes | None = None) -> requests.Response:
    content = (server.studies / f"{IMAGES[0]}{SUFFIX}").read_bytes() if content is None else content
    files = {"params": (None, "{}"), "file": (name, content)}
    return server.send("PUT", "/datastore/image", files=files)


def _infer(server: Server, params: str) -> requests.Response:
    query = {"image": IMAGES[0], "output": "image"}
    return server.send("POST", f"/infer/{BUNDLE}", params=query, files={"params": (None, params)})


def _infer_upload(server: Server, name: str, content: bytes) -> requests.Response:
    files = {"params": (None, "{}"), "file": (name, content)}
    return server.send("POST", f"/infer/{BUNDLE}", params={"output": "image"}, files=files)


MHA_OF_ANOTHER_FILE = b"ObjectType = Image\nNDims = 3\nDimSize = 4 4 4\nElementType = MET_UCHAR\n"
MHA_OF_ANOTHER_FILE += b"ElementDataFile : /etc/passwd\nElementDataFile = LOCAL\n" + bytes(64)
HOSTILE_REQUESTS: dict[str, Callable[[Server], requests.Response]] = {
    "an image by a path": lambda server: server.infer("../../etc/passwd"),
    "an image that is not there": lambda server: server.infer("nothing"),
    "a label by a path": lambda server: server.get_label("../../etc/passwd"),
    "a file by a path": lambda server: server.send("GET", "/datastore/image", params={"image": "..%2f..%2fpasswd"}),
    "a static file by a path": lambda server: server.send("GET", "/static/..%2f..%2f..%2fetc%2fpasswd"),
    "options that are no JSON": lambda server: _infer(server, "{x"),
    "options nested without end": lambda server: _infer(server, "[" * 100_000),
    "a reserved option": lambda server: _infer(server, '{"image": "/etc/passwd"}'),
    "a device that is none": lambda server: _infer(server, '{"device": "cuda:99"}'),
    "an empty upload": lambda server: _infer_upload(server, f"x{SUFFIX}", b""),
    "an upload of text": lambda server: _infer_upload(server, f"x{SUFFIX}", b"hello" * 100),
    "an upload that names another file": lambda server: _infer_upload(server, "x.mha", MHA_OF_ANOTHER_FILE),
    "an image called as a path": partial(_put_image, name=".."),
    "an image with a control character": partial(_put_image, name="\x1b[31m.nii.gz"),
    "a damaged image": partial(_put_image, name=f"damaged{SUFFIX}", content=b"\x1f\x8b" + bytes(100)),
    "a label of another grid": lambda server: server.put_label(IMAGES[0], _small_label()),
    "another bundle": lambda server: server.send("POST", "/infer/nothing", params={"image": IMAGES[0]}),
    "a training elsewhere": lambda server: server.send("POST", f"/train/{BUNDLE}", json={"bundle_path": "/tmp"}),
    "a form from another site": lambda server: server.send(
        "POST", f"/train/{BUNDLE}", headers={"Origin": "http://a.b"}
    ),
    "another host": lambda server: server.send("GET", "/info/", headers={"Host": "a.b"}),
    "a route that is not served": lambda server: server.send("PUT", f"/model/{BUNDLE}"),
}


def _small_label() -> bytes:
    return nib.Nifti1Image(np.zeros((3, 3, 3), np.uint8), np.eye(4)).to_bytes()


def run_requests(setting: Setting, indices: Sequence[int]) -> Iterator[Try]:
    """Send the requests to one server, several at the same time, and look at it afterwards."""
    place = setting.folder / "server"
    place.mkdir()
    labels = write_studies(place / "studies")
    with running_server(place, "server.txt") as server:
        masks = {image: server.infer(image).content for image in IMAGES}
        before = _resident_megabytes(server)
        with ThreadPoolExecutor(CLIENTS) as pool:
            make = partial(_answer, server, masks, labels, setting)
            yield from pool.map(make, indices)
        yield Try(
            len(indices), "server", "the server afterwards", "", _look_at(server, masks, before), _uploads(server)
        )


def _answer(server: Server, masks: dict[str, bytes], labels: Sequence[bytes], setting: Setting, index: int) -> Try:
    request = make_request(setting.random(index), index, labels)
    try:
        answer = request.send(server)
    except requests.RequestException as error:
        return Try(index, request.kind, request.what, "", f"no answer: {error}")
    failure = "" if answer.status_code in request.statuses else f"{answer.status_code}: {answer.content[:300]!r}"
    if not failure and request.what == "an inference" and answer.content not in masks.values():
        failure = "another mask than that of the same image alone"
    if not failure and request.kind == HOSTILE and not _is_one_line(answer):
        failure = f"{answer.status_code} without one line that says why: {answer.text[:300]!r}"
    return Try(index, request.kind, request.what, str(answer.status_code), failure)


def _is_one_line(answer: requests.Response) -> bool:
    try:
        reason = answer.json()["detail"]
    except (ValueError, KeyError, TypeError):
        return False
    return isinstance(reason, str) and len(reason.splitlines()) == 1


def _look_at(server: Server, masks: dict[str, bytes], before: int) -> str:
    """Return what is wrong with a server after all requests; empty where nothing is."""
    if server.infer(IMAGES[0]).content != masks[IMAGES[0]]:
        return "an image has another mask than at the beginning"
    grown = _resident_megabytes(server) - before
    if grown > MEGABYTES:
        return f"its memory grew by {grown} MiB"
    return "a traceback in its log" if "Traceback" in server.program.output else ""


def _resident_megabytes(server: Server) -> int:
    process = psutil.Process(server.program.process.pid)
    return sum(each.memory_info().rss for each in (process, *process.children(recursive=True))) >> 20


def _uploads(server: Server) -> tuple[str, ...]:
    """Return the files of requests that are still there some seconds after the last answer."""
    is_late = after(10)
    while (files := [path for path in (server.work / "uploads").rglob("*") if path.is_file()]) and not is_late():
        time.sleep(0.2)
    return tuple(map(str, files))


REQUESTS = Group(
    name="requests",
    title="Many requests to the label server",
    about=f"{CLIENTS} clients at the same time send requests: what a viewer asks for (information, segmentations, "
    "images and labels to store) and hostile ones (paths, options that are none, damaged files, other hosts)."
    " Right is that each is answered with what it asked for or refused with a status from 400 on and one "
    "line, that a segmentation is the same as alone, and that the server then still segments, has grown by "
    f"less than {MEGABYTES} MiB, has no traceback in its log and no file of a request left.",
    number=200,
    quick=40,
    attempt=attempt,
    obstacle=obstacle,
    run_all=run_requests,
)
