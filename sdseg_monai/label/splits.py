"""Which of the labelled cases train, and which validate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sdseg_monai.data.splits import split_by_share
from sdseg_monai.io.volumes import volume_stem


def split_cases(cases: Sequence[Mapping[str, Any]], val_split: float) -> dict[str, list[dict[str, str]]]:
    """Divide a datastore's labelled cases, as paths for a datalist, by :func:`~sdseg_monai.data.splits.split_by_share`.

    Args:
        cases: paths under ``image`` and ``label``, no two images of one name.
        val_split: part that validates, in expectation; at least one case does, and one trains.

    Raises:
        InputError: there are fewer than two.
    """
    items = {volume_stem(Path(case["image"])): {key: str(case[key]) for key in ("image", "label")} for case in cases}
    return {split: [items[name] for name in names] for split, names in split_by_share(items, val_split).items()}
