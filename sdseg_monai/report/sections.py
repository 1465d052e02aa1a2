"""The section of a case on the page, with its viewer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sdseg_monai.errors import InputError
from sdseg_monai.io.segments import Segment
from sdseg_monai.report.cases import ReportCase
from sdseg_monai.report.drawing import AXES, Drawing, draw, segment_name
from sdseg_monai.report.text import (
    FOREGROUND,
    METRICS,
    mean_of,
    rows_of,
    safe,
    state_of,
    subject_metrics,
    subject_name,
    swatch_of,
)

# letters at the left, right, top and bottom edge of each plane
EDGES = (("A", "P", "S", "I"), ("R", "L", "S", "I"), ("R", "L", "A", "P"))


def case_section(index: int, case: ReportCase, segments: Mapping[int, Segment], viewer: bool) -> str:
    """Return the section of a case; with its viewer if ``viewer`` is set and the case can be drawn."""
    drawing, flags = None, list(case.flags)
    if viewer and case.load is not None:
        try:
            drawing = draw(case.load(), segments)
        except (InputError, OSError, MemoryError) as error:  # only this case has no pictures
            flags.append(f"no pictures: {str(error) or type(error).__name__}")
    kind = "bad" if case.failed else "warn"
    flag_items = "".join(f"<li>{safe(flag)}</li>" for flag in flags)
    dice = case.metrics.get("dice")
    score = f'<span class="score">Dice {mean_of(METRICS["dice"], dice)}</span>' if dice is not None else ""
    names = {segment_name(value, segments) for value in (drawing.amounts if drawing else {})} | {
        segment.name for segment in segments.values()
    }
    facts = {name: value for name, value in case.facts.items() if drawing is None or name not in names}
    details = f"{_metrics(case.metrics, segments)}{rows_of(facts)}"
    parts = [
        f'<section class="panel case" id="case-{index}" aria-labelledby="name-{index}"><div class="head">',
        f'<h2 id="name-{index}">{safe(case.name)}</h2>{score}{state_of(case)}',
        '<a class="up" href="#cases">all cases</a></div>',
        f'<p class="not-trusted">{safe(case.not_trusted)}</p>' if case.not_trusted else "",
        f'<ul class="flags {kind}">{flag_items}</ul>' if flags else "",
        _viewer(index, case, drawing, segments, details) if drawing else details,
        "</section>\n",
    ]
    return "".join(parts)


def _metrics(metrics: Mapping[str, float], segments: Mapping[int, Segment]) -> str:
    """Return the table of a case's metrics: a row for their mean, the foreground and each class that has metrics."""
    subjects = subject_metrics(metrics)
    headline = {name: metrics[name] for name in METRICS if name in metrics}
    shown_names = {*headline, *(f"{name}_{subject}" for subject, values in subjects.items() for name in values)}
    other_metrics = {name: value for name, value in metrics.items() if name not in shown_names}
    columns = [name for name in METRICS if any(name in values for values in (headline, *subjects.values()))]
    if not columns:
        return rows_of(other_metrics)
    lines = [("Mean of the classes" if FOREGROUND in subjects else FOREGROUND.capitalize(), headline)]
    for subject, values in subjects.items():
        swatch = f"{swatch_of(subject, segments)} " if isinstance(subject, int) else ""
        lines.append((f"{swatch}{safe(subject_name(subject, segments))}", values))
    head = "".join(f'<th scope="col" class="number">{METRICS[name].label}</th>' for name in columns)
    rows = []
    for title, values in lines:
        cells = "".join(f'<td class="number">{mean_of(METRICS[name], values.get(name))}</td>' for name in columns)
        rows.append(f'<tr><th scope="row">{title}</th>{cells}</tr>')
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Metrics of this case"><table class="metrics">'
        f"<thead><tr><td></td>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>{rows_of(other_metrics)}"
    )


def _viewer(index: int, case: ReportCase, drawing: Drawing, segments: Mapping[int, Segment], details: str) -> str:
    data = drawing.data
    name = safe(case.name)
    planes = "".join(
        f'<button type="button" class="plane" data-axis="{axis}" aria-pressed="{str(axis == data["axis"]).lower()}">'
        f'<span class="stage"><img src="{still}" alt="{AXES[axis]} picture of {name} with its masks">'
        f"<canvas hidden></canvas>{_edges(axis, drawing.photograph)}</span>"
        f'<span class="caption">{"Photograph" if drawing.photograph else AXES[axis].capitalize()}</span></button>'
        for axis, still in sorted(drawing.stills.items(), reverse=True)
    )
    masks = "".join(
        f'<label><input type="checkbox" class="mask" value="{number}" checked> {safe(mask)}'
        f"{' <small>' + ('outline' if number else 'filled') + '</small>' if len(data['masks']) > 1 else ''}</label>"
        for number, mask in enumerate(drawing.masks)
    )
    notes = "".join(f"<li>{safe(note)}</li>" for note in drawing.notes)
    single_class = " single" if len(drawing.stills) == 1 else ""
    return f"""<div class="viewer{single_class}">
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
    """Return the legend: the segments that the masks contain, then the others, which are marked as absent."""
    present_values = list(drawing.amounts)
    absent_values = [value for value in segments if value not in present_values]
    rows = []
    for value in (*present_values, *absent_values):
        name = segment_name(value, segments)
        amount = safe(case.facts[name]) if name in case.facts else _amount(drawing, value)
        state = "checked" if value in present_values else "disabled"
        box = f'<input type="checkbox" class="segment" value="{value}" {state}>'
        rows.append(
            f"<li{'' if value in present_values else ' class=absent'}><label>{box} {swatch_of(value, segments)} "
            f'<span class="name">{safe(name)}</span></label><span class="amount">{amount}</span></li>'
        )
    buttons = '<button type="button" value="all">all</button> <button type="button" value="none">none</button>'
    mask_names = safe(" / ".join(drawing.masks)) if len(drawing.masks) > 1 else ""
    return (
        '<div class="legend" role="group" aria-label="Segments"><div class="line"><h3>Segments</h3>'
        f'<span class="every">{buttons if len(present_values) > 1 else ""}</span>'
        f'<span class="order">{mask_names}</span></div>'
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
    """Return JSON without ``<``, so that it cannot end the HTML element around it."""
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
