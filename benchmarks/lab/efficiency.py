"""Table 4 of the paper: time and memory of inference, with several steps and samples, and of training."""

from __future__ import annotations

import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import torch

from lab.study import Study, load_volume, segment
from lab.tables import Table
from sdseg_monai.evaluation import compare_masks

REVERSE_PROCESSES = ((1, 1), (10, 1), (1, 10))  # steps x samples
TRAINING_STEPS = 5
REPEATS = 3


@dataclass(frozen=True)
class Cost:
    """Time and memory of one setting.

    Attributes:
        seconds: median over the repeats.
        spread: lowest and highest seconds.
        memory: peak memory, in GiB.
        dice: mean Dice over the cases, NaN where nothing was segmented.
    """

    seconds: float
    spread: tuple[float, float]
    memory: float
    dice: float = float("nan")


def measure(study: Study, experiment: str) -> Table:
    """Measure one trained experiment. Each setting runs in a separate process, to measure its peak memory alone."""
    parser = study.parser(experiment)
    axis = 1 + parser["slice_axis"]
    slices = sum(load_volume(parser, item)["image"].shape[axis] for item in study.items("test"))
    training = _in_new_process(partial(time_training, study, experiment))
    steps = parser["epochs"] * len(parser.get_parsed_content("train#dataloader"))
    rows = []
    for num_steps, num_samples in REVERSE_PROCESSES:
        cost = _in_new_process(partial(time_inference, study, experiment, num_steps, num_samples))
        low, high = (slices / seconds for seconds in reversed(cost.spread))
        rows.append(
            [
                f"{num_steps} x {num_samples}",
                "none" if num_steps == 1 else "DDIM",
                f"{training.seconds * steps / 3600:.3f}",
                f"{training.memory:.2f}",
                f"{cost.seconds:.2f}",
                f"{slices / cost.seconds:.2f} ({low:.2f} to {high:.2f})",
                f"{cost.memory:.2f}",
                f"{100 * cost.dice:.1f}",
            ]
        )
    title = (
        f"Table 4: {experiment}, {slices} test slices, median of {REPEATS} (lowest to highest); training extrapolated "
        f"from {TRAINING_STEPS} of {steps} steps, data and validation left out; memory is the peak of the process, of "
        "torch's allocator on CUDA; float32"
    )
    head = ["steps x samples", "sampler", "training, h", "training, GiB", "inference, s", "samples/s", "GiB", "Dice"]
    return Table("efficiency", title, head, rows)


def time_training(study: Study, experiment: str) -> Cost:
    """Time a training step."""
    parser = study.parser(experiment)
    device = parser.get_parsed_content("device")
    network = parser.get_parsed_content("network").train()
    if hasattr(network, "scale_factor"):
        network.scale_factor.fill_(1)
    loss, optimizer = parser.get_parsed_content("loss"), parser.get_parsed_content("optimizer")
    batch = next(iter(parser.get_parsed_content("train#dataloader")))
    image, label, seed = (batch[key].to(device) for key in ("image", "label", "seed"))

    def step() -> None:
        optimizer.zero_grad()
        loss(network(image, mask=label, seeds=seed), label).backward()
        optimizer.step()

    seconds = _timed(step, device, TRAINING_STEPS)
    return Cost(median(seconds), (min(seconds), max(seconds)), _peak_memory(device))


@torch.inference_mode()
def time_inference(study: Study, experiment: str, num_steps: int, num_samples: int) -> Cost:
    """Time the inference of the test cases, which are in memory, and score the masks."""
    parser = study.trained(experiment)
    device = parser.get_parsed_content("device")
    network, inferer = parser.get_parsed_content("network"), parser.get_parsed_content("validate#inferer")
    network.num_inference_steps = num_steps
    if num_samples > 1:
        inferer.noise, inferer.num_samples = "per_slice", num_samples
    cases = [load_volume(parser, item) for item in study.items("test")]
    masks: list[torch.Tensor] = []

    def segment_all() -> None:
        masks[:] = [segment(parser, case) for case in cases]

    seconds = _timed(segment_all, device, REPEATS)
    dice = [compare_masks("", m > 0, c["label"][0] > 0).dice for m, c in zip(masks, cases, strict=True)]
    return Cost(median(seconds), (min(seconds), max(seconds)), _peak_memory(device), float(np.mean(dice)))


def _timed(work: Callable[[], None], device: torch.device, repeats: int) -> list[float]:
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return seconds


def _peak_memory(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, other systems KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def _in_new_process(work: Callable[[], Any]) -> Any:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work).result()
