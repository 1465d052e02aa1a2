"""What happens once when a training or an epoch starts."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence

import torch
from ignite.engine import Engine, Events
from torch import nn
from torch.utils.data import Dataset
from tqdm import tqdm

from sdseg_monai.data import SliceDataset
from sdseg_monai.errors import InputError
from sdseg_monai.networks import SDSeg
from sdseg_monai.seeding import seed_from

logger = logging.getLogger(__name__)


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
    that the U-Net learned on another scale. SD's 0.18215 is for photographs; masks are about 1.5 times wider. Latents
    that :class:`CacheLatents` kept before are not encoded again.

    Args:
        network: network whose buffer is filled.
        dataset: training set, items with ``label`` [1, H, W] and ``seed``.
        num_masks: masks to measure on, evenly spaced over the set; at most this many.
        batch_size: masks per forward pass.

    Source: official-behaviour 1.3, which measures on the first batch alone.
    """

    def __init__(self, network: SDSeg, dataset: Dataset, num_masks: int, batch_size: int = 8) -> None:
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
        kept = getattr(self.dataset, "latents", None)
        latents = self._encode(indices) if kept is None else kept[list(indices)]
        factor.fill_(1 / latents.std())
        logger.info("latent scale factor %.5f, measured on %d training masks", float(factor), len(indices))

    def _encode(self, indices: Sequence[int]) -> torch.Tensor:
        """Return the latents of those masks, not scaled, [N, Z, h, w], on the CPU."""
        device = self.network.scale_factor.device
        latents = []
        for start in tqdm(range(0, len(indices), self.batch_size), desc="latent scale", delay=2, leave=False):
            batch = [self.dataset[i] for i in indices[start : start + self.batch_size]]
            masks = torch.stack([item["label"] for item in batch]).to(device)
            if self.network.class_conditional:
                masks, _ = self.network.draw_class(masks, torch.stack([item["seed"] for item in batch]))
            latents.append(self.network.encode_mask(masks, scale=False).cpu())
        return torch.cat(latents)


class CacheLatents:
    """Encode each training mask once, in each of its augmentations, so that training steps need not.

    The autoencoder is frozen, so that a mask's latent never changes; the dataset's augmentations must come again, see
    ``augmentation_cycle`` of :class:`sdseg_monai.data.SliceDataset`. Kept are the posterior's means, before scaling,
    in float32 on the CPU. Of several processes each encodes and keeps all of them: the sampler deals every epoch anew.

    Args:
        network: network in training.
        dataset: training set, filled with latents.
        batch_size: masks per forward pass.

    Raises:
        InputError: augmentations never repeat, training wants samples of the posterior, or the network has one pass
            per class.
    """

    def __init__(self, network: SDSeg, dataset: SliceDataset, batch_size: int) -> None:
        if dataset.augmentation_cycle is None or network.mask_latent != "mean" or network.class_conditional:
            passes = "one pass per class" if network.class_conditional else "one pass for all classes"
            raise InputError(
                f"augmentation_cycle={dataset.augmentation_cycle}, mask_latent={network.mask_latent!r} and {passes}: "
                "mask latents are kept over a number of epochs, of 'mean' and one pass; else set the cycle to null"
            )
        self.network = network
        self.dataset = dataset
        self.batch_size = batch_size

    def attach(self, engine: Engine) -> None:
        """Attach to the trainer, before what reads training slices."""
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Encode."""
        device = self.network.scale_factor.device
        self.dataset.latents = None
        draws = range(self.dataset.augmentation_cycle * len(self.dataset))  # type: ignore[operator]
        latents = []
        for start in tqdm(range(0, len(draws), self.batch_size), desc="mask latents", delay=2, leave=False):
            masks = [self.dataset[draw]["label"] for draw in draws[start : start + self.batch_size]]
            latents.append(self.network.encode_mask(torch.stack(masks).to(device), scale=False).cpu())
        self.dataset.latents = torch.cat(latents)
        logger.info(
            "kept %d mask latents, each of %d slices in %d augmentations: %.1f MiB of memory",
            len(draws),
            len(self.dataset),
            self.dataset.augmentation_cycle,
            self.dataset.latents.nbytes / 2**20,
        )


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

    def __init__(self, network: nn.Module, size: Sequence[int], batch_size: int, report_above: float = 10) -> None:
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
