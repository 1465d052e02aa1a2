"""Transfer of tensors from the names and layout of a file to those of a network, with a report on every tensor."""

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
    """Report on which tensors of a file were used.

    Attributes:
        used: names in the file of the tensors that filled the network.
        unused: names in the file of all other tensors.
        missing: names in the network of the tensors that the file did not fill, where this is allowed.
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
    """Return the report on a file.

    Args:
        names: of all tensors in the file.
        used: names in the file of the tensors that filled the network.
        missing: names in the network of the tensors that the file did not fill.
    """
    used_names = set(used)
    return ImportReport(tuple(sorted(used_names)), tuple(sorted(set(names) - used_names)), tuple(sorted(missing)))


def check_sources(available: Shapes, sources: Mapping[str, Source], shapes: Mapping[str, Sequence[int]]) -> None:
    """Check that every source is in the file and has the shape of the network's tensor.

    Args:
        available: shapes of the file's tensors.
        sources: source of each of the network's tensors.
        shapes: shapes of the network's tensors.

    Raises:
        InputError: a tensor is missing or has another shape; the message names the first.
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
        InputError: a tensor has integers or values that are not finite; the message names the first.
    """
    tensors = {}
    for target, source in sources.items():
        tensor = to_float32(source.name, state[source.name])
        if source.qkv_part is not None:
            # [heads, 3 (q, k, v), channels of a head, ...]: the order of guided diffusion's "legacy" attention
            tensor = tensor.unflatten(0, (num_heads, 3, -1))[:, source.qkv_part]
        tensors[target] = tensor.reshape(tuple(shapes[target])).clone()
    return tensors


def strip_prefix(items: Mapping[str, T], prefix: str) -> dict[str, T]:
    """Return the ``items`` whose names begin with ``prefix``, under their names without it."""
    return {name.removeprefix(prefix): item for name, item in items.items() if name.startswith(prefix)}
