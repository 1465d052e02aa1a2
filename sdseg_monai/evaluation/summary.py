"""Summaries of the metrics of several cases: means, bootstrap intervals, a table."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sdseg_monai.evaluation.agreement import METRICS, UNDEFINED, Agreement, CaseMetrics
from sdseg_monai.io.files import write_atomically
from sdseg_monai.metrics import bootstrap_interval


def mean_metrics(cases: Sequence[CaseMetrics]) -> CaseMetrics:
    """Return the mean of each metric over the cases for which it is defined, as a case with the name ``mean``."""
    values = sorted({value for case in cases for value in case.classes})
    classes = {value: _mean([case.in_class(value) for case in cases]) for value in values}
    return CaseMetrics(case="mean", classes=classes, **vars(_mean(cases)))


def summarise(cases: Sequence[CaseMetrics]) -> dict[str, object]:
    """Return the means of all metrics as a dictionary for JSON.

    Returns:
        ``cases``, the number of cases; for each metric of the foreground, such as ``dice``, its mean; the 95 %
        bootstrap interval of the mean, ``dice_interval``; and, if the metric is not defined for all cases, the number
        of cases for which it is, ``dice_cases``. Under ``classes`` is the same for each class, if there are several.
        Mean and interval are None if the metric is not defined for any case.
    """
    summary: dict[str, object] = {"cases": len(cases), **_summarise(cases)}
    values = sorted({value for case in cases for value in case.classes})
    if len(values) > 1:
        summary["classes"] = {value: _summarise([case.in_class(value) for case in cases]) for value in values}
    return summary


def write_csv(path: Path, cases: Sequence[CaseMetrics]) -> None:
    """Write a row for each case and a last row with the mean: the metrics of the foreground, then those of each class.

    Raises:
        InputError: the folder cannot be written.
    """
    mean = mean_metrics(cases)
    classes = sorted(mean.classes) if len(mean.classes) > 1 else []
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["case", *METRICS, *(f"{name}_{value}" for value in classes for name in METRICS)])
    for case in (*cases, mean):
        agreements = [case, *(case.in_class(value) for value in classes)]
        writer.writerow([case.case, *(f"{getattr(a, name):.8f}" for a in agreements for name in METRICS)])
    write_atomically(path, lambda temporary: temporary.write_text(text.getvalue(), "utf-8", "surrogateescape"))


def _mean(agreements: Sequence[Agreement]) -> Agreement:
    values_of_metric = {name: _defined(agreements, name) for name in METRICS}
    means = {name: float(np.mean(values)) if values else UNDEFINED for name, values in values_of_metric.items()}
    return Agreement(**means)


def _defined(agreements: Sequence[Agreement], name: str) -> list[float]:
    """Return the values of a metric that are defined."""
    return [value for agreement in agreements if not math.isnan(value := getattr(agreement, name))]


def _summarise(agreements: Sequence[Agreement]) -> dict[str, object]:
    summary: dict[str, object] = {}
    for name in METRICS:
        values = _defined(agreements, name)
        summary[name] = round(float(np.mean(values)), 6) if values else None
        summary[f"{name}_interval"] = [round(end, 6) for end in bootstrap_interval(values)] if values else None
        if len(values) < len(agreements):
            summary[f"{name}_cases"] = len(values)
    return summary
