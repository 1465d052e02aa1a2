"""``sdseg audit``."""

from __future__ import annotations

import argparse
from pathlib import Path

from sdseg_monai.cli.arguments import add_bundle, add_device, chosen_bundle
from sdseg_monai.cli.outputs import check_output, note, report
from sdseg_monai.io.files import check_is_folder, check_outputs

HELP = "measure how well a bundle's mask autoencoder reproduces your labels: Dice of decode(encode(label))"
NOTE = None


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    command.add_argument(
        "--labels",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder of labels, volumes or black and white pictures",
    )
    add_bundle(command)
    command.add_argument("-o", "--output", type=Path, metavar="CSV", help="table to write, one row per slice and class")
    add_device(command)


def run(options: argparse.Namespace) -> int:
    """Audit, write the table, and report the Dice of the reproduced labels."""
    check_is_folder(options.labels)
    bundle = chosen_bundle(options.bundle, options.overlay)

    from sdseg_monai.io.pictures import list_images
    from sdseg_monai.planning.audit import audit_folder, load_audit, loss_warnings, summarise_audit, write_audit

    list_images(options.labels)  # before anything is written
    if options.output is not None:
        check_outputs(options.labels.iterdir(), [options.output])
        check_output(options.output, ".csv", "table")
    audit = load_audit(bundle, options.device, options.overlay, trust=options.trust)
    reconstructions = audit_folder(audit, options.labels)
    for line in loss_warnings(reconstructions):
        note(f"warning: {line}", options)
    table = None
    if options.output is not None:
        write_audit(options.output, reconstructions)
        table = str(options.output)
    grid = {"weights": audit.weights, "size": audit.size, "slice_axis": audit.slice_axis}
    report({**summarise_audit(reconstructions), **grid, "table": table}, options)
    return 0
