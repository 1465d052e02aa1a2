"""Child processes with limits, children that are killed, and what of either is left behind."""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from lab.tables import ROOT

MARK = "SDSEG_TORTURE"  # a variable that names the try; grandchildren inherit it
QUIET = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "CUDA_VISIBLE_DEVICES": ""}
SDSEG = (sys.executable, "-m", "sdseg_monai.cli")
POLL = 0.001  # seconds
PATIENCE = 300  # seconds that a program may take
END_SECONDS = 15  # until what outlives its parent counts as left behind
LONGEST_PIPE = 1 << 20


@dataclass(frozen=True)
class Verdict:
    """What became of a function in a child process.

    Attributes:
        value: what it returned; None where it did not.
        failure: empty where it returned; else how the child ended.
        megabytes: its largest memory beyond that at its start.
    """

    value: object = None
    failure: str = ""
    megabytes: int = 0


def call_in_child(function: Callable[[], object], seconds: float, megabytes: int) -> Verdict:
    """Call ``function`` in a fork of this process, with a limit of time and of memory.

    Args:
        function: returns a value that JSON can hold.
        seconds: after which the child is killed.
        megabytes: that the child may allocate.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _run_and_exit(function, writer, megabytes)
    os.close(writer)
    answer, has_ended = _read_all(reader, seconds)
    os.close(reader)
    if not has_ended:
        os.kill(child, signal.SIGKILL)
    _, status, usage = os.wait4(child, 0)
    grown = max(0, (usage.ru_maxrss - _resident_kilobytes()) >> 10)
    if not has_ended:
        return Verdict(None, f"hangs: no end after {seconds:g} s", grown)
    if os.WIFSIGNALED(status):
        return Verdict(None, f"crashes: {signal.Signals(os.WTERMSIG(status)).name}", grown)
    content = json.loads(answer) if answer else {"failure": f"ends with {os.waitstatus_to_exitcode(status)}"}
    return Verdict(content.get("value"), content.get("failure", ""), grown)


def _run_and_exit(function: Callable[[], object], writer: int, megabytes: int) -> None:
    """End this process with what the function returns or raises, past all cleanups of the parent's objects."""
    try:
        os.setsid()
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (megabytes << 20),) * 2)
        content = {"value": function()}
    except BaseException as error:  # whatever it raises is the answer
        content = {
            "failure": f"{type(error).__name__}: {error} {''.join(traceback.format_tb(error.__traceback__)[-3:])}"
        }
    try:
        os.write(writer, json.dumps(content).encode()[:LONGEST_PIPE])
    finally:
        os._exit(0)


def _read_all(reader: int, seconds: float) -> tuple[bytes, bool]:
    """Return what comes through a pipe, and whether it was closed in time."""
    deadline = time.monotonic() + seconds
    answer = b""
    while (rest := deadline - time.monotonic()) > 0:
        if select.select([reader], [], [], rest)[0]:
            part = os.read(reader, LONGEST_PIPE)
            if not part:
                return answer, True
            answer += part
    return answer, False


def _resident_kilobytes() -> int:
    return psutil.Process().memory_info().rss >> 10


@dataclass
class Program:
    """A program in a process of its own, with its output in a file.

    Attributes:
        process: the process.
        log: the file of its output.
        mark: the value of :data:`MARK` in it and in its children.
    """

    process: subprocess.Popen[bytes]
    log: Path
    mark: str

    @property
    def output(self) -> str:
        """What it wrote so far."""
        return self.log.read_text(errors="replace")

    def wait(self, seconds: float = PATIENCE) -> int:
        """Return its exit code; it is killed, and -9 returned, if it takes longer."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            return -signal.SIGKILL

    def kill(self) -> None:
        """Kill the process as ``kill -9`` does: it alone, and without a last word."""
        self.process.kill()
        self.process.wait()

    def kill_when(self, is_time: Callable[[], bool], seconds: float = PATIENCE) -> bool:
        """Kill it as soon as ``is_time`` returns True; return whether it was still running."""
        deadline = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < deadline:
            if is_time():
                self.kill()
                return self.process.returncode == -signal.SIGKILL
            time.sleep(POLL)
        return False


def start(command: Sequence[object], folder: Path, name: str = "output.txt", **variables: str) -> Program:
    """Start a program in ``folder``, with a folder for temporary files of its own, ``folder``/temporary.

    Args:
        command: the program and its arguments.
        folder: of the try; where the program runs and its log is.
        name: of the log, which is written anew.
        variables: further environment variables.
    """
    temporary, log = folder / "temporary", folder / name
    temporary.mkdir(exist_ok=True)
    environment = {**os.environ, **QUIET, "PYTHONPATH": str(ROOT), "TMPDIR": str(temporary), MARK: str(folder)}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(word) for word in command],
            cwd=folder,
            env={**environment, **variables},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Program(process, log, str(folder))


def run(command: Sequence[object], folder: Path, name: str = "output.txt", **variables: str) -> tuple[int, str]:
    """Run a program to its end; return its exit code and what it wrote."""
    program = start(command, folder, name, **variables)
    return program.wait(), program.output


def files_left(*folders: Path) -> tuple[str, ...]:
    """Return the temporary files in these folders: hidden ones, and all below a folder called ``temporary``."""
    return tuple(
        str(path)
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if path.name[0] == "." or (folder.name == "temporary" and path.is_file())
    )


def processes_left(mark: str, seconds: float = END_SECONDS) -> tuple[str, ...]:
    """Return the processes with this :data:`MARK` that are still alive after some seconds; they are killed then."""
    deadline = time.monotonic() + seconds
    while (alive := _marked(mark)) and time.monotonic() < deadline:
        time.sleep(0.2)
    left = []
    for process in alive:
        try:
            left.append(f"process {process.pid}: {' '.join(process.cmdline())[:200]}")
            process.kill()
        except psutil.Error:
            continue
    return tuple(left)


def _marked(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == mark:
                found.append(process)
        except psutil.Error:  # of another user, or gone meanwhile
            continue
    return found
