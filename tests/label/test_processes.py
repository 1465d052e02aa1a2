"""What a server has started ends with it, also where it is killed, and nothing half written stays."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import requests

from tests.makers.label_server import LabelServer, needs_label_env
from tests.makers.places import ROOT

SERVER = (
    "import subprocess, sys, time\n"
    "from sdseg_monai.label.processes import end_with_server\n"
    "end_with_server()\n"
    "child = subprocess.Popen([sys.executable, '-c', *sys.argv[1:]])\n"
    "print(child.pid, flush=True)\n"
    "time.sleep(600)\n"
)
TRAINING = (
    "import os, sys, time\n"
    "from pathlib import Path\n"
    "from sdseg_monai.label import processes\n"
    "processes.CHECK_SECONDS, processes.END_SECONDS = 0.05, 0.5\n"
    "processes.end_with_server()\n"
    "file = Path(sys.argv[1])\n"
    "file.write_text(str(processes.server_runs()))\n"
)
OBEDIENT = "try:\n    time.sleep(600)\nfinally:\n    file.unlink()\n"
STUBBORN = (
    "while True:\n"
    "    try:\n"
    "        time.sleep(600)\n"
    "    except KeyboardInterrupt:\n"
    "        file.write_text('interrupted')\n"
)


def ends(pid, seconds):
    """Tell whether a process ends in that time; one that nobody asks for its exit code stays a zombie."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False


def wait_for(condition, seconds):
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return value


@pytest.mark.parametrize("behaviour", [OBEDIENT, STUBBORN], ids=["cleans up", "goes on"])
def test_a_child_ends_with_its_killed_parent(tmp_path, behaviour):
    file = tmp_path / "running"
    command = [sys.executable, "-c", SERVER, TRAINING + behaviour, file]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stdout is not None
        child = int(server.stdout.readline())
        wait_for(lambda: file.is_file() and file.read_text() == "True", 60)
        assert not ends(child, 0.3), "its server runs"
        server.send_signal(signal.SIGKILL)
        assert ends(child, 20)
    assert [path.read_text() for path in tmp_path.iterdir()] == ([] if behaviour == OBEDIENT else ["interrupted"])


@pytest.mark.slow
@pytest.mark.shared
@needs_label_env
def test_a_training_ends_with_its_killed_server(hippocampus, tmp_path):
    studies, work = tmp_path / "studies", tmp_path / "work"
    (studies / "labels" / "final").mkdir(parents=True)
    for case in ("hippocampus_001", "hippocampus_003"):
        for source, target in (("images", studies), ("labels", studies / "labels" / "final")):
            shutil.copy(hippocampus / source / f"{case}.nii.gz", target)
    with LabelServer(studies, work) as server:
        pid = server.process.pid
        answer = requests.post(f"{server.url}/train/hippocampus_sdseg", json={"max_epochs": 1000, "val_split": 0.5})
        assert answer.status_code == 200, answer.text
        wait_for(lambda: list(work.glob("model/*/runs/*/checkpoint.pt")), 300)
        (training,) = [p for p in psutil.Process(pid).children() if "train" in p.cmdline()]
        server.process.send_signal(signal.SIGKILL)
        assert ends(training.pid, 20)
    assert not list(work.glob("model/*/model.pt")), "the weights in service are as before"
    left = work / "uploads" / f"tmp-{os.uname().nodename}-{pid}-scan.nii.gz"
    left.write_text("of a patient")
    with LabelServer(studies, work) as server:
        assert requests.get(f"{server.url}/info/").ok
        names = [path.name for folder in (work, studies) for path in folder.rglob("*")]
        assert [name for name in names if name.startswith((".writing", "tmp"))] == [], json.dumps(names)
    assert Path(studies / "hippocampus_001.nii.gz").is_file()
