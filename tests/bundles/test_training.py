"""Training resumes exactly, gives the same weights with several processes as with one, and learns."""

import json
import signal
import time

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow

from sdseg_monai.errors import InputError, find_input_error
from tests.makers.bundles import read_metrics
from tests.makers.places import ROOT
from tests.makers.processes import run_forked, run_process
from tests.makers.volumes import load_nifti, write_case, write_nifti

CONFIGS = "bundles/sdseg/configs"
SMOKE = f"{CONFIGS}/smoke.json"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for i in range(4):
        write_case(folder, f"case{i}", shape=(20, 22, 8 + i % 2), seed=i)
    items = [{"image": f"images/case{i}.nii.gz", "label": f"labels/case{i}.nii.gz"} for i in range(4)]
    splits = {"training": items[:2], "validation": items[2:3], "test": items[3:]}
    (folder / "datalist.json").write_text(json.dumps(splits))
    return folder


def arguments(data, out, *options, overlays=()):
    files = [f"{CONFIGS}/train.json", *(f"{CONFIGS}/{name}.json" for name in overlays), SMOKE]
    return [
        *("-m", "monai.bundle", "run", "training", "--config_file", str(files), "--dataset_dir", str(data)),
        *("--ckpt_dir", str(out), "--log_dir", str(out / "logs"), "--device", "cpu", *map(str, options)),
    ]


def same(a, b):
    """Compare nested states bit by bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def read(path):
    return torch.load(path, weights_only=True)


@pytest.mark.parametrize("steps_before_the_kill", [pytest.param(1, marks=pytest.mark.slow), 7])
def test_killed_and_started_again_ends_with_the_same_weights(data, tmp_path, steps_before_the_kill):
    # dropout, augmentation, noise, schedule, average and best metric are all in play
    options = ("--epochs", 3, "--batch_size", 4, "--warmup_steps", 5, "--learning_rate", 0.001)
    whole = run_forked("python", *arguments(data, tmp_path / "whole", *options))
    assert whole.returncode == 0, whole.stderr[-2000:]
    command = arguments(data, tmp_path / "killed", *options)
    # kill -9 from within, at an exact step: a forward hook counts the training steps of the real run
    killer = (
        "import os, signal, runpy, sys, torch\n"
        "from sdseg_monai.losses import SDSegLoss\n"
        "calls, forward = [], SDSegLoss.forward\n"
        "def counted(self, *a):\n"
        "    calls.append(1)\n"
        f"    if len(calls) > {steps_before_the_kill}: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return forward(self, *a)\n"
        "SDSegLoss.forward = counted\n"
        "sys.argv = ['monai.bundle'] + sys.argv[1:]\n"
        "runpy.run_module('monai.bundle', run_name='__main__', alter_sys=True)\n"
    )
    killed = run_forked("python", "-c", killer, *command[2:])
    assert killed.returncode == -signal.SIGKILL
    again = run_forked("python", *command)
    assert again.returncode == 0, again.stderr[-2000:]
    if steps_before_the_kill > 4:
        assert "continuing after epoch 1" in again.stdout
    for name in ("checkpoint.pt", "model.pt"):
        assert same(read(tmp_path / "whole" / name), read(tmp_path / "killed" / name)), name


@pytest.mark.slow
def test_a_finished_training_started_again_changes_nothing(data, tmp_path):
    options = ("--epochs", 1, "--batch_size", 4)
    for _ in range(2):
        assert run_process("python", *arguments(data, tmp_path, *options)).returncode == 0
        states = read(tmp_path / "checkpoint.pt"), read(tmp_path / "model.pt")
    assert same(states, (read(tmp_path / "checkpoint.pt"), read(tmp_path / "model.pt")))


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        pytest.param((), id="paper's"),
        pytest.param(
            ("--segmentation_weight", 1, "--network_def#train_decoder", True, "--augmentation_cycle", 2),
            id="trained decoder, kept latents",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_two_processes_train_to_the_weights_of_one(data, tmp_path, more):
    # SGD: AdamW would blow rounding up where the gradient is zero but for it (a key's bias, under the softmax)
    options = ("--epochs", 2, "--warmup_steps", 2, "--optimizer#_target_", "torch.optim.SGD", "--learning_rate", 0.01)
    off = (*options, *more, "--network_def#unet#dropout", 0, "--network_def#vision_encoder#dropout", 0)
    process = run_process("python", *arguments(data, tmp_path / "one", *off, "--batch_size", 4))
    assert process.returncode == 0, process.stderr[-2000:]
    several = arguments(data, tmp_path / "two", *off, "--batch_size", 2, overlays=("multi_gpu_train",))
    two = run_process("torchrun", *several)
    assert two.returncode == 0, two.stderr[-3000:]
    a, b = read(tmp_path / "one" / "checkpoint.pt"), read(tmp_path / "two" / "checkpoint.pt")
    assert a["iteration"] == b["iteration"] == 8
    for part in ("network", "ema"):
        one_part, two_part = (state[part]["parts"] if part == "ema" else state[part] for state in (a, b))
        for name, tensor in one_part.items():
            torch.testing.assert_close(two_part[name], tensor, rtol=1e-4, atol=1e-5, msg=name)
    moved = a["network"]["unet.conv_out.weight"] - a["ema"]["parts"]["unet.conv_out.weight"]
    assert moved.abs().max() > 1e-4  # it did train
    assert a["best_metric"] == pytest.approx(b["best_metric"], abs=1e-3)


@pytest.mark.slow
def test_multi_process_evaluation_equals_one_process(data, tmp_path):
    trained = run_process("python", *arguments(data, tmp_path, "--epochs", 1, "--batch_size", 4))
    assert trained.returncode == 0, trained.stderr[-2000:]
    values: list[float] = []
    for launcher, overlays in (("python", ("evaluate",)), ("torchrun", ("evaluate", "multi_gpu_evaluate"))):
        out = tmp_path / launcher
        process = run_process(
            launcher, *arguments(data, tmp_path, "--output_dir", out, "--split", "training", overlays=overlays)
        )
        assert process.returncode == 0, process.stderr[-3000:]
        values.append(read_metrics(out)["val_mean_dice"])
    assert 0 < values[0] < 1 and values[0] == pytest.approx(values[1], abs=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--learning_rate", -1), "torch.optim.AdamW cannot be made of the config's values: Invalid learning rate: -1"),
        pytest.param(
            ("--network_def#start_noise", "ones"),
            "start_noise='ones' is unknown: expected one of shared, zeros",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_options_that_cannot_train_end_with_one_line(data, tmp_path, options, message):
    process = run_forked("python", *arguments(data, tmp_path, *options))
    assert process.returncode == 2 and "Traceback" not in process.stderr, process.stderr[-2000:]
    assert message in process.stderr.splitlines()[-1]
    assert not (tmp_path / "model.pt").exists()


@pytest.mark.slow
def test_a_training_without_validation_says_so_and_goes_on(data, tmp_path):
    options = ("--batch_size", 4, "--val_interval", 2)
    process = run_process("python", *arguments(data, tmp_path, *options, "--epochs", 1))
    assert process.returncode == 2 and "no model was chosen" in process.stderr.splitlines()[-1]
    assert read(tmp_path / "checkpoint.pt")["epoch"] == 1
    assert run_process("python", *arguments(data, tmp_path, *options, "--epochs", 2)).returncode == 0
    assert (tmp_path / "model.pt").is_file()


@pytest.mark.slow
def test_a_checkpoint_of_another_training_is_refused_with_one_line(data, tmp_path):
    torch.save({"network": {}, "ema": {}}, tmp_path / "checkpoint.pt")
    process = run_process("python", *arguments(data, tmp_path, "--epochs", 1))
    assert process.returncode == 2
    assert "checkpoint.pt: is of another training" in process.stderr.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def two_classes(data, tmp_path_factory):
    """The same volumes, the upper half of each ball another class."""
    folder = tmp_path_factory.mktemp("two_classes")
    (folder / "labels").mkdir()
    (folder / "images").symlink_to(data / "images")
    for path in (data / "labels").iterdir():
        label = load_nifti(path)
        array = np.asarray(label.dataobj).copy()
        array[:, :, array.shape[2] // 2 :] *= 2
        write_nifti(folder / "labels" / path.name, array, label.affine)
    (folder / "datalist.json").write_text((data / "datalist.json").read_text())
    return folder


def train_in_process(data, out, **options):
    """Train with the smoke sizes in this process; returns the workflow."""
    workflow = ConfigWorkflow(
        [str(ROOT / CONFIGS / "train.json"), str(ROOT / SMOKE)],
        run_id="training",
        workflow_type="train",
        meta_file=str(ROOT / CONFIGS / "metadata.json"),
        logging_file=False,
        dataset_dir=str(data),
        ckpt_dir=str(out),
        log_dir=str(out / "logs"),
        device="cpu",
        **{"batch_size": 4, "warmup_steps": 5, "learning_rate": 0.001, **options},
    )
    workflow.initialize()
    workflow.run()
    return workflow


@pytest.mark.usefixtures("keep_global_state")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 5000}, "fewer than batch_size"),
        ({"num_classes": 129}, "num_classes=129: expected 2 to 128"),
        ({"size": [20, 16]}, "image is 20x16: expected multiples of"),
        ({"latent_weight": -1}, "latent_weight=-1, expected a number from 0 on"),
        ({"latent_weight": 0, "network_def#prediction_type": "sample"}, "nothing is left to learn"),
    ],
)
def test_options_that_cannot_train_are_refused(data, tmp_path, options, message):
    with pytest.raises((InputError, RuntimeError)) as caught:
        train_in_process(data, tmp_path, epochs=1, **options)
    assert message in str(find_input_error(caught.value))
    assert not (tmp_path / "model.pt").exists()


EVERYTHING = {
    "num_classes": 3,
    "context_mm": 1.0,
    "augmentation_cycle": 2,
    "segmentation_weight": 1.0,
    "network_def#train_decoder": True,
    "network_def#train_timesteps": "last",
    "network_def#prediction_type": "sample",
}


@pytest.mark.usefixtures("keep_global_state")
def test_several_classes_context_kept_latents_and_a_trained_decoder_resume_exactly(two_classes, tmp_path):
    whole = train_in_process(two_classes, tmp_path / "whole", epochs=3, **EVERYTHING)
    train_in_process(two_classes, tmp_path / "parts", epochs=2, **EVERYTHING)
    train_in_process(two_classes, tmp_path / "parts", epochs=3, **EVERYTHING)
    for name in ("checkpoint.pt", "model.pt"):
        assert same(read(tmp_path / "whole" / name), read(tmp_path / "parts" / name)), name
    model, dataset = read(tmp_path / "whole" / "model.pt"), whole.parser.get_parsed_content("train#dataset")
    assert torch.equal(model["class_codes"], whole.parser.get_parsed_content("network_def").class_codes)
    assert len(dataset.latents) == 2 * len(dataset)
    checkpoint = read(tmp_path / "whole" / "checkpoint.pt")
    averaged = {name.split(".")[0] for name in checkpoint["ema"]["parts"]}
    assert averaged == {"vision_encoder", "unet", "decoder", "post_quant_conv"}
    # what is written to be used is the average, the decoder's included
    assert torch.equal(model["autoencoder.decoder.conv_out.bias"], checkpoint["ema"]["parts"]["decoder.conv_out.bias"])


@pytest.mark.usefixtures("keep_global_state")
def test_a_checkpoint_for_other_classes_is_refused(two_classes, tmp_path):
    train_in_process(two_classes, tmp_path, epochs=1, num_classes=3)
    with pytest.raises(RuntimeError) as caught:
        train_in_process(two_classes, tmp_path, epochs=2)
    assert "checkpoint.pt: is of another training" in str(find_input_error(caught.value))


@pytest.mark.usefixtures("keep_global_state")
def test_one_pass_per_class_trains_and_validates(two_classes, tmp_path):
    options = {"num_classes": 3, "network_def#unet#num_class_embeds": 3}
    workflow = train_in_process(two_classes, tmp_path, epochs=1, **options)
    assert workflow.parser.get_parsed_content("network_def").class_conditional
    assert 0 <= read(tmp_path / "checkpoint.pt")["best_metric"] <= 1 and "class_codes" not in read(
        tmp_path / "model.pt"
    )


@pytest.mark.slow
def test_the_small_network_overfits_two_volumes(tmp_path):
    """Dice >= 0.95 on the volumes it is trained on, with the shipped hippocampus recipe and autoencoder."""
    for i in range(2):
        write_case(tmp_path, f"case{i}", shape=(34, 12, 36), affine=np.eye(4), seed=i)
    items = [{"image": f"images/case{i}.nii.gz", "label": f"labels/case{i}.nii.gz"} for i in range(2)]
    for item, name in zip(items, ("c", "d"), strict=True):
        for key in item:
            nib.save(load_nifti(tmp_path / item[key]), tmp_path / f"{key}s" / f"{name}.nii.gz")
    copies = [{"image": f"images/{n}.nii.gz", "label": f"labels/{n}.nii.gz"} for n in "cd"]
    splits = {"training": items, "validation": copies, "test": [{"image": "x", "label": "y"}]}
    (tmp_path / "datalist.json").write_text(json.dumps(splits))
    root = ROOT / "bundles" / "hippocampus_sdseg"
    start = time.monotonic()
    process = run_process(
        *("python", "-m", "monai.bundle", "run", "training"),
        *("--config_file", root / "configs" / "train.json", "--dataset_dir", tmp_path),
        *("--datalist", tmp_path / "datalist.json", "--ckpt_dir", tmp_path / "models"),
        *("--log_dir", tmp_path / "logs", "--autoencoder_weights", root / "models" / "autoencoder.pt"),
        *("--epochs", 100, "--val_interval", 50, "--batch_size", 12, "--warmup_steps", 20, "--ema_warmup_steps", 100),
        *("--ema_decay", 0.95, "--train#dataset#augmentation", "$None"),
    )
    assert process.returncode == 0, process.stderr[-3000:]
    assert read(tmp_path / "models" / "checkpoint.pt")["best_metric"] >= 0.95, time.monotonic() - start
