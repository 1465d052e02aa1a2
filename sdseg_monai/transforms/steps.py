"""A bundle's transforms, applied to one image."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from sdseg_monai.errors import InputError, find_fault, find_input_error


def apply_steps(
    steps: Callable[[dict[str, Any]], Any], item: Mapping[str, Any], key: str, config: Path, part: str
) -> dict[str, Any]:
    """Return the item that transforms of a bundle make of ``item``.

    Args:
        steps: the transforms.
        item: the data of one image, by their keys.
        key: of the image in the result, which must be a tensor [C, X, Y, Z].
        config: the file that names the transforms, for messages.
        part: their name there.

    Raises:
        InputError: the image cannot be used; or a transform cannot be applied because of the config's values, or none
            makes a tensor.
        RuntimeError: the machine fails, as without memory.
    """
    with step_errors(config, part):
        result = steps(dict(item))
    image = result.get(key) if isinstance(result, Mapping) else None
    if not isinstance(image, torch.Tensor) or image.ndim != 4:
        kind = f"shape {list(image.shape)}" if isinstance(image, torch.Tensor) else f"type {type(image).__name__}"
        raise InputError(
            f"{config}: {part} leaves {key!r} of {kind}, expected transforms that make a tensor [C, X, Y, Z] of it"
        )
    return dict(result)


@contextmanager
def step_errors(config: Path, part: str) -> Iterator[None]:
    """Raise :class:`InputError` where transforms of a bundle cannot use the image, or the config's values.

    Args:
        config: the file that names the transforms, for messages.
        part: their name there.

    Raises:
        RuntimeError: the machine fails, as without memory.
    """
    try:
        yield
    except RuntimeError as error:  # MONAI wraps everything in it
        input_error, fault = find_input_error(error), find_fault(error)
        if input_error is not None:
            raise input_error from error
        if fault is None or not fault.is_of_value:
            raise
        raise InputError(f"{config}: {part}: {fault.text}, expected transforms for this image") from error
