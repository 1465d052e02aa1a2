"""The ellipse that fits a mask: on drawn ellipses, on other shapes, and on the heads of HC18."""

import csv
import math

import numpy as np
import pytest

from sdseg_monai.io.pictures import read_picture_mask
from sdseg_monai.metrics import fit_ellipse
from tests.makers.places import SHARED


def draw_ellipse(semi_axes, angle=0.0, shape=(220, 300), edges=(1.0, 1.0), centre=None):
    """Return the mask of an ellipse, whose first axis is turned by ``angle`` from the rows' axis."""
    rows, columns = (np.indices(shape).T * edges).T
    centre = (np.array(shape) / 2 + 0.3) * edges if centre is None else centre
    offsets = np.stack([rows - centre[0], columns - centre[1]])
    turned = np.tensordot([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]], offsets, 1)
    return (turned[0] / semi_axes[0]) ** 2 + (turned[1] / semi_axes[1]) ** 2 <= 1


def circumference(longer, shorter):
    """Return the circumference by summing the lengths of a million chords."""
    angles = np.linspace(0, 2 * math.pi, 1_000_001)
    return np.hypot(np.diff(longer * np.cos(angles)), np.diff(shorter * np.sin(angles))).sum()


@pytest.mark.parametrize("semi_axes", [(60, 60), (80, 55), (90, 20)], ids=str)
@pytest.mark.parametrize("angle", [0, 0.6, math.pi / 2], ids=str)
def test_an_ellipse_is_found_again(semi_axes, angle):
    ellipse = fit_ellipse(draw_ellipse(semi_axes, angle))
    assert ellipse.semi_axes == pytest.approx(semi_axes, rel=0.003)
    assert ellipse.circumference == pytest.approx(circumference(*semi_axes), rel=0.002)
    assert ellipse.overlap > 0.995 and not ellipse.touches_edge


def test_the_edges_of_a_pixel_may_differ():
    mask = draw_ellipse((40, 25), 0.5, shape=(300, 150), edges=(0.3, 0.7))
    ellipse = fit_ellipse(mask, (0.3, 0.7))
    assert ellipse.semi_axes == pytest.approx((40, 25), rel=0.003) and ellipse.overlap > 0.99
    assert fit_ellipse(mask).semi_axes != pytest.approx((40, 25), rel=0.1)


def test_holes_and_other_parts_do_not_change_it_but_lower_the_overlap():
    mask = draw_ellipse((80, 55))
    spoilt_mask = mask & ~draw_ellipse((15, 20))
    spoilt_mask[:20, :30] = True
    expected, ellipse = fit_ellipse(mask), fit_ellipse(spoilt_mask)
    assert ellipse.circumference == expected.circumference
    assert ellipse.overlap < 0.97 < expected.overlap
    assert ellipse.touches_edge and not expected.touches_edge


def test_small_empty_and_other_masks():
    assert fit_ellipse(np.zeros((5, 6), bool)) is None
    mask = np.zeros((5, 6), bool)
    mask[2, 3] = True
    assert 2 < fit_ellipse(mask).circumference < 4, "about the outline of one pixel"
    mask[2] = True
    assert 11 < fit_ellipse(mask).circumference < 15 and fit_ellipse(mask).touches_edge
    square = np.zeros((200, 200), bool)
    square[50:150, 50:150] = True
    assert fit_ellipse(square).overlap == pytest.approx(0.905, abs=0.005)


@pytest.mark.shared
def test_on_the_heads_of_hc18():
    """The figures in the docstring; the table's circumferences are of ellipses that sonographers drew."""
    folder = SHARED / "data" / "hc18-400"
    if not folder.is_dir():
        pytest.skip(f"no data at {folder}; set SDSEG_SHARED")
    with (folder / "index.csv").open() as file:
        rows = list(csv.DictReader(file))[::10]
    excess, excess_pixels = [], []
    for row in rows:
        pixel_mm = float(row["pixel_mm"])
        ellipse = fit_ellipse(read_picture_mask(folder / "masks" / f"{row['id']}.png"), (pixel_mm, pixel_mm))
        excess.append(ellipse.circumference - float(row["head_circumference_mm"]))
        excess_pixels.append(excess[-1] / pixel_mm)
        assert ellipse.overlap > 0.997
    assert np.mean(excess) == pytest.approx(1.6, abs=0.1) and min(excess) > 0 and max(excess) < 4.0
    assert np.mean(excess_pixels) == pytest.approx(5.7, abs=0.1) and np.std(excess_pixels) < 0.3
