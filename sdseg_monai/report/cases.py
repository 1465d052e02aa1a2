"""The cases of a report, and their order."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from sdseg_monai.io.segments import Segment


@dataclass(frozen=True)
class Picture:
    """The image and the masks that the viewer of a case shows.

    Attributes:
        image: [C, X, Y, Z], float32; C is 1, or 3 for a photograph, with values 0 to 255; None if there is no image.
        masks: class of each voxel, [X, Y, Z], uint8, by the names of the masks; the first mask is drawn filled, the
            others as outlines.
        affine: from voxels to RAS+ millimetres, [4, 4]; not used for a photograph.
        photograph: True for a photograph, where X are the rows of the file, Y its columns, and Z is 1. An image with
            three channels is a photograph too.
    """

    image: np.ndarray | None
    masks: Mapping[str, np.ndarray]
    affine: np.ndarray
    photograph: bool = False


@dataclass(frozen=True)
class ReportCase:
    """One case of a run.

    Attributes:
        name: name of the case, for the user.
        status: ``done`` or ``failed``.
        facts: further values to show, by name; a value that has the name of a segment is shown in the legend.
        flags: the warnings, or the error.
        metrics: metrics by the names in :data:`sdseg_monai.evaluation.METRICS`, those of class 2 as ``dice_2`` and so
            on, and those of the foreground as ``dice_foreground``, if the former are means over the classes; NaN if a
            metric is not defined. Empty if the mask was not compared with a label.
        load: returns the picture; called at most once, when the case is drawn. None if there is nothing to draw.
        not_trusted: ``NOT TRUSTED: `` and why, for a mask that was made although its image contradicts the network's
            training; empty for others.
        segments: names and colours of this case's values; None for those of the page.
    """

    name: str
    status: str
    facts: Mapping[str, object] = field(default_factory=dict)
    flags: Sequence[str] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    load: Callable[[], Picture] | None = None
    not_trusted: str = ""
    segments: Mapping[int, Segment] | None = None

    @property
    def failed(self) -> bool:
        """Whether the case has no result."""
        return self.status == "failed"

    @property
    def marks(self) -> list[str]:
        """What a person must know of the case: :attr:`not_trusted`, where it is set, and the flags."""
        return [*filter(None, [self.not_trusted]), *self.flags]


def sort_cases(cases: Sequence[ReportCase], evaluated: bool) -> list[ReportCase]:
    """Sort the cases: those that a person should look at come first.

    Failed cases are first. If masks were compared with labels, cases without a Dice follow, then the others by
    increasing Dice. Otherwise those that are not trusted follow, those with flags, then the others. Equal cases keep
    their order.

    Args:
        cases: in the order of the run.
        evaluated: whether masks were compared with labels.
    """

    def urgency(case: ReportCase) -> tuple[bool, bool, float]:
        dice = case.metrics.get("dice", math.nan)
        if evaluated:
            return not case.failed, not math.isnan(dice), 0 if math.isnan(dice) else dice
        return not case.failed, not case.not_trusted, not case.flags

    return sorted(cases, key=urgency)
