"""Tables in documents, written by the command that measured them, never by hand."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent


def commit() -> str:
    """Return the commit of the checkout, marked where the code was changed since."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=10", "--exclude=*"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def hardware() -> str:
    """Return the processor, the threads used and torch's version."""
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads, torch {torch.__version__}"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def replace_section(path: Path, name: str, text: str) -> None:
    """Replace what stands in ``path`` between the comments ``<!-- name -->`` and ``<!-- /name -->``."""
    content = path.read_text()
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    if content.count(start) != 1 or content.count(end) != 1:
        raise SystemExit(f"{path}: expected one section {start} ... {end}")
    before, rest = content.split(start)
    path.write_text(f"{before}{start}\n{text}\n{end}{rest.split(end)[1]}")
