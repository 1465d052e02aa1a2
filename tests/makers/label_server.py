"""The real server of ``sdseg label``, from the environment that ``make label-env`` makes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import requests

from tests.makers.orthanc import free_port
from tests.makers.places import LABEL_BIN

START_SECONDS = 180

needs_label_env = pytest.mark.skipif(
    not (LABEL_BIN / "sdseg").is_file(), reason="no .venv-label here, make label-env makes it"
)


class LabelServer:
    """A server in a process of its own, on a free port, stopped at the end of a ``with`` block.

    Args:
        studies: folder or URL.
        work_dir: the server's.
        options: further options of ``sdseg label``.
        environment: further variables.
    """

    def __init__(self, studies: str | Path, work_dir: Path, *options: str, **environment: str) -> None:
        self.studies, self.work_dir = studies, work_dir
        command = [LABEL_BIN / "sdseg", "label", "--studies", studies, "--work-dir", work_dir, "--port", "0", *options]
        self.process = subprocess.Popen(
            [str(part) for part in command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=work_dir.parent,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", **environment},
        )
        self.output: list[str] = []
        self.url = ""
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output.append(line)
            match = re.search(r" at (http://\S+?),", line)
            if match and not self.url:
                self.url = match[1]

    def __enter__(self) -> LabelServer:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                if self.url and requests.get(f"{self.url}/info/", timeout=10).ok:
                    return self
            except requests.RequestException:
                pass
            time.sleep(0.2)
        self.stop()
        raise RuntimeError("the server did not start:\n" + "".join(self.output))

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> int:
        """Interrupt the server as a terminal does; return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                for child in psutil.Process(self.process.pid).children(recursive=True):
                    child.kill()
                self.process.kill()
        self.reader.join(10)
        return self.process.wait()

    @property
    def log(self) -> str:
        """What the server wrote so far."""
        return "".join(self.output)


@contextmanager
def monailabel_server(folder: Path, app: Path, studies: Path, *options: str, **environment: str) -> Iterator[str]:
    """Run MONAI Label's own ``monailabel start_server`` as in an activated environment; yield its URL.

    Its output goes to ``folder/log.txt``.
    """
    url = f"http://127.0.0.1:{(port := free_port())}"
    command = ["start_server", "--app", str(app), "--studies", str(studies), "--host", "127.0.0.1", "--port", str(port)]
    quiet = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "MONAI_LABEL_TRACKING_ENABLED": "false"}
    env = {**os.environ, **quiet, "PATH": os.pathsep.join([str(LABEL_BIN), os.environ["PATH"]]), **environment}
    log = folder / "log.txt"
    with log.open("w") as output:
        program = [str(LABEL_BIN / "monailabel"), *command, *options]
        process = subprocess.Popen(program, cwd=folder, env=env, stdout=output, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + START_SECONDS
        while True:
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            try:
                requests.get(f"{url}/info/", timeout=60)
                break
            except requests.ConnectionError:
                time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(30)
