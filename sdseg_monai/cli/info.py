"""``sdseg info``."""

from __future__ import annotations

import argparse
import json
import sys

from sdseg_monai.bundle import Bundle, shipped_bundles

HELP = "what the bundles segment, their weights, whose they are"
NOTE = None


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    command.add_argument(
        "bundles", nargs="*", metavar="BUNDLE", help="name, folder or zip (default: the installed ones)"
    )


def run(options: argparse.Namespace) -> int:
    """Write what bundles say of themselves as JSON."""
    described = {str(name): Bundle.open(name).describe() for name in options.bundles or shipped_bundles()}
    sys.stdout.write(json.dumps(described, indent=2) + "\n")
    return 0
