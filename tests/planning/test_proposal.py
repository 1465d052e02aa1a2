"""Proposed settings: splits, grids, axes, windows, schedules."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdseg_monai.data.datalist import SPLITS
from sdseg_monai.data.splits import split_by_seed
from sdseg_monai.io.segments import class_colour
from sdseg_monai.planning import Choice, init_bundle
from sdseg_monai.planning.configs import RECIPE, shipped_config
from sdseg_monai.planning.proposal import STEPS, propose_schedule
from tests.planning.folders import FLAT, config, look, propose, write_ct, write_mr

names = st.lists(st.text(min_size=1, max_size=8), min_size=2, max_size=60, unique=True)


@given(names, st.integers(0, 2**32), st.randoms())
@settings(max_examples=60, deadline=None)
def test_splits_are_disjoint_complete_seeded_and_do_not_depend_on_order(cases, seed, order):
    shuffled = list(cases)
    order.shuffle(shuffled)
    splits = split_by_seed(dict.fromkeys(cases, (0, 1)), seed)
    assert splits == split_by_seed(dict.fromkeys(shuffled, (0, 1)), seed)
    assert sorted(name for dealt in splits.values() for name in dealt) == sorted(cases)
    sizes = [len(splits[name]) for name in SPLITS]
    assert sizes[0] >= sizes[1] >= max(1, sizes[2]) and sizes[0] >= 0.5 * len(cases)
    assert bool(splits["test"]) == (len(cases) >= 7)


def test_another_seed_deals_otherwise_and_a_rare_class_is_spread():
    classes: dict[str, tuple[int, ...]] = {f"case{i:02}": (0, 1) for i in range(20)}
    deals = [split_by_seed(classes, seed) for seed in range(5)]
    assert len({tuple(deal["test"]) for deal in deals}) > 1
    classes |= {f"case{i:02}": (0, 1, 2) for i in (3, 4, 5, 6)}
    for seed in range(5):
        assert all(any(2 in classes[name] for name in dealt) for dealt in split_by_seed(classes, seed).values())


def test_the_slice_axis_is_that_of_the_anatomy_however_a_file_stores_it(tmp_path):
    for number, permutation in enumerate(((0, 1, 2), (2, 0, 1), (1, 2, 0))):
        folder = tmp_path / str(number)
        affine = np.eye(4)
        affine[:3, :3] = FLAT[:3, :3][:, permutation] * [-1, 1, -1]
        shape = tuple(np.array([40, 44, 8])[list(permutation)])
        fingerprint = look(*write_mr(folder, 2, shape, affine))
        grid = propose(fingerprint)
        assert grid.slice_axis.value == 2 and "5.0 times as far apart" in grid.slice_axis.reason
        assert fingerprint.cases[0].shape == (40, 44, 8)
        np.testing.assert_allclose(fingerprint.spacing, [0.8, 0.8, 4.0])
        assert grid.context_mm.value is None  # 5 pixels away


def test_grids_of_other_shapes(tmp_path):
    cube = look(*write_mr(tmp_path / "cube", 2, (30, 32, 31), np.eye(4)))
    assert propose(cube).slice_axis.value == 2 and propose(cube).context_mm.value == 1.0
    slab = look(*write_mr(tmp_path / "slab", 2, (8, 32, 31), np.eye(4)))
    assert propose(slab).slice_axis.value == 0 and propose(slab).mirror.value == 0  # front is not back
    assert propose(cube).size.value == (64, 64) and propose(cube, network="paper").size.value == (128, 128)
    wide = replace(cube, cases=tuple(replace(case, shape=(500, 500, 31)) for case in cube.cases))
    assert propose(wide).size.value == (128, 128) and propose(wide, cuda=True).size.value == (256, 256)
    assert propose(wide).network.value == propose(wide, cuda=True).network.value == "small"
    many = replace(cube, cases=tuple(replace(case, shape=(500, 500, 1000)) for case in cube.cases))
    assert propose(many, cuda=True).network.value == "paper"


@pytest.mark.parametrize(
    ("name", "mirrored"),
    [("kidney_left", False), ("Right lung", False), ("kidney L", False), ("colon", True), ("bright spot", True)],
)
def test_a_side_in_a_name_turns_mirror_images_off(name, mirrored, tmp_path):
    fingerprint = look(*write_ct(tmp_path, 2))
    assert (propose(fingerprint, {1: name}).mirror.value > 0) == mirrored


def test_the_window_of_ct_holds_the_foreground_with_a_margin_and_others_have_percentiles(tmp_path):
    fingerprint = look(*write_ct(tmp_path, 3))
    low, high = fingerprint.foreground_range
    window = propose(fingerprint).window.value
    assert window[0] < low - 50 and window[1] > high + 50 and 60 < low < 100 < high < 140
    assert propose(fingerprint, modality="MR").window.value is None
    assert propose(fingerprint, modality="MR").modality == Choice("MR", "as told")


@settings(max_examples=1000, deadline=None)
@given(
    st.integers(1, 50_000), st.integers(1, 5_000), st.floats(0.1, 1000), st.floats(1e-4, 5), st.sampled_from([4, 32])
)
def test_schedules_hold_the_time_and_are_runnable(training, validation, minutes, seconds, batch):
    options = {"minutes": minutes, "seconds_per_slice": seconds, "batch_size": batch, "learning_rate": 0.001}
    schedule = propose_schedule(training, validation, **options)
    value = {name: choice.value for name, choice in schedule.choices.items()}
    assert 1 <= value["batch_size"] <= min(batch, training)
    assert value["epochs"] % value["val_interval"] == 0 and value["epochs"] >= 1 and value["warmup_steps"] >= 1
    steps = value["epochs"] * (training // value["batch_size"])
    assert value["batch_size"] <= 4 or value["epochs"] * training >= STEPS * value["batch_size"]
    assert value["warmup_steps"] <= max(1, steps / 2) and 0 < value["learning_rate"] <= 0.001
    assert value["epochs"] // value["val_interval"] <= 10
    if value["epochs"] > 1:
        assert value["minutes"] <= minutes * 1.05 + 0.05
        assert value["epochs"] > 500 or value["minutes"] > 0.35 * minutes - 0.05
    elif value["minutes"] > 1.01 * minutes + 0.05:
        assert "takes longer than" in schedule.epochs.reason or validation * seconds > 60 * minutes / 2


def test_the_speed_of_this_machine_is_measured(tmp_path):
    images, labels = write_mr(tmp_path, 2)
    plan = init_bundle(images, labels, tmp_path / "mine", minutes=0.1, progress=False)
    assert 0 < plan.choices["minutes"].value < 5 and "ms a slice here" in plan.choices["minutes"].reason
    assert config(plan, "train")["run"] == shipped_config(RECIPE, "train.json")["run"]  # still as written


def test_colours_differ():
    lattice = np.array([class_colour(value) for value in range(1, 27)], float)
    distances = np.linalg.norm(lattice[:, None] - lattice[None], axis=-1) + 1000 * np.eye(26)
    assert distances.min() > 15 and lattice.min() >= 0 and lattice.max() <= 255
