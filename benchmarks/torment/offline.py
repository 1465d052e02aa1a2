"""Programs on a machine without a network."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from torment import folder_runs, training
from torment.children import SDSEG, processes_left, run
from torment.examples import write_phantom
from torment.tries import Group, Setting, Try

NAMESPACE = ("unshare", "--net") if os.getuid() == 0 else ("unshare", "--map-root-user", "--net")
# where no namespace may be made: the interpreter itself refuses to connect
GUARD = """
import runpy, sys
def guard(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        address = arguments[1] if event != "socket.getaddrinfo" else arguments[:1]
        host = address[0] if isinstance(address, tuple) else "localhost"
        if host not in ("127.0.0.1", "::1", "localhost", None):
            raise OSError(101, f"Network is unreachable: {host}")
sys.addaudithook(guard)
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def blocked(command: list[object]) -> list[object]:
    """Return a ``python -m`` command that runs without a network."""
    can_unshare = shutil.which("unshare") and subprocess.run([*NAMESPACE, "true"], capture_output=True).returncode == 0
    if can_unshare:
        return [*NAMESPACE, *command]
    python, _, *words = command
    return [python, "-c", GUARD, *words]


def prepare(setting: Setting) -> None:
    """Do with a network what is then done without one."""
    setting.common.mkdir(parents=True, exist_ok=True)
    if not (setting.common / "online").exists():
        write_phantom(setting.common / "images" / "a.nii.gz")
        training.write_data(setting.common / "data")
        for name, command in _commands(setting.common, setting.common / "online").items():
            code, output = run(command, setting.common)
            if code:
                raise SystemExit(f"{name} ends with {code}: {output[-2000:]}")


def _commands(common: Path, output: Path) -> dict[str, list[object]]:
    return {
        "sdseg segment": [
            *SDSEG,
            "segment",
            common / "images",
            "-o",
            output / "masks",
            "--report",
            output / "page.html",
        ],
        "a training": training.command(common / "data", output / "training", "--epochs", 1),
        "sdseg demo": [*SDSEG, "demo", "--offline", "-o", output / "demo"],
    }


KINDS = ("sdseg segment", "a training", "sdseg demo")


def attempt(setting: Setting, index: int) -> Try:
    """Run a command without a network, and compare its results with those with one."""
    name = KINDS[index]
    place = setting.place(index)
    output = place / "output"
    output.mkdir()
    command = blocked(_commands(setting.common, output)[name])
    code, text = run(command, place)
    failure = f"ends with {code}: {text[-1500:]}" if code else ""
    online = setting.common / "online"
    if not failure and name == "sdseg segment":
        failure = folder_runs.difference(online / "masks", output / "masks")
    elif not failure and name == "a training":
        failure = training.difference(online / "training", output / "training")
    return Try(index, name, f"{name} by {command[0]}", Path(str(command[0])).name, failure, processes_left(str(place)))


GROUP = Group(
    name="offline",
    title="Without a network",
    about="A segmentation with its page, a training and the demo run in a network namespace in which there is no "
    "network, or, where none may be made, in an interpreter that refuses to connect. Right is that they end "
    "as with a network, with equal masks and weights.",
    number=len(KINDS),
    quick=1,
    attempt=attempt,
    prepare=prepare,
)
