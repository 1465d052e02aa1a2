"""Pretrained weights of other projects: kl-f8 and SD's autoencoder, TAESD, LSUN churches' U-Net."""

import math

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from safetensors.torch import load_file, save_file

from sdseg_monai.errors import InputError
from sdseg_monai.networks import (
    DenoisingUNet,
    MaskAutoencoder,
    SDSeg,
    TinyMaskAutoencoder,
    TinyVisionEncoder,
    VisionEncoder,
)
from sdseg_monai.networks.codes import class_codes, mask_to_image
from sdseg_monai.weights import first_classes, load_autoencoder, load_unet
from sdseg_monai.weights.autoencoder import take_compvis
from sdseg_monai.weights.unet import take_unet
from tests.makers import compvis
from tests.makers.places import SHARED

VAE = {"channels": 32, "mult": (1, 2), "layers": 1}
UNET = {"channels": 32, "mult": (1, 2), "layers": 1, "attend": (False, True)}
SD_UNET = {"channels": 32, "mult": (1, 2), "layers": 1, "context": 16}
TAESD = SHARED / "weights" / "taesd-fp8" / "taesd_fp8_e4m3.safetensors"


def make_sdseg(groups=32):
    return SDSeg(MaskAutoencoder([32, 64], 1, 4, groups), VisionEncoder([32, 64], 1, 4, groups), make_unet())


def make_unet(**options):
    return DenoisingUNet(8, 4, [32, 64], [False, True], 1, 8, 32, **options)


def make_tiny(levels=3, blocks=(1, 2, 1)):
    sizes = [64] * levels, list(blocks)
    return SDSeg(TinyMaskAutoencoder(*sizes), TinyVisionEncoder(*sizes), make_unet())


def write(path, state):
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state, "global_step": 1}, path)
    return path


def fails(call, match):
    with pytest.raises(InputError, match=match) as caught:
        call()
    assert "\n" not in str(caught.value)


class TestCompVisAutoencoder:
    @pytest.mark.parametrize("prefix", ["", "first_stage_model."])
    @pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
    def test_fills_the_autoencoder_as_diffusers_would(self, tmp_path, prefix, suffix):
        state = compvis.random_state(compvis.autoencoder(**VAE))
        others = {"loss.discriminator.main.0.weight": torch.zeros(2)}  # kl-f8 comes with its loss
        others |= {"model.diffusion_model.out.0.weight": torch.zeros(2)} if prefix else {}
        path = write(tmp_path / f"a{suffix}", {**{prefix + k: v for k, v in state.items()}, **others})
        network = make_sdseg()
        load_autoencoder(network, path)
        expected = convert_ldm_vae_checkpoint(state, {"down_block_types": [0] * 2, "up_block_types": [0] * 2})
        loaded = network.autoencoder.state_dict()
        assert loaded.keys() == expected.keys()
        assert all(torch.equal(loaded[name], expected[name]) for name in expected)
        trunk = network.vision_encoder.encoder.state_dict()
        assert all(torch.equal(trunk[name], expected[f"encoder.{name}"]) for name in trunk)

    def test_full_size_names_and_shapes(self):
        with torch.device("meta"):
            autoencoder = MaskAutoencoder()
            state = {name: torch.zeros(shape) for name, shape in compvis.autoencoder()}
        assert sum(t.numel() for t in take_compvis(autoencoder, state).values()) == 83_653_863

    def test_bad_files(self, tmp_path):
        state = compvis.random_state(compvis.autoencoder(**VAE))
        path = write(tmp_path / "a.ckpt", state)
        fails(lambda: load_autoencoder(make_sdseg(groups=16), path), r"other sizes, set .*'norm_num_groups': 32")
        state["decoder.conv_in.bias"] = state["decoder.conv_in.bias"] / 0
        fails(lambda: load_autoencoder(make_sdseg(), write(path, state)), "decoder.conv_in.bias has values that are")
        del state["decoder.conv_in.bias"]
        fails(lambda: load_autoencoder(make_sdseg(), write(path, state)), "decoder.conv_in.bias is missing")
        state["decoder.conv_in.bias"] = torch.zeros(3)
        fails(lambda: load_autoencoder(make_sdseg(), write(path, state)), r"decoder.conv_in.bias has shape \(3,\)")
        write(path, {"something.else": torch.zeros(1)})
        fails(lambda: load_autoencoder(make_sdseg(), path), "looks like no layout known here, expected an autoencoder")
        fails(lambda: load_autoencoder(make_sdseg(), tmp_path / "none.ckpt"), "no such file")


class TestDiffusersAutoencoder:
    @pytest.mark.parametrize("prefix", ["", "first_stage_model."])
    def test_a_single_file(self, tmp_path, prefix):
        source, network = make_sdseg(), make_sdseg()
        state = {name: torch.randn_like(tensor) for name, tensor in source.autoencoder.state_dict().items()}
        path = write(tmp_path / "a.safetensors", {prefix + name: tensor for name, tensor in state.items()})
        load_autoencoder(network, path)
        assert all(torch.equal(network.autoencoder.state_dict()[name], state[name]) for name in state)
        del state["decoder.conv_in.bias"]
        fails(lambda: load_autoencoder(network, write(path, state)), "decoder.conv_in.bias is missing")

    @pytest.fixture
    def folder(self, tmp_path):
        blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
        AutoencoderKL(block_out_channels=(32, 64), **blocks).save_pretrained(tmp_path / "vae")
        return tmp_path

    @pytest.mark.parametrize("change", ["missing", "extra", "shape", "nan", "truncated", "config"])
    def test_is_loaded_whole_or_not_at_all(self, folder, change):
        path = folder / "vae" / "diffusion_pytorch_model.safetensors"
        state = load_file(path)
        load_autoencoder(make_sdseg(), folder)
        if change == "missing":
            del state["quant_conv.bias"]
        elif change == "extra":
            state["unknown"] = torch.zeros(1)
        elif change == "shape":
            state["quant_conv.bias"] = torch.zeros(7)
        elif change == "nan":
            state["quant_conv.bias"][0] = math.nan
        save_file(state, path, metadata={"format": "pt"})
        if change == "truncated":
            path.write_bytes(path.read_bytes()[:-9])
        elif change == "config":
            (folder / "vae" / "config.json").write_text("{")
        fails(lambda: load_autoencoder(make_sdseg(), folder), r"quant_conv.bias|unknown|no autoencoder there")


class TestTaesd:
    @pytest.mark.shared
    @pytest.mark.skipif(not TAESD.is_file(), reason=f"no weights at {TAESD}; set SDSEG_SHARED")
    def test_the_real_one_in_float8(self):
        network = SDSeg(TinyMaskAutoencoder(), TinyVisionEncoder(), make_unet())
        load_autoencoder(network, TAESD)
        stored = load_file(TAESD)
        assert stored["encoder.layers.0.weight"].dtype == torch.float8_e4m3fn
        loaded = network.autoencoder.state_dict()
        assert loaded.keys() == stored.keys()
        assert all(v.dtype == torch.float32 and torch.equal(v, stored[k].float()) for k, v in loaded.items())
        assert torch.equal(network.vision_encoder.encoder.layers[0].weight, loaded["encoder.layers.0.weight"])
        axis = torch.linspace(-1, 1, 64)
        disc = (axis[:, None] ** 2 + axis**2 < 0.5).float()[None, None]
        image = (2 * disc - 1).expand(-1, 3, -1, -1)
        with torch.inference_mode():
            again = network.autoencoder.decode(network.autoencoder.encode(image).latents).sample
        assert float(((again > 0).float() - disc).abs().mean()) < 0.02

    @pytest.mark.parametrize("subfolder", ["", "vae"])
    def test_a_diffusers_folder(self, tmp_path, subfolder):
        sizes = {"num_encoder_blocks": (1, 2, 1), "num_decoder_blocks": (1, 2, 1)}
        channels = dict.fromkeys(("encoder_block_out_channels", "decoder_block_out_channels"), (64,) * 3)
        source = AutoencoderTiny(**sizes, **channels)
        source.save_pretrained(tmp_path / subfolder)
        network = make_tiny()
        load_autoencoder(network, tmp_path)
        loaded = network.autoencoder.state_dict()
        assert all(torch.equal(v, loaded[k]) for k, v in source.state_dict().items())
        fails(lambda: load_autoencoder(make_tiny(blocks=(1, 1, 1)), tmp_path), r"num_encoder_blocks.: \[1, 2, 1\]")

    def test_of_other_sizes_or_another_kind(self, tmp_path):
        path = write(tmp_path / "a.safetensors", make_tiny().autoencoder.state_dict())
        load_autoencoder(make_tiny(), path)
        fails(lambda: load_autoencoder(make_tiny(blocks=(1, 1, 1)), path), "a.safetensors: .*(shape|not part|missing)")
        fails(
            lambda: load_autoencoder(make_sdseg(), path),
            "looks like a TAESD .*expected an autoencoder of CompVis or diffusers",
        )
        write(path, compvis.random_state(compvis.autoencoder(**VAE)))
        fails(lambda: load_autoencoder(make_tiny(), path), "looks like a CompVis autoencoder .*expected TAESD")


class TestChurchesUNet:
    def make_state(self, **sizes):
        state = compvis.random_state(compvis.unet(**{**UNET, "into": 4, **sizes}), "model.diffusion_model.")
        return {**state, "model_ema.decay": torch.zeros(()), "scale_factor": torch.ones(())}

    def test_image_latent_starts_without_influence(self, tmp_path, caplog):
        state, unet = self.make_state(), make_unet()
        with caplog.at_level("INFO"):
            report = load_unet(unet, write(tmp_path / "a.ckpt", state))
        assert report.counts() == {"used": len(state) - 2, "unused": 2, "missing": 0}
        assert "2 unused" in caplog.text
        weight = unet.conv_in.weight
        assert torch.equal(weight[:, :4], state["model.diffusion_model.input_blocks.0.0.weight"])
        assert not weight[:, 4:].any() and weight.requires_grad
        latent, images, t = torch.randn(1, 4, 8, 8), torch.randn(2, 1, 4, 8, 8), torch.tensor([500])
        with torch.inference_mode():
            assert torch.equal(unet.eval().predict(latent, images[0], t), unet.predict(latent, images[1], t))

    def test_class_embedding_is_reported_missing(self, tmp_path):
        unet = make_unet(num_class_embeds=3)
        before = unet.class_embedding.weight.clone()
        report = load_unet(unet, write(tmp_path / "a.ckpt", self.make_state()))
        assert report.missing == ("class_embedding.weight",) and torch.equal(unet.class_embedding.weight, before)

    def test_full_size_names_and_shapes(self):
        shapes = dict(compvis.unet(into=4))
        assert sum(math.prod(shape) for shape in shapes.values()) == 294_966_916
        with torch.device("meta"):
            unet = DenoisingUNet()
            state = {name: torch.zeros(shape) for name, shape in shapes.items()}
        tensors, report = take_unet(unet, state)
        assert {k: v.shape for k, v in tensors.items()} == {k: v.shape for k, v in unet.state_dict().items()}
        assert report.counts() == {"used": len(shapes), "unused": 0, "missing": 0}

    def test_bad_files(self, tmp_path):
        path = tmp_path / "a.ckpt"
        for state, match in (
            (self.make_state(mult=(1, 1)), r"set network_def#unet to .*'block_out_channels': \[32, 32\]"),
            (self.make_state(into=9), "9 inputs or more"),
            (compvis.random_state(compvis.sd_unet(**SD_UNET), "model.diffusion_model."), "Stable Diffusion checkpoint"),
            (compvis.random_state(compvis.autoencoder(**VAE)), "looks like a CompVis autoencoder"),
        ):
            fails(lambda state=state: load_unet(make_unet(), write(path, state)), match)
        state = self.make_state()
        del state["model.diffusion_model.middle_block.1.qkv.weight"]
        fails(lambda: load_unet(make_unet(), write(path, state)), "middle_block.1.qkv.weight is missing")


def test_the_first_classes_of_an_autoencoder_are_encoded_and_decoded_as_among_all():
    torch.manual_seed(0)
    full, few = (MaskAutoencoder([8, 16], 1, 4, 4, num_classes=classes).eval() for classes in (9, 6))
    few.load_state_dict(first_classes(full.state_dict(), 6), strict=True)
    mask = torch.randint(6, (2, 1, 16, 16))
    image, few_image = (mask_to_image(mask, class_codes(classes)) for classes in (9, 6))
    latent = full.encode_latent(image)
    torch.testing.assert_close(few.encode_latent(few_image), latent)
    torch.testing.assert_close(few.decode(latent).sample, full.decode(latent).sample[:, :6])
