"""The options of a model and of its inference: one list for programs, the command and the label server."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, TypedDict, get_args

from sdseg_monai.errors import ArgumentError
from sdseg_monai.io.files import check_name
from sdseg_monai.io.sources import Source, is_photograph, short_name

Uncertainty = Literal["flips", "seeds", "ensemble"]
TestTimeAugmentation = Literal["mirror"]
Progress = Callable[[int, int], bool | None]


class ModelOptions(TypedDict, total=False):
    """Options of a single model, all of them optional.

    Attributes:
        device: torch device, such as ``cpu`` or ``cuda:1``; None for the bundle's choice, which is CUDA where there is
            a GPU.
        seed: seed of the start noise, 0 to 2^63 - 1, for networks that start from noise; None for the bundle's seed.
        batch_size: slices per forward pass, at least 1; it changes memory and time, not the result. None for the
            bundle's batch size.
        overlays: one or several config files that change the bundle's configs. They are code, like these.
        trust: run code of the bundle and of the overlays that does not come with this package, now and, as long as it
            is the same, later; without it such code is refused.
    """

    device: str | None
    seed: int | None
    batch_size: int | None
    overlays: str | Path | Sequence[str | Path]
    trust: bool


class Options(ModelOptions, total=False):
    """Options of :func:`sdseg_monai.segment` and :class:`sdseg_monai.Pipeline`: those of a model, and these.

    Attributes:
        weights: file of weights to use instead of the bundle's own; several files with ``uncertainty="ensemble"``.
        abstain_below: confidence in [0, 1]; a voxel that is less sure has the value 255, "unsure", in the mask. Not for
            photographs. None: no voxel has this value.
        uncertainty: how to measure the uncertainty, see :mod:`sdseg_monai.inference.strategies`: ``flips`` (test-time
            mirroring), ``seeds`` (several start noises) or ``ensemble`` (several weights). None: the volume is
            segmented once.
        tta: test-time augmentation; ``mirror`` segments the volume and its mirror image, in twice the time, and the
            result is the mean of the two scores. Only for bundles whose training mirrored the images and whose classes
            name no side of the body, and without ``uncertainty``. None: the volume is segmented once.
        num_samples: number of start noises, at least 2, with ``uncertainty="seeds"``; None for 5.
        force: segment also an image that contradicts the training, which is refused otherwise: one of another modality,
            with intensities that the modality cannot have, or with a far larger field of view. The mask is marked as
            NOT TRUSTED wherever it is kept or shown.

    Example:
        >>> from sdseg_monai import Pipeline
        >>> from sdseg_monai.inference.options import Options
        >>> options: Options = {"device": "cpu", "uncertainty": "flips", "batch_size": 16}
        >>> Pipeline("hippocampus_sdseg", **options).strategy.num_samples
        2
    """

    weights: str | Path | Sequence[str | Path]
    abstain_below: float | None
    uncertainty: Uncertainty | None
    tta: TestTimeAugmentation | None
    num_samples: int | None
    force: bool


NAMES = tuple(Options.__annotations__)


def check_inputs(options: Options) -> dict[str, Any]:
    """Return all :class:`Options` by name: paths as lists of :class:`~pathlib.Path`; False or None if not given.

    Raises:
        ArgumentError: an option has a value that it cannot have, or two options contradict each other.
        TypeError: an option is unknown.
    """
    unknown_names = [name for name in options if name not in NAMES]
    if unknown_names:
        raise TypeError(f"unknown option {unknown_names[0]!r}, expected one of {', '.join(NAMES)}")
    values: dict[str, Any] = {name: options.get(name) for name in NAMES}
    for name in ("weights", "overlays"):
        values[name] = as_paths(name, options.get(name, ()))
    weights, uncertainty, tta = values["weights"], values["uncertainty"], values["tta"]
    seed, batch_size, abstain_below = values["seed"], values["batch_size"], values["abstain_below"]
    if uncertainty not in (None, *get_args(Uncertainty)):
        raise ArgumentError(f"uncertainty={uncertainty!r}: expected one of {', '.join(get_args(Uncertainty))}")
    if tta not in (None, *get_args(TestTimeAugmentation)):
        raise ArgumentError(f"tta={tta!r}: expected {', '.join(get_args(TestTimeAugmentation))}")
    if tta is not None and uncertainty is not None:
        raise ArgumentError(
            f"tta={tta!r} and uncertainty={uncertainty!r}: expected one of them, each makes its own mask"
        )
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
    values["force"] = options.get("force", False)
    if not isinstance(values["force"], bool):
        raise ArgumentError(f"force={values['force']!r}: expected True or False")
    if values["num_samples"] is not None and uncertainty != "seeds":
        raise ArgumentError(
            f"num_samples={values['num_samples']!r}: only uncertainty='seeds' has a number of samples to choose"
        )
    return values


def check_pixel_size(source: Source, pixel_mm: float | None) -> None:
    """Check that an image can have pixels of this size, in mm; None where it is not known.

    Raises:
        ArgumentError: it is not a finite number above 0, or the image is a volume, which has the size of its voxels.
    """
    if pixel_mm is None:
        return
    if not _is_number(pixel_mm, Real) or not 0 < pixel_mm < math.inf:
        raise ArgumentError(f"pixel_mm={pixel_mm!r}: expected the edge of a pixel in mm, a finite number above 0")
    if not is_photograph(source):
        raise ArgumentError(
            f"pixel_mm={pixel_mm!r}: {short_name(source)} is no picture, and a volume knows the size of its voxels: "
            "leave it out"
        )


def as_paths(name: str, value: object) -> list[Path]:
    """Return the paths of the argument ``name``, whose ``value`` is one path or a sequence of paths.

    Raises:
        ArgumentError: ``value`` is neither.
        InputError: a path holds a NUL character.
    """
    paths = [value] if isinstance(value, str | Path) else value
    if not isinstance(paths, Sequence) or not all(isinstance(path, str | Path) for path in paths):
        raise ArgumentError(f"{name}={value!r}: expected a path, or several")
    for path in paths:
        check_name(Path(path))
    return [Path(path) for path in paths]


def _is_number(value: object, kind: Any) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)
