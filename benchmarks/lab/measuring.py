"""Arithmetic and seconds of a piece of work."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def gflop(work: Callable[[], Any]) -> float:
    """Return the GFLOP of ``work``, two for a multiply-add; none are counted in inference mode.

    Attention is taken as the products that it is made of: the counter does not know the CPU's fused kernel.
    """
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops() / 1e9


def take_turns(works: Mapping[str, Callable[[], Any]], repeats: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Return the seconds of each of ``repeats`` for each of ``works``, one after the other, so that all see one load.

    They are done ``warm_up`` times before that, which does not count.
    """
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for repeat in range(warm_up + repeats):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            if repeat >= warm_up:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def median_and_spread(seconds: list[float]) -> str:
    """Return the median, with the lowest and highest in brackets."""
    return f"{median(seconds):.4f} ({min(seconds):.4f} to {max(seconds):.4f})"
