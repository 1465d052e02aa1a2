"""Distilled mask decoders: their cost, their training, and the networks that use them."""

import json

import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from safetensors.torch import save_file
from torch.utils.flop_counter import FlopCounterMode

import decoder
from sdseg_monai.data import ProceduralMasks
from sdseg_monai.errors import InputError, find_input_error
from sdseg_monai.losses import DistillationLoss
from sdseg_monai.networks import (
    DecoderDistillation,
    MaskAutoencoder,
    SDSeg,
    TinyMaskAutoencoder,
)
from sdseg_monai.weights import fill_autoencoder, load_autoencoder, load_teacher, load_weights, save_tensors
from tests.makers.networks import make_network
from tests.makers.places import ROOT
from tests.makers.volumes import write_case

CONFIGS = ROOT / "bundles" / "sdseg" / "configs"
OVERLAY = json.loads((CONFIGS / "mask_decoder.json").read_text())
CHANNELS = OVERLAY["network_def#autoencoder#decoder_channels"]
SIZES = [8, 16, 16], 1, 4, 4
TINY_SIZES = [8, 8, 8], [1, 2, 1]
STUDENTS = {
    "kl": lambda: MaskAutoencoder(*SIZES, decoder_channels=8),
    "tiny": lambda: TinyMaskAutoencoder(*TINY_SIZES, decoder_channels=4),
}


def parameters(module):
    return sum(p.numel() for p in module.parameters())


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def encoding(state):
    return {k: v for k, v in state.items() if not k.startswith(("decoder.", "post_quant_conv."))}


def masks(number, size=16, num_classes=2):
    dataset = ProceduralMasks(size, number, num_classes=num_classes)
    return {key: torch.stack([dataset[i][key] for i in range(number)]) for key in ("image", "label", "seed")}


class TestDecoder:
    @pytest.mark.parametrize("kind", [MaskAutoencoder, TinyMaskAutoencoder])
    def test_what_is_shipped_keeps_the_budget(self, kind):
        with torch.device("meta"):
            network, latent = kind(decoder_channels=CHANNELS), torch.zeros(1, 4, 32, 32)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            assert network.decode(latent).sample.shape == (1, 3, 256, 256)
        assert parameters(network.decoding_parts) <= 1.5e6
        assert counter.get_total_flops() <= 20e9

    def test_the_training_and_the_overlay_agree(self):
        distilled = json.loads((CONFIGS / "distill_decoder.json").read_text())
        assert distilled["network_def#decoder_channels"] == CHANNELS
        assert distilled["train#handlers#1#path"] == OVERLAY["autoencoder_weights"]
        taesd = json.loads((CONFIGS / "distill_taesd.json").read_text())
        assert taesd["network_def"]["decoder_channels"] == CHANNELS

    @pytest.mark.parametrize("kind", STUDENTS)
    def test_has_no_tensor_that_does_nothing(self, kind):
        network = STUDENTS[kind]().requires_grad_(True)
        network.decode(torch.randn(2, 4, 4, 4)).sample.square().mean().backward()
        dead = [n for n, p in network.named_parameters() if p.grad is None and not n.startswith(("encoder", "quant"))]
        assert dead == []
        assert {f"{n}.{k}" for n, part in network.decoding_parts.items() for k in part.state_dict()} == {
            k for k in network.state_dict() if not k.startswith(("encoder.", "quant_conv."))
        }

    @pytest.mark.parametrize("kind", STUDENTS)
    def test_sizes_come_back_from_the_config(self, kind):
        network = STUDENTS[kind]()
        again = type(network).from_config(network.config)
        assert {k: v.shape for k, v in again.state_dict().items()} == {
            k: v.shape for k, v in network.state_dict().items()
        }
        assert again.encoder.state_dict().keys() == network.encoder.state_dict().keys()

    def test_latents_beyond_tanh_are_told_apart(self):
        """An unscaled latent of Stable Diffusion is larger than what AutoencoderTiny's decoder lets through."""
        network = STUDENTS["kl"]()
        latent = torch.full((1, 4, 4, 4), 20.0)
        with torch.no_grad():
            assert not torch.allclose(network.decode(latent).sample, network.decode(1.5 * latent).sample, atol=1e-3)

    @pytest.mark.parametrize("train_decoder", [False, True])
    def test_in_a_segmenter(self, train_decoder):
        parts = make_network()
        network = SDSeg(STUDENTS["kl"](), parts.vision_encoder, parts.unet, train_decoder=train_decoder)
        network.scale_factor.fill_(1)
        assert all(p.requires_grad == train_decoder for p in network.autoencoder.decoder.parameters())
        assert not any(p.requires_grad for p in network.autoencoder.encoder.parameters())
        assert ("decoder" in dict(network.trained_parts.items())) == train_decoder
        with torch.inference_mode():
            assert network.eval()(torch.zeros(1, 3, 16, 16)).shape == (1, 1, 16, 16)


class TestDistillation:
    @pytest.mark.parametrize("kind", STUDENTS)
    def test_only_the_students_decoder_learns(self, kind):
        pair = DecoderDistillation(STUDENTS[kind]())
        pair.take_encoder()
        before = {name: tensor.clone() for name, tensor in pair.state_dict().items()}
        assert equal(encoding(pair.student.state_dict()), encoding(pair.teacher.state_dict()))
        batch = masks(4)
        optimizer = torch.optim.AdamW(pair.parameters(), lr=0.01)
        DistillationLoss()(pair.train()(batch["image"], batch["seed"]), batch["label"]).backward()
        optimizer.step()
        changed = {name for name, tensor in pair.state_dict().items() if not torch.equal(tensor, before[name])}
        assert changed and all(name.startswith("student.decoder.") for name in changed)
        assert not pair.teacher.training and pair.student.training

    def test_noise_is_in_half_of_the_samples_and_follows_the_seeds(self):
        plain, noisy = (DecoderDistillation(STUDENTS["kl"](), latent_noise) for latent_noise in (0.0, 0.5))
        noisy.teacher.load_state_dict(plain.teacher.state_dict())
        batch = masks(64)
        with torch.no_grad():
            without, with_noise, again = (p(batch["image"], batch["seed"]).teacher for p in (plain, noisy, noisy))
        assert torch.equal(with_noise, again)
        changed = (without - with_noise).abs().amax((1, 2, 3)) > 1e-5
        assert 16 < int(changed.sum()) < 48

    def test_learns_what_the_teacher_decodes(self):
        torch.manual_seed(0)
        pair = DecoderDistillation(STUDENTS["kl"]())
        pair.take_encoder()
        batch, loss = masks(16), DistillationLoss()
        optimizer = torch.optim.AdamW(pair.student.decoder.parameters(), lr=0.01)
        l1 = []
        for _ in range(40):
            optimizer.zero_grad()
            loss(pair(batch["image"], batch["seed"]), batch["label"]).backward()
            optimizer.step()
            l1.append(loss.parts["l1"])
        assert l1[-1] < 0.5 * l1[0]

    @pytest.mark.parametrize("num_classes", [2, 3, 14])
    def test_loss_is_least_where_the_student_is_right(self, num_classes):
        batch, loss = masks(2, num_classes=num_classes), DistillationLoss(num_classes)
        student = MaskAutoencoder(*SIZES, decoder_channels=8, num_classes=num_classes)
        outputs = DecoderDistillation(student)(batch["image"], batch["seed"])
        right = outputs._replace(student=batch["image"], teacher=batch["image"])
        wrong = right._replace(student=-batch["image"])
        assert loss(right, batch["label"]) < loss(wrong, batch["label"])
        assert loss.parts.keys() == {"l1", "segmentation"} and loss.parts["l1"] > 0

    def test_a_student_without_a_distilled_decoder(self):
        with pytest.raises(ValueError, match="decoder_channels"):
            DecoderDistillation(MaskAutoencoder(*SIZES))

    def test_teachers_from_files(self, tmp_path):
        pair = DecoderDistillation(TinyMaskAutoencoder(*TINY_SIZES, decoder_channels=4))
        source = TinyMaskAutoencoder(*TINY_SIZES)
        save_file(source.state_dict(), tmp_path / "taesd.safetensors")
        load_teacher(pair, tmp_path / "taesd.safetensors")
        assert equal(pair.teacher.state_dict(), source.state_dict())
        assert equal(pair.student.encoder.state_dict(), source.encoder.state_dict())
        with pytest.raises(InputError, match="no such file"):
            load_teacher(pair, tmp_path / "none.pt")


SMALL = {
    "network_def#block_out_channels": SIZES[0],
    "network_def#norm_num_groups": 4,
    "network_def#decoder_channels": 8,
    "size": 16,
    "batch_size": 4,
    "masks_per_epoch": 16,
    "warmup_steps": 2,
    "epochs": 2,
}


@pytest.fixture
def teacher(tmp_path):
    torch.manual_seed(1)
    network = MaskAutoencoder(*SIZES)
    save_tensors(tmp_path / "autoencoder.pt", network.state_dict())
    return network


def chain(tmp_path, **options):
    (tmp_path / "small.json").write_text(json.dumps({**SMALL, **options}))
    files = [CONFIGS / "train_autoencoder.json", CONFIGS / "distill_decoder.json", tmp_path / "small.json"]
    return [str(file) for file in files]


def distil(tmp_path, folder, **options):
    workflow = ConfigWorkflow(
        chain(tmp_path, **options),
        run_id="training",
        workflow_type="train",
        meta_file=str(CONFIGS / "metadata.json"),
        logging_file=False,
        ckpt_dir=str(folder),
        log_dir=str(folder / "logs"),
        device="cpu",
    )
    workflow.initialize()
    workflow.run()


class TestTraining:
    def test_writes_what_the_overlay_loads(self, teacher, tmp_path):
        distil(tmp_path, tmp_path)  # the teacher is the folder's autoencoder.pt
        parser = ConfigParser()
        parser.read_config([CONFIGS / "train.json", CONFIGS / "mask_decoder.json", CONFIGS / "smoke.json"])
        parser["ckpt_dir"] = str(tmp_path)
        del parser.config["autoencoder_weights"]  # smoke.json's
        parser["autoencoder_weights"] = OVERLAY["autoencoder_weights"]
        for key, value in SMALL.items():
            if key.startswith("network_def#"):
                parser[key.replace("network_def#", "network_def#autoencoder#")] = value
        for key, value in (("block_out_channels", SIZES[0]), ("layers_per_block", 1), ("norm_num_groups", 4)):
            parser[f"network_def#vision_encoder#{key}"] = value
        network = parser.get_parsed_content("network_def")
        load_autoencoder(network, parser.get_parsed_content("autoencoder_weights"))
        loaded = network.autoencoder.state_dict()
        assert equal(encoding(loaded), encoding(teacher.state_dict()))
        assert equal(loaded, torch.load(tmp_path / "mask_decoder.pt", weights_only=True))
        # the image encoder starts from the mask encoder, which is the teacher's
        assert equal(network.vision_encoder.encoder.state_dict(), teacher.encoder.state_dict())

    def test_goes_on_exactly_where_it_was_and_not_with_another_teacher(self, teacher, tmp_path):
        whole, parts = tmp_path / "whole", tmp_path / "parts"
        source = str(tmp_path / "autoencoder.pt")
        distil(tmp_path, whole, teacher=source)
        distil(tmp_path, parts, teacher=source, epochs=1, **{"lr_scheduler#t_total": 8})
        distil(tmp_path, parts, teacher=source)
        assert equal(*(torch.load(folder / "mask_decoder.pt", weights_only=True) for folder in (whole, parts)))
        torch.manual_seed(2)
        save_tensors(tmp_path / "other.pt", MaskAutoencoder(*SIZES).state_dict())
        before = (parts / "mask_decoder.pt").read_bytes()
        with pytest.raises(Exception) as caught:  # MONAI wraps it
            distil(tmp_path, parts, teacher=str(tmp_path / "other.pt"))
        assert "is of another training (it had another teacher)" in str(find_input_error(caught.value))
        assert (parts / "mask_decoder.pt").read_bytes() == before

    def test_of_three_classes_needs_a_teacher_that_knows_their_codes(self, teacher, tmp_path):
        with pytest.raises(Exception) as caught:  # MONAI wraps it
            distil(tmp_path, tmp_path / "out", teacher=str(tmp_path / "autoencoder.pt"), num_classes=3)
        assert "does not know the codes of 3 classes" in str(find_input_error(caught.value))
        assert not (tmp_path / "out" / "mask_decoder_checkpoint.pt").exists()
        shipped = ROOT / "bundles" / "hippocampus_sdseg" / "models" / "autoencoder.pt"
        sizes = {"network_def#block_out_channels": [8, 16, 32]}
        distil(tmp_path, tmp_path / "out", teacher=str(shipped), num_classes=3, epochs=1, **sizes)
        distilled = torch.load(tmp_path / "out" / "mask_decoder.pt", weights_only=True)
        assert equal(encoding(distilled), encoding(torch.load(shipped, weights_only=True)))

    def test_of_a_teacher_of_other_sizes(self, teacher, tmp_path):
        save_tensors(tmp_path / "a.pt", MaskAutoencoder([8, 8, 8], 1, 4, 4).state_dict())
        with pytest.raises(Exception) as caught:  # MONAI wraps it
            distil(tmp_path, tmp_path / "out", teacher=str(tmp_path / "a.pt"))
        assert "not the weights of this network" in str(find_input_error(caught.value))
        assert not (tmp_path / "out" / "mask_decoder_checkpoint.pt").exists()


def test_certificate(teacher, tmp_path, monkeypatch):
    """Toy weights: the rows are of the masks given, and the costs are in the section that was asked for."""
    torch.manual_seed(0)
    student = MaskAutoencoder(*SIZES, decoder_channels=8)
    student.encoder.load_state_dict(teacher.encoder.state_dict())
    save_tensors(tmp_path / "student.pt", student.state_dict())
    write_case(tmp_path, "a")
    document = tmp_path / "decoder.md"
    document.write_text("<!-- own -->\n<!-- /own -->\n<!-- other -->\n<!-- /other -->\n")
    arguments = {
        "--config_file": chain(tmp_path),
        "--teacher": [tmp_path / "autoencoder.pt"],
        "--student": [tmp_path / "student.pt"],
        "--dataset": [tmp_path / "labels"],
        "--document": [document],
        "--section": ["own"],
        "--size": ["32"],
    }
    words = [str(word) for name, values in arguments.items() for word in (name, *values)]
    monkeypatch.setattr("sys.argv", ["decoder.py", *words])
    decoder.main()
    text = document.read_text()
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith(f"| {tmp_path.name} ")]
    assert rows and all(0 <= float(cell) <= 1 for row in rows for cell in row[4:7])
    assert sum(int(row[3]) for row in rows) <= 6  # slices of the case
    assert f"| student | {parameters(student.decoding_parts):,} | " in text
    assert "Distilled on 32 procedural masks of 16x16" in text
    assert text.endswith("<!-- /own -->\n<!-- other -->\n<!-- /other -->\n")
    with torch.device("meta"):
        full = MaskAutoencoder()
    assert decoder.count_flops(full, 256) == pytest.approx(622, abs=1)


def test_the_whole_decoders_files_do_not_fit_a_distilled_one(teacher, tmp_path):
    student = STUDENTS["kl"]()
    with pytest.raises(InputError, match="not the weights of this network"):
        fill_autoencoder(student, tmp_path / "autoencoder.pt")
    save_tensors(tmp_path / "student.pt", student.state_dict())
    with pytest.raises(InputError, match="not the weights of this network"):
        load_weights(MaskAutoencoder(*SIZES), tmp_path / "student.pt")
