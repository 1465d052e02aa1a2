"""Folders in diffusers' form: plain diffusers loads their parts whole and computes the same, or refuses them."""

import inspect
import json

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file

from sdseg_monai.errors import InputError
from sdseg_monai.networks import (
    CrossAttentionUNet,
    DenoisingUNet,
    MaskAutoencoder,
    SDSeg,
    TinyMaskAutoencoder,
    TinyVisionEncoder,
    VisionEncoder,
)
from sdseg_monai.weights import load_autoencoder
from sdseg_monai.weights.convert import convert, load_bundle_network
from tests.makers.networks import make_network
from tests.makers.places import ROOT

BUNDLES = ROOT / "bundles"
WEIGHTS = "diffusion_pytorch_model.safetensors"
OWN_WEIGHTS = "sdseg_monai.safetensors"


def make_sdseg(**parts):
    """Return a tiny network with other parts in the place of its own, and a latent scale that is no round number."""
    torch.manual_seed(1)
    own = make_network()
    network = SDSeg(**{name: parts.get(name, getattr(own, name)) for name in ("autoencoder", "vision_encoder", "unet")})
    network.scale_factor.fill_(0.632)
    return network.eval()


def save_as_0_4_0(network, folder):
    """Write ``network`` as version 0.4.0 did: our classes' arguments beside weights under diffusers' name."""
    names = ("autoencoder", "vision_encoder", "unet")
    parts = {name: getattr(network, name) for name in names}
    options = [name for name in inspect.signature(SDSeg).parameters if name not in (*names, "schedule")]
    schedule = {name: getattr(network.schedule, name) for name in inspect.signature(type(network.schedule)).parameters}
    folder.mkdir()
    index = {
        "_class_name": "SDSeg",
        **{name: ["sdseg_monai.networks", type(part).__name__] for name, part in parts.items()},
        "options": {name: getattr(network, name) for name in options},
        "schedule": schedule,
        "scale_factor": float(network.scale_factor),
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    for name, part in parts.items():
        (folder / name).mkdir()
        arguments = {key: part.config[key] for key in inspect.signature(type(part)).parameters}
        config = {"_class_name": type(part).__name__, **arguments}
        (folder / name / "config.json").write_text(json.dumps(config))
        save_file(part.state_dict(), folder / name / WEIGHTS, metadata={"format": "pt"})


def load_plain(kind, folder):
    """Return what plain diffusers makes of a part's folder, which must account for every tensor."""
    model, info = kind.from_pretrained(folder, output_loading_info=True, local_files_only=True)
    assert type(model) is kind
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"))
    return model.eval()


def equal_states(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def assert_same_unet(plain, own, *condition):
    shape = (2, own.config.in_channels, 16, 16)
    sample, timestep = torch.randn(shape, generator=torch.Generator().manual_seed(0)), torch.tensor([3, 999])
    with torch.inference_mode():
        expected = own(sample, timestep, *condition).sample
        torch.testing.assert_close(plain(sample, timestep, *condition).sample, expected, atol=1e-6, rtol=0)
    assert float(expected.std()) > 1e-3


def assert_same_autoencoder(plain, network):
    own, generator = network.autoencoder, torch.Generator().manual_seed(0)
    image = torch.rand((2, 3, 32, 32), generator=generator) * 2 - 1
    with torch.inference_mode():
        latent = own.encode_latent(image)
        encoded = plain.encode(image)
        plain_latent = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mean
        torch.testing.assert_close(plain_latent, latent, atol=1e-6, rtol=0)
        torch.testing.assert_close(plain.decode(latent).sample, own.decode(latent).sample, atol=1e-6, rtol=0)
        torch.testing.assert_close(plain(image).sample, own(image).sample, atol=1e-6, rtol=0)
    assert plain.config.scaling_factor == float(network.scale_factor)


def assert_same_network(network, again, channels=3):
    image = torch.rand((2, channels, 64, 64), generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        assert torch.equal(network(image), again(image))
    assert equal_states(network.state_dict(), again.state_dict())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shipped") / "folder"
    convert(BUNDLES / "hippocampus_sdseg", folder, source_kind="bundle", target_kind="diffusers")
    return folder


@pytest.fixture(scope="module")
def network():
    return load_bundle_network(BUNDLES / "hippocampus_sdseg")[0]


class TestShippedBundle:
    def test_autoencoder(self, folder, network):
        assert_same_autoencoder(load_plain(diffusers.AutoencoderKL, folder / "autoencoder"), network)

    def test_unet(self, folder, network):
        plain = load_plain(diffusers.UNet2DModel, folder / "unet")
        assert_same_unet(plain, network.unet)
        assert plain.mid_block.attentions[0].heads == network.unet.mid_block.attentions[0].heads == 4

    def test_the_whole(self, folder, network):
        assert_same_network(network, SDSeg.from_pretrained(folder))

    def test_a_pipelines_parts_are_found_by_diffusers(self, folder):
        for name, kind in (("autoencoder", diffusers.AutoencoderKL), ("unet", diffusers.UNet2DModel)):
            assert type(diffusers.AutoModel.from_pretrained(str(folder), subfolder=name)) is kind


class TestPlainParts:
    def test_the_autoencoder_that_the_papers_bundle_ships(self, tmp_path):
        network = make_sdseg(
            autoencoder=MaskAutoencoder([16, 32, 64, 128], 1, 4, 8), vision_encoder=VisionEncoder([8] * 4, 1, 4, 4)
        )
        load_autoencoder(network, BUNDLES / "sdseg" / "models" / "autoencoder.pt")
        network.save_pretrained(tmp_path / "out")
        assert_same_autoencoder(load_plain(diffusers.AutoencoderKL, tmp_path / "out" / "autoencoder"), network)
        assert_same_network(network, SDSeg.from_pretrained(tmp_path / "out"))

    @pytest.mark.parametrize("decoder_channels", [None, 4])
    def test_tiny_autoencoders_with_other_numbers_of_layers(self, tmp_path, decoder_channels):
        """diffusers' class has arguments for them, so that their folders need no class of ours."""
        network = make_sdseg(
            autoencoder=TinyMaskAutoencoder([8, 8, 8], [2, 1, 4], decoder_channels=decoder_channels),
            vision_encoder=TinyVisionEncoder([8, 8, 8], [1, 1, 2]),
        )
        network.save_pretrained(tmp_path / "out")
        assert_same_autoencoder(load_plain(diffusers.AutoencoderTiny, tmp_path / "out" / "autoencoder"), network)
        again = SDSeg.from_pretrained(tmp_path / "out")
        assert again.autoencoder.config.decoder_channels == decoder_channels
        assert_same_network(network, again)

    @pytest.mark.parametrize(
        ("channels", "levels", "num_heads", "options"),
        [
            ([16, 32], [False, True], 4, {}),
            ([16, 32], [False, False], 2, {}),  # the middle alone
            ([32, 32, 32], [True, False, True], 8, {"dropout": 0.2}),
            ([16, 32], [True, True], 1, {}),  # one head each, of as many channels as there are
            ([16, 32], [False, True], 4, {"num_class_embeds": 3}),
        ],
    )
    def test_unets(self, tmp_path, channels, levels, num_heads, options):
        network = make_sdseg(unet=DenoisingUNet(8, 4, channels, levels, 1, num_heads, 8, **options))
        network.save_pretrained(tmp_path / "out")
        plain = load_plain(diffusers.UNet2DModel, tmp_path / "out" / "unet")
        assert plain.mid_block.attentions[0].heads == num_heads
        condition = [torch.tensor([0, 2])] if "num_class_embeds" in options else []
        assert_same_unet(plain, network.unet, *condition)
        again = SDSeg.from_pretrained(tmp_path / "out")
        for name in inspect.signature(DenoisingUNet).parameters:
            assert again.unet.config[name] == network.unet.config[name], name
        assert_same_network(network, again)

    def test_the_cross_attention_baseline(self, tmp_path):
        network = make_sdseg(unet=CrossAttentionUNet(4, 4, 4, [16, 32], [True, True], 1, 4, 8, 0.1))
        network.save_pretrained(tmp_path / "out")
        plain = load_plain(diffusers.UNet2DConditionModel, tmp_path / "out" / "unet")
        assert_same_unet(plain, network.unet, torch.randn(2, 5, 4))
        again = SDSeg.from_pretrained(tmp_path / "out")
        assert again.unet.config.num_heads == 4 and again.unet.config.dropout == 0.1
        assert_same_network(network, again)


class TestPartsOfOurOwn:
    """diffusers would fill a class of its own with the tensors it knows, and draw the rest at random."""

    @pytest.mark.parametrize(
        ("name", "part", "kinds"),
        [
            ("autoencoder", lambda: MaskAutoencoder([8, 16, 16], 1, 4, 4, decoder_channels=8),
             (diffusers.AutoencoderKL, diffusers.AutoencoderTiny)),
            ("vision_encoder", lambda: VisionEncoder([8, 16, 16], 1, 4, 4), (diffusers.AutoencoderKL,)),
            ("vision_encoder", lambda: TinyVisionEncoder([8, 8, 8], [1, 1, 2]), (diffusers.AutoencoderTiny,)),
            ("unet", lambda: DenoisingUNet(8, 4, [16, 32], [True, True], 1, 4, 8), (diffusers.UNet2DModel,)),
        ],
    )  # fmt: skip
    def test_are_refused_by_diffusers_and_loaded_here(self, tmp_path, name, part, kinds):
        network = make_sdseg(**{name: part()})
        network.save_pretrained(tmp_path / "out")
        folder = tmp_path / "out" / name
        assert sorted(path.name for path in folder.iterdir()) == ["config.json", OWN_WEIGHTS]
        own = type(getattr(network, name)).__name__
        assert json.loads((folder / "config.json").read_text())["_class_name"] == own
        assert json.loads((tmp_path / "out" / "model_index.json").read_text())[name] == ["sdseg_monai.networks", own]
        for kind in kinds:
            with pytest.raises(OSError, match="no file named"):
                kind.from_pretrained(folder, local_files_only=True)
        with pytest.raises(ValueError, match=own):
            diffusers.AutoModel.from_pretrained(str(folder), local_files_only=True)
        assert_same_network(network, SDSeg.from_pretrained(tmp_path / "out"))


class TestReading:
    @pytest.mark.parametrize(
        "parts",
        [
            {},
            {"unet": DenoisingUNet(8, 4, [16, 32], [True, True], 1, 4, 8)},
            {"autoencoder": MaskAutoencoder([8, 16, 16], 1, 4, 4, decoder_channels=8)},
            {"autoencoder": TinyMaskAutoencoder([8, 8, 8], [1, 2, 1], decoder_channels=4)},
            {"unet": CrossAttentionUNet(4, 4, 4, [16, 32], [False, True], 1, 4, 8)},
        ],
        ids=["plain", "heads", "distilled", "tiny", "cross-attention"],
    )
    def test_folders_of_0_4_0(self, tmp_path, parts):
        network = make_sdseg(**parts)
        save_as_0_4_0(network, tmp_path / "old")
        assert_same_network(network, SDSeg.from_pretrained(tmp_path / "old"))

    def test_scores_of_several_classes_are_the_same_bits(self, tmp_path):
        network = make_network(num_classes=3, prediction_type="sample", start_noise="zeros").eval()
        network.save_pretrained(tmp_path / "out")
        assert_same_network(network, SDSeg.from_pretrained(tmp_path / "out"))

    @pytest.mark.parametrize(
        ("part", "key", "value", "match"),
        [
            ("autoencoder", "scaling_factor", 0.18215, "scaling_factor is 0.18215, expected 0.63"),
            ("autoencoder", "act_fn", "relu", "act_fn is relu"),
            ("autoencoder", "mid_block_add_attention", False, "mid_block_add_attention is False"),
            ("unet", "center_input_sample", True, "center_input_sample is True"),
            ("unet", "flip_sin_to_cos", False, "flip_sin_to_cos is False"),
            ("unet", "up_block_types", ["AttnUpBlock2D"] * 2, "up_block_types is"),
            ("unet", "_class_name", "UNet2DConditionModel", "is of a UNet2DConditionModel, expected UNet2DModel"),
        ],
    )
    def test_what_our_class_cannot_compute_is_refused_though_every_shape_fits(self, tmp_path, part, key, value, match):
        make_sdseg().save_pretrained(tmp_path / "out")
        path = tmp_path / "out" / part / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
        with pytest.raises(InputError, match=match) as caught:
            SDSeg.from_pretrained(tmp_path / "out")
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("change", ["missing", "extra", "nan"])
    def test_every_tensor_is_accounted_for(self, tmp_path, change):
        make_sdseg().save_pretrained(tmp_path / "out")
        path = tmp_path / "out" / "vision_encoder" / OWN_WEIGHTS
        state = load_file(path)
        if change == "missing":
            del state["out.bias"]
        elif change == "extra":
            state["out.unknown"] = torch.zeros(1)
        else:
            state["out.bias"][0] = float("nan")
        save_file(state, path)
        with pytest.raises(InputError, match=r"out.(bias is missing|unknown is not part|bias has values)"):
            SDSeg.from_pretrained(tmp_path / "out")


class TestForward:
    def test_an_autoencoders_is_diffusers(self):
        network = make_sdseg()
        plain = diffusers.AutoencoderKL(
            **{name: network.autoencoder.config[name] for name in inspect.signature(diffusers.AutoencoderKL).parameters}
        ).eval()
        plain.load_state_dict(network.autoencoder.state_dict())
        image = torch.rand(2, 3, 16, 16) * 2 - 1
        for options in ({}, {"return_dict": False}, {"sample_posterior": True}):
            outputs = [
                model(image, **options, generator=torch.Generator().manual_seed(3))
                for model in (network.autoencoder, plain)
            ]
            assert type(outputs[0]) is type(outputs[1])
            assert torch.equal(outputs[0][0], outputs[1][0])

    def test_seeds_make_it_a_training_step(self):
        autoencoder = make_sdseg().autoencoder
        image, seeds = torch.rand(2, 3, 16, 16) * 2 - 1, torch.tensor([1, 2])
        output, single = autoencoder(image, seeds=seeds), autoencoder(image[1:], seeds=seeds[1:])
        torch.testing.assert_close(output.reconstruction[1:], single.reconstruction)
        assert not torch.equal(output.reconstruction, autoencoder(image).sample)
