"""A training that is killed at any moment, and given again, ends as one that was not."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import nibabel as nib
import numpy as np
import torch

from lab.tables import ROOT
from torment.children import Program, files_left, processes_left, run, start
from torment.kills import after, when_logged, while_writing
from torment.tries import Group, Setting, Try

CONFIGS = ROOT / "bundles" / "sdseg" / "configs"
EPOCHS = 6
NUMBER, QUICK = 20, 2
STEPS = "Engine run resuming"  # the trainer's line, then one of each validation
VALIDATION = "SupervisedEvaluator - INFO - Engine run resuming"
STEPS_SECONDS = 4.0  # about, from the first step to the end
WRITING, VALIDATING, ANY = "while a file is written", "during a validation", "at a random moment"
KINDS = (*[WRITING] * 2, VALIDATING, ANY) * (NUMBER // 4)
FILES = ("checkpoint.pt", "model.pt")


def write_data(folder: Path) -> Path:
    """Write four small volumes of a bright ball in noise with labels, and their datalist; return its folder."""
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in (20, 22, 8)), indexing="ij"), -1)
    items = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        ball = np.linalg.norm((grid - (10, 11, 4) - rng.uniform(-2, 2, 3)) / (7, 7, 3), axis=-1) < 1
        image = (rng.normal(0, 10, ball.shape) + 100 * ball).astype(np.int16)
        for kind, array in (("image", image), ("label", ball.astype(np.uint8))):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array, np.eye(4)), folder / kind / f"{seed}.nii.gz")
        items.append({kind: f"{kind}/{seed}.nii.gz" for kind in ("image", "label")})
    splits = {"training": items[:2], "validation": items[2:3], "test": items[3:]}
    (folder / "datalist.json").write_text(json.dumps(splits))
    return folder


def command(data: Path, output: Path, *options: object) -> list[object]:
    """Return the command of the training, with networks of the smallest sizes."""
    configs = [str(CONFIGS / f"{name}.json") for name in ("train", "smoke")]
    return [
        *(sys.executable, "-m", "monai.bundle", "run", "training", "--config_file", configs),
        *("--bundle_root", CONFIGS.parent, "--dataset_dir", data, "--ckpt_dir", output, "--log_dir", output / "logs"),
        *("--device", "cpu", "--size", "[32,32]", "--epochs", EPOCHS, "--batch_size", 4),
        *("--warmup_steps", 5, "--learning_rate", 0.001, *options),
    ]


def prepare(setting: Setting) -> None:
    """Train once without a stop."""
    if not (setting.common / "whole").exists():
        setting.common.mkdir(parents=True, exist_ok=True)
        code, output = run(command(write_data(setting.common / "data"), setting.common / "whole"), setting.common)
        if code:
            raise SystemExit(f"the uninterrupted training ends with {code}: {output[-2000:]}")


def attempt(setting: Setting, index: int) -> Try:
    """Kill a training, give the same command again, and compare its weights with the uninterrupted one's."""
    kind, random = KINDS[index], setting.random(index)
    place = setting.place(index)
    output = place / "output"
    training = command(setting.common / "data", output)
    program = start(training, place, "killed.txt")
    what, is_time = _moment(kind, random, program, output, setting.common / "whole")
    was_killed = program.kill_when(is_time)
    halves = files_left(output)
    left = processes_left(program.mark)
    code, text = run(training, place, "resumed.txt")
    failure = "" if was_killed else "it ended before that moment came"
    if code:
        failure = f"given again it ends with {code}: {text[-1000:]}"
    failure = failure or difference(setting.common / "whole", output)
    left += files_left(output, place / "temporary")
    outcome = "with a temporary file at the kill" if halves else "without"
    return Try(index, kind, f"killed {what}", outcome, failure, left)


def _moment(kind: str, random: Random, program: Program, output: Path, whole: Path) -> tuple[str, Callable[[], bool]]:
    """Return when to kill: in words, and as a function that tells whether the moment has come."""
    epoch = random.randint(1, EPOCHS)
    if kind == WRITING:
        share = random.random()
        what = f"while temporary file {epoch} has {share:.0%} of the weights' size"
        return what, while_writing(output, epoch, share * (whole / FILES[1]).stat().st_size)
    if kind == VALIDATING:
        return f"in validation {epoch}", when_logged(program, VALIDATION, epoch)
    seconds = random.uniform(0, STEPS_SECONDS)
    has_begun = when_logged(program, STEPS, 1)
    started: list[Callable[[], bool]] = []

    def is_time() -> bool:
        if not started and has_begun():
            started.append(after(seconds))
        return bool(started) and started[0]()

    return f"{seconds:.2f} s after the first step", is_time


def difference(whole: Path, output: Path) -> str:
    """Return which file of a training differs from the uninterrupted one's, bit by bit; empty where none does."""
    for name in FILES:
        if not (output / name).is_file():
            return f"there is no {name}"
        if not is_same(*(torch.load(folder / name, weights_only=True) for folder in (whole, output))):
            return f"{name} differs from that of the uninterrupted training"
    return ""


def is_same(first: Any, second: Any) -> bool:
    """Tell whether two nested states are equal bit by bit."""
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(is_same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(is_same, first, second))
    return torch.equal(first, second) if isinstance(first, torch.Tensor) else bool(first == second)


GROUP = Group(
    name="training",
    title="Trainings that are killed",
    about="A training of a tiny network is killed with SIGKILL: while its checkpoint or its weights are written, "
    "during a validation, or at a random moment. The same command is then given again. Right is that it ends "
    "with the same checkpoint and the same weights, bit by bit, as a training that was not stopped, and that "
    "no temporary file and no process is left.",
    number=NUMBER,
    quick=QUICK,
    attempt=attempt,
    prepare=prepare,
)
