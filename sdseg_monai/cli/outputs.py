"""What commands write to stdout and stderr, and checks of the files that they are to write."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sdseg_monai.about import RESEARCH_ONLY
from sdseg_monai.errors import InputError
from sdseg_monai.io.files import check_folder


def report(result: Mapping[str, Any], options: argparse.Namespace) -> None:
    """Write ``result`` as one line of JSON to stdout, and what it may be used for to stderr."""
    sys.stdout.write(json.dumps(result) + "\n")
    note(RESEARCH_ONLY, options)


def note(text: str, options: argparse.Namespace) -> None:
    """Write a line to stderr, unless that was to be quiet."""
    if not options.quiet:
        sys.stderr.write(text + "\n")


def check_output(path: Path, suffix: str, kind: str) -> None:
    """Raise :class:`InputError` unless ``path`` can be made and ends in ``suffix``: no weights are to be replaced."""
    if path.suffix.lower() != suffix:
        raise InputError(f"{path}: expected the name of a {kind}, ending in {suffix}")
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: is no ordinary file, expected the name of one")
    check_folder(path.parent)
