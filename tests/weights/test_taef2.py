"""TAEF2, the tiny autoencoder that may ship: the tensors of its author's file, and what his code computes with them."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from sdseg_monai.errors import InputError
from sdseg_monai.networks import SDSeg, TinyMaskAutoencoder, TinyVisionEncoder
from sdseg_monai.weights import fill_autoencoder, load_autoencoder, load_vision_encoder, save_tensors
from tests.makers.networks import make_network
from tests.makers.places import SHARED

SIZES = {"block_out_channels": [8, 8, 8], "num_blocks": [1, 1, 2], "latent_channels": 4, "pool": True}


def authors_names(network):
    """Return the state of a tiny autoencoder under the names of madebyollin/taesd."""
    state = {}
    for name, tensor in network.state_dict().items():
        part, _, index, rest = name.split(".", 3)
        state[f"{part}.{int(index) + (1 if part == 'decoder' else 0)}.{rest}"] = tensor
    return state


def test_it_computes_what_the_authors_code_does():
    folder = SHARED / "weights" / "taef2"
    if not folder.is_dir():
        pytest.skip(f"no weights at {folder}; set SDSEG_SHARED")
    network = TinyMaskAutoencoder(latent_channels=32, pool=True).eval()
    fill_autoencoder(network, folder / "taef2_fp16.safetensors")
    expected = load_file(folder / "expected.safetensors")
    with torch.no_grad():
        latent = network.encode_latent(2 * expected["image"] - 1)
        decoded = network.decode(expected["latent"]).sample
    torch.testing.assert_close(latent, expected["latent"], atol=1e-5, rtol=0)
    torch.testing.assert_close((decoded + 1) / 2, expected["decoded"], atol=1e-5, rtol=0)


def test_every_tensor_is_read_and_a_missing_extra_or_other_one_is_refused(tmp_path):
    torch.manual_seed(0)
    source, network = TinyMaskAutoencoder(**SIZES), TinyMaskAutoencoder(**SIZES)
    state, path = authors_names(source), tmp_path / "tiny.safetensors"
    save_file(state, path)
    fill_autoencoder(network, path)
    assert all(torch.equal(tensor, network.state_dict()[name]) for name, tensor in source.state_dict().items())
    assert sum(".pool." in name for name in network.state_dict()) == 2 * 2 * 4
    last = "decoder.1.bias"
    for changed in (
        {name: tensor for name, tensor in state.items() if name != last},
        {**state, "decoder.99.weight": torch.zeros(1)},
        {**state, last: torch.zeros(3)},
    ):
        save_file(changed, path)
        with pytest.raises(InputError, match=r"tiny\.safetensors"):
            fill_autoencoder(network, path)
    save_file(state, path)
    with pytest.raises(InputError, match=r"tiny\.safetensors"):  # without the branch
        fill_autoencoder(TinyMaskAutoencoder(**{**SIZES, "pool": False}), path)


def test_its_encoder_starts_the_vision_encoder_beside_another_mask_autoencoder(tmp_path):
    torch.manual_seed(0)
    source, parts = TinyMaskAutoencoder(**SIZES), make_network()
    save_file(authors_names(source), tmp_path / "tiny.safetensors")
    network = SDSeg(parts.autoencoder, TinyVisionEncoder(**SIZES), parts.unet)
    load_vision_encoder(network, tmp_path / "tiny.safetensors")
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(network.encode_image(image), source.encode_latent(image))
    with pytest.raises(InputError, match="network_def#vision_encoder is a VisionEncoder"):
        load_vision_encoder(parts, tmp_path / "tiny.safetensors")


def test_it_may_be_frozen_beside_another_mask_autoencoder(tmp_path):
    parts = make_network()
    save_tensors(tmp_path / "autoencoder.pt", parts.autoencoder.state_dict())
    save_file(authors_names(TinyMaskAutoencoder(**SIZES)), tmp_path / "tiny.safetensors")
    network = SDSeg(parts.autoencoder, TinyVisionEncoder(**SIZES), parts.unet, train_vision_encoder=False)
    with pytest.raises(InputError, match="the vision encoder is frozen but has other sizes"):
        load_autoencoder(network, tmp_path / "autoencoder.pt")
    load_autoencoder(network, tmp_path / "autoencoder.pt", start_vision_encoder=False)
    load_vision_encoder(network, tmp_path / "tiny.safetensors")


def test_the_branch_sees_the_whole_picture():
    torch.manual_seed(0)
    image = torch.zeros(1, 3, 64, 64)
    changed = image.clone()
    changed[..., :8, :8] = 1
    for pool in (False, True):
        encoder = TinyVisionEncoder(**{**SIZES, "pool": pool}).eval()
        with torch.no_grad():
            difference = (encoder(changed) - encoder(image))[..., -1, -1].abs().max()
        assert (difference > 0) == pool
