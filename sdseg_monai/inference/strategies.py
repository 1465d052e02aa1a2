"""Strategies of inference: compute the scores of a volume once, or several times to measure the uncertainty."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from monai.data import MetaTensor

from sdseg_monai.errors import ArgumentError, InputError
from sdseg_monai.inference.assembly import Assembly, iter_parts
from sdseg_monai.inference.results import KEPT, SegmentationResult
from sdseg_monai.inference.segmenter import Segmenter
from sdseg_monai.inference.uncertainty import SampledSegmentation, compare_samples
from sdseg_monai.inferers import case_name, has_start_noise, stack_samples
from sdseg_monai.io.segments import names_side
from sdseg_monai.transforms.streaming import StreamedVolume

PreparedImage: TypeAlias = MetaTensor | StreamedVolume  # [C, X, Y, Z]
NUM_SEEDS = 5  # as in Table 5 of docs/paper.md


class Strategy(ABC):
    """How one or several models compute the scores of a volume.

    Args:
        members: the models; the first one prepares volumes and resamples scores to the grid of their files.

    Attributes:
        members: the models.
        num_samples: S, the number of scores (samples) of one volume.
    """

    def __init__(self, members: Sequence[Segmenter]) -> None:
        self.members = list(members)
        self.num_samples = len(self.members)

    @property
    def segmenter(self) -> Segmenter:
        """The first model."""
        return self.members[0]

    def iter_slabs(self, image: PreparedImage) -> Iterator[torch.Tensor]:
        """Compute the S scores of a volume, slab after slab along the inferer's slice axis.

        Args:
            image: the prepared volume, [C, X, Y, Z], from :meth:`Segmenter.prepare`.

        Yields:
            The scores of the next slices, [S, K, X, Y, z] in [0, 1], float32, on the CPU.
        """
        yield from _stack(*(_iter_scores(member, image) for member in self.members))

    @abstractmethod
    def finish(
        self, item: Mapping[str, Any], slabs: Iterable[torch.Tensor], kept: Sequence[str] = KEPT
    ) -> SegmentationResult:
        """Make the result on the grid of the image's file from the slabs as they come.

        Args:
            item: the prepared volume, from :meth:`Segmenter.prepare`.
            slabs: its scores, from :meth:`iter_slabs`.
            kept: which maps the result has beside the mask, of :data:`~sdseg_monai.inference.results.KEPT`.
        """


class Once(Strategy):
    """The volume is segmented once, as in the paper: one reverse step and one sample.

    Args:
        segmenter: the model.
    """

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__([segmenter])

    def finish(
        self, item: Mapping[str, Any], slabs: Iterable[torch.Tensor], kept: Sequence[str] = KEPT
    ) -> SegmentationResult:
        """Return the segmentation."""
        assembly = Assembly(self.segmenter, item, kept)
        for part, slab in iter_parts(self.segmenter, item, slabs):
            assembly.add(part, slab[0])
        return assembly.finish()


class MirrorMean(Once):
    """Test-time augmentation: the volume and its mirror image are segmented, the result is the mean of the two scores.

    The mirror image is along an axis along which the training mirrored its slices; where there are two, along the first
    one. A model with start noise uses the same noise for both.

    Args:
        segmenter: the model.

    Raises:
        ArgumentError: the bundle's ``train.json`` does not say that the training mirrored the images, or a class names
            a side of the body or may do so.
    """

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__(segmenter)
        self.axis = _trained_mirror_axis(segmenter)

    def iter_slabs(self, image: PreparedImage) -> Iterator[torch.Tensor]:
        """Yield the mean score of ``image`` and its mirror image as one sample, see :meth:`Strategy.iter_slabs`."""
        for slab in _iter_with_mirror(self.segmenter, image, self.axis):
            yield slab.mean(dim=0, keepdim=True)


class Sampling(Strategy):
    """The volume is segmented several times; the differences measure how unsure the model is, without a label."""

    def combine(self, slab: torch.Tensor) -> torch.Tensor:
        """Return the score of the result, [K, X, Y, z], from a ``slab`` [S, K, X, Y, z]: the mean of the samples."""
        return slab.mean(dim=0)

    def finish(
        self, item: Mapping[str, Any], slabs: Iterable[torch.Tensor], kept: Sequence[str] = KEPT
    ) -> SampledSegmentation:
        """Return the segmentation, and how far the samples differ; see :meth:`Strategy.finish`."""
        samples = [Assembly(self.segmenter, item) for _ in range(self.num_samples)]
        return compare_samples(Assembly(self.segmenter, item, kept), samples, slabs, self.combine)


class Mirror(Sampling):
    """Test-time mirroring: the volume and its mirror image are segmented; the second score is mirrored back.

    The mirror image exchanges left and right. The body is nearly symmetric, so another patient could look like the
    mirror image. Classes that name a side of the body, such as the left kidney, are wrong in it: the two samples then
    differ for no good reason. Where slices are sagittal, a mirror image from left to right would only change their
    order; there the mirror image exchanges front and back.

    The result is the score of the volume itself, not the mean, because a model that was trained without mirror images
    is worse at them. A model with start noise uses the same noise for both samples.

    Args:
        segmenter: the model.
    """

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__([segmenter])
        self.num_samples = 2
        self.axis = 1 if segmenter.inferer.slice_axis == 0 else 0  # spatial, in RAS orientation

    def iter_slabs(self, image: PreparedImage) -> Iterator[torch.Tensor]:
        """Yield the scores of ``image`` and of its mirror image, see :meth:`Strategy.iter_slabs`."""
        yield from _iter_with_mirror(self.segmenter, image, self.axis)

    def combine(self, slab: torch.Tensor) -> torch.Tensor:
        """Return the score of the volume itself."""
        return slab[0]


class Seeds(Sampling):
    """The volume is segmented from several start noises; the image is encoded once for all of them.

    Each slice has its own noise, which depends on the model's seed, the name of the file, the index of the slice and
    the number of the sample.

    Args:
        segmenter: the model.
        num_samples: number of start noises, at least 2.

    Raises:
        InputError: the model has no start noise, so all its scores would be equal.
        ArgumentError: ``num_samples`` is less than 2.
    """

    def __init__(self, segmenter: Segmenter, num_samples: int = NUM_SEEDS) -> None:
        super().__init__([segmenter])
        if not has_start_noise(segmenter.network):
            raise InputError(
                "seeds of a network without start noise, which gives one mask whatever the seed: use flips or an "
                "ensemble instead"
            )
        if num_samples < 2:
            raise ArgumentError(f"num_samples={num_samples}: {num_samples} seeds, expected at least two to compare")
        self.num_samples = num_samples

    @torch.inference_mode()
    def iter_slabs(self, image: PreparedImage) -> Iterator[torch.Tensor]:
        """Yield the scores of ``image`` from each start noise, see :meth:`Strategy.iter_slabs`."""
        network, case, image = self.segmenter.network, case_name(image), image.to(self.segmenter.device)
        for slab in self.segmenter.inferer.iter_samples(image, network, case, "per_slice", self.num_samples):
            yield slab.cpu()


class Ensemble(Sampling):
    """The volume is segmented by several models: one bundle, whose network was trained from different seeds.

    Args:
        members: the models, at least two, each with its own weights.

    Raises:
        InputError: there are fewer than two models.
    """

    def __init__(self, members: Sequence[Segmenter]) -> None:
        if len(members) < 2:
            raise InputError(f"{len(members)} weights: expected at least two of one bundle's network for an ensemble")
        super().__init__(members)


@torch.inference_mode()
def _iter_scores(segmenter: Segmenter, image: PreparedImage) -> Iterator[torch.Tensor]:
    for slab in segmenter.inferer.iter_scores(image.to(segmenter.device), segmenter.network, case_name(image)):
        yield slab.cpu()


def _iter_with_mirror(segmenter: Segmenter, image: PreparedImage, axis: int) -> Iterator[torch.Tensor]:
    """Yield two scores of ``image``, [2, K, X, Y, z]: its own, and its mirror image's along ``axis``, mirrored back."""
    mirror_slabs = (slab.flip(axis + 1) for slab in _iter_scores(segmenter, image.flip(axis + 1)))
    yield from _stack(_iter_scores(segmenter, image), mirror_slabs)


def _trained_mirror_axis(segmenter: Segmenter) -> int:
    """Return the spatial axis of a mirror image like those of the training; raises as :class:`MirrorMean` does."""
    bundle = segmenter.bundle
    train = bundle.config_file("train")
    if not train.is_file():
        raise ArgumentError(
            f"tta='mirror': {train} is missing, which would say whether the training mirrored the images"
        )
    if not bundle.mirrored_axes:
        raise ArgumentError(
            f"tta='mirror': the training of this bundle mirrors no images, as {train} says: leave it out"
        )
    if not segmenter.segments:
        raise ArgumentError(
            f"tta='mirror': {bundle.config_file('metadata')} does not name the classes, of which one may be on a side "
            "of the body: leave it out"
        )
    for segment in segmenter.segments.values():
        if names_side(segment.name):
            raise ArgumentError(
                f"tta='mirror': {segment.name} names a side, which is the other one in a mirror image: leave it out"
            )
    axes_in_slice = [axis for axis in range(3) if axis != segmenter.inferer.slice_axis]
    return axes_in_slice[bundle.mirrored_axes[0]]


def _stack(*samples: Iterator[torch.Tensor]) -> Iterator[torch.Tensor]:
    for slabs in zip(*samples, strict=True):
        yield stack_samples(slabs)
