"""Temporary files carry host and process: those of a killed process go, all others stay."""

import os
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import pytest

from sdseg_monai.io.bundles.archives import unpack_bundle
from sdseg_monai.io.files import check_folder, write_atomically, write_folder
from sdseg_monai.io.temporary import owned_prefix, remove_abandoned
from tests.makers.places import ROOT

KILLED = (
    "import sys, time\n"
    "from pathlib import Path\n"
    "from sdseg_monai.io.files import write_atomically, write_folder\n"
    "def half(path):\n"
    "    path.write_text('half')\n"
    "    print('writing', flush=True)\n"
    "    time.sleep(600)\n"
    "folder = Path(sys.argv[1])\n"
)
FILE = "write_atomically(folder / 'result.txt', half)"
FOLDER = "write_folder(folder / 'result', lambda made: half(made / 'a.txt'))"


def is_zombie(process):
    return "State:\tZ" in Path(f"/proc/{process.pid}/status").read_text()


@pytest.mark.parametrize("write", [FILE, FOLDER], ids=["file", "folder"])
def test_the_next_writer_removes_what_a_killed_one_left(tmp_path, write):
    command = [sys.executable, "-c", KILLED + write, tmp_path]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "writing\n"
        (left,) = tmp_path.iterdir()
        assert left.name.startswith(".writing.") and f".{process.pid}." in left.name
        remove_abandoned(tmp_path)
        assert left.exists(), "it is being written"
        process.send_signal(signal.SIGKILL)
        while not is_zombie(process):  # dead, although nobody has asked for its exit code
            time.sleep(0.01)
        if write == FILE:
            write_atomically(tmp_path / "next", lambda made: made.write_text("whole"))
        else:
            write_folder(tmp_path / "next", lambda made: None)
    assert [path.name for path in tmp_path.iterdir()] == ["next"]


def make(folder, prefix, modified=None):
    handle, name = tempfile.mkstemp(prefix=prefix, dir=folder)
    os.close(handle)
    if modified is not None:
        os.utime(name, (modified, modified))
    return Path(name)


def test_only_those_of_gone_processes_of_this_host_go(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    own = owned_prefix()
    gone = own.replace(str(os.getpid()), str(ended.pid))
    stay = [
        make(tmp_path, own),  # of another thread
        make(tmp_path, gone.replace(".writing.", ".writing.x")),  # of another host
        make(tmp_path, ".writing."),  # of an earlier version, which named no process
        make(tmp_path, own.replace(str(os.getpid()), str(os.getppid()))),  # of a process that runs
        make(tmp_path, "scan."),
    ]
    make(tmp_path, gone)
    make(tmp_path, own, time.time() - 1e6)  # of a process that had this one's number before
    target = tmp_path.parent / "kept.txt"
    target.write_text("kept")
    (tmp_path / f"{gone}link").symlink_to(target)
    (tmp_path / f"{gone}folder").mkdir()
    (tmp_path / f"{gone}folder" / "a").write_text("half")
    check_folder(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(stay) and target.exists()
    remove_abandoned(tmp_path / "missing")


def test_an_unpacked_bundle_of_a_killed_process_goes(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with zipfile.ZipFile(tmp_path / "bundle.zip", "w") as archive:
        archive.writestr("configs/inference.json", "{}")
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
    left = tmp_path / owned_prefix("sdseg_bundle_").replace(str(os.getpid()), str(ended.pid))
    (left / "configs").mkdir(parents=True)
    assert unpack_bundle(tmp_path / "bundle.zip").parent == tmp_path
    assert not left.exists() and len(list(tmp_path.iterdir())) == 2


def test_another_prefix_separates_its_parts_with_its_own_character(tmp_path):
    prefix = owned_prefix("tmp-")
    assert prefix.endswith(f"-{os.getpid()}-") and "." not in prefix
    old = make(tmp_path, prefix, time.time() - 1e6)
    new = make(tmp_path, prefix)
    remove_abandoned(tmp_path)
    assert old.exists(), "of the other kind"
    remove_abandoned(tmp_path, "tmp-")
    assert not old.exists() and new.exists()
