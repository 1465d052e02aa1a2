"""Inference of a volume slice by slice."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import PurePath
from typing import Any, Literal, get_args

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.utils import convert_to_dst_type
from torch import nn
from tqdm import tqdm

from sdseg_monai.errors import InputError, printable
from sdseg_monai.networks.sdseg import SDSeg
from sdseg_monai.networks.trained_for import KEY, check_trained_for
from sdseg_monai.seeding import seed_from, seeded_normal
from sdseg_monai.transforms.slices import (
    add_context,
    check_grid,
    context_offset,
    extract_slices,
    resize_slices,
    to_three_channels,
)
from sdseg_monai.transforms.streaming import StreamedVolume

SAMPLED_SLICES = 9  # of a volume, from which it is told what it shows
SliceNoise = Literal["network", "per_slice"]


class SliceWiseInferer(Inferer):
    """Segment a volume in batches of slices, which are resized in-plane, and resize the scores back.

    MONAI's SliceInferer holds a float score and a count map of the whole volume and does not tell the network which
    slice it gets. Here :meth:`iter_scores` yields one slab after another, so that a caller can turn each into classes
    and never holds the scores of a whole volume; :meth:`iter_samples` yields the scores of several start noises, for
    which a slice is encoded only once.

    Args:
        size: (H, W) of the network's input.
        slice_axis: spatial axis across which slices are taken, 0 to 2.
        batch_size: slices per forward pass; changes the result by rounding errors only.
        noise: ``network``, the network's own start noise, or ``per_slice``, one tensor for each slice, which depends on
            ``seed``, the case's file name and the slice's index, but not on order or batch.
        seed: seed of the ``per_slice`` noise.
        num_samples: number of ``per_slice`` noises whose scores are averaged; 1 in the paper.
        context_mm: distance in millimetres of the neighbouring slices in the first and last channel, as in training;
            see :class:`sdseg_monai.data.SliceDataset`.
        progress: show a progress bar for a volume that takes longer than two seconds.

    Raises:
        InputError: an option is unknown or out of range.

    Example:
        >>> network = nn.Conv2d(3, 1, kernel_size=1)  # any network from images [B, 3, H, W] to scores [B, K, H, W]
        >>> inferer = SliceWiseInferer(size=(32, 32), slice_axis=2, batch_size=4)
        >>> volume = torch.zeros(1, 1, 40, 48, 10)
        >>> with torch.inference_mode():
        ...     inferer(volume, network).shape
        torch.Size([1, 1, 40, 48, 10])
        >>> with torch.inference_mode():
        ...     depths = [slab.shape[-1] for slab in inferer.iter_scores(volume[0], network)]
        >>> depths
        [4, 4, 2]
    """

    def __init__(
        self,
        size: Sequence[int],
        slice_axis: int = 2,
        batch_size: int = 8,
        noise: SliceNoise = "network",
        seed: int = 0,
        progress: bool = False,
        num_samples: int = 1,
        context_mm: float | None = None,
    ) -> None:
        super().__init__()
        if noise not in get_args(SliceNoise):
            raise InputError(f"noise={noise!r} is unknown: expected one of {', '.join(get_args(SliceNoise))}")
        check_grid(size, slice_axis, context_mm)
        for name, number in (("batch_size", batch_size), ("num_samples", num_samples), ("seed", seed)):
            if not isinstance(number, int) or isinstance(number, bool):
                raise InputError(f"{name}={number!r}: expected a whole number")
        if batch_size < 1:
            raise InputError(f"batch_size={batch_size}: expected at least 1")
        if num_samples < 1 or (num_samples > 1 and noise == "network"):
            raise InputError(f"num_samples={num_samples} with noise={noise!r}: expected 1, or more with 'per_slice'")
        self.size = tuple(size)
        self.slice_axis = slice_axis
        self.batch_size = batch_size
        self.noise = noise
        self.seed = seed
        self.progress = progress
        self.num_samples = num_samples
        self.context_mm = context_mm

    def __call__(
        self, inputs: torch.Tensor, network: Callable[..., torch.Tensor], *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """Return the scores of volumes, [B, K, X, Y, Z] in [0, 1], float32; K is 1 with two classes.

        Args:
            inputs: [B, C, X, Y, Z] in [-1, 1], C is 1 or 3; a MetaTensor if the noise is ``per_slice`` or the inferer
                has a ``context_mm``.
            network: from slices [B, 3, H, W] to scores [B, K, H, W].
            args: not used; MONAI's interface has them.
            kwargs: not used.
        """
        scores = [
            torch.cat(list(self.iter_scores(volume, network, case)), dim=self.slice_axis + 1)
            for volume, case in zip(inputs, case_names(inputs), strict=True)
        ]
        return convert_to_dst_type(torch.stack(scores), inputs, dtype=torch.float32)[0]

    def iter_scores(
        self, volume: torch.Tensor | StreamedVolume, network: Callable[..., torch.Tensor], case: str = ""
    ) -> Iterator[torch.Tensor]:
        """Yield the scores of a volume in slabs of ``batch_size`` slices, in order.

        Args:
            volume: [C, X, Y, Z] in [-1, 1], or what stands for it slab by slab.
            network: from slices to scores.
            case: name of the case, on which the ``per_slice`` noise depends.

        Yields:
            [K, X, Y, Z] in [0, 1], float32, with ``batch_size`` slices along ``slice_axis``; the last slab may have
            fewer.
        """
        for samples in self.iter_samples(volume, network, case):
            yield samples.mean(0) if len(samples) > 1 else samples[0]

    def iter_samples(
        self,
        volume: torch.Tensor | StreamedVolume,
        network: Callable[..., torch.Tensor],
        case: str = "",
        noise: SliceNoise | None = None,
        num_samples: int | None = None,
    ) -> Iterator[torch.Tensor]:
        """Yield the slabs of :meth:`iter_scores`, but the scores of each sample instead of their mean.

        Args:
            volume: [C, X, Y, Z] in [-1, 1].
            network: from slices to scores.
            case: name of the case, on which the ``per_slice`` noise depends.
            noise: None for the inferer's.
            num_samples: S; None for the inferer's.

        Yields:
            [S, K, X, Y, Z] in [0, 1], float32.

        Raises:
            InputError: noise is ``per_slice``, and the network has no start noise; or its weights were trained for
                other slices.
        """
        check_trained_for(getattr(network, KEY, {}), network, self)
        noise, num_samples = noise or self.noise, num_samples or self.num_samples
        depth = volume.shape[self.slice_axis + 1]
        in_plane_size = [length for axis, length in enumerate(volume.shape[1:]) if axis != self.slice_axis]
        starts = range(0, depth, self.batch_size)
        for start in tqdm(starts, desc=printable(case) or "slices", delay=2, leave=False, disable=not self.progress):
            stop = min(start + self.batch_size, depth)
            image = self.network_image(volume, start, stop)
            scores = [
                resize_slices(score, in_plane_size).movedim(0, self.slice_axis + 1)
                for score in self._scores(network, image, case, start, noise, num_samples)  # each [N, K, H, W]
            ]
            yield stack_samples(scores)

    def network_image(self, volume: torch.Tensor | StreamedVolume, start: int, stop: int) -> torch.Tensor:
        """Return the slices ``start`` to ``stop - 1`` of a volume as the network gets them, [N, 3, H, W] in [-1, 1].

        Args:
            volume: as of :meth:`iter_scores`.
            start: index of the first slice along ``slice_axis``.
            stop: index after the last one.
        """
        offset = context_offset(volume, self.slice_axis, self.context_mm)
        if offset is None:
            return to_three_channels(resize_slices(extract_slices(volume, self.slice_axis, start, stop), self.size))
        margin = math.ceil(offset)
        first, last = max(0, start - margin), min(volume.shape[self.slice_axis + 1], stop + margin)
        slices = resize_slices(extract_slices(volume, self.slice_axis, first, last), self.size)
        return add_context(slices, start - first, stop - first, offset)

    def sample_slices(self, volume: torch.Tensor | StreamedVolume) -> torch.Tensor:
        """Return at most :data:`SAMPLED_SLICES` slices, evenly spaced, as the network gets them, [N, 3, H, W].

        Args:
            volume: as of :meth:`iter_scores`.
        """
        depth = volume.shape[self.slice_axis + 1]
        indices = torch.linspace(0, depth - 1, min(depth, SAMPLED_SLICES)).round().long().tolist()
        return torch.cat([self.network_image(volume, index, index + 1) for index in indices])

    def _scores(
        self, network: Any, image: torch.Tensor, case: str, start: int, noise: SliceNoise, num_samples: int
    ) -> Iterator[torch.Tensor]:
        if noise == "network":
            yield network(image)
            return
        sdseg: SDSeg = getattr(network, "module", network)  # inside DistributedDataParallel
        if not has_start_noise(sdseg):
            raise InputError(
                "noise='per_slice' for a network without start noise, which gives one mask whatever the seed: use "
                "'network' and one sample instead"
            )
        shape, image_latent = sdseg.latent_shape(image), sdseg.encode_image(image)
        for sample in range(num_samples):
            seeds = [seed_from(self.seed, case, start + i, sample) for i in range(len(image))]
            start_noise = seeded_normal(torch.tensor(seeds), shape).to(image)
            yield sdseg.segment_latent(image_latent, start_noise)


def stack_samples(samples: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return samples [...] as one tensor, [S, ...]; a single one is not copied."""
    return torch.stack(list(samples)) if len(samples) > 1 else samples[0][None]


def has_start_noise(network: nn.Module) -> bool:
    """Return whether ``network`` starts from noise, unlike a network in pixel space or one that starts from zeros."""
    return getattr(network, "start_noise", "zeros") != "zeros"


def case_name(image: MetaTensor | StreamedVolume) -> str:
    """Return the file name of a volume [C, X, Y, Z]; an empty string if it has none."""
    return PurePath(str(image.meta.get("filename_or_obj", ""))).name


def case_names(inputs: torch.Tensor) -> list[str]:
    """Return the file name of each volume of ``inputs`` [B, ...]; an empty string if the tensor has no file name."""
    names = getattr(inputs, "meta", {}).get("filename_or_obj", "")
    names = [names] * len(inputs) if isinstance(names, str) else list(names)
    return [PurePath(str(name)).name for name in names]
