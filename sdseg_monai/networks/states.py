"""State dicts: read from safetensors, and every tensor accounted for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file

from sdseg_monai.errors import InputError

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
    except Exception as error:  # the library has its own exceptions, and torch's for an unknown dtype
        raise InputError(f"{path}: not a readable safetensors file ({reason(error)})") from error


def check_state(available: Shapes, shapes: Shapes) -> None:
    """Check that a file's tensors are those of a network, neither more nor fewer, under its own names.

    Args:
        available: shapes of the file's tensors.
        shapes: shapes of the network's.

    Raises:
        InputError: one is missing, misshapen or too many; it names the first.
    """
    refuse_missing(available, shapes)
    for name, shape in shapes.items():
        if tuple(available[name]) != tuple(shape):
            raise InputError(f"{name} has shape {tuple(available[name])}, expected {tuple(shape)}")
    refuse_unexpected(available, shapes)


def refuse_missing(names: Iterable[str], expected: Iterable[str]) -> None:
    """Raise :class:`InputError` if ``names`` lack one of those ``expected``."""
    missing = sorted(set(expected) - set(names))
    if missing:
        raise InputError(f"{missing[0]} is missing{_and_others(missing)}, expected every tensor of the network")


def refuse_unexpected(names: Iterable[str], expected: Iterable[str]) -> None:
    """Raise :class:`InputError` if there are ``names`` beyond those ``expected``."""
    unexpected = sorted(set(names) - set(expected))
    if unexpected:
        raise InputError(f"{unexpected[0]} is not part of the network{_and_others(unexpected)}: another architecture")


def to_float32(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Return ``tensor`` in float32, itself if it is that.

    Raises:
        InputError: it is not of finite floating-point numbers.
    """
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
    """Return the first sentence of what went wrong; torch's next one advises to switch the protection off."""
    return str(error).splitlines()[0].split(". ")[0] if str(error) else type(error).__name__


def _and_others(names: Sequence[str]) -> str:
    return f" (and {len(names) - 1} others)" if len(names) > 1 else ""
