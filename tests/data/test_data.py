import hashlib
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.bundle import ConfigParser
from monai.data import MetaTensor, get_track_meta, set_track_meta
from monai.transforms import Compose, Lambdad, RandAffined, RandFlipd, RandShiftIntensityd
from torch.utils.data import DataLoader

from sdseg_monai.data import DrawSampler, ProceduralMasks, SliceDataset, read_datalist, write_datalist
from sdseg_monai.data.augmentation import augment
from sdseg_monai.errors import InputError, find_input_error
from sdseg_monai.networks.codes import class_codes
from sdseg_monai.seeding import seed_from, seeded_integers, seeded_normal
from sdseg_monai.transforms import (
    ClassLabelsd,
    LoadVolumed,
    extract_slices,
    resize_labels,
    resize_slices,
    to_three_channels,
)
from sdseg_monai.transforms.slices import TIE_BREAK, add_context
from tests.makers.places import ROOT
from tests.makers.volumes import load_nifti, write_case, write_nifti

# of the first 20 masks of 48 x 48 pixels, computed before there were several classes: autoencoders came of these
PROCEDURAL_DIGEST = "644d04cbe721d497f6b3e2bfce9880a8323255a4cdf836e1e118c3b65acf14b9"
SEED_OF_X_1 = 711035701018243104  # computed once: a seed that changed would change every noised result
AUGMENTATION = Compose(
    [
        RandFlipd(["image", "label"], prob=0.5, spatial_axis=0),
        RandAffined(["image", "label"], prob=1.0, rotate_range=0.3, mode=["bilinear", "nearest"]),
        RandShiftIntensityd("image", offsets=0.5, prob=1.0),
    ]
)


@pytest.fixture
def items(tmp_path):
    for i, depth in enumerate((4, 1, 6)):
        write_case(tmp_path, f"case{i}", shape=(18, 20, depth), seed=i)
    return [{key: str(tmp_path / f"{key}s" / f"case{i}.nii.gz") for key in ("image", "label")} for i in range(3)]


def make_dataset(items, augmentation=AUGMENTATION, **options):
    load = LoadVolumed(["image", "label"])
    return SliceDataset(items, load, 2, (16, 24), augmentation, seed=3, progress=False, **options)


@pytest.fixture
def slices(items):
    return make_dataset(items)


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
    assert {type(item[key]) for item in items for key in ("image", "label")} == {torch.Tensor}
    assert set(torch.stack([item["label"] for item in items]).unique().tolist()) == {0.0, 1.0}


def test_a_draw_is_a_pure_function_of_its_number(slices):
    forward = [slices[i] for i in range(22)]
    backward = [slices[i] for i in reversed(range(22))][::-1]
    for a, b in zip(forward, backward, strict=True):
        assert all(torch.equal(a[key], b[key]) for key in ("image", "label", "seed"))
    assert not torch.equal(slices[0]["image"], slices[11]["image"])  # the next epoch augments anew
    assert slices[0]["seed"] != slices[11]["seed"]


HIPPOCAMPUS = "bundles/hippocampus_sdseg/configs/train.json"
VOLUMES = "bundles/sdseg/configs/baselines/dynunet_3d.json"


@pytest.mark.parametrize(("config", "shape"), [(HIPPOCAMPUS, (16, 24)), (VOLUMES, (16, 24, 12))])
def test_augmentations_are_the_same_without_a_record_of_positions(config, shape, monkeypatch):
    parser = ConfigParser(json.loads((ROOT / config).read_text()))
    parser["mirror_probability"] = 0.5
    augmentation = parser.get_parsed_content("augmentation")
    item = {"image": torch.randn(1, *shape), "label": torch.randint(3, (1, *shape)).float()}
    plain = [augment(item, augmentation, seed) for seed in range(8)]
    monkeypatch.setattr("sdseg_monai.data.augmentation.set_track_meta", lambda _: None)
    for seed, expected in enumerate(plain):
        untracked = augment(item, augmentation, seed)
        assert all(
            torch.equal(untracked[key], expected[key]) and not torch.equal(untracked[key], item[key]) for key in item
        )
        assert {type(tensor) for tensor in (*untracked.values(), *expected.values())} == {torch.Tensor}


@pytest.mark.parametrize("tracked", [True, False])
def test_tracking_is_off_for_the_augmentation_alone(tracked):
    tracking: list[bool] = []

    def look(item):
        tracking.append(get_track_meta())
        return item

    item = {"image": torch.zeros(1, 2, 2)}
    try:
        set_track_meta(tracked)
        augment(item, Compose([look]), 0)
        assert tracking == [False] and get_track_meta() == tracked
        with pytest.raises(RuntimeError):
            augment(item, Compose([Lambdad("image", lambda x: 1 / 0)]), 0)
        assert get_track_meta() == tracked
    finally:
        set_track_meta(True)


def test_augmentations_come_again_after_a_cycle_and_seeds_never(items):
    endless, cyclic = make_dataset(items), make_dataset(items, augmentation_cycle=2)
    assert all(torch.equal(endless[draw]["image"], cyclic[draw]["image"]) for draw in range(22))  # the first cycle
    for draw in range(22):
        first, later = cyclic[draw], cyclic[draw + 3 * 22]
        assert torch.equal(first["image"], later["image"]) and torch.equal(first["label"], later["label"])
        assert first["seed"] != later["seed"] and later["seed"] == endless[draw + 3 * 22]["seed"]
        assert not torch.equal(cyclic[draw]["image"], cyclic[(draw + 11) % 22]["image"])
        assert not torch.equal(endless[draw]["image"], endless[draw + 22]["image"])
    assert len({int(endless[11 * epoch]["seed"]) for epoch in range(20)}) == 20
    images = torch.stack([endless[11 * epoch]["image"].flatten() for epoch in range(20)])
    assert len(images.unique(dim=0)) == 20


@pytest.mark.parametrize("cycle", [0, -1])
def test_a_cycle_of_no_epochs_is_refused(items, cycle):
    with pytest.raises(InputError, match=f"augmentation_cycle={cycle}: expected at least 1"):
        make_dataset(items, augmentation_cycle=cycle)


def test_context_is_what_lies_that_far_below_and_above():
    stack = torch.randn(5, 1, 3, 4)
    whole = add_context(stack, 0, 5, 1.0)
    assert whole.shape == (5, 3, 3, 4)
    below, here, above = whole.unbind(1)
    assert torch.equal(here, stack[:, 0])
    assert torch.equal(below[1:], stack[:-1, 0]) and torch.equal(above[:-1], stack[1:, 0])
    assert torch.equal(below[0], stack[0, 0]) and torch.equal(above[-1], stack[-1, 0])  # the ends stand for beyond
    half = add_context(stack, 2, 3, 0.5)[0]
    torch.testing.assert_close(half[0], (stack[1, 0] + stack[2, 0]) / 2)
    torch.testing.assert_close(half[2], (stack[2, 0] + stack[3, 0]) / 2)
    torch.testing.assert_close(add_context(stack, 2, 3, 1.25)[0, 2], 0.75 * stack[3, 0] + 0.25 * stack[4, 0])
    assert torch.equal(add_context(stack, 2, 3, 77.0)[0], stack[[0, 2, 4], 0])
    assert torch.equal(add_context(stack[:1], 0, 1, 1.0)[0], stack[[0, 0, 0], 0])


@pytest.mark.parametrize(("spacing", "context_mm"), [(1.0, 1.0), (2.0, 1.0), (2.0, 2.0), (0.7, 1.0), (5.0, 12.5)])
def test_context_is_the_same_distance_at_any_spacing(tmp_path, spacing, context_mm):
    """On a volume whose values are millimetres along the sliced axis, a channel is the slice's place and the shift."""
    depth = 9
    millimetres = np.broadcast_to(spacing * np.arange(depth), (16, 24, depth)).astype(np.float32)
    turn = np.array([[0, 0, spacing], [1.5, 0, 0], [0, 0.8, 0]])  # sliced along x of the world: the affine decides
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn, (3, 4, 5)
    for name, array in (("image", millimetres), ("label", np.zeros((16, 24, depth), np.uint8))):
        write_nifti(tmp_path / f"{name}.nii.gz", array, affine)
    item = {name: str(tmp_path / f"{name}.nii.gz") for name in ("image", "label")}
    dataset = make_dataset([item], None, context_mm=context_mm)
    channels = torch.stack([dataset[i]["image"][:, 8, 12] for i in range(depth)])  # [depth, 3]
    shifts = torch.tensor([-context_mm, 0, context_mm])
    expected = (spacing * torch.arange(depth)[:, None] + shifts).clamp(0, spacing * (depth - 1))
    torch.testing.assert_close(channels, expected, atol=1e-4, rtol=0)


def test_without_context_the_slice_is_repeated(items):
    dataset = make_dataset(items, None)
    assert all(torch.equal(dataset[i]["image"], dataset[i]["image"][:1].expand(3, -1, -1)) for i in range(11))


@pytest.mark.parametrize("context_mm", [0, -1.0, float("inf"), float("nan")])
def test_a_context_that_is_no_distance_is_refused(items, context_mm):
    with pytest.raises(RuntimeError) as caught:
        make_dataset(items, context_mm=context_mm)
    assert "expected a distance in millimetres above 0" in str(find_input_error(caught.value))


def test_labels_beyond_the_classes_are_refused_by_name(items):
    label = load_nifti(items[1]["label"])
    for value in (3, 14):
        array = label.get_fdata().astype(np.uint8)
        array[0, 0, 0] = value
        write_nifti(items[1]["label"], array, label.affine)
        transform = Compose([LoadVolumed(["image", "label"]), ClassLabelsd("label", num_classes=3)])
        assert transform(items[0])["label"].unique().tolist() == [0, 1]  # none of class 2: a case may lack one
        with pytest.raises(RuntimeError) as caught:
            transform(items[1])
        message = str(find_input_error(caught.value))
        assert message.startswith(f"{items[1]['label']}: a label of {value}, expected 0 to 2")


@pytest.mark.parametrize("value", [-1.0, 0.5, 2.5, 3.0])
def test_labels_between_the_classes_are_refused(value):
    label = MetaTensor(torch.tensor([0.0, 1, 2, value]).view(1, 4, 1, 1), meta={"filename_or_obj": "a.nii.gz"})
    with pytest.raises(InputError, match=rf"a\.nii\.gz: a label of {value:g}, expected 0 to 2 for num_classes=3"):
        ClassLabelsd("label", 3)({"label": label})
    assert ClassLabelsd("label", 2)({"label": label})["label"].unique().numel() == 2  # of two, all above 0.5


def test_workers_change_nothing(slices):
    alone = list(DataLoader(slices, batch_size=4))
    helped = list(DataLoader(slices, batch_size=4, num_workers=2))
    assert all(torch.equal(a[k], b[k]) for a, b in zip(alone, helped, strict=True) for k in a)


def test_two_processes_share_the_draws_of_one(slices):
    def draws(world, rank, epoch):
        sampler = DrawSampler(slices, num_replicas=world, rank=rank, seed=5, drop_last=True)
        sampler.set_epoch(epoch)
        return list(sampler)

    single, shares = draws(1, 0, 2), [draws(2, rank, 2) for rank in (0, 1)]
    assert [d for pair in zip(*shares, strict=True) for d in pair] == single[:10]
    assert sorted(single) == list(range(22, 33))
    assert draws(1, 0, 3) != [d + 11 for d in single]


def test_procedural_masks_are_binary_varied_and_reproducible():
    masks = ProceduralMasks(48, 10)
    labels = torch.stack([masks[i]["label"] for i in range(200)])
    assert labels.shape == (200, 1, 48, 48) and set(labels.unique().tolist()) == {0.0, 1.0}
    areas = labels.flatten(1).sum(1)
    assert areas.min() == 0 and areas.max() > 0.3 * 48**2
    assert ((areas > 0) & (areas < 40)).sum() > 10
    again, other_seed = ProceduralMasks(48, 10), ProceduralMasks(48, 10, seed=1)
    assert torch.equal(again[7]["label"], masks[7]["label"])
    assert any(not torch.equal(other_seed[i]["label"], masks[i]["label"]) for i in range(5))
    assert torch.equal(masks[7]["image"][1], 2 * masks[7]["label"][0] - 1)


def test_procedural_masks_of_two_classes_stay_what_they_were():
    masks = ProceduralMasks(48, 10)
    labels = torch.stack([masks[i]["label"] for i in range(20)])
    assert hashlib.sha256(np.packbits(labels.numpy().astype(bool)).tobytes()).hexdigest() == PROCEDURAL_DIGEST


@pytest.mark.parametrize("num_classes", [3, 14])
def test_procedural_masks_of_several_classes(num_classes):
    masks = ProceduralMasks(32, 10, num_classes=num_classes)
    items = [masks[i] for i in range(150)]
    labels = torch.stack([item["label"] for item in items])
    assert labels.unique().tolist() == list(range(num_classes))
    occurs = torch.stack([(labels == value).flatten(1).any(1) for value in range(num_classes)]).float().mean(1)
    assert occurs[1:].min() > 0.5 * occurs[1:].max()  # no class is rare
    touching = labels[..., 1:] * labels[..., :-1] * (labels[..., 1:] != labels[..., :-1])
    assert touching.flatten(1).any(1).float().mean() > 0.3
    assert torch.equal(ProceduralMasks(32, 99, num_classes=num_classes)[7]["label"], items[7]["label"])
    assert not torch.equal(ProceduralMasks(32, 10, seed=1, num_classes=num_classes)[7]["label"], items[7]["label"])
    codes = class_codes(num_classes)
    assert all(torch.equal(item["image"], codes[item["label"][0].long()].movedim(-1, 0)) for item in items[:20])


def test_procedural_organs_have_narrow_gaps_and_sometimes_no_background():
    masks = ProceduralMasks(64, 10, num_classes=14)
    labels = torch.stack([masks[i]["label"] for i in range(150)])
    is_background = (labels == 0).flatten(1).double().mean(dim=1)
    assert (is_background < 0.2).sum() in range(5, 30) and (is_background == 1).sum() in range(1, 15)
    # organs of two classes, with 1 to 3 pixels of background between them
    is_gap = (labels[..., :-4] > 0) & (labels[..., 4:] > 0) & (labels[..., :-4] != labels[..., 4:])
    is_gap &= labels[..., 2:-2] == 0
    assert is_gap.double().mean() > 0.0027  # half as many again as between parts that fall near each other by chance


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


SIZES = st.tuples(st.integers(1, 24), st.integers(1, 24))


@settings(deadline=None, max_examples=40)
@given(shape=SIZES, size=SIZES, seed=st.integers(0, 99))
def test_two_classes_are_resized_by_the_cut_at_one_half(shape, size, seed):
    labels = (torch.rand(2, 1, *shape, generator=torch.Generator().manual_seed(seed)) > 0.5).float()
    nearest = torch.nn.functional.interpolate(labels, size=size, mode="nearest-exact")
    decided = resize_slices(labels, size) + TIE_BREAK * (nearest - 0.5)
    resized = resize_labels(labels, size)
    safe = (decided - 0.5).abs() > 1e-6  # rounding decides nothing
    assert torch.equal(resized[safe], (decided >= 0.5).float()[safe]) and safe.float().mean() > 0.9


@settings(deadline=None, max_examples=40)
@given(num_classes=st.integers(1, 14), shape=SIZES, size=SIZES, seed=st.integers(0, 99))
def test_resized_labels_have_the_largest_share_and_no_new_class(num_classes, shape, size, seed):
    labels = torch.randint(num_classes, (1, 1, *shape), generator=torch.Generator().manual_seed(seed)).float()
    resized = resize_labels(labels, size)
    assert resized.shape == (1, 1, *size) and set(resized.unique().tolist()) <= set(labels.unique().tolist())
    shares = torch.cat([resize_slices((labels == value).float(), size) for value in range(num_classes)], 1)
    assert (shares.gather(1, resized.long()) >= shares.max(1, keepdim=True).values - 1.001 * TIE_BREAK).all()
    assert torch.equal(resize_labels(labels, shape), labels)


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
