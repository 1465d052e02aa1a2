"""The number of threads of a command."""

import os
import subprocess
import sys

import psutil
import pytest

from sdseg_monai.cli import threads
from sdseg_monai.cli.threads import free_cores

PROGRAM = """
import sys
from sdseg_monai.cli import main
main(["segment", "missing.nii.gz", "-o", "mask.nii.gz", *sys.argv[1:]])
import os, torch
print(torch.get_num_threads(), os.environ["OMP_WAIT_POLICY"], os.environ["GOMP_SPINCOUNT"])
"""


def threads_of(*options, **variables):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "MKL_"))}
    command = [sys.executable, "-c", PROGRAM, *options]
    output = subprocess.run(command, env=environment | variables, capture_output=True, text=True, check=True).stdout
    count, policy, spin = output.split()
    assert (policy, spin) == ("PASSIVE", "0")
    return int(count)


def test_the_option_goes_before_the_variable_and_the_cores():
    assert threads_of("--threads", "1", OMP_NUM_THREADS="2") == 1
    assert threads_of(OMP_NUM_THREADS="1") == 1
    assert 1 <= threads_of() <= (os.cpu_count() or 1)


@pytest.mark.parametrize(("load", "expected"), [(0.2, 8), (3.4, 5), (7.6, 1), (30, 1)])
def test_other_programs_keep_their_cores(monkeypatch, load, expected):
    monkeypatch.setattr(psutil, "cpu_count", lambda: 8)
    monkeypatch.setattr(psutil.Process, "cpu_affinity", lambda self: list(range(8)))
    monkeypatch.setattr(psutil, "getloadavg", lambda: (load, 0, 0))
    monkeypatch.setattr(threads, "_quota", lambda: sys.maxsize)
    assert free_cores() == expected


def test_cores_that_a_scheduler_has_given_are_ours_whatever_the_load(monkeypatch):
    monkeypatch.setattr(psutil, "cpu_count", lambda: 64)
    monkeypatch.setattr(psutil, "getloadavg", lambda: (64.0, 0, 0))
    monkeypatch.setattr(threads, "_quota", lambda: sys.maxsize)
    monkeypatch.setattr(psutil.Process, "cpu_affinity", lambda self: [3, 5, 7])
    assert free_cores() == 3
    monkeypatch.setattr(psutil.Process, "cpu_affinity", lambda self: list(range(64)))
    monkeypatch.setattr(threads, "_quota", lambda: 2)
    assert free_cores() == 2


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "max 100000\n"}, sys.maxsize),
        ({"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, 4),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, sys.maxsize),
        ({}, sys.maxsize),
    ],
)
def test_the_quota_of_a_container_counts(monkeypatch, tmp_path, files, expected):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    monkeypatch.setattr(threads, "CGROUP", tmp_path)
    assert threads._quota() == expected
