"""Mutated files of every kind that is read: each is read as what it is, or refused in one line."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from sdseg_monai.errors import find_input_error
from torment.children import call_in_child
from torment.examples import WRITERS
from torment.mutations import Mutant, mutate
from torment.readers import READERS, WrongResult
from torment.tries import Group, Setting, Try

SECONDS, MEGABYTES = 20, 1024  # that reading a file of some kilobytes may take
NUMBER, QUICK = 2000, 96
READ, REFUSED = "read", "refused"


def read_or_refuse(read: Callable[[Path], str], path: Path) -> tuple[str, str]:
    """Return (:data:`READ`, what was read) or (:data:`REFUSED`, the reason).

    Raises:
        WrongResult: the reason is not one line.
        Exception: the file is neither read nor refused as a user's mistake.
    """
    try:
        return READ, read(path)
    except Exception as error:
        reason = find_input_error(error)
        if reason is None:
            raise
        if len(str(reason).splitlines()) != 1:
            raise WrongResult(f"the reason is not one line: {str(reason)!r:.300}") from error
        return REFUSED, str(reason)


def prepare(setting: Setting) -> None:
    """Write a good file of each kind, and how it is read."""
    for kind in READERS:
        folder = setting.common / kind
        if not folder.exists():
            folder.mkdir(parents=True)
            # in a child, so that ITK's threads are in no process that forks
            verdict = call_in_child(partial(_write_example, folder, kind), SECONDS, 4 * MEGABYTES)
            if verdict.failure:
                raise SystemExit(f"{kind}: the good file is not read: {verdict.failure}")


def _write_example(folder: Path, kind: str) -> None:
    write, name = WRITERS[kind]
    write(folder)
    path = folder / name
    content = path.read_bytes()
    outcome, text = read_or_refuse(READERS[kind], path)
    path.write_bytes(content)  # the manifest was written
    (folder / ".read").write_text(text if outcome == READ else "")
    if outcome != READ and kind != "bundle, zip":
        raise WrongResult(text)


def attempt(setting: Setting, index: int) -> Try:
    """Mutate the file of one kind, and read it in a child process."""
    kinds = list(READERS)
    kind = kinds[index % len(kinds)]
    place = setting.place(index) / "files"
    shutil.copytree(setting.common / kind, place)
    path = place / WRITERS[kind][1]
    mutant = mutate(kind, path.read_bytes(), setting.random(index))
    path.write_bytes(mutant.content)
    expected = (place / ".read").read_text()
    (place / ".read").unlink()
    before = set(place.rglob("*"))
    verdict = call_in_child(lambda: _read(kind, path, mutant, expected), SECONDS, MEGABYTES)
    left = tuple(str(file) for file in sorted(set(place.rglob("*")) - before))
    return Try(index, kind, f"{kind}: {mutant.what}", str(verdict.value or ""), verdict.failure, left)


def _read(kind: str, path: Path, mutant: Mutant, expected: str) -> str:
    temporary = path.parents[len(Path(WRITERS[kind][1]).parts) - 1].with_name("temporary")
    temporary.mkdir()
    tempfile.tempdir = str(temporary)  # for bundles that are unpacked
    outcome, text = read_or_refuse(READERS[kind], path)
    if mutant.is_note and outcome == READ and text != expected:
        raise WrongResult("only a note was changed, but the voxels or their places are others")
    return outcome


GROUP = Group(
    name="mutants",
    title="Mutated files",
    about="A good file of one kind is changed: bits flipped, bytes inserted, removed, repeated or overwritten, the "
    "end cut off, a field of its header given an odd value, a line of its header removed or moved. Right is "
    f"to read it or to refuse it with one line, within {SECONDS} seconds and {MEGABYTES} MiB of memory; what "
    "is read is finite, and a mask that is written on the grid of a volume reads back on that grid. Where "
    "only a note was changed, such as a name or a comment, the voxels and their places must stay as they "
    "were. A changed voxel cannot be told from another image, so that reading it is right.",
    number=NUMBER,
    quick=QUICK,
    attempt=attempt,
    prepare=prepare,
)
