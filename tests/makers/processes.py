"""Run programs of this environment as processes."""

from __future__ import annotations

import multiprocessing
import os
import random
import runpy
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from tests.makers.places import ROOT

QUIET = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "PYTHONPATH": str(ROOT)}
PROGRAMS = {
    "python": [sys.executable],
    "sdseg": [sys.executable, "-m", "sdseg_monai.cli"],
    "torchrun": [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"],
}
LARGE = ["monai.bundle", "sdseg_monai.inference.pipeline", "sdseg_monai.handlers", "sdseg_monai.losses"]


def run_process(*command: object, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess:
    """Run ``command`` in this environment, one thread a process, and return it with its output as text.

    Its first word is ``python``, ``torchrun`` (two processes) or ``sdseg``.
    """
    program, *arguments = map(str, command)
    env = {**os.environ, **QUIET, **environment}
    return subprocess.run([*PROGRAMS[program], *arguments], cwd=cwd, env=env, capture_output=True, text=True)


def run_forked(*command: object, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess:
    """Do as :func:`run_process`, without the seconds that a start takes: large libraries are imported already.

    The process is one of its own, forked from one that did nothing but import. Its first words are ``sdseg`` or
    ``python``, then ``-m MODULE``, ``-c PROGRAM`` or a script.
    """
    program, *arguments = map(str, command)
    words = [*PROGRAMS[program][1:], *arguments]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LARGE)
    with TemporaryDirectory() as folder:
        streams = [Path(folder) / name for name in ("stdout", "stderr")]
        child = context.Process(target=_run, args=(words, cwd, {**os.environ, **QUIET, **environment}, streams))
        child.start()
        child.join()
        assert child.exitcode is not None
        return subprocess.CompletedProcess(words, child.exitcode, *(path.read_text() for path in streams))


def _run(words: Sequence[str], cwd: Path, environment: dict[str, str], streams: Sequence[Path]) -> None:
    """Do in a forked process what the interpreter does with these words after its own name."""
    for number, path in enumerate(streams, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(1)
    for seed in (random.seed, np.random.seed, torch.seed):  # forks would all draw the same
        seed()
    kind, *rest = words
    sys.argv = list(rest) if kind in ("-m", "-c") else list(words)
    try:
        if kind == "-m":
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        elif kind == "-c":
            sys.argv[0] = "-c"
            exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
        else:
            sys.path.insert(0, str(Path(cwd, kind).parent))
            runpy.run_path(kind, run_name="__main__")
    except Exception:
        sys.excepthook(*sys.exc_info())
        sys.exit(1)
