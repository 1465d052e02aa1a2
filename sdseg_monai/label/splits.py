"""The split of the labelled cases into training and validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sdseg_monai.data.splits import split_by_share
from sdseg_monai.io.volumes import volume_stem


def split_cases(cases: Sequence[Mapping[str, Any]], val_split: float) -> dict[str, list[dict[str, str]]]:
    """Divide a datastore's labelled cases by :func:`~sdseg_monai.data.splits.split_by_share`.

    Args:
        cases: paths under ``image`` and ``label``; no two images have the same name.
        val_split: expected fraction of validation cases; there is at least one validation and one training case.

    Returns:
        The lists of a datalist, with paths as texts.

    Raises:
        InputError: there are fewer than two cases.
    """
    items = {volume_stem(Path(case["image"])): {key: str(case[key]) for key in ("image", "label")} for case in cases}
    return {split: [items[name] for name in names] for split, names in split_by_share(items, val_split).items()}
