"""Tables in documents, written by the command that measured them, never by hand."""

from __future__ import annotations

import csv
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]
DIRTY = "-dirty"


@dataclass(frozen=True)
class Table:
    """A table with a short name for its file and a title that says what was measured."""

    name: str
    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[object]]

    def markdown(self) -> str:
        """Return the title and the table."""
        return f"{self.title}.\n\n{markdown_table(self.head, self.rows)}"

    def write_csv(self, folder: Path, **about: object) -> None:
        """Write the table to ``folder``/NAME.csv, with ``about`` as further columns of every row."""
        with (folder / f"{self.name}.csv").open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow([*self.head, *about])
            writer.writerows([*row, *about.values()] for row in self.rows)


def commit() -> str:
    """Return the commit of the checkout, marked where the code was changed since."""
    command = ["git", "-C", str(ROOT), "describe", "--always", f"--dirty={DIRTY}", "--abbrev=10", "--exclude=*"]
    found = subprocess.run(command, capture_output=True, text=True)
    return found.stdout.strip() if found.returncode == 0 else "unknown, no checkout of git"


def hardware() -> str:
    """Return what computes, its threads, and torch's version."""
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{platform.machine()} CPU ({capability}), {torch.get_num_threads()} threads, torch {torch.__version__}"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def check_section(path: Path, name: str) -> None:
    """End with one line unless :func:`replace_section` will find what it replaces: before hours are spent on it."""
    if not path.is_file():
        raise SystemExit(f"{path}: no such file")
    content = path.read_text()
    if any(content.count(f"<!-- {mark}{name} -->") != 1 for mark in ("", "/")):
        raise SystemExit(f"{path}: expected one section <!-- {name} --> ... <!-- /{name} -->")


def replace_section(path: Path, name: str, text: str) -> None:
    """Replace what stands in ``path`` between the comments ``<!-- name -->`` and ``<!-- /name -->``."""
    check_section(path, name)
    content = path.read_text()
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, rest = content.split(start)
    path.write_text(f"{before}{start}\n{text}\n{end}{rest.split(end)[1]}")
