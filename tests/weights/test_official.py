"""Official checkpoints: the same results as the official code, its names and shapes, and bad files."""

import math
import os
import pickle
import sys
import types
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sdseg_monai.errors import InputError
from sdseg_monai.networks.codes import class_codes, mask_to_image, score_from_mask_image
from sdseg_monai.weights import import_official, load_official, load_weights, read_checkpoint
from sdseg_monai.weights.files import inference_state, save_inference
from sdseg_monai.weights.official import check_ema_names, plan_official
from tests.makers.compvis import official, size_of, tiny_official
from tests.makers.places import SHARED

FIXTURE = SHARED / "fixtures" / "official_layout"
CHECKPOINT = FIXTURE / "sdseg_official_layout.ckpt"
TOLERANCE = 1e-4
T999 = torch.tensor([999, 999])


@pytest.fixture(scope="module")
def expected():
    return load_file(FIXTURE / "expected.safetensors")


@pytest.fixture(scope="module")
def networks():
    return {kind: load_official(CHECKPOINT, use_ema=kind == "ema") for kind in ("raw", "ema")}


def check(actual, expected):
    assert actual.shape == expected.shape
    assert float((actual - expected).abs().max() / expected.abs().max()) <= TOLERANCE


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no folder {SHARED}; set SDSEG_SHARED")
class TestParity:
    """Against outputs of the official code with random weights, at most 1e-4 of the largest value, float32, CPU.

    The file holds the averaged weights under the raw names too, bit for bit: what its ``raw.`` outputs of the U-Net
    were made with is not in it. The raw weights are held to those of another file in ``test_official_raw_ema.py``.
    """

    @pytest.fixture(autouse=True)
    def _no_gradient(self):
        with torch.inference_mode():
            yield

    def test_image_latent(self, networks, expected):
        check(networks["ema"].encode_image(expected["image"]), expected["image_latent"])

    def test_mask_posterior(self, networks, expected):
        posterior = (
            networks["ema"].autoencoder.encode(mask_to_image(expected["mask"][:, None], class_codes(2))).latent_dist
        )
        check(posterior.mean, expected["mask_posterior_mean"])
        check(posterior.logvar, expected["mask_posterior_logvar"])

    def noise_pred(self, network, expected, timesteps):
        noise = expected["noise"].expand(2, -1, -1, -1)
        noisy = noise
        if timesteps is not T999:
            latent = expected["mask_posterior_mean"] * network.scale_factor
            noisy = network.schedule.add_noise(latent, noise, timesteps)
        return network.unet.predict(noisy, expected["image_latent"], timesteps)

    @pytest.mark.parametrize(
        ("name", "timesteps"), [("noise_pred_t17_t500", torch.tensor([17, 500])), ("noise_pred_t999", T999)]
    )
    def test_predicted_noise(self, networks, expected, name, timesteps):
        check(self.noise_pred(networks["ema"], expected, timesteps), expected[f"ema.{name}"])

    def test_the_files_raw_and_averaged_weights_are_the_same(self):
        state = read_checkpoint(CHECKPOINT)
        raw = [name for name in state if name.startswith("model.")]
        assert len(raw) == 362
        assert all(torch.equal(state[n], state["model_ema." + n[6:].replace(".", "")]) for n in raw)

    @pytest.mark.parametrize("kind", ["raw", "ema"])
    def test_from_noise_to_score(self, networks, expected, kind):
        network, noise = networks[kind], expected["noise"].expand(2, -1, -1, -1)
        latent = network.estimate_latent(noise, expected[f"{kind}.noise_pred_t999"], T999)
        check(latent, expected[f"{kind}.latent_pred"])
        check(network.decode(latent), expected[f"{kind}.decoded"])

    def test_whole_network(self, networks, expected):
        for network in networks.values():
            check(network(expected["image"], expected["noise"])[:, 0], expected["ema.score"])

    @pytest.mark.parametrize("kind", ["raw", "ema"])
    def test_score_of_a_decoded_image(self, expected, kind):
        check(score_from_mask_image(expected[f"{kind}.decoded"], class_codes(2))[:, 0], expected[f"{kind}.score"])

    def test_an_inference_export_scores_the_same_but_for_float16(self, networks, expected, tmp_path):
        save_inference(networks["ema"], tmp_path / "inference.pt")
        full = load_official(CHECKPOINT)
        torch.nn.init.zeros_(full.unet.conv_out.weight)
        load_weights(full, tmp_path / "inference.pt")
        score = full(expected["image"], expected["noise"])[:, 0]
        assert float((score - expected["ema.score"]).abs().max()) < 0.01


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no folder {SHARED}; set SDSEG_SHARED")
def test_report_and_sizes_of_the_file(networks, caplog):
    with caplog.at_level("INFO"):
        imported = import_official(CHECKPOINT)
    report = imported.report
    assert report.counts() == {"used": 625, "unused": 371, "missing": 0}
    assert "625 used, 371 unused, 0 missing" in caplog.text
    assert "model.diffusion_model.out.2.weight" in report.unused and "logvar" in report.unused
    network = imported.network
    assert tuple(network.unet.config.block_out_channels) == (32, 64, 64, 128, 128)
    assert tuple(network.unet.config.attention_levels) == (True, True, True, True, False)
    assert float(network.scale_factor) == pytest.approx(0.1147)
    assert network.training is False and all(p.dtype == torch.float32 for p in network.parameters())
    assert not any(p.requires_grad for p in network.autoencoder.parameters())
    assert all(p.requires_grad for p in network.unet.parameters())


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no folder {SHARED}; set SDSEG_SHARED")
def test_the_generated_names_and_shapes_are_those_of_the_file():
    """What the full size is checked with, ``tests/makers/compvis.py``, agrees with a file of the official code."""
    unet = {"channels": 32, "mult": (1, 2, 2, 4, 4), "layers": 1}
    generated = official(unet, {"channels": 32, "mult": (1, 2, 4, 4), "layers": 1})
    file_shapes = {name: tuple(tensor.shape) for name, tensor in read_checkpoint(CHECKPOINT).items()}
    parts = ("model", "first_stage_model.", "cond_stage_model.")

    def weights(shapes):
        return {name: tuple(shape) for name, shape in shapes.items() if name.startswith(parts)}

    assert weights(generated) == weights(file_shapes)


def count(shapes, prefix):
    return sum(math.prod(shape) for name, shape in shapes.items() if name.startswith(prefix))


@pytest.mark.parametrize("use_ema", [True, False])
@pytest.mark.parametrize(
    ("unet_sizes", "parameters"), [({}, 294_973_828), ({"classes": 9}, 294_980_740)], ids=["binary", "nine classes"]
)
def test_full_size_covers_every_name_and_shape(use_ema, unet_sizes, parameters):
    shapes = official(unet_sizes)
    assert count(shapes, "first_stage_model.encoder.") == 34_163_592
    assert count(shapes, "first_stage_model.decoder.") == 49_490_179
    assert count(shapes, "first_stage_model.") == 83_653_863
    assert count(shapes, "cond_stage_model.") == 34_163_628
    assert count(shapes, "model.diffusion_model.") == parameters
    network = plan_official(shapes, use_ema=use_ema).network

    def parameters_of(module):
        return sum(p.numel() for p in module.parameters())

    assert parameters_of(network.autoencoder.encoder) == 34_163_592
    assert parameters_of(network.autoencoder.decoder) == 49_490_179
    assert parameters_of(network.autoencoder) == 83_653_863
    assert parameters_of(network.vision_encoder) == 34_163_628
    assert parameters_of(network.unet) == parameters
    assert network.num_classes == unet_sizes.get("classes", 2)


def test_inference_export_of_the_full_size_is_below_0_76_gigabytes():
    shapes = official()
    with_optimiser = 4 * (count(shapes, "model") + count(shapes, "first") + count(shapes, "cond"))
    with_optimiser += 4 * 2 * (count(shapes, "model.") + count(shapes, "cond"))  # Adam's two moments
    assert with_optimiser == pytest.approx(5.46e9, rel=0.002)
    state = inference_state(plan_official(shapes).network)
    assert size_of(state) == pytest.approx(0.757e9, rel=0.001) and size_of(state) <= 0.76e9
    assert all(tensor.is_meta for tensor in state.values())


def write(path, state, **others):
    torch.save({"state_dict": state, "epoch": 1, "optimizer_states": [{}], **others}, path)
    return path


def test_raw_and_averaged_weights_are_told_apart(tmp_path):
    state = tiny_official()
    path = write(tmp_path / "a.ckpt", state)
    raw, ema = load_official(path, use_ema=False), load_official(path)
    name = "diffusion_model.input_blocks.1.0.in_layers.2.weight"
    assert torch.equal(raw.unet.down_blocks[0].resnets[0].conv1.weight, state["model." + name])
    assert torch.equal(ema.unet.down_blocks[0].resnets[0].conv1.weight, state["model_ema." + name.replace(".", "")])


def test_class_conditional_checkpoint(tmp_path):
    state = tiny_official(classes=3)
    network = load_official(write(tmp_path / "a.ckpt", state))
    assert network.num_classes == 3
    assert torch.equal(network.unet.class_embedding.weight, state["model_ema.diffusion_modellabel_embweight"])
    with torch.inference_mode():
        score = network(torch.zeros(1, 3, 8, 8))
    assert score.shape == (1, 3, 8, 8)


def test_other_schedules(tmp_path):
    state = tiny_official()
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 50, dtype=torch.float64) ** 2
    state["betas"], state["alphas_cumprod"] = betas.float(), torch.cumprod(1 - betas, 0).float()
    schedule = load_official(write(tmp_path / "a.ckpt", state)).schedule
    assert schedule.num_timesteps == 50
    torch.testing.assert_close(schedule.sqrt_alphas_cumprod**2, state["alphas_cumprod"])
    betas = torch.linspace(0.0001, 0.02, 1000, dtype=torch.float64)
    state["betas"], state["alphas_cumprod"] = betas.float(), torch.cumprod(1 - betas, 0).float()
    with pytest.raises(InputError, match=r"betas from 0.0001 to 0.02 are not scaled-linear"):
        load_official(write(tmp_path / "b.ckpt", state))


def test_averaged_names_that_collide():
    with pytest.raises(InputError, match=r"input_blocks.1.11.weight and input_blocks.11.1.weight share"):
        check_ema_names({"input_blocks.1.11.weight": (1,), "input_blocks.11.1.weight": (1,)})


def one_line(path, match, **options):
    with pytest.raises(InputError, match=match) as caught:
        load_official(path, **options)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


TENSORS = (
    "model.diffusion_model.input_blocks.0.0.weight",
    "model.diffusion_model.input_blocks.1.0.out_layers.0.weight",
    "model.diffusion_model.output_blocks.1.2.in_layers.0.weight",
    "model.diffusion_model.out.2.weight",
    "first_stage_model.encoder.mid.attn_1.q.weight",
    "first_stage_model.post_quant_conv.weight",
    "cond_stage_model.encoder.down.0.block.0.norm2.weight",
    "cond_stage_model.out.weight",
    "scale_factor",
    "betas",
    "alphas_cumprod",
)


@pytest.mark.parametrize("name", TENSORS)
def test_one_tensor_missing(tmp_path, name):
    state = tiny_official()
    del state[name]
    short = name.removeprefix("model.diffusion_model.")
    for prefix in ("first_stage_model.", "cond_stage_model."):
        short = short.removeprefix(prefix)
    one_line(write(tmp_path / "a.ckpt", state), f"{short} is missing", use_ema=False)


def test_averaged_tensor_missing(tmp_path):
    state = tiny_official()
    del state["model_ema.diffusion_modelout2weight"]
    one_line(write(tmp_path / "a.ckpt", state), "model_ema.diffusion_modelout2weight is missing")
    without = {name: value for name, value in state.items() if not name.startswith("model_ema.")}
    one_line(write(tmp_path / "b.ckpt", without), "no averaged weights")
    load_official(tmp_path / "b.ckpt", use_ema=False)


@pytest.mark.parametrize("name", TENSORS)
def test_one_tensor_misshapen(tmp_path, name):
    state = tiny_official()
    state[name] = torch.zeros(3, 5)
    one_line(write(tmp_path / "a.ckpt", state), r"has shape \(3, 5\)", use_ema=False)


def test_a_tensor_too_many(tmp_path):
    state = tiny_official()
    state["model.diffusion_model.input_blocks.1.1.transformer.weight"] = torch.zeros(1)
    one_line(write(tmp_path / "a.ckpt", state), r"missing|is not part of the network")
    state = tiny_official()
    state["first_stage_model.encoder.down.0.attn.0.q.weight"] = torch.zeros(1)
    one_line(write(tmp_path / "a.ckpt", state), r"down.0.attn.0.q.weight is not part of the network")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_are_not_finite(tmp_path, value):
    state = tiny_official()
    state["cond_stage_model.out.bias"][1] = value
    one_line(write(tmp_path / "a.ckpt", state), "cond_stage_model.out.bias has values that are not finite")


def test_values_of_another_kind(tmp_path):
    state = tiny_official()
    state["scale_factor"] = torch.tensor(0.0)
    one_line(write(tmp_path / "a.ckpt", state), "scale_factor is 0.0")
    state["scale_factor"] = torch.tensor(1)
    one_line(write(tmp_path / "b.ckpt", state), "scale_factor is of torch.int64")


@pytest.mark.parametrize("num_heads", [3, 128, 0, -8])
def test_heads_that_do_not_divide(tmp_path, num_heads):
    one_line(write(tmp_path / "a.ckpt", tiny_official()), "does not divide", num_heads=num_heads)


def test_heads_change_the_order_of_the_attention(tmp_path):
    path = write(tmp_path / "a.ckpt", tiny_official())
    two, four = (load_official(path, num_heads=n).unet.mid_block.attentions[0] for n in (2, 4))
    assert (two.heads, four.heads) == (2, 4) and not torch.equal(two.to_k.weight, four.to_k.weight)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_truncated(tmp_path, share):
    path = write(tmp_path / "a.ckpt", tiny_official())
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    one_line(path, r"truncated|not a checkpoint")


def test_damaged(tmp_path):
    path = write(tmp_path / "a.ckpt", tiny_official())
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    one_line(path, "damaged .the checksum of")


@pytest.mark.parametrize("content", [b"text", b"PK", pickle.dumps([1, 2]), None])
def test_no_checkpoint_at_all(tmp_path, content):
    if content is not None:
        (tmp_path / "a.ckpt").write_bytes(content)
    one_line(tmp_path / "a.ckpt", r"no such file|not a checkpoint|truncated|holds a list")


def test_files_without_tensors(tmp_path):
    torch.save([1], tmp_path / "list.ckpt")
    one_line(tmp_path / "list.ckpt", "holds a list")
    torch.save({"state_dict": {}}, tmp_path / "empty.ckpt")
    one_line(tmp_path / "empty.ckpt", "holds no tensors")
    (tmp_path / "a.safetensors").write_bytes(b"12345678{}")
    one_line(tmp_path / "a.safetensors", "not a readable safetensors file")


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("kind", ["sparse", "meta", "nested"])
def test_tensors_that_are_not_plain(tmp_path, kind):
    state, name = tiny_official(), "cond_stage_model.out.bias"
    state[name] = {
        "sparse": lambda: state[name].to_sparse(),
        "meta": lambda: state[name].to("meta"),
        "nested": lambda: torch.nested.nested_tensor([state[name]]),
    }[kind]()
    one_line(write(tmp_path / "a.ckpt", state), f"{name} is no plain tensor")


def test_a_file_of_an_old_torch(tmp_path):
    torch.save({"state_dict": tiny_official()}, tmp_path / "a.ckpt", _use_new_zipfile_serialization=False)
    assert torch.equal(
        load_official(tmp_path / "a.ckpt").vision_encoder.out.weight, tiny_official()["cond_stage_model.out.weight"]
    )


@pytest.mark.parametrize(
    ("names", "layout"),
    [
        (["autoencoder.a", "vision_encoder.a", "unet.a", "scale_factor"], "a model.pt of this package"),
        (["model.diffusion_model.input_blocks.1.1.transformer_blocks.0.x"], "a CompVis Stable Diffusion checkpoint"),
        (["model.diffusion_model.out.2.weight"], "a CompVis latent diffusion checkpoint"),
        (["encoder.down.0.block.0.norm1.weight", "decoder.up.0.a"], "a CompVis autoencoder"),
        (["encoder.down_blocks.0.a", "decoder.up_blocks.0.a"], "an autoencoder of diffusers"),
        (["encoder.layers.0.weight", "decoder.layers.0.weight"], "a TAESD"),
        (["fc.weight"], "no layout known here"),
    ],
)
def test_files_of_another_layout_say_which(tmp_path, names, layout):
    state = {name: torch.zeros(1) for name in names}
    one_line(write(tmp_path / "a.ckpt", state), f"looks like {layout}")


class Payload:
    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


@pytest.mark.parametrize("place", ["state_dict", "callbacks", "legacy"])
def test_nothing_in_a_file_is_executed(tmp_path, place):
    mark = tmp_path / "executed"
    state, others, legacy = tiny_official(), {}, place == "legacy"
    if place == "callbacks":
        others["callbacks"] = {"a": Payload(os.mkdir, str(mark))}
    else:
        state["extra"] = Payload(os.mkdir, str(mark))
    torch.save({"state_dict": state, **others}, tmp_path / "a.ckpt", _use_new_zipfile_serialization=not legacy)
    one_line(tmp_path / "a.ckpt", r"names the Python object (posix|os)\.mkdir")
    assert not mark.exists()


@pytest.mark.parametrize("call", [eval, pickle.loads, torch.load, getattr])
def test_unknown_globals_are_refused_by_name(tmp_path, call):
    write(tmp_path / "a.ckpt", tiny_official(), hyper_parameters=Payload(call, "x"))
    one_line(tmp_path / "a.ckpt", rf"names the Python object \S*{call.__name__}, which is not loaded")


def test_callbacks_of_real_files_are_inert(tmp_path, monkeypatch):
    """A file that names Lightning's callback class, with state and arguments, loads without that class."""
    module = types.ModuleType("pytorch_lightning.callbacks.model_checkpoint")

    class ModelCheckpoint:
        def __reduce__(self):
            return ModelCheckpoint, (str(tmp_path / "executed"),), {"monitor": "dice"}

        def __init__(self, folder=None):
            if folder:
                Path(folder).mkdir()

    ModelCheckpoint.__module__, ModelCheckpoint.__qualname__ = module.__name__, "ModelCheckpoint"
    module.ModelCheckpoint = ModelCheckpoint  # type: ignore[attr-defined]
    for name in ("pytorch_lightning", "pytorch_lightning.callbacks"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    callbacks = {ModelCheckpoint: {"best": ModelCheckpoint()}}
    write(tmp_path / "a.ckpt", tiny_official(), callbacks=callbacks)
    allowed = set(torch.serialization.get_safe_globals())
    assert load_official(tmp_path / "a.ckpt").unet is not None
    assert not (tmp_path / "executed").exists()
    assert set(torch.serialization.get_safe_globals()) == allowed  # nothing stays so
