"""Fixtures: small data in the folders that the bundles' commands read."""

import json

import numpy as np
import pytest

from tests.makers.photographs import write_photograph
from tests.makers.volumes import write_case, write_nifti


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    cases = {"training": [f"a{i}" for i in range(8)], "validation": ["v0"], "test": ["t0", "t1"]}
    for seed, name in enumerate(name for names in cases.values() for name in names):
        write_photograph(folder, name, seed, suffix=".jpg")
    datalist = {k: [{"image": f"images/{n}.jpg", "label": f"masks/{n}.png"} for n in v] for k, v in cases.items()}
    (folder / "datalist.json").write_text(json.dumps(datalist))
    return folder


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("volumes")
    cases = {"training": ["a"], "validation": ["v"], "test": ["t"]}
    for seed, names in enumerate(cases.values()):
        write_case(folder, names[0], shape=(20, 24, 8), seed=seed)
    datalist = {
        k: [{"image": f"images/{n}.nii.gz", "label": f"labels/{n}.nii.gz"} for n in v] for k, v in cases.items()
    }
    (folder / "datalist.json").write_text(json.dumps(datalist))
    return folder


def write_organs(folder, num_classes, shape):
    """Write volumes in Hounsfield units whose foreground classes are slabs across x, each of its own radiodensity."""
    rng = np.random.default_rng(0)
    inside = np.linspace(1, num_classes, shape[0] - 4, endpoint=False).astype(np.uint8)
    cases = {"training": "a", "validation": "v", "test": "t"}
    for name in cases.values():
        label = np.zeros(shape, np.uint8)
        label[2:-2, 2:-2] = inside[:, None, None]
        image = (20 * label + rng.normal(-100, 5, shape)).astype(np.int16)
        for kind, array in (("images", image), ("labels", label)):
            (folder / kind).mkdir(exist_ok=True)
            write_nifti(folder / kind / f"{name}.nii.gz", array, np.diag([2.0, 2.0, 3.0, 1.0]))
    datalist = {k: [{key: f"{key}s/{n}.nii.gz" for key in ("image", "label")}] for k, n in cases.items()}
    (folder / "datalist.json").write_text(json.dumps(datalist))
    return folder


@pytest.fixture(scope="module")
def organs(tmp_path_factory):
    """BTCV's 13 organs."""
    return write_organs(tmp_path_factory.mktemp("organs"), 14, (30, 24, 8))


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    """Two classes, as the hippocampus has, in eight coronal slices."""
    return write_organs(tmp_path_factory.mktemp("halves"), 3, (20, 8, 24))
