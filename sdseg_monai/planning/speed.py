"""How fast this machine trains what a config describes."""

from __future__ import annotations

import copy
import time
from typing import Any

import torch
from monai.bundle import ConfigParser

BATCH_SIZE = 4


def measure_step(config: dict[str, Any], device: torch.device) -> float:
    """Return the seconds that a training step takes for each slice, without the optimiser and what reads the data.

    Args:
        config: of a ``train.json``.
        device: to train on.
    """
    parser = ConfigParser(copy.deepcopy(config))  # to parse is to change
    network = parser.get_parsed_content("network_def").to(device)
    network.scale_factor.fill_(1)
    network.train()
    loss = parser.get_parsed_content("loss")
    height, width = parser["size"]
    image = torch.zeros(BATCH_SIZE, 3, height, width, device=device)
    mask = torch.zeros(BATCH_SIZE, 1, height, width, device=device)
    seeds = torch.arange(BATCH_SIZE, device=device)
    for _ in range(2):  # the first also allocates
        _synchronise(device)
        start = time.perf_counter()
        loss(network(image, mask=mask, seeds=seeds), mask).backward()
        _synchronise(device)
        seconds = time.perf_counter() - start
    return seconds / BATCH_SIZE


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
