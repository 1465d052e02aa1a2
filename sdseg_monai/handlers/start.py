"""Handlers for the start of a training or of an epoch."""

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


def spaced_indices(length: int, most: int) -> range:
    """Return at most ``most`` of the indices below ``length``, evenly spaced."""
    return range(0, length, max(1, math.ceil(length / most)))


class EpochSeed:
    """Seed torch's global random generator, which dropout uses, from (seed, epoch, rank) at the start of each epoch.

    So a checkpoint need not store the state of the generator.

    Args:
        seed: seed of the training.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def attach(self, engine: Engine) -> None:
        """Attach to the trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Seed the generator for the epoch that starts."""
        torch.manual_seed(seed_from(self.seed, engine.state.epoch, getattr(engine.state, "rank", 0)))


class LatentScale:
    """Measure the network's ``scale_factor`` once: 1/std of the latents of training masks.

    A factor from a checkpoint or from pretrained weights stays: the U-Net was trained on latents of that scale. Stable
    Diffusion's 0.18215 is for photographs; the standard deviation of masks' latents is about 1.5 times as large.
    Latents that :class:`CacheLatents` cached are not encoded again.

    Args:
        network: network whose buffer is filled.
        dataset: training set, items with ``label`` [1, H, W] and ``seed``.
        num_masks: largest number of masks to measure on; they are evenly spaced over the set.
        batch_size: masks per forward pass.

    Source: official-behaviour 1.3, which measures on the first batch alone.
    """

    def __init__(self, network: SDSeg, dataset: Dataset, num_masks: int, batch_size: int = 8) -> None:
        self.network = network
        self.dataset = dataset
        self.num_masks = num_masks
        self.batch_size = batch_size

    def attach(self, engine: Engine) -> None:
        """Attach to the trainer, after the handlers that load a checkpoint and cache latents."""
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Measure the factor, unless the network has one."""
        scale_factor = self.network.scale_factor
        if torch.isfinite(scale_factor):
            return
        length = len(self.dataset)  # type: ignore[arg-type]
        indices = spaced_indices(length, self.num_masks)
        cached_latents = getattr(self.dataset, "latents", None)
        latents = self._encode(indices) if cached_latents is None else cached_latents[list(indices)]
        scale_factor.fill_(1 / latents.std())
        logger.info("latent scale factor %.5f, measured on %d training masks", float(scale_factor), len(indices))

    def _encode(self, indices: Sequence[int]) -> torch.Tensor:
        """Return the latents of the masks at ``indices``, not scaled, [N, Z, h, w], on the CPU."""
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
    """Encode each training mask in each of its augmentations once before training, instead of in every step.

    The mask encoder is frozen, so that the latent of a mask does not change. The dataset's augmentations must repeat,
    see ``augmentation_cycle`` of :class:`sdseg_monai.data.SliceDataset`. The means of the posterior, not scaled, are
    cached in float32 on the CPU. In a distributed training each process encodes and caches all masks, because the
    sampler assigns slices to processes anew in every epoch.

    Args:
        network: network in training.
        dataset: training set; its ``latents`` are filled.
        batch_size: masks per forward pass.

    Raises:
        InputError: augmentations never repeat, training takes samples of the posterior, or the network needs one pass
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
        """Attach to the trainer, before the handlers that read training slices."""
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Encode the masks and give the latents to the dataset."""
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
    """Log the expected time of a training on the CPU before it starts, if the training will take long.

    The time of one forward pass of one slice is measured. A training step is estimated as three forward passes per
    slice, since a backward pass needs about twice the arithmetic of a forward pass.

    Args:
        network: network in training.
        size: (H, W) of its input.
        batch_size: slices per step.
        report_above: shortest expected time in minutes that is logged.
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
        """Estimate the time and log it."""
        parameter = next(self.network.parameters())
        steps = engine.state.max_epochs * engine.state.epoch_length - engine.state.iteration
        if parameter.device.type != "cpu" or steps <= 0:
            return
        image = torch.zeros(1, 3, *self.size)
        with torch.no_grad():
            self.network(image)  # the first pass is slower, because it allocates memory
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
