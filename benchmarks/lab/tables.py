"""Tables in documents. The command that measures the numbers writes them; nobody edits them by hand."""

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
    """A table of results.

    Attributes:
        name: short name, for the file.
        title: what was measured.
        head: names of the columns.
        rows: cells of each row.
    """

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
    """Return the commit of the checkout, with a mark if the code was changed since."""
    command = ["git", "-C", str(ROOT), "describe", "--always", f"--dirty={DIRTY}", "--abbrev=10", "--exclude=*"]
    process = subprocess.run(command, capture_output=True, text=True)
    return process.stdout.strip() if process.returncode == 0 else "unknown, no checkout of git"


def hardware() -> str:
    """Return the name of the GPU or the CPU with its threads, and the version of torch."""
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{platform.machine()} CPU ({capability}), {torch.get_num_threads()} threads, torch {torch.__version__}"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def check_section(path: Path, name: str) -> None:
    """Check, before a long computation, that :func:`replace_section` will find the section.

    Raises:
        SystemExit: the file or the section is missing.
    """
    if not path.is_file():
        raise SystemExit(f"{path}: no such file")
    content = path.read_text()
    if any(content.count(f"<!-- {mark}{name} -->") != 1 for mark in ("", "/")):
        raise SystemExit(f"{path}: expected one section <!-- {name} --> ... <!-- /{name} -->")


def replace_section(path: Path, name: str, text: str) -> None:
    """Replace the text in ``path`` between the comments ``<!-- name -->`` and ``<!-- /name -->``."""
    check_section(path, name)
    content = path.read_text()
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    text_before, text_after_start = content.split(start)
    path.write_text(f"{text_before}{start}\n{text}\n{end}{text_after_start.split(end)[1]}")
