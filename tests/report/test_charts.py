"""Box plots, axes, and the order of the cases."""

import math
import re

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.cbook import boxplot_stats

from sdseg_monai.report import ReportCase
from sdseg_monai.report.cases import sort_cases
from sdseg_monai.report.charts import box_of, box_plot, ticks_of

VALUES = st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=30)


@settings(max_examples=60, deadline=None)
@given(VALUES)
def test_boxes_are_matplotlibs(values):
    box, expected = box_of(values), boxplot_stats(values)[0]
    keys = ("whislo", "q1", "med", "q3", "whishi")
    quartiles = (box.low, box.first, box.median, box.third, box.high)
    np.testing.assert_allclose(quartiles, [expected[key] for key in keys], rtol=1e-9, atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(VALUES)
def test_axes_are_round_and_hold_every_value(values):
    ticks = ticks_of(min(values), max(values))
    assert 2 <= len(ticks) <= 6
    assert ticks[0] <= min(values) + 1e-6 and ticks[-1] >= max(values) - 1e-6
    np.testing.assert_allclose(np.diff(ticks), ticks[1] - ticks[0], rtol=1e-6)


def test_a_box_plot_has_a_dot_for_each_case_in_order_of_its_value():
    points = [(f"<{n}>", None, value) for n, value in enumerate((0.2, 0.9, 0.5))]
    svg = box_plot("Dice", points, "{:.1f}".format, "{:g}".format)
    places = [float(x) for x in re.findall(r'<circle cx="([\d.]+)"', svg)]
    assert places[0] < places[2] < places[1]
    assert "<title>&lt;1&gt;: 0.9</title>" in svg and 'aria-label="Dice: median 0.5' in svg


def test_what_needs_a_look_comes_first():
    def case(name, dice=None, status="done", flags=()):
        return ReportCase(name, status, {}, flags, {} if dice is None else {"dice": dice})

    cases = [
        case("a", 0.9),
        case("b", 0.1, flags=["x"]),
        case("c", math.nan),
        case("d", status="failed"),
        case("e", 0.5),
    ]
    assert "".join(c.name for c in sort_cases(cases, evaluated=True)) == "dcbea"
    assert "".join(c.name for c in sort_cases(cases, evaluated=False)) == "dbace"
