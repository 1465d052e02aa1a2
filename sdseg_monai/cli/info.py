"""``sdseg info``."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sdseg_monai.bundle import Bundle, shipped_bundles
from sdseg_monai.cli.outputs import table_lines
from sdseg_monai.io.segments import PHOTOGRAPHS

HELP = "describe bundles: what they segment, their weights, copyright and data"
NOTE = "A terminal gets a table, a file or another program gets JSON."
HEAD = ("bundle", "for", "segments", "trained on", "weights")


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    command.add_argument(
        "bundles",
        nargs="*",
        metavar="BUNDLE",
        help="name of a bundle, or its folder or zip file (default: the installed ones)",
    )
    command.add_argument("--json", action="store_true", help="write JSON to a terminal too, which tells more")


def run(options: argparse.Namespace) -> int:
    """Write the descriptions of bundles: a table for people, JSON for programs."""
    descriptions = {str(name): Bundle.open(name).describe() for name in options.bundles or shipped_bundles()}
    if options.json or not sys.stdout.isatty():
        sys.stdout.write(json.dumps(descriptions, indent=2) + "\n")
        return 0
    rows = [_cells(name, description) for name, description in descriptions.items()]
    for line in table_lines(HEAD, rows, shutil.get_terminal_size().columns):
        sys.stdout.write(line + "\n")
    return 0


def _cells(name: str, description: Mapping[str, Any]) -> list[str]:
    """Return the cells of a bundle, as :data:`HEAD` names them."""
    modality = description["modality"] or "unknown"
    images = "pictures" if modality == PHOTOGRAPHS else f"{modality} volumes"
    return [name, images, ", ".join(description["labels"]), str(description["data_source"]), _size(description)]


def _size(description: Mapping[str, Any]) -> str:
    """Return the size of a bundle's weights in words."""
    weights = description["weights"]
    if weights is None:
        return "none, train it first"
    if weights["file"] is None:
        return "only its config says where"
    return f"{Path(weights['file']).stat().st_size / 2**20:.1f} MiB"
