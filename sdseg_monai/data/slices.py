"""Training slices that depend on (seed, draw) alone, so that a resumed or distributed training gives equal weights."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Any

import torch
from monai.data import CacheDataset, DistributedSampler
from monai.transforms import CastToTyped, Compose
from torch.utils.data import Dataset

from sdseg_monai.data.augmentation import augment
from sdseg_monai.errors import InputError
from sdseg_monai.seeding import seed_from
from sdseg_monai.transforms.slices import StackSlicesd, add_context, to_three_channels


class SliceDataset(Dataset):
    """Every slice of every volume, resized in-plane, cached in memory, augmented when it is read.

    MONAI's GridPatchDataset streams slices too, but as an iterable with a running random state; here an item depends on
    ``seed`` and its draw number alone, so that a resumed training equals an uninterrupted one.

    Args:
        data: datalist, one dict per case.
        transform: deterministic transforms of a whole volume; must return ``image`` and ``label``, each
            [1, X, Y, Z], the image in [-1, 1], the label in {0..K-1}.
        slice_axis: spatial axis across which slices are taken.
        size: (H, W) of the network's input.
        augmentation: random dictionary transforms of one slice, ``image`` [C, H, W] and ``label`` [1, H, W]; None to
            augment nothing.
        seed: seed of the augmentation and of the random draws of training for each sample.
        progress: show a progress bar while the volumes are read.
        context_mm: distance in millimetres, whatever the volume's spacing, of the neighbouring slices in the first and
            last channel of an image; None repeats the slice in all three channels.
        augmentation_cycle: epochs after which the augmentations of a slice repeat, so that its latents can be cached,
            see :class:`sdseg_monai.handlers.CacheLatents`; None if they never repeat.

    Attributes:
        data: the datalist.
        settings: what decides, beside cases and transforms, what a draw is; a training goes on only with equal ones.
        latents: cached mask latents, [augmentation_cycle * len(self), Z, h, w], float32; None if nothing is cached.

    Raises:
        InputError: ``augmentation_cycle`` is less than 1.
    """

    def __init__(
        self,
        data: Sequence[dict[str, Any]],
        transform: Callable,
        slice_axis: int,
        size: Sequence[int],
        augmentation: Compose | None = None,
        seed: int = 0,
        progress: bool = True,
        context_mm: float | None = None,
        augmentation_cycle: int | None = None,
    ) -> None:
        if augmentation_cycle is not None and augmentation_cycle < 1:
            raise InputError(f"augmentation_cycle={augmentation_cycle}: expected at least 1, or null for none")
        self.data = data
        self.settings = {
            "slice_axis": slice_axis,
            "size": list(size),
            "seed": seed,
            "context_mm": context_mm,
            "augmentation_cycle": augmentation_cycle,
        }
        self.augmentation = augmentation
        self.seed = seed
        self.augmentation_cycle = augmentation_cycle
        self.latents: torch.Tensor | None = None
        transforms = [
            transform,
            StackSlicesd(("image", "label"), slice_axis, size, context_mm),
            CastToTyped("label", torch.uint8),
        ]
        # CacheDataset caches only what comes before the first nested Compose, so the transforms must be flat
        self.stacks = CacheDataset(data, Compose(transforms).flatten(), num_workers=1, progress=progress)
        self.ends = list(accumulate(len(stack["image"]) for stack in self.stacks))

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def __getitem__(self, draw: int) -> dict[str, torch.Tensor]:
        """Return slice ``draw % len(self)`` with its augmentation of epoch ``draw // len(self)``.

        Returns:
            ``image`` [3, H, W], in [-1, 1] before its augmentation, and ``label`` [1, H, W] in {0..K-1}, both float32,
            ``seed``, int64, and, if latents are cached, ``latent`` [Z, h, w].
        """
        epoch, index = divmod(draw, len(self))
        variant = draw if self.augmentation_cycle is None else epoch % self.augmentation_cycle * len(self) + index
        case = bisect_right(self.ends, index)
        stack = self.stacks[case]
        position = index - self.ends[case] + len(stack["image"])
        image = stack["image"][position]
        if stack["context"] is not None:
            image = add_context(stack["image"], position, position + 1, stack["context"])[0]
        item = {"image": image.float(), "label": stack["label"][position].float()}
        if self.augmentation is not None:
            item = augment(item, self.augmentation, seed_from(self.seed, variant))
        return {
            "image": to_three_channels(item["image"]).contiguous(),
            "label": item["label"],
            "seed": torch.tensor(seed_from(self.seed, draw)),
            **({} if self.latents is None else {"latent": self.latents[variant]}),
        }


class DrawSampler(DistributedSampler):
    """Torch's DistributedSampler, which shuffles by (seed, epoch), but yields draw numbers instead of indices.

    A draw is ``epoch * len(dataset) + index``, so that :class:`SliceDataset` augments a slice differently in each
    epoch. Each of n processes takes every n-th draw: their n batches of B are the draws of one batch of n*B.
    """

    def __iter__(self) -> Iterator[int]:
        length = len(self.dataset)
        return (self.epoch * length + index for index in super().__iter__())
