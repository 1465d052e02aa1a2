"""Weights know what they were trained for, and a config that contradicts them is refused."""

import json
from typing import Any

import pytest
import torch
from monai.data import MetaTensor

from sdseg_monai import Pipeline
from sdseg_monai.cli import main
from sdseg_monai.errors import InputError
from sdseg_monai.inferers import SliceWiseInferer
from sdseg_monai.networks.trained_for import KEY
from sdseg_monai.weights import load_weights, read_tensors, save_inference, save_network, save_tensors
from tests.makers.networks import make_network
from tests.makers.volumes import write_nifti

GRID: dict[str, Any] = {"size": (16, 16), "slice_axis": 1, "context_mm": 2.0}


def test_they_are_used_with_the_values_of_their_training(tmp_path):
    network, path = make_network(), tmp_path / "model.pt"
    save_network(network, path, SliceWiseInferer(**GRID))
    load_weights(make_network(), path, SliceWiseInferer(**GRID, batch_size=3, noise="per_slice", seed=7))
    load_weights(make_network(), path)  # of the slices nothing is known
    assert read_tensors(path)[KEY] == {
        **{"num_classes": 2, "prediction_type": "epsilon", "start_noise": "shared"},
        **{"slice_axis": 1, "size": [16, 16], "context_mm": 2.0},
    }


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"slice_axis": 2}, "slice_axis=1, not 2"),
        ({"size": (32, 16)}, r"size=\[16, 16\], not \[32, 16\]"),
        ({"context_mm": None}, "context_mm=2.0, not None"),
    ],
)
@pytest.mark.parametrize("save", [save_network, save_inference])
def test_other_slices_are_refused(tmp_path, grid, message, save):
    save(make_network(), tmp_path / "model.pt", SliceWiseInferer(**GRID))
    with pytest.raises(InputError, match=f"model.pt: the weights were trained for {message}: use them"):
        load_weights(make_network(), tmp_path / "model.pt", SliceWiseInferer(**{**GRID, **grid}))


@pytest.mark.parametrize(
    "options",
    [{"prediction_type": "v_prediction"}, {"prediction_type": "sample", "start_noise": "zeros"}],
)
def test_another_kind_of_prediction_or_start_is_refused(tmp_path, options):
    save_network(make_network(), tmp_path / "model.pt")
    with pytest.raises(InputError, match="were trained for prediction_type='epsilon', not"):
        load_weights(make_network(**options), tmp_path / "model.pt")


def test_older_files_say_nothing_and_nonsense_is_refused(tmp_path):
    network, path = make_network(), tmp_path / "model.pt"
    save_tensors(path, network.state_dict())
    load_weights(make_network(prediction_type="v_prediction"), path, SliceWiseInferer(**GRID))
    save_tensors(path, {**network.state_dict(), KEY: torch.zeros(1)})
    with pytest.raises(InputError, match="trained_for is a Tensor, expected options by name"):
        load_weights(network, path)


@pytest.mark.parametrize(
    ("overlay", "message"),
    [
        ({"slice_axis": 2}, "slice_axis=1, not 2"),
        ({"size": [128, 128]}, r"size=[64, 64], not [128, 128]"),
        ({"context_mm": None}, "context_mm=1.0, not None"),
        ({"network_def#prediction_type": "v_prediction"}, "prediction_type='sample', not 'v_prediction'"),
        ({"network_def#prediction_type": "v_prediction", "network_def#start_noise": "shared"}, "start_noise='zeros'"),
    ],
)
def test_an_overlay_that_contradicts_the_shipped_weights_ends_in_one_line(tmp_path, capsys, overlay, message):
    path = tmp_path / "overlay.json"
    path.write_text(json.dumps(overlay))
    image = write_nifti(tmp_path / "image.nii.gz", torch.zeros(4, 4, 4).numpy())
    options = ["--overlay", str(path), "-o", str(tmp_path / "mask.nii.gz"), "--device", "cpu"]
    assert main(["segment", str(image), *options]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert "model.pt: the weights were trained for" in captured.err and message in captured.err
    assert not (tmp_path / "mask.nii.gz").exists()


def test_an_inferer_finds_out_for_itself(tmp_path):
    save_network(make_network(), tmp_path / "model.pt", SliceWiseInferer(**GRID))
    network = make_network()
    load_weights(network, tmp_path / "model.pt")
    volume = torch.zeros(1, 1, 16, 2, 16)
    assert SliceWiseInferer(**{**GRID, "context_mm": 2.0})(MetaTensor(volume), network).shape == volume.shape
    with pytest.raises(InputError, match="the weights were trained for slice_axis=1, not 0"):
        SliceWiseInferer(**{**GRID, "slice_axis": 0})(MetaTensor(volume), network)


def test_the_batch_size_is_no_contradiction(tmp_path):
    path = tmp_path / "overlay.json"
    path.write_text(json.dumps({"batch_size": 3}))
    assert Pipeline("hippocampus_sdseg", device="cpu", overlays=path).segmenter.inferer.batch_size == 3
