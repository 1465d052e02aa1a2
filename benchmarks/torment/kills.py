"""When a program is killed: while it writes a file, when a file or a line of its log appears, or after some time."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from torment.children import Program


def after(seconds: float) -> Callable[[], bool]:
    """Return a function that is True once so many seconds have passed from now on."""
    deadline = time.monotonic() + seconds
    return lambda: time.monotonic() >= deadline


def when_logged(program: Program, text: str, count: int) -> Callable[[], bool]:
    """Return a function that is True once the program has written ``text`` so many times."""
    return lambda: program.output.count(text) >= count


def while_writing(folder: Path, count: int, size: float) -> Callable[[], bool]:
    """Return a function that is True while a temporary file is written.

    Args:
        folder: in which, or below which, the file is.
        count: of temporary files that have been seen, this one included; from 1 on.
        size: least bytes of the file.
    """
    seen: set[tuple[str, int]] = set()

    def is_time() -> bool:
        for path in folder.rglob(".*"):
            try:
                status = path.stat()
            except OSError:  # it has its final name by now
                continue
            seen.add((path.name, status.st_ino))
            if len(seen) >= count and status.st_size >= size:
                return True
        return False

    return is_time


def when_there(folder: Path, pattern: str, count: int) -> Callable[[], bool]:
    """Return a function that is True once so many files below ``folder`` match ``pattern``."""
    return lambda: sum(1 for _ in folder.glob(pattern)) >= count
