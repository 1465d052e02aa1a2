"""Ignite handlers that a bundle's training config attaches; MONAI's and ignite's own do the rest."""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.handlers import EMAHandler
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import Dataset
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from sdseg_monai.errors import InputError
from sdseg_monai.networks.sdseg import SDSeg
from sdseg_monai.random import seed_from
from sdseg_monai.visualize import slice_panel
from sdseg_monai.weights import read_tensors, save_tensors

logger = logging.getLogger(__name__)

INITIAL_EMA_MOMENTUM = 0.1  # weight of the newest weights in the first step of an average's warm-up


class EpochSeed:
    """Seed torch's global generator (dropout) from (seed, epoch, rank) at each epoch's start.

    The state of the generator then needs no place in a checkpoint.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def attach(self, engine: Engine) -> None:
        """Attach to the trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Seed for the epoch that starts."""
        torch.manual_seed(seed_from(self.seed, engine.state.epoch, getattr(engine.state, "rank", 0)))


class LatentScale:
    """Measure the network's ``scale_factor`` once: 1/std of the training masks' latents.

    Does nothing where the factor is known, from a checkpoint or from pretrained weights: changing it would put all
    that the U-Net learned on another scale. SD's 0.18215 is for photographs; masks are about 1.5 times wider.

    Args:
        network: network whose buffer is filled.
        dataset: training set, items with ``label`` [1, H, W].
        num_masks: masks to measure on, evenly spaced over the set; at most this many.
        batch_size: masks per forward pass.

    Source: official-behaviour 1.3, which measures on the first batch alone.
    """

    def __init__(self, network: SDSeg, dataset: Dataset, num_masks: int = 512, batch_size: int = 8) -> None:
        self.network = network
        self.dataset = dataset
        self.num_masks = num_masks
        self.batch_size = batch_size

    def attach(self, engine: Engine) -> None:
        """Attach to the trainer, after what loads a checkpoint."""
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Measure, unless the factor is known."""
        factor = self.network.scale_factor
        if torch.isfinite(factor):
            return
        length = len(self.dataset)  # type: ignore[arg-type]
        indices = range(0, length, max(1, math.ceil(length / self.num_masks)))
        factor.fill_(1)
        latents = []
        for start in tqdm(range(0, len(indices), self.batch_size), desc="latent scale", delay=2, leave=False):
            batch = [self.dataset[i]["label"] for i in indices[start : start + self.batch_size]]
            latents.append(self.network.encode_mask(torch.stack(batch).to(factor.device)).cpu())
        factor.fill_(1 / torch.cat(latents).std())
        logger.info("latent scale factor %.5f, measured on %d training masks", float(factor), len(indices))


class WeightAverage:
    """Exponential moving average of all trained weights, by ignite's EMAHandler.

    Args:
        network: the network in training, not wrapped for distribution.
        decay: weight of the past once warm.
        warmup_iterations: steps in which the decay rises linearly from 0.9.

    Attributes:
        network: a network with the averaged weights; it shares the frozen autoencoder and ``scale_factor``.
    """

    def __init__(self, network: SDSeg, decay: float, warmup_iterations: int) -> None:
        parts = network.trained_parts
        self.handler = EMAHandler(
            parts, momentum=1 - decay, momentum_warmup=INITIAL_EMA_MOMENTUM, warmup_iters=warmup_iterations
        )
        replaced = {id(part): self.handler.ema_model[name] for name, part in parts.items()}
        shared = {id(item): item for item in (network.autoencoder, network.scale_factor)}
        self.network: SDSeg = copy.deepcopy(network, memo={**replaced, **shared}).eval()

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


class Checkpoint:
    """Write the whole training state after each epoch, atomically, and take it up again when the training starts.

    Everything random is a function of (seed, epoch, draw), so a run that was killed at any step and started again
    with the same command ends with the weights of one that was not: it repeats the epoch that it was in.

    Args:
        path: the file; the same command finds it again.
        objects: what has ``state_dict`` and ``load_state_dict``: networks, optimizers, schedules, averages.
        evaluator: its best metric is kept as well; None where the run does not validate.
    """

    def __init__(
        self,
        path: str | Path,
        objects: dict[str, nn.Module | Optimizer | LRScheduler | WeightAverage],
        evaluator: Engine | None = None,
    ) -> None:
        self.path = Path(path)
        self.objects = objects
        self.evaluator = evaluator

    def attach(self, engine: Engine) -> None:
        """Attach to the trainer: after validation, before what needs the loaded state."""
        engine.add_event_handler(Events.STARTED, self.load)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)

    def load(self, engine: Engine) -> None:
        """Continue from the checkpoint if there is one."""
        if not self.path.is_file():
            return
        state = read_tensors(self.path)
        try:
            for name, item in self.objects.items():
                item.load_state_dict(state[name])
            engine.state.epoch, engine.state.iteration = state["epoch"], state["iteration"]
            if self.evaluator is not None:
                self.evaluator.state.best_metric = state["best_metric"]
                self.evaluator.state.best_metric_epoch = state["best_metric_epoch"]
        except (KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(
                f"{self.path}: is of another training ({reason}); remove it to start anew, or set another --ckpt_dir"
            ) from error
        logger.info("continuing after epoch %d from %s", engine.state.epoch, self.path)

    def save(self, engine: Engine) -> None:
        """Write the state of the epoch that ended."""
        if getattr(engine.state, "rank", 0) != 0:
            return
        state: dict[str, Any] = {name: item.state_dict() for name, item in self.objects.items()}
        state["epoch"], state["iteration"] = engine.state.epoch, engine.state.iteration
        if self.evaluator is not None:
            state["best_metric"] = float(self.evaluator.state.best_metric)
            state["best_metric_epoch"] = self.evaluator.state.best_metric_epoch
        save_tensors(self.path, state)


class BestModel:
    """Write the evaluated network's strict state dict whenever the key metric is the best so far.

    Args:
        path: the bundle's ``models/model.pt``.
        network: network that the evaluator evaluates.
    """

    def __init__(self, path: str | Path, network: nn.Module) -> None:
        self.path = Path(path)
        self.network = network

    def attach(self, engine: Engine) -> None:
        """Attach to the evaluator."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Save if this evaluation was the best."""
        state = engine.state
        if getattr(state, "rank", 0) == 0 and state.best_metric_epoch == state.epoch:
            save_tensors(self.path, self.network.state_dict())
            logger.info("%s: epoch %d, %s %.4f", self.path, state.epoch, state.key_metric_name, state.best_metric)


class LastModel(BestModel):
    """Write the network's strict state dict after the last epoch, for a training that does not validate."""

    def attach(self, engine: Engine) -> None:
        """Attach to the trainer."""
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Save."""
        if getattr(engine.state, "rank", 0) == 0:
            save_tensors(self.path, self.network.state_dict())


class PanelHandler:
    """Show image, label and prediction of the first validated case side by side in TensorBoard.

    Args:
        log_dir: TensorBoard folder.
        slice_axis: axis across which the network slices; the slice with most label is shown.
    """

    def __init__(self, log_dir: str | Path, slice_axis: int) -> None:
        self.log_dir = str(log_dir)
        self.slice_axis = slice_axis

    def attach(self, engine: Engine) -> None:
        """Attach to the evaluator."""
        engine.add_event_handler(Events.ITERATION_COMPLETED(once=1), self)

    def __call__(self, engine: Engine) -> None:
        """Draw the case that was just evaluated."""
        output = engine.state.output[0]
        image, label, pred = (
            torch.as_tensor(output[key])[0].float().cpu().numpy() for key in ("image", "label", "pred")
        )
        with SummaryWriter(self.log_dir) as writer:
            panel = slice_panel(image, label, pred, self.slice_axis)
            writer.add_image("validation/image_label_prediction", panel, engine.state.epoch, dataformats="HWC")


class ExpectedTime:
    """Before a training on the CPU that will take long, log how long.

    One forward pass of one slice is timed; a training step is taken as three of them per slice, which is what
    backpropagation costs in arithmetic.

    Args:
        network: network in training.
        size: (H, W) of its input.
        batch_size: slices per step.
        report_above: minutes below which nothing is logged.
    """

    def __init__(self, network: SDSeg, size: Sequence[int], batch_size: int, report_above: float = 10) -> None:
        self.network = network
        self.size = tuple(size)
        self.batch_size = batch_size
        self.report_above = report_above

    def attach(self, engine: Engine) -> None:
        """Attach to the trainer."""
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Estimate and log."""
        parameter = next(self.network.parameters())
        steps = engine.state.max_epochs * engine.state.epoch_length - engine.state.iteration
        if parameter.device.type != "cpu" or steps <= 0:
            return
        image = torch.zeros(1, 3, *self.size)
        with torch.no_grad():
            self.network(image)  # the first pass also allocates
            start = time.perf_counter()
            self.network(image)
        minutes = 3 * (time.perf_counter() - start) * self.batch_size * steps / 60
        if minutes > self.report_above:
            logger.warning(
                "training on the CPU: %d steps of %d slices of %dx%d will take about %.1f hours, without validation",
                steps,
                self.batch_size,
                *self.size,
                minutes / 60,
            )
