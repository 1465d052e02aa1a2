"""Measure the arithmetic and the seconds of a function."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def gflop(work: Callable[[], Any]) -> float:
    """Return the GFLOP of ``work``; a multiply-add counts as two. Do not call it in inference mode, where none count.

    Attention is computed as separate products, because the counter does not know the fused kernel of the CPU.
    """
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops() / 1e9


def take_turns(
    works: Mapping[str, Callable[[], Any]],
    repeats: int,
    warm_up: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Time several functions in turns, so that all of them run under the same load.

    Args:
        works: functions by name.
        repeats: number of measurements of each.
        warm_up: number of calls before the first measurement.
        clock: returns seconds; :func:`time.process_time` counts only those in which this process computed.

    Returns:
        The seconds of each measurement, by name.
    """
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for repeat in range(warm_up + repeats):
        for name, work in works.items():
            start = clock()
            work()
            if repeat >= warm_up:
                seconds[name].append(clock() - start)
    return seconds


def median_and_spread(seconds: list[float]) -> str:
    """Return the median, with the lowest and highest value in brackets."""
    return f"{median(seconds):.4f} ({min(seconds):.4f} to {max(seconds):.4f})"
