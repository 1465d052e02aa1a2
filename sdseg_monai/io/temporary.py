"""Temporary files and folders whose names say which process writes them, so that those of a killed process can go."""

from __future__ import annotations

import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

PREFIX = ".writing."  # a leading dot: nothing here takes such a file for an image
CLOCK_SECONDS = 10  # by which the time of a file and the start of a process may be wrong


def owned_prefix(prefix: str = PREFIX) -> str:
    """Return how the names of this process's temporary files begin; :mod:`tempfile` adds a random part.

    Args:
        prefix: its last character also stands after the host and after the number of the process: ``.writing.HOST.1.``
    """
    return _owner(prefix, str(os.getpid()))


def make_temporary_file(folder: Path, suffix: str = "") -> Path:
    """Make an empty file in ``folder``, which must exist; remove what killed processes have left there.

    Raises:
        OSError: it cannot be made.
    """
    remove_abandoned(folder)
    handle, name = tempfile.mkstemp(prefix=owned_prefix(), suffix=suffix, dir=folder)
    os.close(handle)
    return Path(name)


def make_temporary_folder(parent: Path) -> Path:
    """Make an empty folder in ``parent``, which must exist; remove what killed processes have left there.

    Raises:
        OSError: it cannot be made.
    """
    remove_abandoned(parent)
    return Path(tempfile.mkdtemp(prefix=owned_prefix(), dir=parent))


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yield an empty folder among the system's temporary files, which is removed at the end.

    Raises:
        OSError: it cannot be made.
    """
    folder = make_temporary_folder(Path(tempfile.gettempdir()))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_abandoned(folder: Path, prefix: str = PREFIX) -> None:
    """Remove temporary files and folders in ``folder`` that a process of this host was making, which is gone.

    Those of another host stay, because only that host knows its processes. What cannot be read or removed stays too.

    Args:
        folder: one that may be missing; its subfolders are not searched.
        prefix: as of :func:`owned_prefix`.
    """
    pattern = re.compile(r"(\d{1,9})".join(map(re.escape, _owner(prefix, "/").split("/"))))
    try:
        with os.scandir(folder) as entries:
            owners = [(entry, match) for entry in entries if (match := pattern.match(entry.name))]
        abandoned = [entry for entry, match in owners if not _is_written_by(int(match[1]), entry)]
    except OSError:
        return
    for entry in abandoned:
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry, ignore_errors=True)
        else:
            with suppress(OSError):
                Path(entry).unlink()


def _is_written_by(pid: int, entry: os.DirEntry[str]) -> bool:
    """Tell whether the process of that number runs and is old enough to have made ``entry``; numbers are used again."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return process.create_time() < entry.stat(follow_symlinks=False).st_mtime + CLOCK_SECONDS
    except psutil.NoSuchProcess:
        return False
    except (psutil.AccessDenied, OSError):  # OSError: it has just been finished
        return True


def _owner(prefix: str, pid: str) -> str:
    host = re.sub(r"[^\w-]", "-", socket.gethostname())[:64]  # without dots, which separate the parts
    return prefix[-1].join((prefix[:-1], host, pid, ""))
