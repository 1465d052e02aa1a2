"""What the trainings of a study will cost: counted on the meta device, without data, weights or a GPU."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache

import torch
from monai.bundle import ConfigParser
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from lab.measuring import gflop
from lab.study import Study
from lab.tables import Table
from sdseg_monai.networks import PixelSegmenter

FLOAT32 = 4  # bytes
STATES = 4  # of a trained weight, beside itself: its gradient, AdamW's two moments, its moving average
COUNTED_KEYS = (  # of a config: all that the network and the loss refer to, and the size of a batch
    *("imports", "network_def", "loss", "num_classes", "latent_channels"),
    *("segmentation_weight", "batch_dice", "size", "batch_size"),
)
WEIGHT = {"latent_weight": 1.0}  # the loss costs the same with any
STEPS = 1000  # of a study that does not state its own


@dataclass(frozen=True)
class Count:
    """What was counted of a network.

    Attributes:
        parameters: number of weights.
        trained: number of those that are trained.
        inference: GFLOP of a slice.
        step: GFLOP of a training step, forward and backward.
        memory: GiB of a training step: all weights, the states of the trained ones, and what the backward pass needs.
    """

    parameters: int
    trained: int
    inference: float
    step: float
    memory: float


def count_all(study: Study, tflops: float) -> Table:
    """Count the network of each experiment, and estimate the hours of its training.

    Args:
        study: its folders need not exist.
        tflops: what the GPU sustains, in 10^12 operations a second; a multiply-add counts as two.
    """
    steps, rows, total = study.steps or STEPS, [], 0.0
    for experiment in study.experiments:
        parser = study.parser(experiment)
        counted = count(json.dumps({key: parser[key] for key in COUNTED_KEYS} | WEIGHT))
        hours = counted.step * steps / (1000 * tflops) / 3600
        total += hours
        rows.append(
            [
                experiment,
                *(f"{number / 1e6:.1f}" for number in (counted.parameters, counted.trained)),
                *(f"{number:.0f}" for number in (counted.inference, counted.step)),
                f"{counted.memory:.1f}",
                f"{hours:.1f}",
            ]
        )
    title = (
        f"{study.name}: counted on the meta device, nothing is measured; {steps} steps in float32, all trainings "
        f"{total:.0f} h on a GPU that sustains {tflops:g} TFLOP/s; memory is that of weights, gradients, AdamW, moving "
        "average and the tensors that the backward pass needs"
    )
    head = ["experiment", "parameters, M", "trained, M", "GFLOP per slice", "GFLOP per step", "training, GiB"]
    return Table("dry_run", title, [*head, "training, h"], rows)


@cache
def count(config: str) -> Count:
    """Count the network of a config, given as JSON; no weight of it takes memory."""
    parser = ConfigParser(json.loads(config))
    network, loss = build(parser)
    (height, width), batch_size = parser["size"], parser["batch_size"]
    image = torch.zeros(batch_size, 3, height, width, device="meta")
    mask = image[:, :1]
    saved = SavedTensors(network)

    def train() -> None:
        with saved_tensors_hooks(saved.add, lambda tensor: tensor):
            loss(network(image, mask=mask, seeds=torch.arange(batch_size)), mask).backward()

    step = gflop(train)
    network.eval()
    with torch.no_grad():
        inference = gflop(lambda: network(image[:1]))
    parameters, trained = (
        sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad or not trained_only)
        for trained_only in (False, True)
    )
    memory = FLOAT32 * (parameters + STATES * trained) + saved.bytes
    return Count(parameters, trained, inference, step, memory / 2**30)


def build(parser: ConfigParser) -> tuple[nn.Module, nn.Module]:
    """Return the network on the meta device, in training mode, and its loss."""
    is_baseline = parser["network_def#_target_"].endswith(PixelSegmenter.__name__)
    # MONAI's SwinUNETR reads numbers from a tensor while it is built; the baselines are small enough for the CPU
    with torch.device("cpu" if is_baseline else "meta"):
        network, loss = (parser.get_parsed_content(name) for name in ("network_def", "loss"))
    return network.to("meta").train(), loss


class SavedTensors:
    """Counts the memory of what autograd saves for the backward pass, each storage once and no weights.

    Args:
        network: its weights are not counted.

    Attributes:
        bytes: counted so far.
    """

    def __init__(self, network: nn.Module) -> None:
        # kept, so that no later storage has the identity of one that is gone
        self._storages = {storage._cdata: storage for storage in (p.untyped_storage() for p in network.parameters())}
        self.bytes = 0

    def add(self, tensor: torch.Tensor) -> torch.Tensor:
        """Count a tensor, and return it."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self._storages:
            self._storages[storage._cdata] = storage
            self.bytes += storage.nbytes()
        return tensor
