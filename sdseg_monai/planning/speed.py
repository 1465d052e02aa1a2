"""Measure how fast this computer trains the network of a config."""

from __future__ import annotations

import copy
import time
from typing import Any

import torch
from monai.bundle import ConfigParser

BATCH_SIZE = 4


def measure_step(config: dict[str, Any], device: torch.device) -> float:
    """Return the seconds of a training step for each slice, without the optimiser and without reading the data.

    Args:
        config: content of a ``train.json``; it is not changed.
        device: device of the training.
    """
    parser = ConfigParser(copy.deepcopy(config))  # parsing changes the config
    network = parser.get_parsed_content("network_def").to(device)
    if hasattr(network, "scale_factor"):  # an SDSeg
        network.scale_factor.fill_(1)
    network.train()
    loss = parser.get_parsed_content("loss")
    height, width = parser["size"]
    image = torch.zeros(BATCH_SIZE, 3, height, width, device=device)
    mask = torch.zeros(BATCH_SIZE, 1, height, width, device=device)
    seeds = torch.arange(BATCH_SIZE, device=device)
    for _ in range(2):  # the first step also allocates memory
        _synchronise(device)
        start = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=bool(parser["amp"])):
            output = network(image, mask=mask, seeds=seeds)
            value = loss(output, mask)
        value.backward()
        _synchronise(device)
        seconds = time.perf_counter() - start
    return seconds / BATCH_SIZE


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
