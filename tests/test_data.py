import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.transforms import Compose, RandAffined, RandFlipd, RandShiftIntensityd
from torch.utils.data import DataLoader

from sdseg_monai.data import DrawSampler, ProceduralMasks, SliceDataset, read_datalist, write_datalist
from sdseg_monai.errors import InputError
from sdseg_monai.random import seed_from, seeded_integers, seeded_normal
from sdseg_monai.transforms import LoadVolumed, extract_slices, resize_labels, resize_slices, to_three_channels
from tests.conftest import write_case

SEED_OF_X_1 = 711035701018243104  # computed once: a seed that changed would change every noised result
AUGMENTATION = Compose(
    [
        RandFlipd(["image", "label"], prob=0.5, spatial_axis=0),
        RandAffined(["image", "label"], prob=1.0, rotate_range=0.3, mode=["bilinear", "nearest"]),
        RandShiftIntensityd("image", offsets=0.5, prob=1.0),
    ]
)


@pytest.fixture
def slices(tmp_path):
    items = []
    for i, depth in enumerate((4, 1, 6)):
        write_case(tmp_path, f"case{i}", shape=(18, 20, depth), seed=i)
        items.append({key: str(tmp_path / f"{key}s" / f"case{i}.nii.gz") for key in ("image", "label")})
    return SliceDataset(items, LoadVolumed(["image", "label"]), 2, (16, 24), AUGMENTATION, seed=3, progress=False)


def test_every_slice_of_every_volume_is_there_once(slices):
    assert len(slices) == 11
    assert len(slices.stacks) == 3
    plain = slices
    plain.augmentation = None
    items = [plain[i] for i in range(11)]
    assert all(item["image"].shape == (3, 16, 24) and item["label"].shape == (1, 16, 24) for item in items)
    images = torch.stack([item["image"] for item in items])
    stacks = torch.cat([stack["image"] for stack in slices.stacks])
    assert torch.equal(images[:, :1], stacks)
    assert set(torch.stack([item["label"] for item in items]).unique().tolist()) == {0.0, 1.0}


def test_a_draw_is_a_pure_function_of_its_number(slices):
    forward = [slices[i] for i in range(22)]
    backward = [slices[i] for i in reversed(range(22))][::-1]
    for a, b in zip(forward, backward, strict=True):
        assert all(torch.equal(a[key], b[key]) for key in ("image", "label", "seed"))
    assert not torch.equal(slices[0]["image"], slices[11]["image"])  # the next epoch augments anew
    assert slices[0]["seed"] != slices[11]["seed"]


def test_workers_change_nothing(slices):
    alone = list(DataLoader(slices, batch_size=4))
    helped = list(DataLoader(slices, batch_size=4, num_workers=2))
    assert all(torch.equal(a[k], b[k]) for a, b in zip(alone, helped, strict=True) for k in a)


def test_two_processes_share_the_draws_of_one(slices):
    def draws(world, rank, epoch):
        sampler = DrawSampler(slices, num_replicas=world, rank=rank, seed=5, drop_last=True)
        sampler.set_epoch(epoch)
        return list(sampler)

    one, two = draws(1, 0, 2), [draws(2, rank, 2) for rank in (0, 1)]
    assert [d for pair in zip(*two, strict=True) for d in pair] == one[:10]
    assert sorted(one) == list(range(22, 33))
    assert draws(1, 0, 3) != [d + 11 for d in one]


def test_procedural_masks_are_binary_varied_and_reproducible():
    masks = ProceduralMasks(48, 10)
    labels = torch.stack([masks[i]["label"] for i in range(200)])
    assert labels.shape == (200, 1, 48, 48) and set(labels.unique().tolist()) == {0.0, 1.0}
    areas = labels.flatten(1).sum(1)
    assert areas.min() == 0 and areas.max() > 0.3 * 48**2
    assert ((areas > 0) & (areas < 40)).sum() > 10
    again, other = ProceduralMasks(48, 10), ProceduralMasks(48, 10, seed=1)
    assert torch.equal(again[7]["label"], masks[7]["label"])
    assert any(not torch.equal(other[i]["label"], masks[i]["label"]) for i in range(5))
    assert torch.equal(masks[7]["image"][1], 2 * masks[7]["label"][0] - 1)


@settings(deadline=None, max_examples=25)
@given(
    shape=st.tuples(*[st.integers(1, 7)] * 3),
    axis=st.integers(0, 2),
    channels=st.sampled_from([1, 3]),
)
def test_slices_restack_to_the_volume(shape, axis, channels):
    volume = torch.randn(channels, *shape)
    slices = extract_slices(volume, axis, 0, shape[axis])
    assert torch.equal(slices.movedim(0, axis + 1), volume)
    assert to_three_channels(slices).shape == (shape[axis], 3, *np.delete(shape, axis))


@settings(deadline=None, max_examples=25)
@given(size=st.tuples(st.integers(2, 40), st.integers(2, 40)))
def test_resizing_up_and_back_keeps_a_smooth_slice(size):
    ramp = torch.linspace(-1, 1, 12)[:, None] + torch.linspace(0, 0.5, 10)
    back = resize_slices(resize_slices(ramp[None, None], (12 + size[0], 10 + size[1])), (12, 10))
    torch.testing.assert_close(back[0, 0, 2:-2, 2:-2], ramp[2:-2, 2:-2], atol=0.02, rtol=0)


def test_halving_a_label_keeps_its_area():
    y, x = torch.meshgrid(torch.arange(256), torch.arange(256), indexing="ij")
    for radius in (6, 10, 20, 60):
        centres = [(127 + dx / 2, 131 + dy / 2) for dx in range(4) for dy in range(4)]  # on pixels and between them
        discs = torch.stack([((x - cx) ** 2 + (y - cy) ** 2 < radius**2)[None].float() for cx, cy in centres])
        half = resize_labels(discs, (128, 128))
        plain = (resize_slices(discs, (128, 128)) >= 0.5).float()
        assert set(half.unique().tolist()) == {0.0, 1.0}
        assert 4 * half.sum() / discs.sum() == pytest.approx(1, abs=0.03)
        assert abs(4 * half.sum() - discs.sum()) < abs(4 * plain.sum() - discs.sum())


def test_two_channels_are_refused():
    with pytest.raises(ValueError, match="2 channels"):
        to_three_channels(torch.zeros(1, 2, 4, 4))


def test_seeds_do_not_change_between_processes():
    assert seed_from(0, "case", 3) == seed_from(0, "case", 3) != seed_from(0, "case", 4)
    assert seed_from("x", 1) == SEED_OF_X_1
    seeds = torch.tensor([1, 2, 3])
    assert torch.equal(seeded_normal(seeds, (4, 2))[1], seeded_normal(seeds[1:2], (4, 2))[0])
    many = torch.arange(4000)
    steps = seeded_integers(many, 1000).float()
    assert steps.min() >= 0 and steps.max() < 1000 and abs(steps.mean() - 499.5) < 20
    first = seeded_normal(many, (1,))[:, 0]
    assert torch.corrcoef(torch.stack([steps, first]))[0, 1].abs() < 0.06  # one seed, independent draws


def test_datalist_round_trip(tmp_path):
    write_case(tmp_path, "a")
    splits = {"training": [{"image": "images/a.nii.gz", "label": "labels/a.nii.gz"}], "validation": [], "test": []}
    write_datalist(tmp_path / "datalist.json", splits, name="n")
    items = read_datalist(tmp_path / "datalist.json", "training", tmp_path, "get it")
    assert items == [{key: str(tmp_path / f"{key}s" / "a.nii.gz") for key in ("image", "label")}]
    with pytest.raises(InputError, match="no case under 'test'"):
        read_datalist(tmp_path / "datalist.json", "test", tmp_path, "get it")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no datalist at"),
        ("not json", "not a datalist"),
        ({"training": [{"image": "images/missing.nii.gz", "label": "x"}]}, "2 files .* missing.*get it there"),
        ({"training": [{"image": "a", "label": "b"}], "test": [{"image": "a", "label": "b"}]}, "stands in two places"),
        ({"test": []}, "training"),
        ({"training": [{"image": "a"}]}, "not a datalist"),
        ({"training": [{"image": ["a", "b"], "label": "c"}]}, "not a datalist"),
        ({"training": [{"image": "a/x", "label": "b"}, {"image": "./a/x", "label": "b"}]}, "stands in two places"),
    ],
)
def test_bad_datalists(tmp_path, content, message):
    path = tmp_path / "datalist.json"
    if content is not None:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(InputError, match=message):
        read_datalist(path, "training", tmp_path, "get it there")


def test_a_missing_dataset_folder_is_named(tmp_path):
    with pytest.raises(InputError, match=r"no dataset folder at .*nowhere\. get it there"):
        read_datalist(tmp_path / "datalist.json", "training", tmp_path / "nowhere", "get it there")
