"""What the agreements of cases say together: means, intervals, a table."""

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
    """Return the mean over cases, named ``mean``, of each metric, over the cases for which it is defined."""
    values = sorted({value for case in cases for value in case.classes})
    classes = {value: _mean([case.in_class(value) for case in cases]) for value in values}
    return CaseMetrics(case="mean", classes=classes, **vars(_mean(cases)))


def summarise(cases: Sequence[CaseMetrics]) -> dict[str, object]:
    """Return number of cases, metrics of the foreground and, where there are several, of each class, as for JSON.

    Each metric has its mean, the mean's 95 % bootstrap interval ``METRIC_interval``, and ``METRIC_cases`` where it is
    not defined for all cases; without any, mean and interval are None.
    """
    summary: dict[str, object] = {"cases": len(cases), **_summarise(cases)}
    values = sorted({value for case in cases for value in case.classes})
    if len(values) > 1:
        summary["classes"] = {value: _summarise([case.in_class(value) for case in cases]) for value in values}
    return summary


def write_csv(path: Path, cases: Sequence[CaseMetrics]) -> None:
    """Write one row per case and a last one with the mean: the foreground's metrics, then, of several, each class's.

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
    defined = {name: _defined(agreements, name) for name in METRICS}
    return Agreement(**{name: float(np.mean(values)) if values else UNDEFINED for name, values in defined.items()})


def _defined(agreements: Sequence[Agreement], name: str) -> list[float]:
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
