"""The page: its parts as HTML, written case by case, so that one case's pictures are in memory at a time."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import numbers
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from sdseg_monai.errors import InputError
from sdseg_monai.io import write_atomically
from sdseg_monai.report.cases import ReportCase, sort_cases
from sdseg_monai.report.charts import box_plot
from sdseg_monai.report.drawing import AXES, Drawing, colours_of, draw, segment_name
from sdseg_monai.segments import UNSURE, Segment

MOST_FACTS = 8  # columns of the table; a case's own section has them all
BODY = "<!-- body -->"
DASH = '<span class="none" title="not defined">–</span>'
HASH = re.compile(r"[0-9a-f]{32,}")
# left, right, top, bottom of each plane
EDGES = (("A", "P", "S", "I"), ("R", "L", "S", "I"), ("R", "L", "A", "P"))


@dataclass(frozen=True)
class Metric:
    """How a metric is told: what it is called, what it means, and its values."""

    label: str
    meaning: str
    digits: int
    percent: bool = False

    def text(self, value: float, digits: int | None = None) -> str:
        """Return a value as text."""
        digits = self.digits if digits is None else digits
        if not math.isfinite(value):
            return "–" if math.isnan(value) else f"{value}"
        return f"{100 * value:+.{digits}f} %" if self.percent else f"{value:.{digits}f}"

    def tick(self, value: float) -> str:
        """Return a value of an axis as text."""
        return f"{100 * value:g} %" if self.percent else f"{value:g}"


METRICS = {
    "dice": Metric("Dice", "overlap; 1 is best", 3),
    "iou": Metric("IoU", "overlap by union; 1 is best", 3),
    "hd95": Metric("HD95", "between the outlines, mm (photographs: pixels)", 2),
    "nsd": Metric("Surface Dice", "outlines within the tolerance; 1 is best", 3),
    "volume_difference": Metric("Volume difference", "predicted minus label, by the label's", 1, percent=True),
}


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
    parts = {"title": _safe(title), "style": style, "script": script}
    parts |= {"style_hash": _hash(style), "script_hash": _hash(script)}
    yield Template(before).substitute(parts)

    evaluated = summary is not None or any(case.metrics for case in cases)
    ordered = sort_cases(cases, evaluated)
    drawn = [index for index, case in enumerate(ordered) if case.load is not None][:most_viewers]
    told = [index for index, case in enumerate(ordered) if case.failed or case.flags]
    sections = sorted({*drawn, *told})
    yield _header(title, about, cases)
    if evaluated:
        yield _evaluation(ordered, sections, segments, summary or {})
    yield _table(ordered, sections, evaluated, len(drawn))
    for index in sections:
        yield _section(index, ordered[index], segments, index in drawn)
    yield Template(after).substitute(parts)


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _safe(value: object) -> str:
    """Return a value as text within HTML or an attribute."""
    return escape(_text(value))


def _text(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, numbers.Real) and not isinstance(value, numbers.Integral):
        number = float(value)
        return f"{number:.4g}" if abs(number) < 10_000 or not math.isfinite(number) else f"{number:.0f}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(item)}" for key, item in value.items()) or "–"
    if isinstance(value, list | tuple | set | frozenset):
        return ", ".join(map(_text, value)) or "–"
    return str(value)


def _rows(facts: Mapping[str, object]) -> str:
    """Return facts as the rows of a list."""
    rows = []
    for name, value in facts.items():
        text = HASH.sub(lambda found: f"<code>{found.group()}</code>", _safe(value))
        rows.append(f"<div><dt>{_safe(str(name).replace('_', ' '))}</dt><dd>{text}</dd></div>")
    return f'<dl class="facts">{"".join(rows)}</dl>' if rows else ""


def _header(title: str, about: Mapping[str, object], cases: Sequence[ReportCase]) -> str:
    failed = sum(case.failed for case in cases)
    flagged = sum(bool(case.flags) and not case.failed for case in cases)
    counts = (("done", len(cases) - failed, ""), ("failed", failed, "bad"), ("flagged", flagged, "warn"))
    shown = "".join(f'<li class="{kind if n else ""}"><b>{n}</b> {name}</li>' for name, n, kind in counts)
    run = f"<details open><summary>What was run</summary>{_rows(about)}</details>" if about else ""
    return (
        f"<header><h1>{_safe(title)}</h1>"
        '<p class="research">Research use only: not a medical device, not for diagnosis or treatment.</p>'
        f'<ul class="counts">{shown}</ul>{run}</header>'
    )


def _evaluation(
    cases: Sequence[ReportCase], sections: Sequence[int], segments: Mapping[int, Segment], summary: Mapping[str, Any]
) -> str:
    cards = [_card(name, cases, sections, summary) for name in METRICS if _has(name, cases, summary)]
    classes = summary.get("classes") or {}
    known = {part for name in METRICS for part in (name, f"{name}_interval", f"{name}_cases")}
    rest = {name: value for name, value in summary.items() if name not in {*known, "classes"}}
    return (
        f'<section class="panel" aria-labelledby="summary"><h2 id="summary">Agreement with the labels</h2>'
        f'<div class="cards">{"".join(cards)}</div>{_classes(classes, segments)}{_rows(rest)}</section>'
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
    interval = _interval(metric, summary.get(f"{name}_interval"))
    plot = '<p class="soft">not defined for any case</p>'
    if points:
        plot = box_plot(metric.label, points, metric.text, metric.tick)
    scored = sum(name in case.metrics for case in cases)
    missing = f'<p class="soft">defined for {len(points)} of {scored} cases</p>' if 0 < len(points) < scored else ""
    return (
        f'<article class="card"><h3>{metric.label}</h3><p class="mean">{_value(metric, mean)} {interval}</p>'
        f'<p class="soft">{metric.meaning}</p>{plot}{missing}</article>'
    )


def _value(metric: Metric, value: float | None) -> str:
    return DASH if value is None or math.isnan(value) else escape(metric.text(value))


def _interval(metric: Metric, ends: Sequence[float] | None) -> str:
    if not ends:
        return ""
    low, high = (escape(metric.text(end)) for end in ends)
    return f'<small title="95 % interval of the mean">95 % CI {low} to {high}</small>'


def _classes(classes: Mapping[Any, Mapping[str, Any]], segments: Mapping[int, Segment]) -> str:
    """Return a table of each class's means."""
    if not classes:
        return ""
    names = [name for name in METRICS if any(name in found for found in classes.values())]
    head = "".join(f'<th scope="col" class="number">{METRICS[name].label}</th>' for name in names)
    rows = []
    for value, found in classes.items():
        means = [(METRICS[name], found.get(name), found.get(f"{name}_interval")) for name in names]
        cells = "".join(f'<td class="number">{_value(m, mean)} {_interval(m, ends)}</td>' for m, mean, ends in means)
        rows.append(
            f'<tr><th scope="row">{_swatch(int(value), segments)} {_name(int(value), segments)}</th>{cells}</tr>'
        )
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Means of each class"><table class="classes"><thead>'
        f'<tr><th scope="col">Class</th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    )


def _name(value: int, segments: Mapping[int, Segment]) -> str:
    return _safe(segment_name(value, segments))


def _swatch(value: int, segments: Mapping[int, Segment]) -> str:
    """Return a square of a segment's colour; as SVG, since printers leave out the colour of backgrounds."""
    red, green, blue = colours_of([value], segments)[value]
    fill = f"#{red:02x}{green:02x}{blue:02x}"
    stripes = '<path d="M-1 8L8 -1M3 15L15 3" stroke="#404040" stroke-width="3"/>' if value == UNSURE else ""
    square = f'<rect width="14" height="14" rx="3" fill="{fill}"/>'
    return f'<svg class="swatch" viewBox="0 0 14 14" aria-hidden="true">{square}{stripes}</svg>'


def _table(cases: Sequence[ReportCase], sections: Sequence[int], evaluated: bool, drawn: int) -> str:
    """Return a row a case; what a column is sorted by is beside the text."""
    columns = [name for name in METRICS if evaluated and any(name in case.metrics for case in cases)]
    by_success = sorted(cases, key=lambda case: case.failed)  # a failed one has few facts
    facts = list(dict.fromkeys(name for case in by_success for name in case.facts))[:MOST_FACTS]
    flagged = any(case.flags for case in cases)
    heads = ["Case", "State", *(["Flags"] if flagged else []), *(METRICS[name].label for name in columns)]
    heads += [name.replace("_", " ") for name in facts]
    head = "".join(f'<th scope="col"><button type="button">{_safe(name)}</button></th>' for name in heads)
    rows = []
    for index, case in enumerate(cases):
        name = _safe(case.name)
        link = f'<a href="#case-{index}">{name}</a>' if index in sections else f"<span>{name}</span>"
        cells = [f'<th scope="row">{link}</th>', _cell(_state(case), 0 if case.failed else 2 - bool(case.flags))]
        if flagged:
            more = f" (and {len(case.flags) - 1} more)" if len(case.flags) > 1 else ""
            cells.append(f'<td class="flag"><span>{_safe(case.flags[0]) if case.flags else ""}</span>{more}</td>')
        for column in columns:
            value = case.metrics.get(column, math.nan)
            cells.append(_cell(_value(METRICS[column], value), value))
        for fact in facts:
            told = case.facts.get(fact)
            cells.append(_cell(DASH if told is None else _safe(told), _leading_number(told)))
        rows.append(f"<tr>{''.join(cells)}</tr>")
    left = sum(case.load is not None for case in cases) - drawn
    more = f"{left} more case has" if left == 1 else f"{left} more cases have"
    note = f'<p class="soft">Viewers are made for the first {drawn} of these; {more} none.</p>'
    order = "worst Dice first" if evaluated else "failed and flagged first"
    body = "".join(rows) or f'<tr><td colspan="{len(heads)}">No cases.</td></tr>'
    return (
        f'<section class="panel" aria-labelledby="cases"><h2 id="cases">Cases <small>{order}</small></h2>'
        '<div class="scroll" tabindex="0" role="region" aria-label="Table of the cases"><table class="sortable"><thead>'
        f"<tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{note if left else ''}</section>"
    )


def _state(case: ReportCase) -> str:
    kind = "bad" if case.failed else "warn" if case.flags else "good"
    text = case.status if case.failed or not case.flags else f"{case.status}, flagged"
    return f'<span class="state {kind}">{_safe(text)}</span>'


def _cell(content: str, order: float | None) -> str:
    known = order is not None and math.isfinite(order)
    return f'<td class="number" data-sort="{order if known else ""}">{content}</td>'


def _leading_number(value: object) -> float | None:
    """Return the number that a fact's text begins with, to sort by."""
    found = re.match(r"[-+]?\d+\.?\d*(?:e[-+]?\d+)?", _text(value))
    return float(found.group()) if found else None


def _section(index: int, case: ReportCase, segments: Mapping[int, Segment], viewer: bool) -> str:
    drawing, flags = None, list(case.flags)
    if viewer and case.load is not None:
        try:
            drawing = draw(case.load(), segments)
        except (InputError, OSError, MemoryError) as error:  # of one case; the others are worth a report
            flags.append(f"no pictures: {str(error) or type(error).__name__}")
    kind = "bad" if case.failed else "warn"
    told = "".join(f"<li>{_safe(flag)}</li>" for flag in flags)
    dice = case.metrics.get("dice")
    score = f'<span class="score">Dice {_value(METRICS["dice"], dice)}</span>' if dice is not None else ""
    names = {segment_name(value, segments) for value in (drawing.amounts if drawing else {})} | {
        segment.name for segment in segments.values()
    }
    facts = {name: value for name, value in case.facts.items() if drawing is None or name not in names}
    details = f"{_metrics(case.metrics, segments)}{_rows(facts)}"
    parts = [
        f'<section class="panel case" id="case-{index}" aria-labelledby="name-{index}"><div class="head">',
        f'<h2 id="name-{index}">{_safe(case.name)}</h2>{score}{_state(case)}',
        '<a class="up" href="#cases">all cases</a></div>',
        f'<ul class="flags {kind}">{told}</ul>' if flags else "",
        _viewer(index, case, drawing, segments, details) if drawing else details,
        "</section>\n",
    ]
    return "".join(parts)


def _metrics(metrics: Mapping[str, float], segments: Mapping[int, Segment]) -> str:
    """Return a case's metrics: a row of the foreground, and of each class for which there are some."""
    by_class: dict[int | None, dict[str, float]] = {}
    for name, value in metrics.items():
        base, _, number = name.rpartition("_")
        if name in METRICS:
            by_class.setdefault(None, {})[name] = value
        elif base in METRICS and number.isdecimal():
            by_class.setdefault(int(number), {})[base] = value
    others = {n: v for n, v in metrics.items() if n not in METRICS and n.rpartition("_")[0] not in METRICS}
    columns = [name for name in METRICS if any(name in found for found in by_class.values())]
    if not columns:
        return _rows(others)
    head = "".join(f'<th scope="col" class="number">{METRICS[name].label}</th>' for name in columns)
    rows = []
    for of, found in by_class.items():
        title = "Foreground" if of is None else f"{_swatch(of, segments)} {_name(of, segments)}"
        cells = "".join(f'<td class="number">{_value(METRICS[name], found.get(name))}</td>' for name in columns)
        rows.append(f'<tr><th scope="row">{title}</th>{cells}</tr>')
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Metrics of this case"><table class="metrics">'
        f"<thead><tr><td></td>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>{_rows(others)}"
    )


def _viewer(index: int, case: ReportCase, drawing: Drawing, segments: Mapping[int, Segment], details: str) -> str:
    data = drawing.data
    name = _safe(case.name)
    planes = "".join(
        f'<button type="button" class="plane" data-axis="{axis}" aria-pressed="{str(axis == data["axis"]).lower()}">'
        f'<span class="stage"><img src="{still}" alt="{AXES[axis]} picture of {name} with its masks">'
        f"<canvas hidden></canvas>{_edges(axis, drawing.photograph)}</span>"
        f'<span class="caption">{"Photograph" if drawing.photograph else AXES[axis].capitalize()}</span></button>'
        for axis, still in sorted(drawing.stills.items(), reverse=True)
    )
    masks = "".join(
        f'<label><input type="checkbox" class="mask" value="{number}" checked> {_safe(mask)}'
        f"{' <small>' + ('outline' if number else 'filled') + '</small>' if len(data['masks']) > 1 else ''}</label>"
        for number, mask in enumerate(drawing.masks)
    )
    notes = "".join(f"<li>{_safe(note)}</li>" for note in drawing.notes)
    single = " single" if len(drawing.stills) == 1 else ""
    return f"""<div class="viewer{single}">
<div class="main">
<span class="stage big" tabindex="0" role="group" aria-label="Slices of {name}: arrow keys and the wheel scroll">
<canvas></canvas>{_edges(data["axis"], drawing.photograph)}<span class="wait">…</span></span>
<label class="slider slices"><span>Slice</span>
<input type="range" class="slice" min="0" step="1"><output></output></label>
<label class="slider"><span>Masks</span>
<input type="range" class="opacity" min="0" max="100" value="50" aria-label="Opacity of the masks">
<output>50 %</output></label>
</div>
<div class="side">
<div class="planes">{planes}</div>
<ul class="notes">{notes}</ul>
<fieldset class="masks"><legend>Shown</legend>{masks}</fieldset>
{_legend(drawing, case, segments)}
{details}
</div>
<script type="application/json">{_json(data)}</script>
</div>"""


def _edges(axis: int, photograph: bool) -> str:
    if photograph:
        return ""
    sides = zip(("left", "right", "top", "bottom"), EDGES[axis], strict=True)
    return "".join(f'<span class="edge {side}" aria-hidden="true">{letter}</span>' for side, letter in sides)


def _legend(drawing: Drawing, case: ReportCase, segments: Mapping[int, Segment]) -> str:
    """Return the segments that the masks hold, then the others, which are told to be absent."""
    present = list(drawing.amounts)
    absent = [value for value in segments if value not in present]
    rows = []
    for value in (*present, *absent):
        name = segment_name(value, segments)
        amount = _safe(case.facts[name]) if name in case.facts else _amount(drawing, value)
        box = f'<input type="checkbox" class="segment" value="{value}" {"checked" if value in present else "disabled"}>'
        rows.append(
            f"<li{'' if value in present else ' class=absent'}><label>{box} {_swatch(value, segments)} "
            f'<span class="name">{_safe(name)}</span></label><span class="amount">{amount}</span></li>'
        )
    every = '<button type="button" value="all">all</button> <button type="button" value="none">none</button>'
    order = _safe(" / ".join(drawing.masks)) if len(drawing.masks) > 1 else ""
    return (
        '<div class="legend" role="group" aria-label="Segments"><div class="line"><h3>Segments</h3>'
        f'<span class="every">{every if len(present) > 1 else ""}</span><span class="order">{order}</span></div>'
        f"<ul>{''.join(rows)}</ul></div>"
        if rows
        else ""
    )


def _amount(drawing: Drawing, value: int) -> str:
    amounts = drawing.amounts.get(value, {}).values()
    if not any(amounts):
        return "none"
    factor, unit = (100, "%") if drawing.photograph else (1, "ml")
    return f"{' / '.join(_three_digits(factor * amount) for amount in amounts)} {unit}"


def _three_digits(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def _json(data: Mapping[str, Any]) -> str:
    """Return JSON that cannot end the element that it stands in."""
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
