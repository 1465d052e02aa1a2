"""The values in the benchmarks' tables: intervals, counts of operations, seconds, percent and millimetres."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import cost
from lab.bundles import structure_cells
from lab.comparison import summary
from lab.measuring import gflop
from lab.scores import mean_class_dice, measure
from sdseg_monai.evaluation import Agreement
from sdseg_monai.metrics import bootstrap_interval


def test_the_interval_is_that_of_the_mean():
    values = list(np.random.default_rng(0).normal(0.7, 0.2, 400))
    low, high = bootstrap_interval(values)
    error = np.std(values) / 400**0.5
    assert low == pytest.approx(np.mean(values) - 1.96 * error, abs=0.2 * error)
    assert high == pytest.approx(np.mean(values) + 1.96 * error, abs=0.2 * error)


def test_a_summary_counts_what_is_undefined():
    nan = float("nan")
    assert summary([np.array([1.0, 3.0]), np.array([2.0, 6.0])], of_seeds=True) == "3.00 (2.00 to 4.00)"
    assert summary([np.array([1.0, 3.0])], of_seeds=True) == "2.00"
    assert summary([np.array([2.0, 2.0, nan])], digits=1) == "2.0 (2.0 to 2.0), 1 of 3 undefined"
    assert summary([np.array([nan, nan])]) == "undefined"
    missed, agreement = Agreement(dice=0.0, iou=0.0), Agreement(dice=0.9, iou=0.8, hd95=1.5)
    assert structure_cells([missed, missed]) == ["0.0000 (0.0000 to 0.0000)", "0.0000", "undefined"]
    assert structure_cells([agreement, agreement, missed])[1:] == ["0.0000", "1.50 (1.50 to 1.50), 1 of 3 undefined"]


def test_attention_is_counted_on_the_cpu():
    tokens, channels = 64, 16
    q = torch.zeros(1, 2, tokens, channels)
    counted = gflop(lambda: torch.nn.functional.scaled_dot_product_attention(q, q, q))
    assert counted * 1e9 == 2 * 2 * 2 * tokens**2 * channels  # two products, two heads, a multiply-add is two


@pytest.mark.slow
def test_what_a_slice_costs_is_the_sum_of_its_parts_and_keeping_latents_saves_the_encoding():
    parser = cost.read_bundle()
    parser["batch_size"] = 2
    case = cost.Case("toy", cost.of_bundle, 64, 8, 1, large=False)
    own, distilled = cost.slice_rows(case)
    assert own[2:4] == distilled[2:4] and float(distilled[4]) < 0.5 * float(own[4])
    for row in (own, distilled):
        assert sum(map(float, row[2:5])) == pytest.approx(float(row[5]), abs=0.02)
    assert cost.slice_rows(replace(case, large=True))[0][2:6] == own[2:6]  # counting without computing
    network, _ = case.build(None)
    whole, encoding = cost.step_gflop(case)
    assert encoding == pytest.approx(cost.gflop(lambda: network.encode_mask(torch.zeros(1, 1, 64, 64))), rel=1e-3)
    seconds = cost.time_steps(parser, 1)
    (row,) = cost.step_rows([case], {"toy": seconds})
    assert row[:4] == ["toy", f"{whole:.2f}", f"{encoding:.2f}", f"{encoding / whole:.1%}"] and row[-1].endswith("%")
    assert cost.step_rows([case], {})[0][-3:] == ["not timed"] * 3


def test_measures_are_in_percent_and_millimetres_and_say_where_they_are_undefined():
    expected, spacing = torch.zeros(20, 10, 10), [2.0, 1.0, 1.0]
    expected[2:8, 2:8, 2:8], expected[8:14, 2:8, 2:8] = 1, 2
    assert measure(expected, expected, spacing, 3) == {
        **dict.fromkeys(("Dice", "Dice of 1", "Dice of 2"), 100),
        **dict.fromkeys(("HD95", "HD95 of 1", "HD95 of 2"), 0),
    }
    shifted = torch.roll(expected, 3, dims=0)
    values = measure(shifted, expected, spacing, 3)
    assert values["Dice"] == pytest.approx(75) and values["Dice of 1"] == pytest.approx(50)
    assert values["HD95 of 1"] == pytest.approx(6)  # three voxels of 2 mm
    shifted[shifted == 2] = 0
    values = measure(shifted, expected, spacing, 3)
    assert values["Dice of 2"] == 0 and np.isnan(values["HD95 of 2"]) and np.isfinite(values["HD95"])
    two = measure(shifted, expected, spacing, 2)
    assert set(two) == {"Dice", "Jaccard", "HD95"}
    assert two["Jaccard"] == pytest.approx(100 * two["Dice"] / (200 - two["Dice"]))
    for measures, dice in ((two, two["Dice"]), (values, values["Dice of 1"] / 2)):
        assert mean_class_dice({k: np.array([v]) for k, v in measures.items()}) == pytest.approx([dice])
