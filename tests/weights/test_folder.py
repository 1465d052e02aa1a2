"""Networks are written to folders and read again."""

import inspect
import json

import pytest
import torch

from sdseg_monai.errors import InputError
from sdseg_monai.networks import CrossAttentionUNet, SDSeg, TinyMaskAutoencoder, TinyVisionEncoder
from sdseg_monai.schedule import NoiseSchedule
from sdseg_monai.weights import (
    drop_mask_encoder,
    load_diffusers_folder,
    load_official,
    save_diffusers_folder,
)
from tests.makers.compvis import tiny_official
from tests.makers.networks import make_network
from tests.weights.conversions import equal_states


class TestFolder:
    def test_comes_back_equal(self, tmp_path):
        network = make_network(
            schedule=NoiseSchedule(250, 0.00085, 0.012), prediction_type="v_prediction", start_noise="zeros", seed=3
        )
        network.scale_factor.fill_(0.1147)
        save_diffusers_folder(network, tmp_path / "out")
        loaded = load_diffusers_folder(tmp_path / "out")
        assert equal_states(network.state_dict(), loaded.state_dict()) and not loaded.training
        for name in inspect.signature(SDSeg).parameters:
            if name not in ("autoencoder", "vision_encoder", "unet", "schedule"):
                assert getattr(network, name) == getattr(loaded, name), name
        image = torch.randn(1, 3, 16, 16)
        with torch.inference_mode():
            assert torch.equal(network.eval()(image), loaded(image))
        assert not any(p.requires_grad for p in loaded.autoencoder.parameters())
        assert all(p.requires_grad for p in loaded.unet.parameters())

    def test_of_an_official_checkpoint(self, tmp_path, official):
        save_diffusers_folder(official, tmp_path / "out")
        loaded = load_diffusers_folder(tmp_path / "out")
        assert equal_states(official.state_dict(), loaded.state_dict())
        assert loaded.unet.mid_block.attentions[0].heads == 8
        assert torch.equal(official.schedule.sqrt_alphas_cumprod, loaded.schedule.sqrt_alphas_cumprod)
        assert sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.*")) == sorted(
            ["model_index.json", "vision_encoder/sdseg_monai.safetensors"]
            + [f"{p}/diffusion_pytorch_model.safetensors" for p in ("autoencoder", "unet")]
            + [f"{p}/config.json" for p in ("autoencoder", "unet", "vision_encoder")]
        )  # fmt: skip

    def test_of_tiny_autoencoders(self, tmp_path):
        parts = TinyMaskAutoencoder([8, 8, 8], [1, 2, 1]), TinyVisionEncoder([8, 8, 8], [1, 1, 2])
        network = SDSeg(*parts, make_network().unet)
        network.scale_factor.fill_(1)
        save_diffusers_folder(network, tmp_path / "out")
        assert equal_states(network.state_dict(), load_diffusers_folder(tmp_path / "out").state_dict())

    def test_of_a_class_conditional_network(self, tmp_path):
        torch.save({"state_dict": tiny_official(classes=3)}, tmp_path / "a.ckpt")
        network = load_official(tmp_path / "a.ckpt")
        save_diffusers_folder(network, tmp_path / "out")
        loaded = load_diffusers_folder(tmp_path / "out")
        assert loaded.num_classes == 3 and equal_states(network.state_dict(), loaded.state_dict())

    @pytest.mark.parametrize("num_classes", [2, 3, 14])
    def test_keeps_the_classes_and_their_codes(self, tmp_path, num_classes):
        options = {"train_decoder": True, "train_timesteps": "last", "num_classes": num_classes}
        network = make_network(**options).eval()
        save_diffusers_folder(network, tmp_path / "out")
        loaded = load_diffusers_folder(tmp_path / "out")
        assert {name: getattr(loaded, name) for name in options} == options
        assert equal_states(network.state_dict(), loaded.state_dict())
        assert torch.equal(loaded.class_codes, network.class_codes)  # of two classes it is in no state dict
        image, mask = torch.randn(1, 3, 16, 16), torch.ones(1, 1, 16, 16)
        with torch.inference_mode():
            assert torch.equal(network(image), loaded(image))
            assert torch.equal(network.encode_mask(mask), loaded.encode_mask(mask))
            steps = [n(image, mask=mask, seeds=torch.tensor([1])) for n in (network, loaded)]
            assert torch.equal(*(step.latent_pred for step in steps))

    def test_of_more_classes_than_there_are_codes(self, tmp_path, network):
        save_diffusers_folder(network, tmp_path / "out")
        index = json.loads((tmp_path / "out" / "model_index.json").read_text())
        index["options"]["num_classes"] = 129
        (tmp_path / "out" / "model_index.json").write_text(json.dumps(index))
        with pytest.raises(InputError, match="expected 2 to 128"):
            load_diffusers_folder(tmp_path / "out")

    def test_of_the_cross_attention_baseline(self, tmp_path):
        network = make_network()
        unet = CrossAttentionUNet(4, 4, 4, [16, 32], [False, True], 1, num_heads=4, norm_num_groups=8)
        network = SDSeg(network.autoencoder, network.vision_encoder, unet)
        network.scale_factor.fill_(1)
        save_diffusers_folder(network, tmp_path / "out")
        assert equal_states(network.state_dict(), load_diffusers_folder(tmp_path / "out").state_dict())

    def test_a_network_whose_latent_scale_was_not_measured(self, tmp_path, network):
        network.scale_factor.fill_(float("nan"))
        with pytest.raises(InputError, match="scale_factor is nan"):
            save_diffusers_folder(network, tmp_path / "out")

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            ("no index", "model_index.json: cannot be read"),
            ("no config", "config.json: cannot be read"),
            ("text", "config.json: cannot be read"),
            ("list", "holds a list"),
            ("class", "unet is a Linear, expected DenoisingUNet"),
            ("option", "not the index of an SDSeg"),
            ("size", "not the arguments of DenoisingUNet"),
            ("unknown", "not the arguments of DenoisingUNet"),
            ("scale", "scale_factor is nan"),
            ("schedule", "no noise schedule"),
            ("no weights", "no such file"),
            ("truncated", "not a readable safetensors file"),
            ("other sizes", "has shape|missing|not part"),
        ],
    )
    def test_damaged(self, tmp_path, network, change, match):
        folder = tmp_path / "out"
        save_diffusers_folder(network, folder)
        index, config = json.loads((folder / "model_index.json").read_text()), folder / "unet" / "config.json"
        weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
        options = json.loads(config.read_text())
        if change == "no index":
            (folder / "model_index.json").unlink()
        elif change == "no config":
            config.unlink()
        elif change in ("text", "list"):
            config.write_text("[]" if change == "list" else "{")
        elif change == "no weights":
            weights.unlink()
        elif change == "truncated":
            weights.write_bytes(weights.read_bytes()[:-100])
        else:
            index["unet"] = ["torch.nn", "Linear"] if change == "class" else index["unet"]
            index["options"]["prediction_type"] = "x" if change == "option" else "epsilon"
            index["schedule"]["beta_end"] = 2.0 if change == "schedule" else index["schedule"]["beta_end"]
            index["scale_factor"] = float("nan") if change == "scale" else 0.5
            (folder / "model_index.json").write_text(json.dumps(index))
            options["attention_head_dim"] = 3 if change == "size" else options["attention_head_dim"]
            options["layers_per_block"] = 2 if change == "other sizes" else 1
            options |= {"colour": 1} if change == "unknown" else {}
            config.write_text(json.dumps(options))
        with pytest.raises(InputError, match=match) as caught:
            load_diffusers_folder(folder)
        assert "\n" not in str(caught.value)

    def test_does_not_replace_a_folder(self, tmp_path, network):
        (tmp_path / "out").mkdir()
        save_diffusers_folder(network, tmp_path / "out")  # an empty one is as good as none
        with pytest.raises(InputError, match="exists"):
            save_diffusers_folder(network, tmp_path / "out")

    def test_nothing_is_left_of_a_failure(self, tmp_path, network, official):
        drop_mask_encoder(official)
        with pytest.raises(InputError, match="no mask encoder"):
            save_diffusers_folder(official, tmp_path / "out")
        (tmp_path / "file").write_text("")
        with pytest.raises(InputError, match="cannot be written"):
            save_diffusers_folder(network, tmp_path / "file" / "out")
        (tmp_path / "file").unlink()
        network.unet = torch.nn.Identity()  # the last part cannot be written
        with pytest.raises(AttributeError):
            save_diffusers_folder(network, tmp_path / "out")
        assert [p.name for p in tmp_path.iterdir()] == ["a.ckpt"]

    def test_any_schedule_is_kept(self, tmp_path, official):
        official.schedule = NoiseSchedule(50, 0.0001, 0.0212345678)
        save_diffusers_folder(official, tmp_path / "folder")
        again = load_diffusers_folder(tmp_path / "folder").schedule
        assert torch.equal(again.sqrt_alphas_cumprod, official.schedule.sqrt_alphas_cumprod)
