"""Scores of masks against labels: rules for empty ones, classes, distances in millimetres, tables."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics import compute_dice, compute_hausdorff_distance, compute_iou, compute_surface_dice
from PIL import Image

from sdseg_monai.errors import InputError
from sdseg_monai.evaluation import (
    METRICS,
    Agreement,
    compare_masks,
    evaluate_case,
    evaluate_folders,
    mean_metrics,
    summarise,
    write_csv,
)
from sdseg_monai.io.segments import UNSURE
from tests.makers.volumes import write_nifti


def write(path, array, affine=None):
    path.parent.mkdir(exist_ok=True)
    write_nifti(path, array, affine)
    return path


def box(*ranges, value=1, shape=(12, 12, 12)):
    mask = np.zeros(shape, np.uint8)
    mask[tuple(slice(*r) for r in ranges)] = value
    return mask


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    shape=st.sampled_from([(9, 8, 7), (16, 5, 12), (12, 10, 1), (1, 9, 9), (6, 6, 2)]),
    values=st.sampled_from([[1], [1, 2, 3], [2, 7], [5, 70_000, 100_000]]),
    background=st.sampled_from([0.0, 0.5, 0.95]),
)
def test_the_metrics_are_monais(seed, shape, values, background):
    """Those of each class in the whole volume, which are computed here in a box around it."""
    rng = np.random.default_rng(seed)
    spacing = rng.uniform(0.5, 4, 3).tolist()
    predicted, expected = (
        torch.from_numpy(np.where(rng.random(shape) < background, 0, rng.choice(values, shape))) for _ in range(2)
    )
    metrics = compare_masks("case", predicted, expected, spacing, tolerance=1.5)
    assert list(metrics.classes) == sorted({*predicted.unique().tolist(), *expected.unique().tolist()} - {0})
    axes = [axis for axis, length in enumerate(shape) if length > 1]
    options: dict[str, Any] = {"include_background": True, "spacing": [spacing[axis] for axis in axes]}
    for value, agreement in metrics.classes.items():
        masks = [(mask == value).squeeze()[None, None] for mask in (predicted, expected)]
        assert agreement.dice == pytest.approx(compute_dice(*masks, ignore_empty=False).item(), abs=1e-6)
        assert agreement.iou == pytest.approx(compute_iou(*masks, ignore_empty=False).item(), abs=1e-6)
        assert agreement.nsd == pytest.approx(compute_surface_dice(*masks, [1.5], **options).item(), abs=1e-6)
        if all(mask.any() for mask in masks):
            expected_hd95 = compute_hausdorff_distance(*masks, percentile=95, **options).item()
            assert agreement.hd95 == pytest.approx(expected_hd95, abs=1e-5)
        else:
            assert math.isnan(agreement.hd95)


MASKS = st.lists(st.integers(0, 3), min_size=27, max_size=27).map(lambda v: torch.tensor(v).view(3, 3, 3))


@settings(max_examples=40, deadline=None)
@given(MASKS, MASKS)
def test_classes_are_scored_alone_and_the_union_as_one(predicted, expected):
    metrics = compare_masks("case", predicted, expected, (1, 2, 3))
    assert set(metrics.classes) == set(torch.cat([predicted, expected]).unique().tolist()) - {0}
    binary: list[tuple[Agreement, torch.Tensor, torch.Tensor]] = [(metrics.foreground, predicted > 0, expected > 0)]
    binary += [(metrics.classes[k], predicted == k, expected == k) for k in metrics.classes]
    for scores, prediction, label in binary:
        both, either, sizes = (prediction & label).sum(), (prediction | label).sum(), prediction.sum() + label.sum()
        assert scores.dice == pytest.approx(float(2 * both / sizes) if sizes else 1)
        assert scores.iou == pytest.approx(float(both / either) if sizes else 1)
        assert math.isnan(scores.hd95) == (not prediction.any() or not label.any())
        assert 0 <= scores.nsd <= 1 and (scores.nsd == 1 or prediction.any() or label.any())
        if torch.equal(prediction, label):
            assert scores.nsd == 1 and scores.volume_difference == 0 and (scores.hd95 == 0 or not prediction.any())
        if label.any():
            assert scores.volume_difference == pytest.approx(int(prediction.sum()) / int(label.sum()) - 1)
        else:
            assert math.isnan(scores.volume_difference) == bool(prediction.any())
    swapped = compare_masks("case", expected, predicted, (1, 2, 3))
    assert swapped.nsd == pytest.approx(metrics.nsd)
    assert swapped.dice == metrics.dice and (math.isnan(metrics.hd95) or swapped.hd95 == metrics.hd95)


def test_a_binary_prediction_keeps_its_foreground_against_a_label_of_several_classes():
    label = torch.from_numpy(box((2, 6), (2, 6), (2, 6)) + box((6, 10), (2, 6), (2, 6), value=2))
    metrics = compare_masks("", label > 0, label)
    assert metrics.foreground.dice == metrics.foreground.iou == 1
    assert metrics.dice == pytest.approx(1 / 3), "class 2 is missed"
    assert metrics.classes[1].dice == pytest.approx(2 / 3) and metrics.classes[2].dice == 0


def test_distances_are_in_millimetres_whatever_the_orientation(tmp_path):
    """A cube moved by two voxels of 3 mm is 6 mm off, along whichever axis of the file these voxels lie."""
    expected, predicted = box((3, 7), (3, 7), (3, 7)), box((5, 9), (3, 7), (3, 7))
    turn = np.array([[0.6, -0.8, 0], [0.8, 0.6, 0], [0, 0, 1.0]])
    for axis in range(3):
        affine = np.eye(4)
        affine[:3, :3] = turn @ np.diag(np.roll([3.0, 0.5, 0.5], axis))
        masks = [
            write(tmp_path / f"{i}.nii.gz", np.moveaxis(m, 0, axis), affine)
            for i, m in enumerate((predicted, expected))
        ]
        assert evaluate_case(*masks).hd95 == pytest.approx(6, abs=1e-4)
    assert math.isnan(compare_masks("", torch.from_numpy(predicted), torch.from_numpy(expected)).hd95), (
        "no size of a voxel"
    )


def test_a_distance_that_does_not_exist_is_counted_and_left_out(tmp_path):
    """Of three cases one misses class 2: its Dice is 0 in the mean, its distance in none."""
    both = box((1, 4), (1, 4), (1, 4)) + box((6, 9), (6, 9), (6, 9), value=2)
    for case, predicted in {"a": both, "b": both, "c": both * (both == 1)}.items():
        write(tmp_path / "masks" / f"{case}.nii.gz", predicted)
        write(tmp_path / "labels" / f"{case}.nii.gz", both)
    cases = evaluate_folders(tmp_path / "masks", tmp_path / "labels", progress=False)
    summary: dict[str, Any] = summarise(cases)
    perfect = {"dice": 1, "iou": 1, "hd95": 0, "nsd": 1, "volume_difference": 0}
    assert summary["classes"][1] == {**perfect, **{f"{name}_interval": [n, n] for name, n in perfect.items()}}
    assert {
        name: summary["classes"][2][name] for name in ("dice", "iou", "hd95", "hd95_cases", "volume_difference")
    } == {**{"dice": 0.666667, "iou": 0.666667, "hd95": 0, "hd95_cases": 2, "volume_difference": -0.333333}}
    assert summary["classes"][2]["dice_interval"] == [0, 1] and summary["classes"][2]["hd95_interval"] == [0, 0]
    assert "hd95_cases" not in summary, "defined for all"
    write_csv(tmp_path / "table.csv", cases)
    head, *rows = [line.split(",") for line in (tmp_path / "table.csv").read_text().splitlines()]
    assert head == ["case", *(f"{m}{k}" for k in ("", "_1", "_2", "_foreground") for m in METRICS)]
    assert [row[0] for row in rows] == ["a", "b", "c", "mean"]
    table = {row[0]: dict(zip(head[1:], map(float, row[1:]), strict=True)) for row in rows}
    assert math.isnan(table["c"]["hd95_2"]) and table["c"]["dice_2"] == 0 and table["c"]["dice_1"] == 1
    assert table["mean"]["dice_2"] == pytest.approx(2 / 3) and table["mean"]["hd95_2"] == 0


def test_no_distance_at_all_is_null(tmp_path):
    nothing = torch.zeros(3, 3, 3)
    summary = summarise([compare_masks("a", nothing, nothing, (1, 1, 1))])
    assert summary["dice"] == summary["iou"] == summary["nsd"] == 1 and summary["volume_difference"] == 0
    assert summary["hd95"] is summary["hd95_interval"] is None and summary["hd95_cases"] == 0


def test_a_class_that_a_case_does_not_have_is_found_missing_rightly():
    ones, twos = torch.ones(2, 2, 2), torch.full((2, 2, 2), 2.0)
    mean = mean_metrics([compare_masks("a", ones, ones), compare_masks("b", twos, ones)])
    assert mean.foreground.dice == 1 and mean.dice == 0.5
    assert {k: v.dice for k, v in mean.classes.items()} == {1: 0.5, 2: 0.5}


@pytest.mark.parametrize("wrong", [UNSURE, 0.5, -1])
@pytest.mark.parametrize("place", ["masks", "labels"])
def test_what_is_no_class_is_refused(tmp_path, wrong, place):
    mask = box((1, 4), (1, 4), (1, 4)).astype(np.float32)
    for folder in ("masks", "labels"):
        mask[6, 6, 6] = wrong if folder == place else 0
        write(tmp_path / folder / "a.nii.gz", mask)
    with pytest.raises(InputError, match=f"{place}/a.nii.gz: 1 voxels are no class, such as {wrong:g}, expected whole"):
        evaluate_folders(tmp_path / "masks", tmp_path / "labels", progress=False)


def test_an_image_is_no_mask(tmp_path):
    image = np.arange(12**3, dtype=np.int16).reshape(12, 12, 12)
    paths = [write(tmp_path / f"{name}.nii.gz", array) for name, array in {"a": box((1, 4)), "b": image}.items()]
    with pytest.raises(InputError, match=r"b\.nii\.gz: 1728 different values, expected 255 classes or fewer"):
        evaluate_case(*paths)


def test_pictures_have_one_class(tmp_path):
    for folder, columns in (("masks", (2, 6)), ("labels", (2, 8))):
        (tmp_path / folder).mkdir()
        Image.fromarray(255 * box((2, 6), columns, shape=(12, 12))).save(tmp_path / folder / "a.png")
    summary = summarise(evaluate_folders(tmp_path / "masks", tmp_path / "labels", progress=False))
    assert {name: summary[name] for name in ("cases", "dice", "iou")} == {"cases": 1, "dice": 0.8, "iou": 0.666667}
    assert summary["hd95"] == 2, "in pixels"
    assert summary["volume_difference"] == -0.333333


def test_the_surface_dice_has_a_tolerance_in_millimetres(tmp_path):
    """A cube moved by one voxel of 3 mm: its faces across the move are off by 3 mm, the others agree but at an edge."""
    for name, first in (("a", 3), ("b", 4)):
        write(tmp_path / f"{name}.nii.gz", box((first, first + 4), (3, 7), (3, 7)), np.diag([3.0, 1, 1, 1]))
    surface_dice = {mm: evaluate_case(tmp_path / "a.nii.gz", tmp_path / "b.nii.gz", mm).nsd for mm in (0, 2.9, 3)}
    assert 0 < surface_dice[0] <= surface_dice[2.9] < surface_dice[3] == 1
    assert evaluate_case(tmp_path / "a.nii.gz", tmp_path / "b.nii.gz").nsd == surface_dice[2.9], "2 mm"


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_surface_of_a_single_slice_is_its_outline(axis):
    """Else each pixel would be on the surface, and distances would hardly grow with the error."""
    y, x = torch.meshgrid(torch.arange(100.0), torch.arange(100.0), indexing="ij")
    discs = [((x - centre) ** 2 + (y - 50) ** 2 < 30**2).unsqueeze(axis) for centre in (50, 56)]
    spacing = [0.5, 0.5]
    spacing.insert(axis, 8.0)
    metrics = compare_masks("", discs[0], discs[1], spacing=spacing, tolerance=1.0)
    assert metrics.hd95 == pytest.approx(3, abs=0.1)  # six pixels of 0.5 mm at the sides
    within = np.mean(np.abs(np.cos(np.linspace(0, 2 * np.pi, 1000))) <= 1 / 3)
    assert metrics.nsd == pytest.approx(within, abs=0.08)  # pixels make steps of the outline
