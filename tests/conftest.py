"""Fixtures for all tests."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch
from xdist.scheduler import LoadFileScheduling

from sdseg_monai.networks import SDSeg
from tests.makers.networks import make_network
from tests.makers.places import SHARED

if "SDSEG_SHARED" in os.environ and not SHARED.is_dir():  # tests would skip that should not
    raise pytest.UsageError(f"SDSEG_SHARED={SHARED} is no folder")
torch.set_num_threads(1)  # tiny tensors; two test processes fill two cores


class FileScheduling(LoadFileScheduling):
    """Has one process run all tests of a file, and all tests of ``label``, whose servers thus start once."""

    def _split_scope(self, nodeid: str) -> str:
        return "tests/label" if nodeid.startswith("tests/label/") else super()._split_scope(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Run with ``--dist loadfile``."""
    return FileScheduling(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.fixture
def network() -> SDSeg:
    """A tiny epsilon network in evaluation mode."""
    return make_network().eval()


@pytest.fixture(scope="session", autouse=True)
def trust_nothing(tmp_path_factory):
    """What the user of this computer trusts is not asked for, and the tests add nothing to it."""
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))


@pytest.fixture(autouse=True)
def keep_excepthook(monkeypatch):
    """What runs a bundle or a benchmark in this process replaces it."""
    monkeypatch.setattr("sys.excepthook", sys.excepthook)


@pytest.fixture
def keep_global_state():
    """For tests that run a bundle in this process, which seeds torch."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    yield
    torch.use_deterministic_algorithms(deterministic)


@pytest.fixture(scope="session")
def hippocampus() -> Path:
    """The real MR volumes; skips where they are absent."""
    folder = SHARED / "data" / "msd-hippocampus"
    if not folder.is_dir():
        pytest.skip(f"no data at {folder}; set SDSEG_SHARED")
    return folder


@pytest.fixture(scope="session")
def metadata_schema() -> Path:
    """MONAI's metadata schema; skips where it is absent."""
    path = SHARED / "fixtures" / "monai" / "meta_schema_20240725.json"
    if not path.is_file():
        pytest.skip(f"no schema at {path}; set SDSEG_SHARED")
    return path
