"""The benchmark of uncertainty: its measures, and the section that it fills."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

import uncertainty
from lab.judgement import auroc, calibration_error, rank_of_error, relative_volume_range
from tests.makers.bundles import write_other_weights, write_sdseg
from tests.makers.volumes import write_case

# of the benchmark


@pytest.fixture(scope="module", params=[2, 3], ids=["two_classes", "three_classes"])
def bundle(request, tmp_path_factory):
    """A bundle that starts from zeros."""
    return write_sdseg(tmp_path_factory.mktemp("deterministic") / "tiny", "zeros", request.param)


@pytest.fixture(scope="module")
def other_weights(bundle, tmp_path_factory):
    return write_other_weights(tmp_path_factory.mktemp("weights") / "other.pt", bundle)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=20))
def test_the_area_is_the_chance_of_a_higher_value(pairs):
    values, positive = (np.array(column) for column in zip(*pairs, strict=True))
    high, low = values[positive], values[~positive]
    if not (high.size and low.size):
        assert np.isnan(auroc(values, positive))
        return
    wins = (high[:, None] > low).mean() + (high[:, None] == low).mean() / 2
    assert auroc(values, positive) == pytest.approx(wins)


def test_calibration_and_rank_are_known():
    right = np.array([True, True, True, False] * 10)
    assert calibration_error(np.full(40, 0.75), right) == pytest.approx(0)
    assert calibration_error(np.ones(40), right) == pytest.approx(0.25)
    assert calibration_error(np.where(right, 1.0, 0.0), right) == 0
    values, dice = np.random.default_rng(0).integers(0, 6, (2, 9))
    assert rank_of_error(values, dice) == pytest.approx(spearmanr(values, -dice).statistic)
    np.testing.assert_allclose(rank_of_error(np.stack([dice, -dice]), np.stack([dice, dice])), [-1, 1])
    assert rank_of_error(np.ones(len(dice)), dice) == 0  # all alike


def test_the_width_of_a_volume_range_is_relative_to_its_mean():
    volumes = np.array([[1.0, 0, 4], [2, 0, 4], [3, 0, 4]])
    assert relative_volume_range(volumes) == pytest.approx((1 + 0) / 2)  # the class in the middle never occurs
    assert relative_volume_range(np.zeros((2, 2))) == 0


def test_the_benchmark_fills_its_section(bundle, other_weights, tmp_path, monkeypatch):
    split = {"validation": ["a", "b", "c"], "test": ["d", "e", "f"]}
    for seed, name in enumerate("abcdef"):
        write_case(tmp_path, name, shape=(20, 5, 18), seed=seed)
    files = {
        split: [{kind: f"{kind}s/{name}.nii.gz" for kind in ("image", "label")} for name in names]
        for split, names in split.items()
    }
    (tmp_path / "datalist.json").write_text(json.dumps(files))
    document = tmp_path / "document.md"
    document.write_text("before\n<!-- embedded -->\n<!-- /embedded -->\nafter\n")
    command = ["--dataset_dir", tmp_path, "--datalist", tmp_path / "datalist.json", "--bundle", bundle]
    command += ["--document", document, "--weights", bundle / "models" / "model.pt", other_weights]
    monkeypatch.setattr("sys.argv", ["uncertainty.py", *map(str, command)])
    monkeypatch.setattr(uncertainty, "RESAMPLES", 10)
    uncertainty.main()
    text = document.read_text()
    assert text.startswith("before\n") and text.endswith("after\n")
    for row in ("| once |", "| flips |", "| ensemble of 2 |"):
        assert text.count(row) >= 4
    assert "weights: 2 of --weights" in text
    assert "seeds" not in text and "| 0 | 0.0% | 0.0% |" in text
