"""Networks out to files and folders and back, and ``sdseg convert``."""

import inspect
import json

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow

from sdseg_monai.cli import main
from sdseg_monai.errors import InputError
from sdseg_monai.inference.segmenter import Segmenter
from sdseg_monai.networks import CrossAttentionUNet, SDSeg, TinyMaskAutoencoder, TinyVisionEncoder
from sdseg_monai.schedule import NoiseSchedule
from sdseg_monai.weights import (
    drop_mask_encoder,
    load_diffusers_folder,
    load_official,
    load_weights,
    read_checkpoint,
    read_tensors,
    replace_mask_decoder,
    save_diffusers_folder,
    save_tensors,
)
from sdseg_monai.weights.convert import SOURCE_KINDS, TARGET_KINDS, load_bundle_network
from sdseg_monai.weights.files import save_inference
from tests.compvis import size_of, tiny_official
from tests.conftest import ROOT, make_network, write_case

HIPPOCAMPUS = ROOT / "bundles" / "hippocampus_sdseg"


def equal_states(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture
def checkpoint(tmp_path):
    torch.save({"state_dict": tiny_official()}, tmp_path / "a.ckpt")
    return tmp_path / "a.ckpt"


@pytest.fixture
def official(checkpoint):
    return load_official(checkpoint)


def run(capsys, *arguments):
    """Return (exit code, stdout, stderr)."""
    code = main(["convert", *(str(a) for a in arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def distilled(network, channels=8):
    """Return an autoencoder with the encoder of ``network``'s and a distilled decoder with random weights."""
    old = network.autoencoder
    sizes = {name: old.config[name] for name in inspect.signature(type(old)).parameters}
    new = type(old)(**{**sizes, "decoder_channels": channels})
    new.encoder.load_state_dict(old.encoder.state_dict())
    if hasattr(old, "quant_conv"):
        new.quant_conv.load_state_dict(old.quant_conv.state_dict())
    return new


class TestFolder:
    def test_comes_back_equal(self, tmp_path):
        network = make_network(
            schedule=NoiseSchedule(250, 0.00085, 0.012), prediction_type="v_prediction", start_noise="zeros", seed=3
        )
        network.scale_factor.fill_(0.1147)
        save_diffusers_folder(network, tmp_path / "out")
        other = load_diffusers_folder(tmp_path / "out")
        assert equal_states(network.state_dict(), other.state_dict()) and not other.training
        for name in inspect.signature(SDSeg).parameters:
            if name not in ("autoencoder", "vision_encoder", "unet", "schedule"):
                assert getattr(network, name) == getattr(other, name), name
        image = torch.randn(1, 3, 16, 16)
        with torch.inference_mode():
            assert torch.equal(network.eval()(image), other(image))
        assert not any(p.requires_grad for p in other.autoencoder.parameters())
        assert all(p.requires_grad for p in other.unet.parameters())

    def test_of_an_official_checkpoint(self, tmp_path, official):
        save_diffusers_folder(official, tmp_path / "out")
        other = load_diffusers_folder(tmp_path / "out")
        assert equal_states(official.state_dict(), other.state_dict())
        assert other.unet.mid_block.attentions[0].heads == 8
        assert torch.equal(official.schedule.sqrt_alphas_cumprod, other.schedule.sqrt_alphas_cumprod)
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
        other = load_diffusers_folder(tmp_path / "out")
        assert other.num_classes == 3 and equal_states(network.state_dict(), other.state_dict())

    @pytest.mark.parametrize("num_classes", [2, 3, 14])
    def test_keeps_the_classes_and_their_codes(self, tmp_path, num_classes):
        options = {"train_decoder": True, "train_timesteps": "last", "num_classes": num_classes}
        network = make_network(**options).eval()
        save_diffusers_folder(network, tmp_path / "out")
        other = load_diffusers_folder(tmp_path / "out")
        assert {name: getattr(other, name) for name in options} == options
        assert equal_states(network.state_dict(), other.state_dict())
        assert torch.equal(other.class_codes, network.class_codes)  # of two classes it is in no state dict
        image, mask = torch.randn(1, 3, 16, 16), torch.ones(1, 1, 16, 16)
        with torch.inference_mode():
            assert torch.equal(network(image), other(image))
            assert torch.equal(network.encode_mask(mask), other.encode_mask(mask))
            steps = [n(image, mask=mask, seeds=torch.tensor([1])) for n in (network, other)]
            assert torch.equal(*(step.latent_pred for step in steps))

    def test_of_more_classes_than_there_are_codes(self, tmp_path, network):
        save_diffusers_folder(network, tmp_path / "out")
        index = json.loads((tmp_path / "out" / "model_index.json").read_text())
        index["options"]["num_classes"] = 28
        (tmp_path / "out" / "model_index.json").write_text(json.dumps(index))
        with pytest.raises(InputError, match="expected 2 to 27"):
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
        other = load_diffusers_folder(tmp_path / "out")
        assert other.autoencoder.config.decoder_channels == 4
        assert equal_states(network.state_dict(), other.state_dict())

    def test_goes_with_the_network_wherever_it_goes(self, official, file, tmp_path):
        replace_mask_decoder(official, file)
        save_diffusers_folder(official, tmp_path / "out")
        other = load_diffusers_folder(tmp_path / "out")
        assert equal_states(official.state_dict(), other.state_dict())
        save_inference(official, tmp_path / "inference.pt")
        load_weights(other, tmp_path / "inference.pt")
        image = torch.randn(1, 3, 16, 16)
        with torch.inference_mode():
            torch.testing.assert_close(other(image), official(image), atol=0.02, rtol=0)
        with pytest.raises(InputError, match="an inference export"):
            replace_mask_decoder(other, file)

    def test_of_another_autoencoder(self, official, file, tmp_path):
        before = official.autoencoder
        state = read_tensors(file)
        name = next(name for name in state if name.startswith("encoder."))
        changed = {**state, name: state[name].clone()}
        changed[name].view(-1)[0] = torch.nextafter(state[name].view(-1)[0], torch.tensor(9.0))  # by one bit
        without = {k: v for k, v in state.items() if not k.startswith("decoder.")}
        short = {k: v for k, v in state.items() if k != name}
        for wrong, match in (
            (changed, "the decoder of another autoencoder"),
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
        assert equal_states(read_tensors(tmp_path / "model.pt"), official.state_dict())
        code, out, _ = run(capsys, *arguments, tmp_path / "inference.pt", "--to", "inference")
        assert code == 0 and json.loads(out)["bytes"] < report["bytes"]
        save_tensors(file, official.unet.state_dict())
        code, out, err = run(capsys, *arguments, tmp_path / "o.pt", "--to", "bundle")
        assert (code, out, err.count("\n")) == (2, "", 1) and "no distilled decoder" in err
        assert not (tmp_path / "o.pt").exists()


class TestInference:
    def test_segments_and_nothing_else(self, tmp_path, official):
        save_inference(official, tmp_path / "inference.pt")
        state = read_tensors(tmp_path / "inference.pt")
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


class TestCommand:
    def test_kinds_are_those_of_the_library(self, capsys):
        with pytest.raises(SystemExit):
            main(["convert", "--help"])
        text = capsys.readouterr().out
        assert "{" + ",".join(SOURCE_KINDS) + "}" in text and "{" + ",".join(TARGET_KINDS) + "}" in text

    def test_official_to_bundle(self, checkpoint, official, tmp_path, capsys):
        target = tmp_path / "new" / "model.pt"
        code, out, err = run(capsys, checkpoint, "-o", target, "--from", "official", "--to", "bundle")
        assert code == 0 and "Research use only" in err
        report = json.loads(out)
        assert report["output"] == str(target) and report["bytes"] == target.stat().st_size
        assert report["missing"] == 0 and report["used"] == len(official.state_dict()) + 2 - 2 * 2 * 4
        load_weights(official, target)

    def test_the_reported_network_def_makes_a_bundle(self, checkpoint, official, tmp_path, capsys):
        """The mask of the bundle's inference with the converted file is that of the official network."""
        code, out, _ = run(capsys, checkpoint, "-o", tmp_path / "model.pt", "--from", "official", "--to", "bundle")
        network_def = json.loads(out)["network_def"]
        (tmp_path / "network.json").write_text(json.dumps({"network_def": network_def, "size": [16, 16]}))
        write_case(tmp_path, "a", shape=(16, 16, 3), affine=np.eye(4))
        configs = ROOT / "bundles" / "sdseg" / "configs"
        inference = ConfigWorkflow(
            [
                *(str(configs / f"{name}.json") for name in ("inference", "official_inference")),
                str(tmp_path / "network.json"),
            ],
            run_id="inference",
            workflow_type="infer",
            meta_file=str(configs / "metadata.json"),
            logging_file=False,
            dataset_dir=str(tmp_path / "images"),
            output_dir=str(tmp_path / "masks"),
            checkpoint=str(tmp_path / "model.pt"),
        )
        inference.initialize()
        inference.run()
        image = inference.parser.get_parsed_content("preprocessing")({"image": str(tmp_path / "images" / "a.nii.gz")})
        with torch.inference_mode():
            slices = image["image"].as_tensor()[0].movedim(-1, 0)[:, None].expand(-1, 3, -1, -1)
            expected = (official(slices)[:, 0] >= 0.5).movedim(0, -1)
        mask = nib.load(tmp_path / "masks" / "a.nii.gz").get_fdata()
        assert code == 0 and np.mean(mask != expected.numpy()) < 0.005

    def test_options_of_official_checkpoints(self, checkpoint, tmp_path, capsys):
        for name, options in (("a", ()), ("b", ("--raw",)), ("c", ("--num-heads", 2))):
            arguments = (checkpoint, "-o", tmp_path / f"{name}.pt", "--from", "official", "--to", "bundle", *options)
            assert run(capsys, *arguments)[0] == 0
        a, b, c = (read_tensors(tmp_path / f"{name}.pt") for name in "abc")
        name = "unet.mid_block.attentions.0.to_k.weight"
        assert not torch.equal(a[name], b[name]) and not torch.equal(a[name], c[name])
        assert torch.equal(a["unet.conv_in.bias"], c["unet.conv_in.bias"])

    def test_there_and_back(self, checkpoint, official, tmp_path, capsys):
        folder = tmp_path / "folder"
        assert run(capsys, checkpoint, "-o", folder, "--from", "official", "--to", "diffusers")[0] == 0
        code, out, _ = run(capsys, folder, "-o", tmp_path / "model.pt", "--from", "diffusers", "--to", "bundle")
        assert code == 0 and json.loads(out)["used"] == len(official.state_dict())
        assert equal_states(read_tensors(tmp_path / "model.pt"), official.state_dict())

    def test_several_classes_there_and_back(self, tmp_path, capsys):
        """From folder to file to a bundle of the reported network to inference weights: the scores stay the same."""
        network, bundle = make_network(num_classes=3).eval(), tmp_path / "bundle"
        save_diffusers_folder(network, tmp_path / "folder")
        target = bundle / "models" / "model.pt"
        code, out, _ = run(capsys, tmp_path / "folder", "-o", target, "--from", "diffusers", "--to", "bundle")
        network_def = json.loads(out)["network_def"]
        assert code == 0 and network_def["num_classes"] == 3
        assert equal_states(read_tensors(target), network.state_dict())
        (bundle / "configs").mkdir()
        config = {"network_def": network_def, "checkpoint": "$@bundle_root + '/models/model.pt'"}
        (bundle / "configs" / "inference.json").write_text(json.dumps(config))
        image = torch.randn(1, 3, 16, 16)
        with torch.inference_mode():
            assert torch.equal(load_bundle_network(bundle)(image), network(image))
        small = tmp_path / "small.pt"
        assert run(capsys, bundle, "-o", small, "--from", "bundle", "--to", "inference")[0] == 0
        assert torch.equal(read_tensors(small)["class_codes"].float(), network.class_codes)

    def test_a_class_conditional_official_checkpoint_reports_its_classes(self, tmp_path, capsys):
        torch.save({"state_dict": tiny_official(classes=3)}, tmp_path / "a.ckpt")
        arguments = (tmp_path / "a.ckpt", "-o", tmp_path / "model.pt", "--from", "official", "--to", "bundle")
        code, out, _ = run(capsys, *arguments)
        network_def = json.loads(out)["network_def"]
        assert code == 0 and network_def["num_classes"] == network_def["unet"]["num_class_embeds"] == 3
        network = ConfigParser({"network_def": network_def}).get_parsed_content("network_def")
        load_weights(network, tmp_path / "model.pt")
        with torch.inference_mode():
            assert network.eval()(torch.zeros(1, 3, 8, 8)).shape == (1, 3, 8, 8)

    def test_bundle_to_inference_segments_the_same(self, tmp_path, capsys):
        bundle = tmp_path / "bundle"
        (bundle / "models").mkdir(parents=True)
        (bundle / "configs").symlink_to(HIPPOCAMPUS / "configs")
        target = bundle / "models" / "model.pt"
        code, out, _ = run(capsys, HIPPOCAMPUS, "-o", target, "--from", "bundle", "--to", "inference")
        report = json.loads(out)
        full = load_bundle_network(HIPPOCAMPUS)
        left_out = sum(k.startswith(("autoencoder.encoder", "autoencoder.quant_conv")) for k in full.state_dict())
        assert code == 0 and report["missing"] == left_out > 0
        network, image = Segmenter(bundle, device="cpu").network, torch.randn(1, 3, 64, 64)
        with torch.inference_mode():
            torch.testing.assert_close(network(image), full(image), atol=0.02, rtol=0)
        for kind, output in (("bundle", "x.pt"), ("diffusers", "x")):  # what was left out does not come back
            code, out, err = run(capsys, bundle, "-o", tmp_path / output, "--from", "bundle", "--to", kind)
            assert code == 2 and "without the mask encoder" in err and not (tmp_path / output).exists()

    def test_bad_input_ends_with_one_line_and_no_output(self, checkpoint, tmp_path, capsys):
        (tmp_path / "empty").mkdir()
        (tmp_path / "text.ckpt").write_text("text")
        full = tmp_path / "full"
        full.mkdir()
        (full / "keep").write_text("")
        cases = [
            ((tmp_path / "none.ckpt", "o.pt", "official", "bundle"), "no such file"),
            ((tmp_path / "text.ckpt", "o.pt", "official", "bundle"), "not a checkpoint"),
            ((tmp_path / "empty", "o.pt", "official", "bundle"), "no such file"),
            ((tmp_path / "empty", "o.pt", "bundle", "inference"), "no configs/inference.json"),
            ((tmp_path / "empty", "o.pt", "diffusers", "bundle"), "cannot be read"),
            ((checkpoint, "o.pt", "diffusers", "bundle"), "cannot be read"),
            ((checkpoint, "o.bin", "official", "bundle"), "ending in .pt"),
            ((checkpoint, "empty", "official", "inference"), "ending in .pt"),
            ((checkpoint, "full", "official", "diffusers"), "exists"),
            ((checkpoint, "a.ckpt", "official", "bundle"), "ending in .pt"),
            ((checkpoint, "full/keep", "official", "diffusers"), "exists"),
            ((checkpoint, "full/keep/o.pt", "official", "bundle"), "cannot write here"),
            ((checkpoint, "o.pt", "official", "bundle", "--num-heads", 7), "does not divide"),
            ((HIPPOCAMPUS, "o.pt", "bundle", "bundle", "--raw"), "for official checkpoints"),
        ]
        before = sorted(tmp_path.rglob("*")), checkpoint.read_bytes()
        for (source, output, kind, target, *options), match in cases:
            code, out, err = run(capsys, source, "-o", tmp_path / output, "--from", kind, "--to", target, *options)
            assert (code, out) == (2, ""), match
            assert match in err and err.count("\n") == 1 and err.startswith("error: "), (match, err)
        assert (sorted(tmp_path.rglob("*")), checkpoint.read_bytes()) == before

    def test_a_bundles_own_weights_are_not_replaced(self, tmp_path, capsys):
        weights = HIPPOCAMPUS / "models" / "model.pt"
        before = weights.read_bytes()
        code, _, err = run(capsys, HIPPOCAMPUS, "-o", weights, "--from", "bundle", "--to", "inference")
        assert code == 2 and "exists, expected" in err and weights.read_bytes() == before

    def test_of_a_config_that_is_no_network(self, tmp_path, capsys):
        (tmp_path / "b" / "configs").mkdir(parents=True)
        for text, match in (
            ("{}", "cannot be used"),
            ("{", "cannot be used"),
            ('{"network_def": 1, "checkpoint": "x"}', "is a int"),
        ):
            (tmp_path / "b" / "configs" / "inference.json").write_text(text)
            code, _, err = run(capsys, tmp_path / "b", "-o", tmp_path / "o.pt", "--from", "bundle", "--to", "bundle")
            assert code == 2 and match in err and err.count("\n") == 1
