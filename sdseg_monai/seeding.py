"""Random numbers that depend on seeds alone: no global state, and the same numbers on every device and process."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch


def seed_from(*key: int | str) -> int:
    """Return a 63-bit seed that depends on ``key`` alone (Python's own ``hash`` differs between processes)."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def seeded_normal(seeds: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Draw one standard normal tensor per seed.

    Args:
        seeds: [B], integers.
        shape: shape of one sample.

    Returns:
        [B, *shape], float32, on the CPU, whose generator gives the same numbers on every machine.
    """
    return torch.stack(
        [torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed)) for seed in seeds.tolist()]
    )


def seeded_integers(seeds: torch.Tensor, high: int) -> torch.Tensor:
    """Draw one integer in [0, ``high``) per seed, independently of the seed's normal tensor.

    Args:
        seeds: [B], integers.
        high: upper bound, itself not drawn.

    Returns:
        [B], int64, on the CPU.
    """
    keys = [seed_from("integer", seed) for seed in seeds.tolist()]
    return torch.stack([torch.randint(high, (), generator=torch.Generator().manual_seed(key)) for key in keys])
