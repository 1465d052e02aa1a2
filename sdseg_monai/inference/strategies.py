"""How a model is asked for the score of a volume: once, or several times to see how unsure it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch

from sdseg_monai.errors import ArgumentError, InputError
from sdseg_monai.inference.results import SegmentationResult
from sdseg_monai.inference.segmenter import Segmenter
from sdseg_monai.inference.uncertainty import SampledSegmentation, compare_samples
from sdseg_monai.inferers import case_names, has_start_noise

NUM_SEEDS = 5  # as many as Table 5 compares here


class Strategy(ABC):
    """A way to ask one or several models, for one score of a volume or for several samples of it.

    Args:
        members: the models; the first prepares volumes and takes scores back to the grid of their files.

    Attributes:
        num_samples: S, how many scores of a volume there are.
    """

    def __init__(self, members: Sequence[Segmenter]) -> None:
        self.members = list(members)
        self.num_samples = len(self.members)

    @property
    def segmenter(self) -> Segmenter:
        """The first model."""
        return self.members[0]

    def iter_slabs(self, image: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yield the S scores of a prepared ``image`` [C, X, Y, Z], from :meth:`Segmenter.prepare`, slab after slab.

        A slab is [S, K, X, Y, z] in [0, 1], float32, on the CPU; in order along the inferer's slice axis.
        """
        yield from _stack(*(_iter_scores(member, image) for member in self.members))

    @abstractmethod
    def finish(self, item: Mapping[str, Any], slabs: Iterable[torch.Tensor]) -> SegmentationResult:
        """Join the ``slabs`` of a prepared ``item``, and take what results to the grid of its file."""

    def segment(self, item: Mapping[str, Any]) -> SegmentationResult:
        """Segment an ``item`` that :meth:`Segmenter.prepare` has made."""
        return self.finish(item, self.iter_slabs(item["image"]))


class Once(Strategy):
    """The score of the volume: what SDSeg needs, one reverse step and one sample.

    Args:
        segmenter: the model.
    """

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__([segmenter])

    def finish(self, item: Mapping[str, Any], slabs: Iterable[torch.Tensor]) -> SegmentationResult:
        """Return the segmentation."""
        score = torch.cat([slab[0] for slab in slabs], dim=self.segmenter.inferer.slice_axis + 1)  # [K, X, Y, Z]
        return self.segmenter.finish(item, score)


class Sampling(Strategy):
    """Several samples of the score, whose differences tell how unsure the model is, without a label."""

    def combine(self, slab: torch.Tensor) -> torch.Tensor:
        """Return the score that is the result, [K, X, Y, z], from a ``slab`` of :meth:`iter_slabs`: the mean."""
        return slab.mean(dim=0)

    def finish(self, item: Mapping[str, Any], slabs: Iterable[torch.Tensor]) -> SampledSegmentation:
        """Return the segmentation that the samples result in, and how far they differ."""
        return compare_samples(self.segmenter, item, slabs, self.combine)


class Mirror(Sampling):
    """Test-time mirroring: the score of the volume and that of its mirror image, mirrored back.

    The body is nearly symmetric from left to right, so that the mirror image is one that another patient, or the other
    side of this one, could have given, while nobody lies head down. Classes that name a side of the body, as BTCV's
    kidneys do, are wrong in a mirror. A model with start noise starts from the same one both times.

    The result is the score of the volume itself: a model that has seen no mirror image in training knows less of one.

    Where slices are taken across left-right, so that a mirror would only reorder them, it is front-back.

    Args:
        segmenter: the model.
    """

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__([segmenter])
        self.num_samples = 2
        self.axis = 1 if segmenter.inferer.slice_axis == 0 else 0  # spatial, in RAS orientation

    def iter_slabs(self, image: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yield the scores of ``image`` and of its mirror image, see :class:`Strategy`."""
        mirrored = (slab.flip(self.axis + 1) for slab in _iter_scores(self.segmenter, image.flip(self.axis + 1)))
        yield from _stack(_iter_scores(self.segmenter, image), mirrored)

    def combine(self, slab: torch.Tensor) -> torch.Tensor:
        """Return the score of the volume itself."""
        return slab[0]


class Seeds(Sampling):
    """The scores from several start noises; every image is encoded once.

    Each slice has a noise of its own, whatever the bundle's inferer has, keyed by the segmenter's seed, the file's
    name, the slice's index and the sample's.

    Args:
        segmenter: the model.
        num_samples: how many start noises.

    Raises:
        InputError: the model has no start noise, so that its scores are all the same, or there are fewer than two.
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
    def iter_slabs(self, image: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yield the scores of ``image`` from every seed, see :class:`Strategy`."""
        network, (case,) = self.segmenter.network, case_names(image[None])
        image = image.to(self.segmenter.device)
        for slab in self.segmenter.inferer.iter_samples(image, network, case, "per_slice", self.num_samples):
            yield slab.cpu()


class Ensemble(Sampling):
    """The scores of several models of one bundle, trained from other seeds.

    Args:
        members: the models, each with weights of its own.

    Raises:
        InputError: there are fewer than two.
    """

    def __init__(self, members: Sequence[Segmenter]) -> None:
        if len(members) < 2:
            raise InputError(f"{len(members)} weights: expected at least two of one bundle's network for an ensemble")
        super().__init__(members)


@torch.inference_mode()
def _iter_scores(segmenter: Segmenter, image: torch.Tensor) -> Iterator[torch.Tensor]:
    (case,) = case_names(image[None])
    for slab in segmenter.inferer.iter_scores(image.to(segmenter.device), segmenter.network, case):
        yield slab.cpu()


def _stack(*samples: Iterator[torch.Tensor]) -> Iterator[torch.Tensor]:
    for slabs in zip(*samples, strict=True):
        yield torch.stack(slabs)
