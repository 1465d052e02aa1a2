"""The official way of several classes: one pass for each, from binary weights."""

import numpy as np
import pytest
import torch

from sdseg_monai.errors import InputError
from sdseg_monai.metrics import TransUNetDice
from sdseg_monai.weights import load_binary, save_tensors
from tests.bundles.overlays import train_and_evaluate
from tests.makers.networks import make_network
from tests.networks.test_networks import class_conditional
from tests.weights.conversions import tensors_of

OFFICIAL = "official", "classes/synapse9", "official_classes"


@pytest.mark.slow
@pytest.mark.usefixtures("keep_global_state")
def test_it_starts_from_binary_weights_with_a_new_scale_and_a_fast_embedding(organs, tmp_path):
    for name in ("binary", "nine"):
        (tmp_path / name).mkdir()
    train_and_evaluate(("official",), organs, tmp_path / "binary")
    weights = tmp_path / "binary" / "models" / "model.pt"
    _, dice, evaluation = train_and_evaluate(OFFICIAL, organs, tmp_path / "nine", binary_weights=str(weights))
    parser = evaluation.parser
    network = parser.get_parsed_content("network_def")
    assert 0 <= dice <= 1 and network.num_classes == 9 and network.class_conditional
    assert network.drawn_classes == "present"
    embedding, others = parser.get_parsed_content("optimizer").param_groups
    (table,) = embedding["params"]
    assert table is network.unet.class_embedding.weight
    assert embedding["lr"] == pytest.approx(4e-4) and others["lr"] == pytest.approx(4e-6)
    assert len(others["params"]) == len(list(network.trained_parts.parameters())) - 1
    binary, nine = tensors_of(weights), tensors_of(tmp_path / "nine" / "models" / "model.pt")
    assert nine["scale_factor"] != binary["scale_factor"]
    for name, tensor in binary.items():  # two steps of a tiny rate
        if name != "scale_factor":
            torch.testing.assert_close(nine[name], tensor, atol=1e-4, rtol=0)
    label = parser.get_parsed_content("validate#dataset")[0]["label"]
    assert set(np.unique(label)) == set(range(9))  # TransUNet's numbers


def test_binary_weights_of_other_sizes_or_for_another_network_are_refused(tmp_path):
    network, path = class_conditional(), tmp_path / "model.pt"
    state = make_network().state_dict()
    save_tensors(path, state)
    load_binary(network, path)
    assert torch.isnan(network.scale_factor)
    for changed in ({name: state[name] for name in list(state)[1:]}, {**state, "extra": torch.zeros(1)}):
        save_tensors(path, changed)
        with pytest.raises(InputError, match=r"model\.pt: "):
            load_binary(network, path)
    with pytest.raises(InputError, match="num_class_embeds"):
        load_binary(make_network(), path)


def test_only_classes_of_the_slice_are_drawn():
    network = class_conditional(5, drawn_classes="present")
    mask = torch.zeros(200, 1, 8, 8)
    mask[:100, 0, 2:4] = 2
    mask[:100, 0, 6] = 4
    mask[100:150] = 3
    binary, classes = network.draw_class(mask, torch.arange(200))
    assert set(classes[:100].tolist()) == {0, 2, 4}
    assert set(classes[100:150].tolist()) == {3} and set(classes[150:].tolist()) == {0}
    assert all(binary[:150].flatten(1).any(1)) and not binary[150:].any()
    again = network.draw_class(mask.flip(0), torch.arange(200).flip(0))[1].flip(0)
    assert torch.equal(again, classes)


def test_dice_of_several_classes_by_transunets_rule():
    metric = TransUNetDice(num_classes=4)
    label, mask = torch.zeros(2, 2, 1, 1, 4)
    label[0], mask[0] = torch.tensor([1, 1, 2, 0]), torch.tensor([1, 1, 0, 3])
    dice = metric(mask, label)
    assert dice.tolist() == [[1, 0, 1], [0, 0, 0]]  # right, missed, made up; nothing anywhere is 0
    assert metric.aggregate().item() == pytest.approx(2 / 6)
