"""Summaries of the metrics of several cases: means, bootstrap intervals, a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sdseg_monai.evaluation.agreement import METRICS, Agreement, CaseMetrics, defined_values, mean_agreement
from sdseg_monai.io.tables import write_table
from sdseg_monai.metrics import bootstrap_interval

Names = Mapping[int, str]  # of classes, by their values
NO_NAMES: Names = {}


def class_values(cases: Iterable[CaseMetrics]) -> list[int]:
    """Return the values of the classes that any case has, if there are several; otherwise nothing."""
    values = sorted({value for case in cases for value in case.classes})
    return values if len(values) > 1 else []


def has_class_means(cases: Sequence[CaseMetrics]) -> bool:
    """Tell whether the metrics are means over several classes: not by the official protocol, nor of one class."""
    return bool(class_values(cases)) and all(case.protocol == "native" for case in cases)


def mean_metrics(cases: Sequence[CaseMetrics]) -> CaseMetrics:
    """Return the mean of each metric over the cases for which it is defined, as a case with the name ``mean``."""
    values = sorted({value for case in cases for value in case.classes})
    return CaseMetrics(
        case="mean",
        classes={value: mean_agreement([case.in_class(value) for case in cases]) for value in values},
        foreground=mean_agreement([case.foreground for case in cases]),
        **vars(mean_agreement(cases)),
    )


def summarise(cases: Sequence[CaseMetrics], names: Names = NO_NAMES) -> dict[str, Any]:
    """Return the means of all metrics as a dictionary for JSON.

    Args:
        cases: metrics of the cases. Those of a case are the mean over its classes, see :class:`CaseMetrics`.
        names: names of the classes, by their values; some or all may be missing.

    Returns:
        ``cases``, the number of cases; for each metric, such as ``dice``, its mean over the cases; the 95 % bootstrap
        interval of the mean, ``dice_interval``; and, if the metric is not defined for all cases, the number of cases
        for which it is, ``dice_cases``. Mean and interval are None if the metric is not defined for any case. Under
        ``zero_dice``, if there are any, the cases with a class whose Dice is 0, each with these classes.

        If there are several classes: ``hd95_undefined`` and so on, how often the metric of a class of a case is not
        defined and was left out of that case's mean; the same summary of the union of all classes under
        ``foreground``, and under ``classes`` that of each class with its ``name``, if it has one. A class that neither
        mask of a case has counts there with Dice 1; ``absent_cases`` is the number of these cases.
    """
    summary: dict[str, Any] = {"cases": len(cases), **_summarise(cases)}
    zero_dice = {case.case: case.zero_classes for case in cases if case.zero_classes}
    if zero_dice:
        summary["zero_dice"] = zero_dice
    if has_class_means(cases):
        agreements = [agreement for case in cases for agreement in case.classes.values()]
        for name in METRICS:
            undefined_count = len(agreements) - len(defined_values(agreements, name))
            if undefined_count:
                summary[f"{name}_undefined"] = undefined_count
        summary["foreground"] = _summarise([case.foreground for case in cases])
    if class_values(cases):
        summary["classes"] = {value: _summarise_class(cases, value, names) for value in class_values(cases)}
    return summary


def warning_texts(case: CaseMetrics) -> list[str]:
    """Return the warnings about the files of a case, each with the name of its file and folder."""
    return [
        f"{path.parent.name}/{path.name}: {warning.text}"
        for path, warnings in case.warnings.items()
        for warning in warnings
    ]


def write_csv(path: Path, cases: Sequence[CaseMetrics], names: Names = NO_NAMES) -> None:
    """Write a row for each case and a last row with the means.

    The metrics of the case come first. If there are several classes, those of each class follow, ``dice_1`` and so on,
    with its name in ``name_1``, if it has one; then those of the union of all classes, ``dice_foreground`` and so on.

    Args:
        path: file to write.
        cases: metrics of the cases.
        names: names of the classes, by their values.

    Raises:
        InputError: the folder cannot be written.
    """
    values, has_foreground = class_values(cases), has_class_means(cases)
    head = ["case", *METRICS]
    for value in values:
        head += [f"{name}_{value}" for name in METRICS] + ([f"name_{value}"] if value in names else [])
    if has_foreground:
        head += [f"{name}_foreground" for name in METRICS]
    rows: list[list[str | float]] = []
    for case in (*cases, mean_metrics(cases)):
        row: list[str | float] = [case.case, *_values(case)]
        for value in values:
            row += [*_values(case.in_class(value)), *([names[value]] if value in names else [])]
        rows.append([*row, *(_values(case.foreground) if has_foreground else [])])
    write_table(path, [head, *rows])


def _values(agreement: Agreement) -> list[float]:
    return [getattr(agreement, name) for name in METRICS]


def _summarise_class(cases: Sequence[CaseMetrics], value: int, names: Names) -> dict[str, Any]:
    name = {"name": names[value]} if value in names else {}
    absent_count = sum(value not in case.classes for case in cases)
    absent_cases = {"absent_cases": absent_count} if absent_count else {}
    return {**name, **_summarise([case.in_class(value) for case in cases]), **absent_cases}


def _summarise(agreements: Sequence[Agreement]) -> dict[str, Any]:
    summary: dict[str, Any] = {}
    for name in METRICS:
        values = defined_values(agreements, name)
        summary[name] = round(float(np.mean(values)), 6) if values else None
        summary[f"{name}_interval"] = [round(end, 6) for end in bootstrap_interval(values)] if values else None
        if len(values) < len(agreements):
            summary[f"{name}_cases"] = len(values)
    return summary
