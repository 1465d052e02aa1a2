"""Box plots as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from sdseg_monai.report.text import safe

WHISKER = 1.5  # interquartile ranges
WIDTH, HEIGHT = 320, 104
LEFT, RIGHT = 14, 306  # where the axis begins and ends
MIDDLE, HALF_BOX, SPREAD, BASE = 40, 15, 24, 78  # positions and heights of the box, the dots and the axis
GOLDEN = 0.618034  # the fractional parts of its multiples spread evenly over [0, 1]


@dataclass(frozen=True)
class Box:
    """The quartiles of a box plot and the ends of its whiskers.

    A whisker ends at the last value within 1.5 interquartile ranges of the box.
    """

    low: float
    first: float
    median: float
    third: float
    high: float


def box_of(values: Sequence[float]) -> Box:
    """Return the box of ``values``: at least one value, all of them finite. Quantiles are computed as numpy does."""
    first, median, third = (float(q) for q in np.quantile(values, [0.25, 0.5, 0.75]))
    reach = WHISKER * (third - first)
    inner_values = [value for value in values if first - reach <= value <= third + reach]
    return Box(min(*inner_values, first), first, median, third, max(*inner_values, third))


def ticks_of(low: float, high: float, max_steps: int = 5) -> list[float]:
    """Return the ticks of an axis: at most ``max_steps`` + 1 round numbers, evenly spaced, that include both ends."""
    if high - low <= 1e-9 * max(1.0, abs(low), abs(high)):
        low, high = low - 0.05, high + 0.05
    power = 10.0 ** math.floor(math.log10((high - low) / max_steps))
    for factor in (1, 2, 5, 10, 20):
        step = factor * power
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        if last - first <= max_steps:
            break
    return [round(n * step, 12) for n in range(first, last + 1)]


def box_plot(
    label: str,
    points: Sequence[tuple[str, str | None, float]],
    show: Callable[[float], str],
    tick: Callable[[float], str],
) -> str:
    """Return a horizontal box plot with a dot for each case, as an SVG element.

    Args:
        label: name of the metric.
        points: for each case its name, the address of its section on the page (None if it has no section), and its
            value, which is finite.
        show: formats a value.
        tick: formats a value on the axis.
    """
    values = [value for _, _, value in points]
    box = box_of(values)
    ticks = ticks_of(min(values), max(values))

    def place(value: float) -> float:
        return round(LEFT + (value - ticks[0]) / (ticks[-1] - ticks[0]) * (RIGHT - LEFT), 2)

    description = f"{label}: median {show(box.median)}, quartiles {show(box.first)} and {show(box.third)}"
    low, first, median, third, high = (place(v) for v in (box.low, box.first, box.median, box.third, box.high))
    parts = [f'<svg class="box" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(description)}">']
    for value in ticks:
        x = place(value)
        parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="8" y2="{BASE}"/>')
        parts.append(f'<text x="{x}" y="{BASE + 18}" text-anchor="middle">{escape(tick(value))}</text>')
    for x1, x2 in ((low, first), (third, high)):
        parts.append(f'<line class="whisker" x1="{x1}" x2="{x2}" y1="{MIDDLE}" y2="{MIDDLE}"/>')
    top, width = MIDDLE - HALF_BOX, max(round(third - first, 2), 1)
    parts.append(f'<rect class="quartiles" x="{first}" y="{top}" width="{width}" height="{2 * HALF_BOX}" rx="3"/>')
    parts.append(f'<line class="median" x1="{median}" x2="{median}" y1="{top}" y2="{MIDDLE + HALF_BOX}"/>')
    for index, (name, address, value) in enumerate(points):
        y = MIDDLE + SPREAD * (2 * (index * GOLDEN % 1) - 1)
        dot = f'<circle cx="{place(value)}" cy="{y:.1f}" r="3"><title>{safe(f"{name}: {show(value)}")}</title></circle>'
        parts.append(dot if address is None else f'<a href="{escape(address)}" tabindex="-1">{dot}</a>')
    return "".join([*parts, "</svg>"])
