"""How many threads a command computes with: as many as there are cores that nobody else uses.

Threads that wait for each other spin by default, each on a core. Beside another program this takes both most of their
time.
"""

from __future__ import annotations

import math
import os
import sys
from contextlib import suppress
from pathlib import Path

import psutil

THREADS = "OMP_NUM_THREADS"  # what torch and numpy look at when they are imported
PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}
CGROUP = Path("/sys/fs/cgroup")


def set_threads(count: int | None) -> None:
    """Set the number of threads of this process, before it imports torch, and let them wait without spinning.

    Args:
        count: None for the variable ``OMP_NUM_THREADS`` or, where it is not set, :func:`free_cores`.
    """
    for name, value in PASSIVE.items():
        os.environ.setdefault(name, value)
    if count is None:
        os.environ.setdefault(THREADS, str(free_cores()))
        return
    os.environ[THREADS] = str(count)
    if "torch" in sys.modules:  # imported before, by a program that calls the command
        sys.modules["torch"].set_num_threads(count)


def free_cores() -> int:
    """Return the number of cores that this process may use and that other processes leave free, at least 1.

    Cores that a scheduler has given to this process, by affinity or by a cgroup's quota, are taken as free. Of a whole
    machine, the load of the last minute is not.
    """
    machine = psutil.cpu_count() or 1
    with suppress(AttributeError):  # not on macOS
        if (cores := len(psutil.Process().cpu_affinity() or range(machine))) < machine:
            return max(1, min(cores, _quota()))
    if (quota := _quota()) < machine:
        return max(1, quota)
    return max(1, machine - round(psutil.getloadavg()[0]))


def _quota() -> int:
    """Return the cores of the cgroup's quota of CPU time, rounded up; very many where there is none."""
    with suppress(OSError, ValueError):
        quota, period = (CGROUP / "cpu.max").read_text().split()
        return math.ceil(int(quota) / int(period))  # "max" is no number
    with suppress(OSError, ValueError):
        quota, period = ((CGROUP / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        if int(quota) > 0:
            return math.ceil(int(quota) / int(period))
    return sys.maxsize
