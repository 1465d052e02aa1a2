"""Fixtures: a volume and bundles for the command."""

import json
import shutil

import pytest

from sdseg_monai.bundle import bundles_dir
from tests.makers.bundles import write_random_weights
from tests.makers.volumes import write_thick_phantom


@pytest.fixture
def volume(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    write_thick_phantom(folder / "a.nii.gz", tmp_path / "label.nii.gz")
    return folder / "a.nii.gz"


@pytest.fixture(scope="module", params=[2, 3])
def bundle(request, tmp_path_factory):
    """The embedded bundle's configs for so many classes, with random weights, whose scores are near each other."""
    root = tmp_path_factory.mktemp(f"classes_{request.param}")
    shutil.copytree(bundles_dir() / "hippocampus_sdseg" / "configs", root / "configs")
    config = root / "configs" / "inference.json"
    content = json.loads(config.read_text())
    config.write_text(json.dumps({**content, "num_classes": request.param, "size": [32, 32]}))
    return write_random_weights(root)
