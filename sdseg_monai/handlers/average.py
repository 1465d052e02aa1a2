"""The average of the trained weights."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from ignite.engine import Engine
from ignite.handlers import EMAHandler
from torch import nn

from sdseg_monai.networks import PixelSegmenter, SDSeg

INITIAL_EMA_MOMENTUM = 0.1  # share of the newest weights in the average in the first step of its warm-up


class WeightAverage:
    """Exponential moving average (EMA) of the trained weights, by ignite's EMAHandler.

    Args:
        network: the network in training, not inside DistributedDataParallel.
        decay: share of the old average in the new one after the warm-up.
        warmup_iterations: steps in which the decay rises linearly from 0.9.
        parts: names of the trained parts to average; None for all.

    Attributes:
        network: a network with the averaged weights, in evaluation mode; it shares all other tensors with the network
            in training.

    Raises:
        ValueError: ``parts`` has a name that is not one of a trained part.
    """

    def __init__(
        self,
        network: SDSeg | PixelSegmenter,
        decay: float,
        warmup_iterations: int,
        parts: Sequence[str] | None = None,
    ) -> None:
        trained_parts = network.trained_parts
        if set(parts or ()) - set(trained_parts.keys()):
            raise ValueError(f"parts={parts}: expected some of {', '.join(trained_parts.keys())}")
        averaged_parts = nn.ModuleDict({k: v for k, v in trained_parts.items() if parts is None or k in parts})
        self.handler = EMAHandler(
            averaged_parts,
            momentum=1 - decay,
            momentum_warmup=INITIAL_EMA_MOMENTUM,
            warmup_iters=warmup_iterations,
            handle_buffers="copy",  # the statistics of batch norms, which baselines have
        )
        # deepcopy takes an object of the memo instead of copying it
        ema_parts = {id(part): self.handler.ema_model[name] for name, part in averaged_parts.items()}
        shared_tensors = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
        self.network = copy.deepcopy(network, memo={**ema_parts, **shared_tensors}).eval()

    def state_dict(self) -> dict[str, Any]:
        """Return the averaged weights and the number of warm-up steps that were made."""
        return {"parts": self.handler.ema_model.state_dict(), "step": self.handler.momentum_scheduler.event_index}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load what :meth:`state_dict` returned, strictly, to continue the average."""
        self.handler.ema_model.load_state_dict(state["parts"])
        self.handler.momentum_scheduler.event_index = state["step"]


class UpdateAverage:
    """Update a :class:`WeightAverage` after each step."""

    def __init__(self, average: WeightAverage) -> None:
        self.average = average

    def attach(self, engine: Engine) -> None:
        """Attach to the trainer."""
        self.average.handler.attach(engine)
