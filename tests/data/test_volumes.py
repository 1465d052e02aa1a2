"""Whole volumes for training, and the 3-D baseline through the bundle's own command."""

import json

import pytest
import torch
from monai.bundle import ConfigParser
from monai.transforms import Compose, RandAffined, RandFlipd, RandShiftIntensityd
from torch.utils.data import DataLoader

from sdseg_monai.data import DrawSampler, VolumeDataset
from sdseg_monai.transforms import LoadVolumed
from tests.makers.places import ROOT
from tests.makers.processes import run_process
from tests.makers.volumes import write_case

CONFIGS = ROOT / "bundles" / "sdseg" / "configs"
SHAPES = ((10, 12, 7), (21, 12, 9), (14, 25, 30))
SIZE = (16, 24, 16)
AUGMENTATION = Compose(
    [
        RandFlipd(["image", "label"], prob=0.5, spatial_axis=0),
        RandAffined(["image", "label"], prob=1.0, rotate_range=[0.3] * 3, mode=["bilinear", "nearest"]),
        RandShiftIntensityd("image", offsets=0.5, prob=1.0),
    ]
)


@pytest.fixture
def volumes(tmp_path):
    items = []
    for i, shape in enumerate(SHAPES):
        write_case(tmp_path, f"case{i}", shape=shape, seed=i)
        items.append({key: str(tmp_path / f"{key}s" / f"case{i}.nii.gz") for key in ("image", "label")})
    return VolumeDataset(items, LoadVolumed(["image", "label"]), SIZE, AUGMENTATION, seed=3, progress=False)


def test_a_volume_is_padded_with_black_or_cropped_about_its_centre(volumes):
    volumes.augmentation = None
    for index, shape in enumerate(SHAPES):
        source = LoadVolumed(["image", "label"])(volumes.volumes.data[index])
        item = volumes[index]
        for key, outside in (("image", -1.0), ("label", 0.0)):
            array = item[key]
            assert array.shape == (1, *SIZE) and array.dtype == torch.float32 and type(array) is torch.Tensor
            common = [min(n, m) for n, m in zip(shape, SIZE, strict=True)]
            inner = tuple(slice((m - c) // 2, (m - c) // 2 + c) for m, c in zip(SIZE, common, strict=True))
            crop = tuple(slice((n - c) // 2, (n - c) // 2 + c) for n, c in zip(shape, common, strict=True))
            assert torch.equal(array[0][inner], torch.as_tensor(source[key][0][crop]).float()), (key, shape)
            padding = torch.ones(SIZE, dtype=torch.bool)
            padding[inner] = False
            assert (array[0][padding] == outside).all()


def test_a_draw_is_a_pure_function_of_its_number(volumes):
    forward = [volumes[i] for i in range(6)]
    backward = [volumes[i] for i in reversed(range(6))][::-1]
    for a, b in zip(forward, backward, strict=True):
        assert all(torch.equal(a[key], b[key]) for key in ("image", "label", "seed"))
        assert set(a["label"].unique().tolist()) == {0.0, 1.0}
    assert not torch.equal(volumes[0]["image"], volumes[3]["image"])  # the next epoch augments anew
    assert volumes[0]["seed"] != volumes[3]["seed"]


def test_the_sampler_draws_every_volume_of_every_epoch_anew(volumes):
    sampler = DrawSampler(volumes, num_replicas=1, rank=0, seed=5, drop_last=True)
    sampler.set_epoch(2)
    assert sorted(sampler) == [6, 7, 8]
    (batch,) = DataLoader(volumes, sampler=sampler, batch_size=3, num_workers=1)
    expected = torch.stack([volumes[draw]["image"] for draw in sampler])
    assert torch.equal(batch["image"], expected)


def test_the_3d_overlay_replaces_what_assumes_slices():
    parser = ConfigParser()
    parser.read_config([CONFIGS / "train.json"])
    handlers = [handler["_target_"] for handler in parser["train#handlers"]]
    overlay = json.loads((CONFIGS / "baselines" / "dynunet_3d.json").read_text())
    disabled = [key for key in overlay if key.startswith("train#handlers#")]
    assert [handlers[int(key.split("#")[-1])] for key in disabled] == [overlay[key]["_target_"] for key in disabled]
    assert handlers.index("sdseg_monai.handlers.ExpectedTime") == int(disabled[0].split("#")[-1])


@pytest.mark.slow
def test_the_3d_baseline_trains_by_the_bundles_command(tmp_path):
    splits = {"training": ["a", "b"], "validation": ["v"]}
    for seed, name in enumerate(name for names in splits.values() for name in names):
        write_case(tmp_path, name, shape=SHAPES[seed], seed=seed)
    datalist = {
        k: [{"image": f"images/{n}.nii.gz", "label": f"labels/{n}.nii.gz"} for n in v] for k, v in splits.items()
    }
    (tmp_path / "datalist.json").write_text(json.dumps(datalist))
    small = {"network_def#backbone#filters": [4, 4, 4, 4], "size": [16, 16, 16], "batch_size": 2, "epochs": 2}
    (tmp_path / "small.json").write_text(json.dumps(small))
    chain = [ROOT / "bundles" / "hippocampus_sdseg" / "configs" / "train.json"]
    chain += [CONFIGS / "baselines" / f"{name}.json" for name in ("baseline", "dynunet_3d")]
    process = run_process(
        *("python", "-m", "monai.bundle", "run", "training"),
        *("--config_file", str([str(path) for path in [*chain, tmp_path / "small.json"]])),
        *("--bundle_root", ROOT / "bundles" / "hippocampus_sdseg", "--dataset_dir", tmp_path),
        *("--datalist", tmp_path / "datalist.json", "--ckpt_dir", tmp_path / "models", "--log_dir", tmp_path / "logs"),
    )
    assert process.returncode == 0, process.stderr[-2000:]
    assert (tmp_path / "models" / "model.pt").is_file()
