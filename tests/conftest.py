"""What the tests share: a tiny network of the real classes, and small volumes on awkward grids."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from sdseg_monai.networks import DenoisingUNet, MaskAutoencoder, SDSeg, VisionEncoder

torch.set_num_threads(1)  # tiny tensors; two test processes fill two cores

ROOT = Path(__file__).parent.parent
SHARED = Path(os.environ.get("SDSEG_SHARED", ROOT.parent / "shared"))
if "SDSEG_SHARED" in os.environ and not SHARED.is_dir():  # tests would skip that should not
    raise pytest.UsageError(f"SDSEG_SHARED={SHARED} is no folder")
OBLIQUE = np.array([[0.9, 0.2, 0.1, -20.0], [-0.25, 1.1, 0.3, 31.0], [0.05, -0.3, 1.6, 7.0], [0, 0, 0, 1]])


def make_network(**options) -> SDSeg:
    """Return a network with random weights and a known latent scale; 16 x 16 is its smallest image."""
    torch.manual_seed(0)
    network = SDSeg(
        MaskAutoencoder([8, 16, 16], 1, 4, 4),
        VisionEncoder([8, 16, 16], 1, 4, 4),
        DenoisingUNet(8, 4, [16, 32], [False, True], 1, 4, 8),
        **options,
    )
    network.scale_factor.fill_(0.5)
    return network


def write_case(folder: Path, name: str, shape=(18, 20, 6), affine=OBLIQUE, seed=0, dtype=np.int16) -> None:
    """Write a volume with a bright ball in noise to ``folder``/images and its label to ``folder``/labels."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1)
    centre = np.array(shape) / 2 + rng.uniform(-2, 2, 3)
    ball = np.linalg.norm((grid - centre) / (np.array(shape) / 3), axis=-1) < 1
    image = rng.normal(0, 10, shape) + 100 * ball
    for kind, array in (("images", image.astype(dtype)), ("labels", ball.astype(np.uint8))):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(array, affine), folder / kind / f"{name}.nii.gz")


def run_process(*command: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess:
    """Run ``command`` in this environment, one thread a process, and return it with its output as text.

    Its first word is ``python``, ``torchrun`` (two processes) or ``sdseg``.
    """
    program = {
        "python": [sys.executable],
        "sdseg": [sys.executable, "-m", "sdseg_monai.cli"],
        "torchrun": [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"],
    }[command[0]]
    quiet = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}
    env = {**os.environ, **quiet, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run([*program, *map(str, command[1:])], cwd=cwd, env=env, capture_output=True, text=True)


@pytest.fixture
def network() -> SDSeg:
    """A tiny epsilon network in evaluation mode."""
    return make_network().eval()


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
