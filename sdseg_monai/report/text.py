"""Values as text of the page: escaped for HTML, with a suitable number of digits."""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from sdseg_monai.errors import printable
from sdseg_monai.io.segments import UNSURE, Segment
from sdseg_monai.io.warnings import NOT_TRUSTED
from sdseg_monai.report.cases import ReportCase
from sdseg_monai.report.drawing import colours_of, segment_name

FOREGROUND = "foreground"  # the end of the names of its metrics; that of a class is its value
DASH = '<span class="none" title="not defined">–</span>'
HASH = re.compile(r"[0-9a-f]{32,}")


@dataclass(frozen=True)
class Metric:
    """How the page shows a metric.

    Attributes:
        label: name of the metric.
        meaning: explanation in a few words.
        digits: decimals of its values.
        percent: whether the values are shown in percent, with a sign.
    """

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
        """Return a value on an axis as text."""
        return f"{100 * value:g} %" if self.percent else f"{value:g}"


METRICS = {
    "dice": Metric("Dice", "overlap; 1 is best", 3),
    "iou": Metric("IoU", "overlap by union; 1 is best", 3),
    "hd95": Metric("HD95", "between the outlines, mm (photographs: pixels)", 2),
    "nsd": Metric("Surface Dice", "outlines within the tolerance; 1 is best", 3),
    "volume_difference": Metric("Volume difference", "predicted minus label, by the label's", 1, percent=True),
}


def subject_metrics(metrics: Mapping[str, float]) -> dict[int | str, dict[str, float]]:
    """Return the metrics of the foreground and of the classes of one case, or of several, by their names.

    Args:
        metrics: as in :class:`~sdseg_monai.report.cases.ReportCase`.

    Returns:
        First those of :data:`FOREGROUND`, then those of each class by its value; only those that ``metrics`` has.
    """
    subjects: dict[int | str, dict[str, float]] = {}
    for name, value in metrics.items():
        base, _, subject = name.rpartition("_")
        if base in METRICS and (subject == FOREGROUND or subject.isdecimal()):
            subjects.setdefault(int(subject) if subject.isdecimal() else subject, {})[base] = value
    return dict(sorted(subjects.items(), key=lambda item: -1 if item[0] == FOREGROUND else int(item[0])))


def subject_name(subject: int | str, segments: Mapping[int, Segment]) -> str:
    """Return the name of a class or of the foreground as text."""
    return segment_name(subject, segments) if isinstance(subject, int) else subject.capitalize()


def safe(value: object) -> str:
    """Return a value as text within HTML or an attribute: escaped, and :func:`~sdseg_monai.errors.printable`."""
    return escape(printable(plain(value)))


def plain(value: object) -> str:
    """Return a value as text."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, numbers.Real) and not isinstance(value, numbers.Integral):
        number = float(value)
        return f"{number:.4g}" if abs(number) < 10_000 or not math.isfinite(number) else f"{number:.0f}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {plain(item)}" for key, item in value.items()) or "–"
    if isinstance(value, list | tuple | set | frozenset):
        return ", ".join(map(plain, value)) or "–"
    return str(value)


def rows_of(facts: Mapping[str, object]) -> str:
    """Return facts, by name, as the rows of a list."""
    rows = []
    for name, value in facts.items():
        text = HASH.sub(lambda match: f"<code>{match.group()}</code>", safe(value))
        rows.append(f"<div><dt>{safe(str(name).replace('_', ' '))}</dt><dd>{text}</dd></div>")
    return f'<dl class="facts">{"".join(rows)}</dl>' if rows else ""


def mean_of(metric: Metric, value: float | None) -> str:
    """Return a value of a metric, or a dash if it is not defined."""
    return DASH if value is None or math.isnan(value) else escape(metric.text(value))


def interval_of(metric: Metric, ends: Sequence[float] | None) -> str:
    """Return the interval of a mean."""
    if not ends:
        return ""
    low, high = (escape(metric.text(end)) for end in ends)
    return f'<small title="95 % interval of the mean">95 % CI {low} to {high}</small>'


def name_of(value: int, segments: Mapping[int, Segment]) -> str:
    """Return the name of a value of a mask, escaped."""
    return safe(segment_name(value, segments))


def swatch_of(value: int, segments: Mapping[int, Segment]) -> str:
    """Return a square in a segment's colour. It is SVG, since browsers do not print the colours of backgrounds."""
    red, green, blue = colours_of([value], segments)[value]
    fill = f"#{red:02x}{green:02x}{blue:02x}"
    stripes = '<path d="M-1 8L8 -1M3 15L15 3" stroke="#404040" stroke-width="3"/>' if value == UNSURE else ""
    square = f'<rect width="14" height="14" rx="3" fill="{fill}"/>'
    return f'<svg class="swatch" viewBox="0 0 14 14" aria-hidden="true">{square}{stripes}</svg>'


def state_of(case: ReportCase) -> str:
    """Return the state of a case: done, flagged, not trusted or failed."""
    kind = "bad" if case.failed or case.not_trusted else "warn" if case.flags else "good"
    text = case.status
    if not case.failed and case.marks:
        text += f", {NOT_TRUSTED if case.not_trusted else 'flagged'}"
    return f'<span class="state {kind}">{safe(text)}</span>'
