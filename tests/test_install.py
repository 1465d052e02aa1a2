"""The wheel, installed in an empty environment elsewhere, segments a volume with the bundle that it carries."""

import subprocess
import sys
import zipfile

import nibabel as nib
import pytest

from sdseg_monai.phantom import write_phantom
from tests.conftest import ROOT

pytestmark = pytest.mark.slow


def run(*command, cwd):
    return subprocess.run([str(c) for c in command], cwd=cwd, capture_output=True, text=True, check=True)


def test_wheel(tmp_path):
    run("git", "clone", "-q", ROOT, tmp_path / "clone", cwd=tmp_path)
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path, tmp_path / "clone", cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for bundle in ("sdseg", "hippocampus_sdseg"):
        for name in ("LICENSE", "configs/metadata.json", "configs/train.json", "docs/data_license.txt"):
            assert f"sdseg_monai/bundles/{bundle}/{name}" in names
    assert "sdseg_monai/bundles/sdseg/configs/datasets/kvasir.json" in names
    assert not any(name.endswith("checkpoint.pt") or "tests" in name for name in names)
    run(sys.executable, "-m", "venv", tmp_path / "env", cwd=tmp_path)
    python = tmp_path / "env" / "bin" / "python"
    run(python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", "torch==2.13.0", cwd=tmp_path)
    run(python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", wheel, cwd=tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    write_phantom(elsewhere / "image.nii.gz", elsewhere / "label.nii.gz")
    run(tmp_path / "env" / "bin" / "sdseg", "segment", "image.nii.gz", "-o", "mask.nii.gz", cwd=elsewhere)
    assert nib.load(elsewhere / "mask.nii.gz").get_fdata().sum() > 0
