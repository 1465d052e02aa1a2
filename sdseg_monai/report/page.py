"""The page of a report, written case by case, so that the pictures of only one case are in memory at a time."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from sdseg_monai.about import RESEARCH_ONLY
from sdseg_monai.io.files import write_atomically
from sdseg_monai.io.segments import Segment
from sdseg_monai.io.warnings import NOT_TRUSTED
from sdseg_monai.report.cases import ReportCase, sort_cases
from sdseg_monai.report.charts import box_plot
from sdseg_monai.report.sections import case_section
from sdseg_monai.report.text import (
    DASH,
    FOREGROUND,
    METRICS,
    Metric,
    interval_of,
    mean_of,
    name_of,
    plain,
    rows_of,
    safe,
    state_of,
    subject_metrics,
    subject_name,
    swatch_of,
)

MOST_FACTS = 8  # columns of the table; the section of a case shows all facts
BODY = "<!-- body -->"


def write_report(
    path: Path,
    *,
    title: str,
    about: Mapping[str, object],
    cases: Sequence[ReportCase],
    segments: Mapping[int, Segment],
    summary: Mapping[str, object] | None = None,
    most_viewers: int = 40,
) -> None:
    """Write the report of a run as one HTML file. The file needs no network, and its security policy allows none.

    If the pictures of a case cannot be loaded, its section says so, and the report is written without them.

    Args:
        path: the file; it appears under its name only when it is complete.
        title: title of the page.
        about: facts about the run: versions, device, hashes.
        cases: the cases, in the order of the run; the page sorts them by :func:`sort_cases`.
        segments: names and colours of the masks' values.
        summary: the summary of an evaluation, from :func:`sdseg_monai.evaluation.summarise`.
        most_viewers: number of cases with pictures. The other cases are in the table; those that failed or have
            warnings also have a section.

    Raises:
        InputError: the folder cannot be written.
    """

    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8", errors="replace", newline="\n") as file:
            file.writelines(_page(title, about, cases, segments, summary, most_viewers))

    write_atomically(path, write, ".html")


def _page(
    title: str,
    about: Mapping[str, object],
    cases: Sequence[ReportCase],
    segments: Mapping[int, Segment],
    summary: Mapping[str, object] | None,
    most_viewers: int,
) -> Iterator[str]:
    style, script = (files(__package__).joinpath(f"page.{kind}").read_text("utf-8") for kind in ("css", "js"))
    before, _, after = files(__package__).joinpath("page.html").read_text("utf-8").partition(BODY)
    parts = {"title": safe(title), "style": style, "script": script}
    parts |= {"style_hash": _hash(style), "script_hash": _hash(script)}
    yield Template(before).substitute(parts)

    is_evaluation = summary is not None or any(case.metrics for case in cases)
    sorted_cases = sort_cases(cases, is_evaluation)
    viewers = [index for index, case in enumerate(sorted_cases) if case.load is not None][:most_viewers]
    flags = [index for index, case in enumerate(sorted_cases) if case.failed or case.marks]
    sections = sorted({*viewers, *flags})
    yield _header(title, about, cases)
    if is_evaluation:
        yield _evaluation(sorted_cases, sections, segments, summary or {})
    yield _table(sorted_cases, sections, segments, is_evaluation, len(viewers))
    for index in sections:
        case = sorted_cases[index]
        yield case_section(index, case, segments if case.segments is None else case.segments, index in viewers)
    yield Template(after).substitute(parts)


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _header(title: str, about: Mapping[str, object], cases: Sequence[ReportCase]) -> str:
    num_failed = sum(case.failed for case in cases)
    num_flagged = sum(bool(case.marks) and not case.failed for case in cases)
    num_not_trusted = sum(bool(case.not_trusted) for case in cases)
    counts = [("done", len(cases) - num_failed, ""), ("failed", num_failed, "bad"), ("flagged", num_flagged, "warn")]
    counts += [(NOT_TRUSTED, num_not_trusted, "bad")] * bool(num_not_trusted)
    items = "".join(f'<li class="{kind if n else ""}"><b>{n}</b> {name}</li>' for name, n, kind in counts)
    run = f"<details open><summary>What was run</summary>{rows_of(about)}</details>" if about else ""
    return (
        f"<header><h1>{safe(title)}</h1>"
        f'<p class="research">{RESEARCH_ONLY}</p>'
        f'<ul class="counts">{items}</ul>{run}</header>'
    )


def _evaluation(
    cases: Sequence[ReportCase], sections: Sequence[int], segments: Mapping[int, Segment], summary: Mapping[str, Any]
) -> str:
    cards = [_card(name, cases, sections, summary) for name in METRICS if _has(name, cases, summary)]
    parts = ("", "_interval", "_cases", "_undefined")
    shown_keys = {*(f"{name}{part}" for name in METRICS for part in parts), FOREGROUND, "classes"}
    other_facts = {name: value for name, value in summary.items() if name not in shown_keys}
    return (
        f'<section class="panel" aria-labelledby="summary"><h2 id="summary">Agreement with the labels</h2>'
        f'<div class="cards">{"".join(cards)}</div>{_classes(summary, segments)}{rows_of(other_facts)}</section>'
    )


def _has(name: str, cases: Sequence[ReportCase], summary: Mapping[str, Any]) -> bool:
    return name in summary or any(name in case.metrics for case in cases)


def _card(name: str, cases: Sequence[ReportCase], sections: Sequence[int], summary: Mapping[str, Any]) -> str:
    """Return the card of a metric: its mean, the interval of the mean, and a box plot of the cases."""
    metric = METRICS[name]
    points = [
        (case.name, f"#case-{index}" if index in sections else None, float(case.metrics[name]))
        for index, case in enumerate(cases)
        if math.isfinite(case.metrics.get(name, math.nan))
    ]
    mean = summary.get(name)
    if mean is None and name not in summary and points:
        mean = sum(value for *_, value in points) / len(points)
    interval = interval_of(metric, summary.get(f"{name}_interval"))
    plot = '<p class="soft">not defined for any case</p>'
    if points:
        plot = box_plot(metric.label, points, metric.text, metric.tick)
    num_scored = sum(name in case.metrics for case in cases)
    notes = [f"defined for {len(points)} of {num_scored} cases"] if 0 < len(points) < num_scored else []
    if f"{name}_undefined" in summary:
        notes.append(f"not defined for {summary[f'{name}_undefined']} classes of cases, which are left out")
    footer = f'<p class="soft">{"; ".join(notes)}</p>' if notes else ""
    of_classes = "; mean of the classes" if FOREGROUND in summary else ""
    return (
        f'<article class="card"><h3>{metric.label}</h3><p class="mean">{mean_of(metric, mean)} {interval}</p>'
        f'<p class="soft">{metric.meaning}{of_classes}</p>{plot}{footer}</article>'
    )


def _classes(summary: Mapping[str, Any], segments: Mapping[int, Segment]) -> str:
    """Return a table with the means of each class, and of the foreground if the cards show the means of the classes."""
    all_means = [
        (f"{swatch_of(int(value), segments)} {name_of(int(value), segments)}", means)
        for value, means in (summary.get("classes") or {}).items()
    ]
    if not all_means:
        return ""
    if FOREGROUND in summary:
        all_means.append((f"{FOREGROUND.capitalize()}, all classes together", summary[FOREGROUND]))
    names = [name for name in METRICS if any(name in means for _, means in all_means)]
    head = "".join(f'<th scope="col" class="number">{METRICS[name].label}</th>' for name in names)
    rows = []
    for title, means in all_means:
        triples = [(METRICS[name], means.get(name), means.get(f"{name}_interval")) for name in names]
        cells = "".join(
            f'<td class="number">{mean_of(metric, mean)} {interval_of(metric, ends)}</td>'
            for metric, mean, ends in triples
        )
        rows.append(f'<tr><th scope="row">{title}</th>{cells}</tr>')
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Means of each class"><table class="classes"><thead>'
        f'<tr><th scope="col">Class</th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    )


def _table(
    cases: Sequence[ReportCase],
    sections: Sequence[int],
    segments: Mapping[int, Segment],
    is_evaluation: bool,
    num_viewers: int,
) -> str:
    """Return a table with a row for each case; the value to sort a column by is an attribute of the cell."""
    columns = _columns(cases, segments) if is_evaluation else {}
    cases_done_first = sorted(cases, key=lambda case: case.failed)  # a failed case has few facts
    facts = list(dict.fromkeys(name for case in cases_done_first for name in case.facts))[:MOST_FACTS]
    has_flags = any(case.marks for case in cases)
    heads = ["Case", "State", *(["Flags"] if has_flags else []), *(label for label, _ in columns.values())]
    heads += [name.replace("_", " ") for name in facts]
    head = "".join(f'<th scope="col"><button type="button">{safe(name)}</button></th>' for name in heads)
    rows = []
    for index, case in enumerate(cases):
        name = safe(case.name)
        link = f'<a href="#case-{index}">{name}</a>' if index in sections else f"<span>{name}</span>"
        cells = [f'<th scope="row">{link}</th>', _cell(state_of(case), 0 if case.failed else 2 - bool(case.marks))]
        if has_flags:
            count = f" (and {len(case.marks) - 1} more)" if len(case.marks) > 1 else ""
            cells.append(f'<td class="flag"><span>{safe(case.marks[0]) if case.marks else ""}</span>{count}</td>')
        for column, (_, metric) in columns.items():
            value = case.metrics.get(column, math.nan)
            cells.append(_cell(mean_of(metric, value), value))
        for fact in facts:
            content = case.facts.get(fact)
            cells.append(_cell(DASH if content is None else safe(content), _leading_number(content)))
        rows.append(f"<tr>{''.join(cells)}</tr>")
    num_without = sum(case.load is not None for case in cases) - num_viewers
    remainder = f"{num_without} more case has" if num_without == 1 else f"{num_without} more cases have"
    note = f'<p class="soft">Viewers are made for the first {num_viewers} of these; {remainder} none.</p>'
    order = "worst Dice first" if is_evaluation else "failed and flagged first"
    body = "".join(rows) or f'<tr><td colspan="{len(heads)}">No cases.</td></tr>'
    return (
        f'<section class="panel" aria-labelledby="cases"><h2 id="cases">Cases <small>{order}</small></h2>'
        '<div class="scroll" tabindex="0" role="region" aria-label="Table of the cases"><table class="sortable"><thead>'
        f"<tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{note if num_without else ''}</section>"
    )


def _columns(cases: Sequence[ReportCase], segments: Mapping[int, Segment]) -> dict[str, tuple[str, Metric]]:
    """Return the metrics of the table, each with its label: those of the cases, then the Dice of each class."""
    columns = {
        name: (metric.label, metric) for name, metric in METRICS.items() if any(name in case.metrics for case in cases)
    }
    for subject in subject_metrics({name: value for case in cases for name, value in case.metrics.items()}):
        columns[f"dice_{subject}"] = (f"Dice, {subject_name(subject, segments)}", METRICS["dice"])
    return columns


def _cell(content: str, order: float | None) -> str:
    has_order = order is not None and math.isfinite(order)
    return f'<td class="number" data-sort="{order if has_order else ""}">{content}</td>'


def _leading_number(value: object) -> float | None:
    """Return the number at the beginning of a fact's text, to sort by."""
    match = re.match(r"[-+]?\d+\.?\d*(?:e[-+]?\d+)?", plain(value))
    return float(match.group()) if match else None
