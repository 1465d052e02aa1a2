"""Randomness as a pure function of what it is keyed by: no global state, the same on every device and process."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch


def seed_from(*key: int | str) -> int:
    """Return a 63-bit seed that depends on nothing but ``key`` (Python's own ``hash`` changes between processes)."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def seeded_normal(seeds: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Draw one standard normal tensor per seed.

    Args:
        seeds: [B], integer.
        shape: shape of one sample.

    Returns:
        [B, *shape], float32, on the CPU: its generator gives the same numbers wherever the network runs.
    """
    return torch.stack(
        [torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed)) for seed in seeds.tolist()]
    )


def seeded_integers(seeds: torch.Tensor, high: int) -> torch.Tensor:
    """Draw one integer in [0, ``high``) per seed, independent of its normal tensor; [B], int64, on the CPU."""
    keys = [seed_from("integer", seed) for seed in seeds.tolist()]
    return torch.stack([torch.randint(high, (), generator=torch.Generator().manual_seed(key)) for key in keys])
