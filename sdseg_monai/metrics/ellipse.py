"""The ellipse that fits a mask, as sonographers lay one around the head of a fetus."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from monai.transforms import get_largest_connected_component_mask
from scipy.ndimage import binary_fill_holes
from scipy.special import ellipe


@dataclass(frozen=True)
class Ellipse:
    """An ellipse that was fitted to a mask, see :func:`fit_ellipse`.

    Attributes:
        semi_axes: half of the longer and of the shorter axis, in the unit of the pixels' edges.
        overlap: Dice coefficient of the ellipse and the whole mask, in [0, 1]: how much the mask is like an ellipse.
        touches_edge: whether the mask reaches the edge of its picture, so that a part of the structure may be missing.
    """

    semi_axes: tuple[float, float]
    overlap: float
    touches_edge: bool

    @property
    def circumference(self) -> float:
        """Length of the outline, by the complete elliptic integral of the second kind; in the unit of the edges."""
        longer, shorter = self.semi_axes
        return float(4 * longer * ellipe(1 - (shorter / longer) ** 2))


def fit_ellipse(mask: np.ndarray, edges: tuple[float, float] = (1.0, 1.0)) -> Ellipse | None:
    """Fit an ellipse to the largest connected part of a mask, with its holes filled.

    The ellipse has the part's centre and second moments of area. A fit of the outline is as good: on 44 masks of HC18
    that were roughened by 5 pixels both err by 1.2 % of the circumference, of those with a bite of 30 pixels by 1.6 %
    (outline: 2.4 %), of those with a bump as large by 4.2 % (3.8 %).

    On the 870 masks of HC18, 400 x 270 pixels, the circumference is 1.6 mm longer on average than that in the dataset's
    table, 4.0 mm at most. It is longer by 5.7 pixels whatever the size of the head (standard deviation 0.2), since the
    masks hold the line that was drawn. A fit of the outline gives the same to 0.01 mm.

    Args:
        mask: [H, W], bool.
        edges: lengths of a pixel's edges along the rows' and the columns' axis, in any unit.

    Returns:
        The ellipse; None where the mask is empty.

    Source: van den Heuvel et al. 2018, doi 10.1371/journal.pone.0200412, for HC18; their circumference, too, is that of
    a fitted ellipse.
    """
    if not mask.any():
        return None
    part = binary_fill_holes(np.asarray(get_largest_connected_component_mask(mask), dtype=bool))
    points = np.argwhere(part) * edges
    # a pixel is a square, whose own second moments along its edges are a twelfth of their squares
    moments = np.cov(points, rowvar=False, bias=True) + np.diag(np.square(edges) / 12)
    shorter, longer = 2 * np.sqrt(np.linalg.eigvalsh(moments))
    offsets = np.indices(mask.shape).reshape(2, -1).T * edges - points.mean(axis=0)
    # a point is inside where its Mahalanobis distance is at most 2
    ellipse = (((offsets @ np.linalg.inv(moments)) * offsets).sum(axis=1) <= 4).reshape(mask.shape)
    overlap = 2 * np.count_nonzero(ellipse & mask) / (np.count_nonzero(ellipse) + np.count_nonzero(mask))
    touches_edge = any(line.any() for line in (mask[0], mask[-1], mask[:, 0], mask[:, -1]))
    return Ellipse((float(longer), float(shorter)), overlap, touches_edge)
