"""Gradients that are limited in length, for a training that starts from pretrained weights."""

from __future__ import annotations

from collections.abc import Iterable

from ignite.engine import Engine
from monai.engines.utils import IterationEvents
from torch import nn
from torch.nn.utils import clip_grad_norm_


class ClipGradients:
    """Shorten the gradient of all parameters together to a largest norm, before the step of the optimizer.

    A pretrained encoder under a random U-Net gets first gradients that are tens of times as long as later ones.

    Args:
        parameters: the trained ones.
        max_norm: largest norm of the gradient.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], max_norm: float) -> None:
        self.parameters = list(parameters)
        self.max_norm = max_norm

    def attach(self, engine: Engine) -> None:
        """Attach to the trainer."""
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Shorten the gradient, without the factor that mixed precision on CUDA gives it."""
        scaler = getattr(engine, "scaler", None)
        if scaler is not None and scaler.is_enabled():
            scaler.unscale_(engine.optimizer)
        clip_grad_norm_(self.parameters, self.max_norm)
