"""Along which axes a training mirrors its slices, read from its config without running the config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FLIP = "RandFlipd"  # of MONAI
AXES = (0, 1)  # of a slice


def read_mirrored_axes(config: Mapping[str, Any]) -> list[int]:
    """Return the axes along which the ``augmentation`` of a training mirrors slices with a probability above 0, sorted.

    Read are MONAI's RandFlipd steps that stand directly in the augmentation, with a ``prob`` that is a number or refers
    to one, as ``@mirror_probability`` does. An expression is not evaluated: what it says is taken for no mirror image.

    Args:
        config: of a training, such as the content of a bundle's ``train.json``.
    """
    augmentation = config.get("augmentation")
    steps = augmentation.get("transforms") if isinstance(augmentation, Mapping) else None
    axes = set()
    for step in steps if isinstance(steps, list) else []:
        if isinstance(step, Mapping) and _is_flip(step) and _number(config, step.get("prob")) > 0:
            axes |= {axis for axis in AXES if step.get("spatial_axis") == axis}
    return sorted(axes)


def _is_flip(step: Mapping[str, Any]) -> bool:
    return str(step.get("_target_")).rpartition(".")[2] == FLIP and "_disabled_" not in step


def _number(config: Mapping[str, Any], value: object) -> float:
    """Return the number that ``value`` is or refers to, 0 where only running the config would give it."""
    if isinstance(value, str) and value[:1] == "@":
        value = config.get(value[1:])
    return float(value) if isinstance(value, int | float) else 0.0
