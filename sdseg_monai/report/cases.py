"""What a report is made of."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Picture:
    """What a case's viewer shows.

    Attributes:
        image: [C, X, Y, Z], float32; C is 1, or 3 in a photograph, whose values are 0 to 255; None where there is none.
        masks: classes [X, Y, Z], uint8, by name; the first is drawn filled, further ones as outlines.
        affine: [4, 4], voxel to RAS+ millimetres; a photograph's is not looked at.
        photograph: X are the rows of a picture file and Y its columns, Z is 1; three channels say so too.
    """

    image: np.ndarray | None
    masks: Mapping[str, np.ndarray]
    affine: np.ndarray
    photograph: bool = False


@dataclass(frozen=True)
class ReportCase:
    """One case of a run.

    Attributes:
        name: as the user knows it.
        status: ``done`` or ``failed``.
        facts: what is to be told about it; one that is called as a segment stands in the legend.
        flags: warnings, or the error.
        metrics: by the names of :data:`sdseg_monai.evaluation.METRICS`, of a class as ``dice_2``; NaN stands for what
            is not defined; empty where nothing was compared.
        load: returns what to draw; called at most once, when this case is drawn. None: nothing can be drawn.
    """

    name: str
    status: str
    facts: Mapping[str, object] = field(default_factory=dict)
    flags: Sequence[str] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    load: Callable[[], Picture] | None = None

    @property
    def failed(self) -> bool:
        """Whether nothing came of it."""
        return self.status == "failed"


def sort_cases(cases: Sequence[ReportCase], evaluated: bool) -> list[ReportCase]:
    """Return the cases with those first that need a look.

    Failed ones lead. Then come, where masks were compared, those without a Dice and the others by rising Dice, else
    flagged ones before the others. What is equal keeps its order.
    """

    def urgency(case: ReportCase) -> tuple[bool, bool, float]:
        dice = case.metrics.get("dice", math.nan)
        if evaluated:
            return not case.failed, not math.isnan(dice), 0 if math.isnan(dice) else dice
        return not case.failed, not case.flags, 0

    return sorted(cases, key=urgency)
