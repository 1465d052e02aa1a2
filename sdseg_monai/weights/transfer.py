"""Moving tensors from a file's names and layout to a network's, with account of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from sdseg_monai.errors import InputError
from sdseg_monai.networks.states import Shapes, refuse_missing, to_float32
from sdseg_monai.weights.keymaps import Source

T = TypeVar("T")


@dataclass(frozen=True)
class ImportReport:
    """What became of a file's tensors.

    Attributes:
        used: names in the file that filled the network.
        unused: names in the file that did not.
        missing: names in the network that the file did not fill, where that is allowed.
    """

    used: tuple[str, ...]
    unused: tuple[str, ...]
    missing: tuple[str, ...] = ()

    def counts(self) -> dict[str, int]:
        """Return the number of names of each kind."""
        return {"used": len(self.used), "unused": len(self.unused), "missing": len(self.missing)}

    def __str__(self) -> str:
        return ", ".join(f"{count} {kind}" for kind, count in self.counts().items())


def make_report(names: Iterable[str], used: Iterable[str], missing: Iterable[str] = ()) -> ImportReport:
    """Return the report on a file with ``names`` of which ``used`` filled a network."""
    names, used = set(names), set(used)
    return ImportReport(tuple(sorted(used)), tuple(sorted(names - used)), tuple(sorted(missing)))


def check_sources(available: Shapes, sources: Mapping[str, Source], shapes: Mapping[str, Sequence[int]]) -> None:
    """Check that every source is there and has the shape that fills its target.

    Args:
        available: shapes of the file's tensors.
        sources: source of each of the network's tensors.
        shapes: shapes of the network's tensors.

    Raises:
        InputError: one is missing or misshapen; it names the first.
    """
    refuse_missing(available, (source.name for source in sources.values()))
    for target, source in sources.items():
        shape, expected = tuple(available[source.name]), tuple(shapes[target])
        if source.qkv_part is not None:
            expected = (3 * expected[0], *expected[1:])
        if shape[: len(expected)] != expected or any(length != 1 for length in shape[len(expected) :]):
            raise InputError(f"{source.name} has shape {shape}, expected {expected}")


def take_tensors(
    state: Mapping[str, torch.Tensor],
    sources: Mapping[str, Source],
    shapes: Mapping[str, Sequence[int]],
    num_heads: int = 1,
) -> dict[str, torch.Tensor]:
    """Return the network's tensors in float32, copied from ``state``; call :func:`check_sources` first.

    Args:
        state: tensors of the file.
        sources: source of each of the network's tensors.
        shapes: shapes of the network's tensors.
        num_heads: heads of the attention whose fused query-key-value tensors are stored head by head.

    Raises:
        InputError: a tensor is not of finite floating-point numbers; it names the first.
    """
    tensors = {}
    for target, source in sources.items():
        tensor = to_float32(source.name, state[source.name])
        if source.qkv_part is not None:
            # [heads, (q, k, v), channels of a head, ...], the order of guided diffusion's "legacy" attention
            tensor = tensor.unflatten(0, (num_heads, 3, -1))[:, source.qkv_part]
        tensors[target] = tensor.reshape(tuple(shapes[target])).clone()
    return tensors


def strip_prefix(items: Mapping[str, T], prefix: str) -> dict[str, T]:
    """Return those of ``items`` whose names begin with ``prefix``, under the rest of their names."""
    return {name.removeprefix(prefix): item for name, item in items.items() if name.startswith(prefix)}
