import json

import nibabel as nib
import numpy as np
import pytest

from tests.conftest import ROOT, run_process, write_case


@pytest.fixture
def btcv(tmp_path):
    """All thirty cases of BTCV, tiny, in its own layout and names."""
    split = json.loads((ROOT / "preprocessing" / "splits" / "btcv_18_12.json").read_text())
    cases = [case for name in ("training", "validation", "test") for case in split[name]]
    assert len(cases) == 30 and len(set(cases)) == 30
    for case in cases:
        write_case(tmp_path / "raw", case, shape=(4, 4, 3))
    for kind, name in (("images", "img"), ("labels", "label")):
        (tmp_path / name).mkdir()
        for path in (tmp_path / "raw" / kind).iterdir():
            path.rename(tmp_path / name / f"{name}{path.name}")
    return tmp_path


def run(folder, *options):
    return run_process("python", "preprocessing/btcv.py", "--dataset_dir", folder, *options)


def test_btcv_datalist_has_the_published_split(btcv):
    assert run(btcv, "--dry-run").returncode == 0
    assert not (btcv / "datalist.json").exists()
    process = run(btcv)
    assert process.returncode == 0, process.stderr
    datalist = json.loads((btcv / "datalist.json").read_text())
    assert [len(datalist[name]) for name in ("training", "validation", "test")] == [15, 3, 12]
    assert datalist["test"][0] == {"image": "img/img0001.nii.gz", "label": "label/label0001.nii.gz"}


@pytest.mark.parametrize("fault", ["missing", "shape", "values", "layout"])
def test_faulty_downloads_are_named(btcv, fault):
    label = btcv / "label" / "label0007.nii.gz"
    if fault == "missing":
        label.unlink()
    elif fault == "shape":
        nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.uint8), nib.load(label).affine), label)
    elif fault == "values":
        nib.save(nib.Nifti1Image(np.full((4, 4, 3), 14, np.uint8), nib.load(label).affine), label)
    else:
        (btcv / "img").rename(btcv / "images")
    process = run(btcv)
    assert process.returncode == 2 and "Traceback" not in process.stderr
    assert ("expected a folder" if fault == "layout" else "label0007.nii.gz") in process.stderr
    assert not (btcv / "datalist.json").exists()


@pytest.mark.shared
def test_hippocampus_datalist_is_the_embedded_one(hippocampus, tmp_path):
    process = run_process(
        *("python", "preprocessing/hippocampus.py", "--dataset_dir", hippocampus, "--output", tmp_path / "d.json")
    )
    assert process.returncode == 0, process.stderr
    embedded = ROOT / "bundles" / "hippocampus_sdseg" / "configs" / "datalist.json"
    assert json.loads((tmp_path / "d.json").read_text()) == json.loads(embedded.read_text())
