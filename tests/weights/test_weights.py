import os
import pickle

import pytest
import torch
from diffusers import AutoencoderKL

from sdseg_monai.errors import InputError
from sdseg_monai.networks import DecoderDistillation, DenoisingUNet, MaskAutoencoder, SDSeg, VisionEncoder
from sdseg_monai.weights import load_autoencoder, load_teacher, load_weights, read_tensors, save_tensors
from tests.makers.networks import make_network
from tests.makers.places import ROOT

BINARY = ROOT / "bundles" / "sdseg" / "models" / "autoencoder.pt", ([16, 32, 64, 128], 1, 4, 8)
THREE_CLASSES = ROOT / "bundles" / "hippocampus_sdseg" / "models" / "autoencoder.pt", ([8, 16, 32], 1, 4, 4)


def same_sized():
    return SDSeg(
        MaskAutoencoder([8, 16], 1, 4, 4), VisionEncoder([8, 16], 1, 4, 4), DenoisingUNet(8, 4, [16], [True], 1, 4, 8)
    )


def equal_states(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_weights_round_trip_strictly(tmp_path, network):
    save_tensors(tmp_path / "model.pt", network.state_dict())
    other_network = make_network()
    torch.nn.init.normal_(other_network.unet.conv_in.weight)
    load_weights(other_network, tmp_path / "model.pt")
    assert equal_states(other_network.state_dict(), network.state_dict())


def test_float16_file_fills_a_float32_network(tmp_path, network):
    half = {k: v.half() for k, v in network.state_dict().items()}
    save_tensors(tmp_path / "model.pt", half)
    load_weights(network, tmp_path / "model.pt")
    assert all(v.dtype == torch.float32 for v in network.state_dict().values())


@pytest.mark.parametrize("change", ["missing", "extra", "shape"])
def test_any_mismatch_is_an_error(tmp_path, network, change):
    state = dict(network.state_dict())
    if change == "missing":
        del state["scale_factor"]
    elif change == "extra":
        state["unknown"] = torch.zeros(1)
    else:
        state["unet.conv_out.bias"] = torch.zeros(7)
    save_tensors(tmp_path / "model.pt", state)
    with pytest.raises(InputError, match="not the weights of this network"):
        load_weights(network, tmp_path / "model.pt")


@pytest.mark.parametrize("change", ["nan", "scale", "integer", "names", "flip"])
def test_unusable_tensors_are_refused(tmp_path, network, change):
    state = dict(network.state_dict())
    if change == "nan":
        state["unet.conv_out.bias"] = torch.full((4,), float("nan"))
    elif change == "scale":
        state["scale_factor"] = torch.tensor(0.0)
    elif change == "integer":
        state["unet.conv_out.bias"] = torch.zeros(4, dtype=torch.int64)
    elif change == "names":
        state = {1: torch.zeros(1)}
    save_tensors(tmp_path / "model.pt", state)
    if change == "flip":
        data = bytearray((tmp_path / "model.pt").read_bytes())
        data[len(data) // 2] ^= 4
        (tmp_path / "model.pt").write_bytes(data)
    with pytest.raises(InputError, match=r"no tensor of finite numbers|not a file of plain tensors"):
        load_weights(network, tmp_path / "model.pt")


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_nothing_in_a_file_is_executed(tmp_path):
    torch.save({"unet.conv_in.weight": Payload(tmp_path / "executed")}, tmp_path / "model.pt")
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(Payload(tmp_path / "executed")))
    for name in ("model.pt", "raw.pt"):
        with pytest.raises(InputError, match="not a file of plain tensors"):
            read_tensors(tmp_path / name)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("content", [b"", b"text", None])
def test_files_that_are_no_weights(tmp_path, content):
    if content is not None:
        (tmp_path / "model.pt").write_bytes(content)
    with pytest.raises(InputError, match=r"no such file|not a file of plain tensors"):
        read_tensors(tmp_path / "model.pt")


def test_a_truncated_file_is_refused(tmp_path, network):
    save_tensors(tmp_path / "model.pt", network.state_dict())
    data = (tmp_path / "model.pt").read_bytes()
    (tmp_path / "model.pt").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match="not a file of plain tensors"):
        read_tensors(tmp_path / "model.pt")


def test_autoencoder_from_our_own_file_also_starts_the_vision_encoder(tmp_path):
    source, network = same_sized(), same_sized()
    save_tensors(tmp_path / "autoencoder.pt", source.autoencoder.state_dict())
    load_autoencoder(network, tmp_path / "autoencoder.pt")
    assert equal_states(network.autoencoder.state_dict(), source.autoencoder.state_dict())
    assert equal_states(network.vision_encoder.encoder.state_dict(), source.autoencoder.encoder.state_dict())


def test_vision_encoder_of_other_sizes_keeps_its_start(tmp_path):
    network = make_network()
    network.vision_encoder = VisionEncoder([4, 8, 8], 1, 4, 4)
    before = {k: v.clone() for k, v in network.vision_encoder.state_dict().items()}
    save_tensors(tmp_path / "autoencoder.pt", make_network().autoencoder.state_dict())
    load_autoencoder(network, tmp_path / "autoencoder.pt")
    assert equal_states(network.vision_encoder.state_dict(), before)


@pytest.mark.parametrize("subfolder", ["", "vae"])
def test_autoencoder_from_a_diffusers_folder(tmp_path, subfolder):
    torch.manual_seed(3)
    vae = AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
    )
    vae.save_pretrained(tmp_path / subfolder)
    network = same_sized()
    load_autoencoder(network, str(tmp_path))
    image = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(
            network.autoencoder.encode(image).latent_dist.mean, vae.encode(image).latent_dist.mean
        )
        latent = torch.randn(1, 4, 8, 8)
        torch.testing.assert_close(network.autoencoder.decode(latent).sample, vae.decode(latent).sample)


def test_autoencoder_of_other_sizes_says_which_to_set(tmp_path):
    AutoencoderKL(block_out_channels=(8,), norm_num_groups=4).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"set network_def#autoencoder to .*block_out_channels"):
        load_autoencoder(same_sized(), str(tmp_path))


def test_autoencoder_with_other_groups_is_refused_though_every_shape_fits(tmp_path):
    AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=8,
    ).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"'norm_num_groups': 8"):
        load_autoencoder(same_sized(), str(tmp_path))


def test_no_autoencoder_weights_is_an_error_and_random_must_be_asked_for(tmp_path, caplog):
    with pytest.raises(InputError, match="no such file"):
        load_autoencoder(same_sized(), tmp_path / "autoencoder.pt")
    with pytest.raises(InputError, match="no autoencoder there"):
        load_autoencoder(same_sized(), str(tmp_path))
    network = same_sized()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    load_autoencoder(network, "random")
    assert torch.equal(before["autoencoder.encoder.conv_in.weight"], network.autoencoder.encoder.conv_in.weight)
    assert "random mask autoencoder" in caplog.text


def with_autoencoder(sizes, num_classes, num_class_embeds=None):
    unet = DenoisingUNet(8, 4, [16], [True], 1, 4, 8, num_class_embeds=num_class_embeds)
    return SDSeg(MaskAutoencoder(*sizes), VisionEncoder(*sizes), unet, num_classes=num_classes)


@pytest.mark.parametrize(
    ("shipped", "num_classes", "unknown"),
    [(BINARY, 2, None), (BINARY, 3, 1), (THREE_CLASSES, 3, None), (THREE_CLASSES, 4, 3)],
)
def test_an_autoencoder_must_know_the_codes_of_the_classes(shipped, num_classes, unknown):
    (path, sizes), network = shipped, with_autoencoder(shipped[1], num_classes)
    pair = DecoderDistillation(MaskAutoencoder(*sizes, decoder_channels=8))
    if unknown is None:
        load_autoencoder(network, path)
        load_teacher(pair, path, num_classes)
        assert equal_states(network.autoencoder.state_dict(), pair.teacher.state_dict())
        return
    expected = (
        rf"autoencoder\.pt: does not know the codes of {num_classes} classes \(class {unknown} comes back as "
        rf"[^{unknown}]\); train it with train_autoencoder\.json --num_classes {num_classes}"
    )
    with pytest.raises(InputError, match=expected):
        load_autoencoder(network, path)
    with pytest.raises(InputError, match=expected):
        load_teacher(pair, path, num_classes)


def test_one_pass_per_class_needs_no_codes_and_random_knows_none():
    load_autoencoder(with_autoencoder(BINARY[1], 3, num_class_embeds=3), BINARY[0])
    load_autoencoder(with_autoencoder(BINARY[1], 3), "random")
