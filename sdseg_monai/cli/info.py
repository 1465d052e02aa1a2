"""``sdseg info``."""

from __future__ import annotations

import argparse
import json
import sys

from sdseg_monai.bundle import Bundle, shipped_bundles

HELP = "describe bundles: what they segment, their weights, copyright and data"
NOTE = None


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    command.add_argument(
        "bundles",
        nargs="*",
        metavar="BUNDLE",
        help="name of a bundle, or its folder or zip file (default: the installed ones)",
    )


def run(options: argparse.Namespace) -> int:
    """Write the descriptions of bundles as JSON."""
    descriptions = {str(name): Bundle.open(name).describe() for name in options.bundles or shipped_bundles()}
    sys.stdout.write(json.dumps(descriptions, indent=2) + "\n")
    return 0
