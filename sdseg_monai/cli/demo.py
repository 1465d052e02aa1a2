"""``sdseg demo``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sdseg_monai.about import RESEARCH_ONLY
from sdseg_monai.errors import printable
from sdseg_monai.io.files import check_exists

HELP = "segment an image with each bundle that has weights, and write one page of the results"
NOTE = RESEARCH_ONLY


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    command.add_argument(
        "-o", "--output", type=Path, default=Path("demo_output"), metavar="DIR", help="folder for results"
    )
    command.add_argument(
        "--data", type=Path, metavar="DIR", help="folder of MSD Task04_Hippocampus, instead of a download"
    )
    command.add_argument("--offline", action="store_true", help="do not try to download data, use a synthetic volume")


def run(options: argparse.Namespace) -> int:
    """Run the demo and write what it does, line by line."""
    if options.data is not None:
        check_exists(options.data)

    from sdseg_monai.demo.run import run_demo
    from sdseg_monai.report.runs import report_bundles

    for line in run_demo(options.output, report_bundles, data=options.data, offline=options.offline):
        sys.stdout.write(printable(line) + "\n")
    sys.stdout.write(RESEARCH_ONLY + "\n")
    return 0
