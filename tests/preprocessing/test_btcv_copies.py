"""BTCV as other projects keep it: the names of MONAI's tutorials, and preprocessed copies, which are refused."""

import json

import numpy as np
import pytest

from common import SPLITS, read_split
from sdseg_monai.data import read_datalist
from tests.makers.processes import run_forked
from tests.makers.volumes import write_nifti


def check(folder):
    return run_forked("python", "preprocessing/btcv.py", "--dataset_dir", folder)


@pytest.mark.slow
def test_the_layout_of_monais_tutorials(tmp_path):
    rng = np.random.default_rng(0)
    manifest = read_split("btcv_18_12")
    cases = [case for split in SPLITS for case in manifest[split]]
    for kind, high in (("imagesTr/img", 200), ("labelsTr/label", 14)):
        (tmp_path / kind).parent.mkdir()
        for case in cases:
            write_nifti(tmp_path / f"{kind}{case}.nii.gz", rng.integers(0, high, (4, 5, 3)).astype(np.int16))
    own_split = {"training": [{"image": "imagesTr/img0001.nii.gz", "label": "labelsTr/label0001.nii.gz"}]}
    (tmp_path / "dataset_0.json").write_text(json.dumps(own_split))
    process = check(tmp_path)
    assert (process.returncode, process.stderr.count("error")) == (0, 0), process.stderr
    for split in SPLITS:
        items = read_datalist(tmp_path / "datalist.json", split, tmp_path, "")
        assert [item["image"] for item in items] == [
            str(tmp_path / f"imagesTr/img{case}.nii.gz") for case in manifest[split]
        ]
    (tmp_path / "labelsTr" / "label0010.nii.gz").unlink()
    process = check(tmp_path)
    assert process.returncode == 2 and "labelsTr/label0010.nii.gz" in process.stderr


@pytest.mark.parametrize("name", ["train_npz/case0005_slice000.npz", "test_vol_h5/case0001.npy.h5"])
def test_a_preprocessed_copy_is_refused_with_what_to_do(name, tmp_path):
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).write_bytes(b"")
    process = check(tmp_path)
    assert process.returncode == 2 and process.stderr.count("\n") == 1
    assert f"{tmp_path / name}: of a preprocessed copy" in process.stderr and "syn3193805" in process.stderr
    assert not (tmp_path / "datalist.json").exists()
