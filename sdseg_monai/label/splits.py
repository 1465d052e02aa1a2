"""Which of the labelled cases train, and which validate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sdseg_monai.errors import InputError
from sdseg_monai.io.volumes import volume_stem
from sdseg_monai.seeding import seed_from


def split_cases(cases: Sequence[Mapping[str, Any]], val_split: float) -> dict[str, list[dict[str, str]]]:
    """Divide labelled cases into training and validation by a hash of their names.

    A case stays on its side when more are labelled, unless that leaves a side empty.

    Args:
        cases: paths under ``image`` and ``label``.
        val_split: part that validates, in expectation; at least one case does, and one trains.

    Raises:
        InputError: there are fewer than two.
    """
    if len(cases) < 2:
        raise InputError(f"{len(cases)} labelled images, expected at least two: one to train on and one to validate on")
    draws = {str(case["image"]): seed_from(volume_stem(Path(case["image"]))) / 2**63 for case in cases}
    order = sorted(cases, key=lambda case: (draws[str(case["image"])], str(case["image"])))
    count = sum(draw < val_split for draw in draws.values())
    count = min(max(count, 1), len(cases) - 1)
    plain = [{key: str(case[key]) for key in ("image", "label")} for case in order]
    return {"training": plain[count:], "validation": plain[:count]}
