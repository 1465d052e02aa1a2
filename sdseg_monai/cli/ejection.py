"""``sdseg ejection``."""

from __future__ import annotations

import argparse

from sdseg_monai.about import RESEARCH_ONLY
from sdseg_monai.cli.arguments import path, positive
from sdseg_monai.cli.outputs import note, report
from sdseg_monai.io.files import check_exists

HELP = "measure the ejection fraction of a heart's ventricle from its masks at end-diastole and end-systole"
NOTE = (
    "The size of a voxel cancels in the fraction, but not in the volumes in ml: where a file has a nominal size, they "
    f"mean nothing. {RESEARCH_ONLY}"
)


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    command.add_argument(
        "end_diastole", type=path, metavar="END_DIASTOLE", help="mask of the full cavity (.nii.gz, .nii, .nrrd, .mha)"
    )
    command.add_argument(
        "end_systole", type=path, metavar="END_SYSTOLE", help="mask of the emptied cavity, with voxels of the same size"
    )
    command.add_argument(
        "--label",
        type=positive,
        metavar="VALUE",
        help="value of the cavity in the masks (default: the only value that they have beside 0)",
    )


def run(options: argparse.Namespace) -> int:
    """Measure, and report the volumes and the fraction."""
    for file in (options.end_diastole, options.end_systole):
        check_exists(file)

    from sdseg_monai.evaluation.ejection import edges_text, measure_ejection

    ejection = measure_ejection(options.end_diastole, options.end_systole, options.label)
    size = f"{edges_text(ejection.spacing)} mm"
    note(f"note: the volumes in ml hold for voxels of {size}; the fraction does not depend on this size", options)
    summary = {
        "ejection_fraction_percent": round(ejection.fraction, 2),
        "end_diastole_ml": round(ejection.end_diastole_ml, 4),
        "end_systole_ml": round(ejection.end_systole_ml, 4),
        "label": ejection.label,
        "spacing_mm": [round(edge, 4) for edge in ejection.spacing],
    }
    if ejection.warnings:  # --quiet shows them nowhere else
        summary["warnings"] = [vars(warning) for warning in ejection.warnings]
    report(summary, options)
    return 0
