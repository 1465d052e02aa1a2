"""Weights for inference alone."""

import pytest
import torch

from sdseg_monai.errors import InputError
from sdseg_monai.networks import SDSeg, TinyMaskAutoencoder, TinyVisionEncoder
from sdseg_monai.weights import (
    load_weights,
    read_tensors,
    save_tensors,
)
from sdseg_monai.weights.files import save_inference
from tests.makers.compvis import size_of
from tests.makers.networks import make_network
from tests.weights.conversions import tensors_of


class TestInference:
    def test_segments_and_nothing_else(self, tmp_path, official):
        save_inference(official, tmp_path / "inference.pt")
        state = tensors_of(tmp_path / "inference.pt")
        assert not any(name.startswith(("autoencoder.encoder", "autoencoder.quant_conv")) for name in state)
        assert {v.dtype for k, v in state.items() if k != "scale_factor"} == {torch.float16}
        assert float(state["scale_factor"]) == float(official.scale_factor)
        assert size_of(state) < 0.5 * size_of(official.state_dict())
        image, mask = torch.randn(1, 3, 8, 8), torch.ones(1, 1, 8, 8)
        with torch.inference_mode():
            expected = official(image)
            load_weights(official, tmp_path / "inference.pt")
            torch.testing.assert_close(official(image), expected, atol=0.02, rtol=0)
        with pytest.raises(InputError, match="cannot encode a mask"):
            official.encode_mask(mask)
        with pytest.raises(InputError, match="cannot encode a mask"):
            official(image, mask=mask, seeds=torch.zeros(1, dtype=torch.int64))
        load_weights(official, tmp_path / "inference.pt")  # again, into what is left

    def test_of_tiny_autoencoders(self, tmp_path):
        network = SDSeg(
            TinyMaskAutoencoder([8, 8, 8], [1, 1, 1]), TinyVisionEncoder([8] * 3, [1] * 3), make_network().unet
        )
        network.scale_factor.fill_(1)
        save_inference(network, tmp_path / "inference.pt")
        load_weights(network, tmp_path / "inference.pt")
        with torch.inference_mode():
            assert network(torch.zeros(1, 3, 16, 16)).shape == (1, 1, 16, 16)
        with pytest.raises(InputError, match="cannot encode a mask"):
            network.encode_mask(torch.ones(1, 1, 16, 16))

    def test_of_several_classes(self, tmp_path):
        network = make_network(num_classes=3).eval()
        save_inference(network, tmp_path / "inference.pt")
        image = torch.randn(1, 3, 16, 16)
        with torch.inference_mode():
            expected = network(image)
            load_weights(network, tmp_path / "inference.pt")
            torch.testing.assert_close(network(image), expected, atol=0.02, rtol=0)
        assert torch.equal(network.class_codes, make_network(num_classes=3).class_codes)
        with pytest.raises(InputError, match="were trained for num_classes=3, not 2"):
            load_weights(make_network(), tmp_path / "inference.pt")
        save_tensors(tmp_path / "inference.pt", tensors_of(tmp_path / "inference.pt"))  # as older ones are
        with pytest.raises(InputError, match="not the weights of this network"):
            load_weights(make_network(), tmp_path / "inference.pt")

    def test_any_other_difference_is_an_error_and_leaves_the_network_whole(self, tmp_path, network):
        save_inference(network, tmp_path / "inference.pt")
        state = read_tensors(tmp_path / "inference.pt")
        for change in ({}, {"unet.conv_in.bias": torch.zeros(3)}, {"unknown": state.pop("unet.conv_in.bias")}):
            save_tensors(tmp_path / "inference.pt", {**state, **change})
            with pytest.raises(InputError, match="not the weights of this network"):
                load_weights(network, tmp_path / "inference.pt")
        network.encode_mask(torch.ones(1, 1, 16, 16))

    def test_weights_beyond_float16(self, tmp_path, network):
        network.unet.conv_in.weight.data[0, 0] = 1e5
        with pytest.raises(InputError, match=r"unet.conv_in.weight has values beyond float16"):
            save_inference(network, tmp_path / "inference.pt")
        assert not list(tmp_path.iterdir())
