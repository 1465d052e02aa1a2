"""A distilled decoder in place of an autoencoder's own."""

import inspect
import json

import pytest
import torch

from sdseg_monai.errors import InputError
from sdseg_monai.networks import SDSeg, TinyMaskAutoencoder, TinyVisionEncoder
from sdseg_monai.weights import (
    load_diffusers_folder,
    load_weights,
    read_checkpoint,
    read_tensors,
    replace_mask_decoder,
    save_diffusers_folder,
    save_tensors,
)
from sdseg_monai.weights.files import save_inference
from tests.makers.networks import make_network
from tests.weights.conversions import equal_states, run, tensors_of


def distilled(network, channels=8):
    """Return an autoencoder with the encoder of ``network``'s and a distilled decoder with random weights."""
    old = network.autoencoder
    sizes = {name: old.config[name] for name in inspect.signature(type(old)).parameters}
    new = type(old)(**{**sizes, "decoder_channels": channels})
    new.encoder.load_state_dict(old.encoder.state_dict())
    if hasattr(old, "quant_conv"):
        new.quant_conv.load_state_dict(old.quant_conv.state_dict())
    return new


class TestMaskDecoder:
    @pytest.fixture
    def file(self, official, tmp_path):
        save_tensors(tmp_path / "mask_decoder.pt", distilled(official).state_dict())
        return tmp_path / "mask_decoder.pt"

    def test_replaces_the_decoder_and_nothing_else(self, official, file):
        before = {name: tensor.clone() for name, tensor in official.state_dict().items()}
        count = replace_mask_decoder(official, file)
        after, new = official.state_dict(), read_tensors(file)
        old = {name for name in before if name.startswith(("autoencoder.decoder.", "autoencoder.post_quant_conv."))}
        assert count == len(old)
        assert equal_states({k: v for k, v in before.items() if k not in old},
                            {k: v for k, v in after.items() if not k.startswith("autoencoder.decoder.")})  # fmt: skip
        assert all(torch.equal(after[f"autoencoder.{name}"], tensor) for name, tensor in new.items())
        assert not any(p.requires_grad for p in official.autoencoder.parameters())
        assert not official.autoencoder.training
        with torch.inference_mode():
            assert official(torch.randn(1, 3, 16, 16)).shape == (1, 1, 16, 16)
        replace_mask_decoder(official, file)  # again, in its own place
        assert equal_states(after, official.state_dict())

    def test_of_tiny_autoencoders(self, tmp_path):
        parts = TinyMaskAutoencoder([8, 8, 8], [1, 2, 1]), TinyVisionEncoder([8, 8, 8], [1, 1, 2])
        network = SDSeg(*parts, make_network().unet, train_decoder=True)
        network.scale_factor.fill_(1)
        save_tensors(tmp_path / "d.pt", distilled(network, 4).state_dict())
        replace_mask_decoder(network, tmp_path / "d.pt")
        assert all(p.requires_grad for p in network.autoencoder.decoder.parameters())
        save_diffusers_folder(network, tmp_path / "out")
        loaded = load_diffusers_folder(tmp_path / "out")
        assert loaded.autoencoder.config.decoder_channels == 4
        assert equal_states(network.state_dict(), loaded.state_dict())

    def test_goes_with_the_network_wherever_it_goes(self, official, file, tmp_path):
        replace_mask_decoder(official, file)
        save_diffusers_folder(official, tmp_path / "out")
        loaded = load_diffusers_folder(tmp_path / "out")
        assert equal_states(official.state_dict(), loaded.state_dict())
        save_inference(official, tmp_path / "inference.pt")
        load_weights(loaded, tmp_path / "inference.pt")
        image = torch.randn(1, 3, 16, 16)
        with torch.inference_mode():
            torch.testing.assert_close(loaded(image), official(image), atol=0.02, rtol=0)
        with pytest.raises(InputError, match="an inference export"):
            replace_mask_decoder(loaded, file)

    def test_of_another_autoencoder(self, official, file, tmp_path):
        before = official.autoencoder
        state = read_tensors(file)
        name = next(name for name in state if name.startswith("encoder."))
        changed_state = {**state, name: state[name].clone()}
        changed_state[name].view(-1)[0] = torch.nextafter(state[name].view(-1)[0], torch.tensor(9.0))  # by one bit
        without = {k: v for k, v in state.items() if not k.startswith("decoder.")}
        short = {k: v for k, v in state.items() if k != name}
        for wrong, match in (
            (changed_state, "the decoder of another autoencoder"),
            (without, "no distilled decoder"),
            (before.state_dict(), "no distilled decoder"),
            (short, "not the weights of this network"),
        ):
            save_tensors(tmp_path / "wrong.pt", wrong)
            with pytest.raises(InputError, match=match) as caught:
                replace_mask_decoder(official, tmp_path / "wrong.pt")
            assert "\n" not in str(caught.value) and official.autoencoder is before

    def test_command(self, checkpoint, official, file, tmp_path, capsys):
        arguments = (checkpoint, "--from", "official", "--mask-decoder", file, "-o")
        code, out, _ = run(capsys, *arguments, tmp_path / "model.pt", "--to", "bundle")
        report = json.loads(out)
        assert code == 0 and report["network_def"]["autoencoder"]["decoder_channels"] == 8
        assert report["unused"] > 0 and report["used"] + report["unused"] == len(read_checkpoint(checkpoint))
        replace_mask_decoder(official, file)
        assert equal_states(tensors_of(tmp_path / "model.pt"), official.state_dict())
        code, out, _ = run(capsys, *arguments, tmp_path / "inference.pt", "--to", "inference")
        assert code == 0 and json.loads(out)["bytes"] < report["bytes"]
        save_tensors(file, official.unet.state_dict())
        code, out, err = run(capsys, *arguments, tmp_path / "o.pt", "--to", "bundle")
        assert (code, out, err.count("\n")) == (2, "", 1) and "no distilled decoder" in err
        assert not (tmp_path / "o.pt").exists()
