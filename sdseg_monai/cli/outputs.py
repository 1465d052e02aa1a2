"""The output of commands on stdout and stderr, and checks of their output files."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sdseg_monai.about import RESEARCH_ONLY
from sdseg_monai.errors import InputError, printable
from sdseg_monai.io.files import check_folder

EXIT_SOME_FAILED = 1


def report(result: Mapping[str, Any], options: argparse.Namespace) -> None:
    """Write ``result`` as one line of JSON to stdout, and the research notice to stderr."""
    sys.stdout.write(json.dumps(result) + "\n")
    note(RESEARCH_ONLY, options)


def note(text: str, options: argparse.Namespace) -> None:
    """Write a line to stderr, unless ``--quiet`` is given."""
    if not options.quiet:
        sys.stderr.write(printable(text) + "\n")


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
