"""``sdseg evaluate``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sdseg_monai.cli.arguments import length, path
from sdseg_monai.cli.outputs import EXIT_SOME_FAILED, check_output, note, report
from sdseg_monai.errors import EXIT_BAD_INPUT, InputError
from sdseg_monai.io.files import check_is_folder, check_outputs

if TYPE_CHECKING:
    from sdseg_monai.evaluation import Evaluation

MOST_NAMES = 10  # of cases in a note
HELP = "compare masks with labels: 3-D Dice, IoU, HD95, surface Dice and volumes, on the labels' grid"
NOTE = (
    "Of several classes the scores of a case are the mean over those that its mask or label has; the union of all is "
    "the foreground. Dice is 1 where mask and label are both empty and 0 where only one is; with --protocol official "
    "it is 0 for both, and the scores are those of the foreground."
)


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    command.add_argument("--predictions", type=Path, required=True, metavar="DIR", help="folder of masks")
    command.add_argument(
        "--labels",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder of labels, named as the masks are; endings such as _seg, -label or _0000 do not count",
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

    from sdseg_monai.evaluation import evaluate_pairs, match_cases, match_images, summarise, warning_texts, write_csv
    from sdseg_monai.io.pictures import list_images
    from sdseg_monai.report.runs import report_evaluation

    outputs = [options.output, *([options.report] if options.report else [])]
    for folder in folders:
        list_images(folder)  # raises before anything is written
        check_outputs(folder.iterdir(), outputs)
    is_one_folder = os.path.realpath(options.predictions) == os.path.realpath(options.labels)
    check_output(options.output, ".csv", "table")
    if options.report is not None:
        check_output(options.report, ".html", "page")
    pairs = match_cases(options.predictions, options.labels)
    match_images([prediction for prediction, _ in pairs], options.images)  # raises before hours are spent

    def keep(evaluation: Evaluation) -> None:
        if evaluation.cases:
            write_csv(options.output, evaluation.cases, _class_names(evaluation, options))
            note(f"{options.output}: the {len(evaluation.cases)} of {len(pairs)} cases so far", options)

    evaluation = evaluate_pairs(
        pairs, progress=not options.quiet, tolerance=options.tolerance, protocol=options.protocol, keep=keep
    )
    for error in evaluation.failed.values():
        sys.stderr.write(f"error: {error}\n")
    if not evaluation.cases:
        return EXIT_BAD_INPUT
    names = _class_names(evaluation, options)
    write_csv(options.output, evaluation.cases, names)
    unmatched_labels = sorted({Path(label) for label in list_images(options.labels)} - {label for _, label in pairs})
    if unmatched_labels:
        note(
            f"note: {len(unmatched_labels)} labels have no prediction and are not in the mean: "
            f"{_some([label.name for label in unmatched_labels])}",
            options,
        )
    zero_cases = [
        f"{case.case} ({_classes(case.zero_classes, names)})" for case in evaluation.cases if case.zero_classes
    ]
    if zero_cases:
        note(f"note: Dice is 0 for a class of {len(zero_cases)} cases: {_some(zero_cases)}", options)
    if is_one_folder:  # of use as a test of the pairing, but its figures say nothing of a model
        note("WARNING: the labels are the predictions, so that all of them agree", options)
    warnings = {case.case: texts for case in evaluation.cases if (texts := warning_texts(case))}
    summary = {
        **summarise(evaluation.cases, names),
        **({"labels_are_predictions": True} if is_one_folder else {}),
        **({"failed": evaluation.failed} if evaluation.failed else {}),
        **({"warnings": warnings} if warnings else {}),
        "protocol": options.protocol,
        "tolerance": options.tolerance,
        "labels_without_prediction": len(unmatched_labels),
        "table": str(options.output),
    }
    if options.report is not None:
        report_evaluation(
            options.report, evaluation, summary, names, options.predictions, options.labels, options.images
        )
        summary["report"] = str(options.report)
    report(summary, options)
    return EXIT_SOME_FAILED if evaluation.failed else 0


def _class_names(evaluation: Evaluation, options: argparse.Namespace) -> dict[int, str]:
    """Return the names of classes on which the masks agree; note the others."""
    from sdseg_monai.io.class_names import names_by_value

    names_of_value = names_by_value(file for case in evaluation.cases for file in evaluation.pairs[case.case])
    for value, names in names_of_value.items():
        if len(names) > 1:
            note(
                f"note: masks and labels call class {value} {_some(names)}: if these are not one structure, the scores "
                "compare different ones",
                options,
            )
    return {value: names[0] for value, names in names_of_value.items() if len(names) == 1}


def _classes(values: Sequence[int], names: Mapping[int, str]) -> str:
    return ", ".join(f"class {value} {names[value]}" if value in names else f"class {value}" for value in values)


def _some(texts: Sequence[str]) -> str:
    rest = f" and {len(texts) - MOST_NAMES} more" if len(texts) > MOST_NAMES else ""
    return f"{', '.join(texts[:MOST_NAMES])}{rest}"
