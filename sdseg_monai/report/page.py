"""The page: its parts as HTML, written case by case, so that one case's pictures are in memory at a time."""

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
from sdseg_monai.report.cases import ReportCase, sort_cases
from sdseg_monai.report.charts import box_plot
from sdseg_monai.report.sections import case_section
from sdseg_monai.report.text import (
    DASH,
    METRICS,
    interval_of,
    mean_of,
    name_of,
    plain,
    rows_of,
    safe,
    state_of,
    swatch_of,
)

MOST_FACTS = 8  # columns of the table; a case's own section has them all
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
    """Write a run as one HTML file, which needs no network and lets none be used.

    A case whose pictures cannot be loaded is told of in its section; the report is written all the same.

    Args:
        path: of the file, which appears under its name only when it is complete.
        title: of the page.
        about: what was run: versions, device, hashes.
        cases: in the order of the run; the page sorts them by :func:`sort_cases`.
        segments: what the masks' values stand for.
        summary: of an evaluation, as :func:`sdseg_monai.evaluation.summarise` returns it.
        most_viewers: cases with pictures; the others are in the table, and have a section where they need a look.

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

    evaluated = summary is not None or any(case.metrics for case in cases)
    ordered = sort_cases(cases, evaluated)
    with_viewer = [index for index, case in enumerate(ordered) if case.load is not None][:most_viewers]
    flagged = [index for index, case in enumerate(ordered) if case.failed or case.flags]
    sections = sorted({*with_viewer, *flagged})
    yield _header(title, about, cases)
    if evaluated:
        yield _evaluation(ordered, sections, segments, summary or {})
    yield _table(ordered, sections, evaluated, len(with_viewer))
    for index in sections:
        yield case_section(index, ordered[index], segments, index in with_viewer)
    yield Template(after).substitute(parts)


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _header(title: str, about: Mapping[str, object], cases: Sequence[ReportCase]) -> str:
    failed = sum(case.failed for case in cases)
    flagged = sum(bool(case.flags) and not case.failed for case in cases)
    counts = (("done", len(cases) - failed, ""), ("failed", failed, "bad"), ("flagged", flagged, "warn"))
    shown = "".join(f'<li class="{kind if n else ""}"><b>{n}</b> {name}</li>' for name, n, kind in counts)
    run = f"<details open><summary>What was run</summary>{rows_of(about)}</details>" if about else ""
    return (
        f"<header><h1>{safe(title)}</h1>"
        f'<p class="research">{RESEARCH_ONLY}</p>'
        f'<ul class="counts">{shown}</ul>{run}</header>'
    )


def _evaluation(
    cases: Sequence[ReportCase], sections: Sequence[int], segments: Mapping[int, Segment], summary: Mapping[str, Any]
) -> str:
    cards = [_card(name, cases, sections, summary) for name in METRICS if _has(name, cases, summary)]
    classes = summary.get("classes") or {}
    metric_keys = {part for name in METRICS for part in (name, f"{name}_interval", f"{name}_cases")}
    rest = {name: value for name, value in summary.items() if name not in {*metric_keys, "classes"}}
    return (
        f'<section class="panel" aria-labelledby="summary"><h2 id="summary">Agreement with the labels</h2>'
        f'<div class="cards">{"".join(cards)}</div>{_classes(classes, segments)}{rows_of(rest)}</section>'
    )


def _has(name: str, cases: Sequence[ReportCase], summary: Mapping[str, Any]) -> bool:
    return name in summary or any(name in case.metrics for case in cases)


def _card(name: str, cases: Sequence[ReportCase], sections: Sequence[int], summary: Mapping[str, Any]) -> str:
    """Return a metric's mean, the mean's interval, and its values over the cases."""
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
    scored = sum(name in case.metrics for case in cases)
    missing = f'<p class="soft">defined for {len(points)} of {scored} cases</p>' if 0 < len(points) < scored else ""
    return (
        f'<article class="card"><h3>{metric.label}</h3><p class="mean">{mean_of(metric, mean)} {interval}</p>'
        f'<p class="soft">{metric.meaning}</p>{plot}{missing}</article>'
    )


def _classes(classes: Mapping[Any, Mapping[str, Any]], segments: Mapping[int, Segment]) -> str:
    """Return a table of each class's means."""
    if not classes:
        return ""
    names = [name for name in METRICS if any(name in class_summary for class_summary in classes.values())]
    head = "".join(f'<th scope="col" class="number">{METRICS[name].label}</th>' for name in names)
    rows = []
    for value, class_summary in classes.items():
        means = [(METRICS[name], class_summary.get(name), class_summary.get(f"{name}_interval")) for name in names]
        cells = "".join(f'<td class="number">{mean_of(m, mean)} {interval_of(m, ends)}</td>' for m, mean, ends in means)
        rows.append(
            f'<tr><th scope="row">{swatch_of(int(value), segments)} {name_of(int(value), segments)}</th>{cells}</tr>'
        )
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Means of each class"><table class="classes"><thead>'
        f'<tr><th scope="col">Class</th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    )


def _table(cases: Sequence[ReportCase], sections: Sequence[int], evaluated: bool, viewers: int) -> str:
    """Return a row a case; what a column is sorted by is beside the text."""
    columns = [name for name in METRICS if evaluated and any(name in case.metrics for case in cases)]
    by_success = sorted(cases, key=lambda case: case.failed)  # a failed one has few facts
    facts = list(dict.fromkeys(name for case in by_success for name in case.facts))[:MOST_FACTS]
    flagged = any(case.flags for case in cases)
    heads = ["Case", "State", *(["Flags"] if flagged else []), *(METRICS[name].label for name in columns)]
    heads += [name.replace("_", " ") for name in facts]
    head = "".join(f'<th scope="col"><button type="button">{safe(name)}</button></th>' for name in heads)
    rows = []
    for index, case in enumerate(cases):
        name = safe(case.name)
        link = f'<a href="#case-{index}">{name}</a>' if index in sections else f"<span>{name}</span>"
        cells = [f'<th scope="row">{link}</th>', _cell(state_of(case), 0 if case.failed else 2 - bool(case.flags))]
        if flagged:
            more = f" (and {len(case.flags) - 1} more)" if len(case.flags) > 1 else ""
            cells.append(f'<td class="flag"><span>{safe(case.flags[0]) if case.flags else ""}</span>{more}</td>')
        for column in columns:
            value = case.metrics.get(column, math.nan)
            cells.append(_cell(mean_of(METRICS[column], value), value))
        for fact in facts:
            content = case.facts.get(fact)
            cells.append(_cell(DASH if content is None else safe(content), _leading_number(content)))
        rows.append(f"<tr>{''.join(cells)}</tr>")
    without_viewer = sum(case.load is not None for case in cases) - viewers
    more = f"{without_viewer} more case has" if without_viewer == 1 else f"{without_viewer} more cases have"
    note = f'<p class="soft">Viewers are made for the first {viewers} of these; {more} none.</p>'
    order = "worst Dice first" if evaluated else "failed and flagged first"
    body = "".join(rows) or f'<tr><td colspan="{len(heads)}">No cases.</td></tr>'
    return (
        f'<section class="panel" aria-labelledby="cases"><h2 id="cases">Cases <small>{order}</small></h2>'
        '<div class="scroll" tabindex="0" role="region" aria-label="Table of the cases"><table class="sortable"><thead>'
        f"<tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{note if without_viewer else ''}</section>"
    )


def _cell(content: str, order: float | None) -> str:
    has_order = order is not None and math.isfinite(order)
    return f'<td class="number" data-sort="{order if has_order else ""}">{content}</td>'


def _leading_number(value: object) -> float | None:
    """Return the number that a fact's text begins with, to sort by."""
    match = re.match(r"[-+]?\d+\.?\d*(?:e[-+]?\d+)?", plain(value))
    return float(match.group()) if match else None
