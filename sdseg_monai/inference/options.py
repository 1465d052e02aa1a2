"""What a user can choose of a model and of how it is asked: one list, for programs, the command and the server."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, TypedDict, get_args

from sdseg_monai.errors import ArgumentError

Uncertainty = Literal["flips", "seeds", "ensemble"]
Progress = Callable[[int, int], bool | None]


class ModelOptions(TypedDict, total=False):
    """Options of a single model.

    Attributes:
        device: torch device; None for the bundle's choice, CUDA where there is some.
        seed: of the start noise, where the network has some; None for the bundle's.
        batch_size: slices per forward pass; the result does not depend on it; None for the bundle's.
        overlays: configs to chain after the bundle's; they are code, as the bundle's own.
    """

    device: str | None
    seed: int | None
    batch_size: int | None
    overlays: str | Path | Sequence[str | Path]


class Options(ModelOptions, total=False):
    """Options of a :class:`~sdseg_monai.inference.pipeline.Pipeline`.

    Attributes:
        weights: files to use instead of the bundle's own; several are an ensemble.
        abstain_below: confidence in [0, 1] below which a voxel is given the value 255.
        uncertainty: how to ask the model several times, see :mod:`sdseg_monai.inference.strategies`: ``flips``
            (test-time mirroring), ``seeds`` (several start noises) or ``ensemble`` (several weights).
        num_samples: start noises of ``seeds``.
    """

    weights: str | Path | Sequence[str | Path]
    abstain_below: float | None
    uncertainty: Uncertainty | None
    num_samples: int | None


NAMES = tuple(Options.__annotations__)


def check_inputs(options: Options) -> dict[str, Any]:
    """Return every one of :class:`Options`, None where it is not given, paths as lists of :class:`~pathlib.Path`.

    Raises:
        ArgumentError: an option cannot be, or two of them contradict each other.
        TypeError: an option is unknown.
    """
    unknown = [name for name in options if name not in NAMES]
    if unknown:
        raise TypeError(f"unknown option {unknown[0]!r}, expected one of {', '.join(NAMES)}")
    checked: dict[str, Any] = {name: options.get(name) for name in NAMES}
    for name in ("weights", "overlays"):
        checked[name] = as_paths(name, options.get(name, ()))
    weights, uncertainty = checked["weights"], checked["uncertainty"]
    seed, batch_size, abstain_below = checked["seed"], checked["batch_size"], checked["abstain_below"]
    if uncertainty not in (None, *get_args(Uncertainty)):
        raise ArgumentError(f"uncertainty={uncertainty!r}: expected one of {', '.join(get_args(Uncertainty))}")
    if abstain_below is not None and not (_is_number(abstain_below, Real) and 0 <= abstain_below <= 1):
        raise ArgumentError(f"abstain_below={abstain_below!r}: expected a confidence from 0 to 1")
    if batch_size is not None and not (_is_number(batch_size, Integral) and batch_size >= 1):
        raise ArgumentError(f"batch_size={batch_size!r}: expected a whole number from 1 on")
    if seed is not None and not (_is_number(seed, Integral) and 0 <= seed < 2**63):
        raise ArgumentError(f"seed={seed!r}: expected a whole number from 0 to 2^63 - 1")
    if len(weights) > 1 and uncertainty != "ensemble":
        raise ArgumentError(f"{len(weights)} weights: expected one, or uncertainty='ensemble'")
    if len({os.path.realpath(path) for path in weights}) < len(weights):
        raise ArgumentError("weights: a file is given twice, which would agree with itself; expected different ones")
    if checked["num_samples"] is not None and uncertainty != "seeds":
        raise ArgumentError(
            f"num_samples={checked['num_samples']!r}: only uncertainty='seeds' has a number of samples to choose"
        )
    return checked


def as_paths(name: str, value: object) -> list[Path]:
    """Return the paths of the argument called ``name``, given one or several.

    Raises:
        ArgumentError: it is neither.
    """
    paths = [value] if isinstance(value, str | Path) else value
    if not isinstance(paths, Sequence) or not all(isinstance(path, str | Path) for path in paths):
        raise ArgumentError(f"{name}={value!r}: expected a path, or several")
    return [Path(path) for path in paths]


def _is_number(value: object, kind: Any) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)
