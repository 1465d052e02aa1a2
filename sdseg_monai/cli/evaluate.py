"""``sdseg evaluate``."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from sdseg_monai.cli.arguments import length, path
from sdseg_monai.cli.outputs import check_output, note, report
from sdseg_monai.errors import InputError
from sdseg_monai.io.files import check_is_folder, check_outputs

HELP = "compare masks with labels: 3-D Dice, IoU, HD95, surface Dice and volumes, on the labels' grid"
NOTE = (
    "Dice is 1 where mask and label are both empty and 0 where only one is; with --protocol official it is 0 for both."
)


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    command.add_argument("--predictions", type=Path, required=True, metavar="DIR", help="folder of masks")
    command.add_argument(
        "--labels", type=Path, required=True, metavar="DIR", help="folder of labels, named as the masks are"
    )
    command.add_argument("-o", "--output", type=Path, required=True, metavar="CSV", help="table to write")
    command.add_argument(
        "--tolerance",
        type=length,
        metavar="MM",
        default=2.0,
        help="of the surface Dice, in millimetres, for pictures in pixels (default: %(default)g)",
    )
    command.add_argument(
        "--protocol",
        choices=("native", "official"),
        default="native",
        help="native: on the labels' own grid; official: Dice and IoU as in the published code, with slices of 256 x "
        "256 pixels and its rule for empty masks (default: %(default)s)",
    )
    command.add_argument(
        "--report", type=path, metavar="HTML", help="write a page with plots and every case, worst first"
    )
    command.add_argument("--images", type=path, metavar="DIR", help="folder of the images, for the report")


def run(options: argparse.Namespace) -> int:
    """Evaluate, write the table, and report the means."""
    if options.images is not None and options.report is None:
        raise InputError(f"{options.images}: --images are for --report, expected --report HTML too")
    folders = [folder for folder in (options.predictions, options.labels, options.images) if folder is not None]
    for folder in folders:
        check_is_folder(folder)

    from sdseg_monai.evaluation import evaluate_folders, match_images, summarise, write_csv
    from sdseg_monai.io.pictures import list_images
    from sdseg_monai.report.runs import report_evaluation

    outputs = [options.output, *([options.report] if options.report else [])]
    for folder in folders:
        list_images(folder)  # raises before anything is written
        check_outputs(folder.iterdir(), outputs)
    if os.path.realpath(options.predictions) == os.path.realpath(options.labels):
        raise InputError(f"{options.labels}: the labels are the predictions, expected two folders")
    check_output(options.output, ".csv", "table")
    if options.report is not None:
        check_output(options.report, ".html", "page")
    match_images([Path(path) for path in list_images(options.predictions)], options.images)  # before hours are spent
    cases = evaluate_folders(
        options.predictions,
        options.labels,
        progress=not options.quiet,
        tolerance=options.tolerance,
        protocol=options.protocol,
    )
    write_csv(options.output, cases)
    unmatched_count = len(list_images(options.labels)) - len(cases)
    if unmatched_count:
        note(f"note: {unmatched_count} labels have no prediction and are not in the mean", options)
    settings = {
        "protocol": options.protocol,
        "tolerance": options.tolerance,
        "labels_without_prediction": unmatched_count,
        "table": str(options.output),
    }
    summary = {**summarise(cases), **settings}
    if options.report is not None:
        report_evaluation(options.report, cases, summary, options.predictions, options.labels, options.images)
        summary["report"] = str(options.report)
    report(summary, options)
    return 0
