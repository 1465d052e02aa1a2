"""Scores of several classes: the headline is their mean, which two exchanged classes cannot pass."""

import csv
import math
from typing import Any

import numpy as np
import pytest
import torch

from sdseg_monai.evaluation import METRICS, compare_masks, compare_officially, mean_metrics, summarise, write_csv
from sdseg_monai.report.cases import ReportCase, sort_cases

LABEL = torch.zeros(4, 4, 4, dtype=torch.uint8)
LABEL[:2, :2, :2], LABEL[2:, :2, :2] = 1, 2  # eight voxels each
SWAPPED = torch.tensor([0, 2, 1], dtype=torch.uint8)[LABEL.long()]
HALF = LABEL.clone()
HALF[0, :2, :2] = 0  # of class 1
NOTHING = torch.zeros_like(LABEL)
SPACING = (1.0, 1.0, 1.0)


@pytest.fixture
def cases():
    """By hand: right 1 and 1; swapped 0 and 0, the union 1; half 8/12 and 1, the union 24/28."""
    return [
        compare_masks(*case, SPACING)
        for case in (("right", LABEL, LABEL), ("swapped", SWAPPED, LABEL), ("half", HALF, LABEL))
    ]


def test_the_headline_is_the_mean_of_the_classes_and_the_union_stands_aside(cases, tmp_path):
    right, swapped, half = cases
    assert (right.dice, right.foreground.dice) == (1, 1)
    assert swapped.dice == swapped.iou == 0
    assert swapped.foreground.dice == swapped.foreground.nsd == 1 and swapped.foreground.hd95 == 0
    assert half.dice == pytest.approx((2 / 3 + 1) / 2) and half.foreground.dice == pytest.approx(6 / 7)
    assert half.iou == pytest.approx((1 / 2 + 1) / 2) and half.volume_difference == pytest.approx((-1 / 2 + 0) / 2)
    summary: dict[str, Any] = summarise(cases, {1: "Head"})
    assert summary["dice"] == pytest.approx((1 + 0 + 5 / 6) / 3, abs=1e-6)
    assert summary["foreground"]["dice"] == pytest.approx((1 + 1 + 6 / 7) / 3, abs=1e-6)
    assert summary["zero_dice"] == {"swapped": [1, 2]} and not {"hd95_cases", "hd95_undefined"} & summary.keys()
    assert summary["classes"][1]["name"] == "Head" and "name" not in summary["classes"][2]
    assert summary["classes"][1]["dice"] == pytest.approx((1 + 0 + 2 / 3) / 3, abs=1e-6)
    write_csv(tmp_path / "t.csv", cases, {1: "Head"})
    head, *rows = csv.reader((tmp_path / "t.csv").open())
    assert head[:6] == ["case", *METRICS] and head[-5:] == [f"{name}_foreground" for name in METRICS]
    table = {row[0]: dict(zip(head, row, strict=True)) for row in rows}
    assert {name: float(row["dice"]) for name, row in table.items()} == pytest.approx(
        {"right": 1, "swapped": 0, "half": 5 / 6, "mean": (1 + 5 / 6) / 3}
    )
    assert float(table["swapped"]["dice_foreground"]) == 1 and float(table["half"]["dice_1"]) == pytest.approx(2 / 3)
    assert {row["name_1"] for row in table.values()} == {"Head"} and "name_2" not in head


def test_the_case_with_exchanged_classes_is_shown_first(cases):
    report_cases = [ReportCase(case.case, "done", metrics={"dice": case.dice}) for case in cases]
    assert [case.name for case in sort_cases(report_cases, evaluated=True)] == ["swapped", "half", "right"]


def test_classes_that_a_case_does_not_have_cannot_hide_one_that_is_missed():
    others = [
        compare_masks(str(value), LABEL.new_full(LABEL.shape, value), LABEL.new_full(LABEL.shape, value))
        for value in (3, 4, 5)
    ]
    missed = compare_masks("missed", NOTHING, LABEL.where(LABEL == 1, 0), SPACING)
    cases = [*others, missed]
    assert missed.dice == missed.foreground.dice == 0 and missed.zero_classes == [1]
    summary: dict[str, Any] = summarise(cases)
    assert summary["dice"] == 0.75 and summary["zero_dice"] == {"missed": [1]}
    assert summary["classes"][1]["absent_cases"] == 3 and summary["classes"][3]["absent_cases"] == 3
    assert mean_metrics(cases).dice == 0.75


def test_a_distance_of_a_missed_class_is_left_out_and_counted():
    missed = compare_masks("a", LABEL.where(LABEL == 1, 0), LABEL, SPACING)
    assert missed.dice == 0.5 and missed.hd95 == 0 and missed.zero_classes == [2]
    assert missed.volume_difference == -0.5 and missed.foreground.dice == pytest.approx(2 / 3)
    right = compare_masks("b", LABEL, LABEL, SPACING)
    summary: dict[str, Any] = summarise([missed, right])
    assert summary["hd95"] == 0 and summary["hd95_undefined"] == 1 and "hd95_cases" not in summary
    assert summary["classes"][2]["hd95_cases"] == 1
    invented = compare_masks("c", LABEL, LABEL.where(LABEL == 1, 0), SPACING)
    assert invented.dice == 0.5 and invented.zero_classes == [2]
    assert summarise([invented])["volume_difference_undefined"] == 1
    nothing_right = compare_masks("d", LABEL.where(LABEL == 1, 0), LABEL.where(LABEL == 2, 0), SPACING)
    assert math.isnan(nothing_right.hd95) and summarise([nothing_right])["hd95"] is None


def test_of_one_class_nothing_stands_aside(tmp_path):
    ones = LABEL.clamp(max=1)
    case = compare_masks("a", ones, ones, SPACING)
    assert vars(case.foreground) == {name: getattr(case, name) for name in METRICS}
    assert not {"foreground", "classes", "zero_dice"} & summarise([case]).keys()
    write_csv(tmp_path / "t.csv", [case], {1: "Head"})
    assert (tmp_path / "t.csv").read_text().splitlines()[0] == ",".join(["case", *METRICS])


def test_the_official_protocol_keeps_the_published_definition_the_union(tmp_path):
    case = compare_officially("a", SWAPPED, LABEL)
    assert case.dice == pytest.approx(1) and case.zero_classes == [1, 2]
    summary: dict[str, Any] = summarise([case])
    assert summary["dice"] == 1 and "foreground" not in summary and summary["classes"][1]["dice"] == 0
    write_csv(tmp_path / "t.csv", [case])
    assert "foreground" not in (tmp_path / "t.csv").read_text()


def test_two_empty_masks_agree():
    case = compare_masks("a", NOTHING, NOTHING, SPACING)
    assert case.dice == case.foreground.dice == 1 and case.classes == {} and case.zero_classes == []
    assert np.isnan(case.hd95)
