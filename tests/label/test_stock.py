"""Our bundle in MONAI Label's own ``monaibundle`` app, which has no code for SDSeg: what works, and what does not."""

import shutil
import subprocess

import numpy as np
import pytest
import requests

from tests.makers.label_server import monailabel_server, needs_label_env
from tests.makers.places import LABEL_BIN, ROOT
from tests.makers.processes import run_process
from tests.makers.volumes import load_nifti

pytestmark = [needs_label_env, pytest.mark.shared, pytest.mark.slow]

MODEL, CASE = "hippocampus_sdseg", "hippocampus_001"
# MONAI Label's stock apps import two functions of torchvision that they do not call for a bundle. Where make label-env
# finds no torchvision that fits the torch at hand, they get names that cannot be called.
WITHOUT_TORCHVISION = "make_grid = save_image = None\n"


@pytest.fixture
def url(hippocampus, tmp_path):
    """The stock server, started as MONAI Label's documentation says."""
    app, studies, modules = tmp_path / "app", tmp_path / "studies", tmp_path / "modules"
    shutil.copytree(LABEL_BIN.parent / "monailabel" / "sample-apps" / "monaibundle", app)
    shutil.copytree(ROOT / "bundles" / MODEL, app / "model" / MODEL, ignore=shutil.ignore_patterns("logs", "eval"))
    studies.mkdir()
    shutil.copy(hippocampus / "images" / f"{CASE}.nii.gz", studies)
    modules.mkdir()
    if subprocess.run([LABEL_BIN / "python", "-c", "import torchvision"], capture_output=True).returncode:
        (modules / "torchvision").mkdir()
        (modules / "torchvision" / "__init__.py").touch()
        (modules / "torchvision" / "utils.py").write_text(WITHOUT_TORCHVISION)
    options = ["--conf", "models", MODEL, "--conf", "zoo_source", "local", "--conf", "sam2", "false"]
    with monailabel_server(tmp_path, app, studies, *options, PYTHONPATH=str(modules)) as url:
        yield url


def test_bundle_in_the_stock_app(url, tmp_path):
    model = requests.get(f"{url}/info/").json()["models"][MODEL]
    assert model["labels"] == {"anterior hippocampus": 1, "posterior hippocampus": 2}  # the stock app has them small
    assert model["dimension"] == 2, "the limit that docs/label.md names is gone"
    form = {"params": (None, "{}")}
    response = requests.post(f"{url}/infer/{MODEL}", params={"image": CASE, "output": "image"}, files=form)
    assert response.status_code == 200, (tmp_path / "log.txt").read_text()
    (tmp_path / "mask.nii.gz").write_bytes(response.content)
    image = tmp_path / "studies" / f"{CASE}.nii.gz"
    assert run_process("sdseg", "segment", str(image), "-o", str(tmp_path / "own.nii.gz")).returncode == 0
    mask, own = load_nifti(tmp_path / "mask.nii.gz"), load_nifti(tmp_path / "own.nii.gz")
    np.testing.assert_allclose(mask.affine, own.affine, atol=1e-5)
    assert own.get_fdata().any() and np.array_equal(mask.get_fdata(), own.get_fdata())
