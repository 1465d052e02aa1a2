"""The average of the trained weights."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from ignite.engine import Engine
from ignite.handlers import EMAHandler
from torch import nn

from sdseg_monai.networks import PixelSegmenter, SDSeg

INITIAL_EMA_MOMENTUM = 0.1  # weight of the newest weights in the first step of an average's warm-up


class WeightAverage:
    """Exponential moving average of the trained weights, by ignite's EMAHandler.

    Args:
        network: the network in training, not wrapped for distribution.
        decay: weight of the past once warm.
        warmup_iterations: steps in which the decay rises linearly from 0.9.
        parts: names of the trained parts to average; None for all.

    Attributes:
        network: a network with the averaged weights; it shares every other tensor with the one in training.

    Raises:
        ValueError: ``parts`` names what is not trained.
    """

    def __init__(
        self,
        network: SDSeg | PixelSegmenter,
        decay: float,
        warmup_iterations: int,
        parts: Sequence[str] | None = None,
    ) -> None:
        trained = network.trained_parts
        unknown = set(parts or ()) - set(trained.keys())
        if unknown:
            raise ValueError(f"parts={parts}: expected some of {', '.join(trained.keys())}")
        averaged = nn.ModuleDict({k: v for k, v in trained.items() if parts is None or k in parts})
        self.handler = EMAHandler(
            averaged,
            momentum=1 - decay,
            momentum_warmup=INITIAL_EMA_MOMENTUM,
            warmup_iters=warmup_iterations,
            handle_buffers="copy",  # a batch norm's statistics, in a baseline
        )
        replaced = {id(part): self.handler.ema_model[name] for name, part in averaged.items()}
        shared = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
        self.network = copy.deepcopy(network, memo={**replaced, **shared}).eval()

    def state_dict(self) -> dict[str, Any]:
        """Return the averaged weights and how far the decay has warmed up."""
        return {"parts": self.handler.ema_model.state_dict(), "step": self.handler.momentum_scheduler.event_index}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue an average; strict."""
        self.handler.ema_model.load_state_dict(state["parts"])
        self.handler.momentum_scheduler.event_index = state["step"]


class UpdateAverage:
    """Update a :class:`WeightAverage` after each step."""

    def __init__(self, average: WeightAverage) -> None:
        self.average = average

    def attach(self, engine: Engine) -> None:
        """Attach to the trainer."""
        self.average.handler.attach(engine)
