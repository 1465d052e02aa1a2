"""Run programs of this environment as processes."""

import os
import subprocess
import sys
from pathlib import Path

from tests.makers.places import ROOT


def run_process(*command: object, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess:
    """Run ``command`` in this environment, one thread a process, and return it with its output as text.

    Its first word is ``python``, ``torchrun`` (two processes) or ``sdseg``.
    """
    program = {
        "python": [sys.executable],
        "sdseg": [sys.executable, "-m", "sdseg_monai.cli"],
        "torchrun": [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"],
    }[str(command[0])]
    quiet = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}
    env = {**os.environ, **quiet, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run([*program, *map(str, command[1:])], cwd=cwd, env=env, capture_output=True, text=True)
