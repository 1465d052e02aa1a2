"""State dicts: reading them from safetensors, and checks that no tensor is missing, extra, misshapen or not finite."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file

from sdseg_monai.errors import InputError

BATCH_COUNT = "num_batches_tracked"

Shapes = Mapping[str, Sequence[int]]


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a safetensors file, on the CPU.

    Raises:
        InputError: the file is missing or damaged.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file, expected tensors")
    try:
        return load_file(path)
    except Exception as error:  # safetensors has exceptions of its own, and raises torch's for an unknown dtype
        raise InputError(f"{path}: not a readable safetensors file ({reason(error)})") from error


def check_state(available: Shapes, shapes: Shapes) -> None:
    """Check that a file has exactly the tensors of a network, under the network's names and in its shapes.

    Args:
        available: shapes of the file's tensors.
        shapes: shapes of the network's tensors.

    Raises:
        InputError: a tensor is missing, has another shape, or is not part of the network; the message names the first.
    """
    refuse_missing(available, shapes)
    for name, shape in shapes.items():
        if tuple(available[name]) != tuple(shape):
            raise InputError(f"{name} has shape {tuple(available[name])}, expected {tuple(shape)}")
    refuse_unexpected(available, shapes)


def refuse_missing(names: Iterable[str], expected: Iterable[str]) -> None:
    """Raise :class:`InputError` if a name of ``expected`` is not among ``names``."""
    missing_names = sorted(set(expected) - set(names))
    if missing_names:
        others = _and_others(missing_names)
        raise InputError(f"{missing_names[0]} is missing{others}, expected every tensor of the network")


def refuse_unexpected(names: Iterable[str], expected: Iterable[str]) -> None:
    """Raise :class:`InputError` if one of ``names`` is not in ``expected``."""
    extra_names = sorted(set(names) - set(expected))
    if extra_names:
        others = _and_others(extra_names)
        raise InputError(f"{extra_names[0]} is not part of the network{others}: another architecture")


def to_float32(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Return ``tensor`` in float32; the same tensor if it already is, or if it counts the batches of a batch norm.

    Args:
        name: of the tensor, for the message.
        tensor: any shape; a meta tensor, which has no values, passes.

    Raises:
        InputError: the tensor has integers, or values that are not finite.
    """
    if name.endswith(BATCH_COUNT) and tensor.dtype == torch.int64:
        return tensor
    if not tensor.is_floating_point():
        raise InputError(f"{name} is of {tensor.dtype}, expected floating-point numbers")
    tensor = tensor.float()
    if not tensor.is_meta and not bool(torch.isfinite(tensor).all()):
        raise InputError(f"{name} has values that are not finite, expected finite weights")
    return tensor


def shapes_of(state: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors of ``state``."""
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def reason(error: Exception) -> str:
    """Return the first sentence of an error's message, since torch's second one advises to load without protection."""
    return str(error).splitlines()[0].split(". ")[0] if str(error) else type(error).__name__


def _and_others(names: Sequence[str]) -> str:
    return f" (and {len(names) - 1} others)" if len(names) > 1 else ""
