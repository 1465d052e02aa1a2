"""What commands write to stdout and stderr, and checks of the files that they are to write."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sdseg_monai import RESEARCH_ONLY
from sdseg_monai.errors import InputError


def report(result: Mapping[str, Any], options: argparse.Namespace) -> None:
    """Write ``result`` as one line of JSON to stdout, and what it may be used for to stderr."""
    sys.stdout.write(json.dumps(result) + "\n")
    note(RESEARCH_ONLY, options)


def note(text: str, options: argparse.Namespace) -> None:
    """Write a line to stderr, unless that was to be quiet."""
    if not options.quiet:
        sys.stderr.write(text + "\n")


def refuse_to_replace(inputs: Iterable[Path], outputs: Iterable[Path]) -> None:
    """Raise :class:`InputError` where an output is an input."""
    # os.path.realpath, unlike Path.resolve, does not mind a link to itself
    replaced = {os.path.realpath(path) for path in outputs} & {os.path.realpath(path) for path in inputs}
    if replaced:
        raise InputError(f"{min(replaced)}: is an input and would be replaced, name another output")


def check_output(path: Path, suffix: str, kind: str) -> None:
    """Raise :class:`InputError` unless ``path`` can be made and ends in ``suffix``: no weights are to be replaced."""
    from sdseg_monai.io import check_folder

    if path.suffix.lower() != suffix:
        raise InputError(f"{path}: expected the name of a {kind}, ending in {suffix}")
    check_folder(path.parent)
