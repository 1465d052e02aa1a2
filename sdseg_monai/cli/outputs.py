"""The output of commands on stdout and stderr, and checks of their output files."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from sdseg_monai.about import RESEARCH_ONLY
from sdseg_monai.errors import InputError, printable
from sdseg_monai.io.files import check_folder

EXIT_SOME_FAILED = 1
GAP = "  "  # between the columns of a table
NARROWEST = 12  # characters of a column of which the cells are wrapped


def report(result: Mapping[str, Any], options: argparse.Namespace) -> None:
    """Write ``result`` as one line of JSON to stdout, and the research notice to stderr."""
    sys.stdout.write(json.dumps(result) + "\n")
    note(RESEARCH_ONLY, options)


def note(text: str, options: argparse.Namespace) -> None:
    """Write a line to stderr, unless ``--quiet`` is given."""
    if not options.quiet:
        sys.stderr.write(printable(text) + "\n")


def table_lines(head: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> Iterator[str]:
    """Yield the lines of a table for a terminal; where it is too wide, the cells of its widest columns are wrapped.

    Args:
        head: the names of the columns.
        rows: the cells of each row.
        width: of the terminal, in characters.
    """
    cells = [[printable(cell) for cell in row] for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    while sum(widths) + len(GAP) * (len(widths) - 1) > width and max(widths) > NARROWEST:
        widths[widths.index(max(widths))] -= 1
    for row in cells:
        wrapped_cells = (textwrap.wrap(cell, column_width) for cell, column_width in zip(row, widths, strict=True))
        for parts in zip_longest(*wrapped_cells, fillvalue=""):
            yield GAP.join(f"{part:{column_width}}" for part, column_width in zip(parts, widths, strict=True)).rstrip()


def check_output(path: Path, suffix: str, kind: str) -> None:
    """Check that ``path`` can be written and ends in ``suffix``, so that no weights are replaced by mistake.

    Args:
        path: file to write.
        suffix: with its dot.
        kind: of file, for messages, such as ``table``.

    Raises:
        InputError: it has another suffix, is a folder or a device, or its folder cannot be written.
    """
    if path.suffix.lower() != suffix:
        raise InputError(f"{path}: expected the name of a {kind}, ending in {suffix}")
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: is no ordinary file, expected the name of one")
    check_folder(path.parent)
