"""Measure how fast this computer trains the network of a config."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from monai.bundle import ConfigParser

BATCH_SIZE = 4


def measure_step(config: dict[str, Any], device: torch.device, steps: int = 2) -> float:
    """Return the seconds of a training step for each slice, without the optimiser and without reading the data.

    Args:
        config: content of a ``train.json``; it is not changed.
        device: device of the training.
        steps: number of steps; the median of all but the first one is returned, which also allocates memory.
    """
    step, seconds = make_step(config, device), []
    for _ in range(steps):
        _synchronise(device)
        start = time.perf_counter()
        step()
        _synchronise(device)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:]) / BATCH_SIZE


def make_step(config: dict[str, Any], device: torch.device) -> Callable[[], None]:
    """Return a training step of :data:`BATCH_SIZE` slices, without the optimiser and without reading the data.

    Args:
        config: content of a ``train.json``; it is not changed.
        device: device of the training.
    """
    parser = ConfigParser(copy.deepcopy(config))  # parsing changes the config
    network = parser.get_parsed_content("network_def")
    parser.get_parsed_content("network")  # in the memory format of the training
    network.to(device)
    if hasattr(network, "scale_factor"):  # an SDSeg
        network.scale_factor.fill_(1)
    network.train()
    loss = parser.get_parsed_content("loss")
    height, width = parser["size"]
    image = torch.zeros(BATCH_SIZE, 3, height, width, device=device)
    mask = torch.zeros(BATCH_SIZE, 1, height, width, device=device)
    seeds = torch.arange(BATCH_SIZE, device=device)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=bool(parser["amp"])):
            output = network(image, mask=mask, seeds=seeds)
            value = loss(output, mask)
        value.backward()

    return step


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
