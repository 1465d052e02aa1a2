"""``sdseg label``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sdseg_monai.about import RESEARCH_ONLY
from sdseg_monai.cli.arguments import add_trust
from sdseg_monai.errors import printable

HELP = "start a MONAI Label server: segment, correct and fine-tune from the viewer"
NOTE = RESEARCH_ONLY


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    command.add_argument(
        "--studies", required=True, metavar="DIR_OR_URL", help="folder of volumes or DICOM files, or a DICOMweb URL"
    )
    command.add_argument(
        "--bundle",
        action="append",
        default=[],
        metavar="NAME_OR_DIR",
        help="bundle to serve; may be repeated (default: every installed bundle that has weights); a bundle is code, "
        "see --trust",
    )
    add_trust(command)
    command.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    command.add_argument("--port", type=int, default=8000, help="port, 0 for any free port (default: %(default)s)")
    command.add_argument(
        "--work-dir",
        type=Path,
        default=Path("sdseg_label"),
        metavar="DIR",
        help="folder for logs and fine-tuned weights (default: %(default)s)",
    )


def run(options: argparse.Namespace) -> int:
    """Serve until interrupted."""
    from sdseg_monai.label.start import prepare_server

    url, serve = prepare_server(
        options.studies,
        bundles=options.bundle,
        host=options.host,
        port=options.port,
        work_dir=options.work_dir,
        trust=options.trust,
    )
    sys.stdout.write(f"serving {printable(options.studies)} at {url}, OHIF at {url}/ohif/; {RESEARCH_ONLY}\n")
    sys.stdout.flush()
    serve()
    return 0
