"""Several scores of one volume: what tells, without a label, how unsure a model is of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from typing import Literal

import torch

from sdseg_monai.errors import InputError
from sdseg_monai.inference.segmenter import Segmenter
from sdseg_monai.inferers import case_names, has_start_noise

NUM_SEEDS = 5  # as many as Table 5 compares here


class Samples(ABC):
    """A source of several scores of a volume.

    Args:
        segmenter: what prepares volumes and takes scores back to the grid of their files.
    """

    def __init__(self, segmenter: Segmenter) -> None:
        self.segmenter = segmenter

    @abstractmethod
    def iter_slabs(self, image: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yield the S scores of a prepared ``image`` [C, X, Y, Z], from :meth:`Segmenter.prepare`, slab after slab.

        A slab is [S, K, X, Y, Z] in [0, 1], float32, on the CPU; in order along the inferer's slice axis.
        """

    def result(self, slab: torch.Tensor) -> torch.Tensor:
        """Return the score that is the result, [K, X, Y, Z], from a ``slab`` of :meth:`iter_slabs`: the mean."""
        return slab.mean(dim=0)


class Flips(Samples):
    """The score of the volume and that of its mirror image, mirrored back.

    The body is nearly symmetric from left to right, so that the mirror image is one that another patient, or the other
    side of this one, could have given, while nobody lies head down. Classes that name a side of the body, as BTCV's
    kidneys do, are wrong in a mirror. A model with start noise starts from the same one both times.

    The result is the score of the volume itself: a model that has seen no mirror image in training knows less of one.

    Where slices are taken across left-right, so that a mirror would only reorder them, it is front-back.
    """

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__(segmenter)
        self.axis = 1 if segmenter.inferer.slice_axis == 0 else 0  # spatial, in RAS orientation

    def iter_slabs(self, image: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yield the scores of ``image`` and of its mirror image, see :class:`Samples`."""
        mirrored = (slab.flip(self.axis + 1) for slab in _iter_scores(self.segmenter, image.flip(self.axis + 1)))
        yield from _stack(_iter_scores(self.segmenter, image, self.segmenter.inferer.progress), mirrored)

    def result(self, slab: torch.Tensor) -> torch.Tensor:
        """Return the score of the volume itself."""
        return slab[0]


class Seeds(Samples):
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
        super().__init__(segmenter)
        if not has_start_noise(segmenter.network):
            raise InputError(
                "seeds of a network without start noise, which gives one mask whatever the seed: use flips or an "
                "ensemble instead"
            )
        if num_samples < 2:
            raise InputError(f"{num_samples} seeds: expected at least two to compare")
        self.num_samples = num_samples

    @torch.inference_mode()
    def iter_slabs(self, image: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yield the scores of ``image`` from every seed, see :class:`Samples`."""
        inferer = copy(self.segmenter.inferer)
        inferer.noise, inferer.num_samples = "per_slice", self.num_samples
        image = image.to(self.segmenter.device)
        for slab in inferer.iter_samples(image, self.segmenter.network, *case_names(image[None])):
            yield slab.cpu()


class Ensemble(Samples):
    """The scores of several models of one bundle, trained from other seeds.

    Args:
        members: the models, each with weights of its own; the first prepares volumes.

    Raises:
        InputError: there are fewer than two.
    """

    def __init__(self, members: Sequence[Segmenter]) -> None:
        if len(members) < 2:
            raise InputError(f"{len(members)} weights: expected at least two of one bundle's network for an ensemble")
        super().__init__(members[0])
        self.members = members

    def iter_slabs(self, image: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yield the scores of ``image`` by every member, see :class:`Samples`."""
        first, *others = self.members
        yield from _stack(
            _iter_scores(first, image, first.inferer.progress), *(_iter_scores(other, image) for other in others)
        )


Signal = Literal["flips", "seeds"]
SIGNALS: dict[Signal, Callable[[Segmenter], Samples]] = {"flips": Flips, "seeds": Seeds}  # those of a single model


@torch.inference_mode()
def _iter_scores(segmenter: Segmenter, image: torch.Tensor, progress: bool = False) -> Iterator[torch.Tensor]:
    inferer = copy(segmenter.inferer)
    inferer.progress = progress  # of several that go on side by side one shows a bar
    image = image.to(segmenter.device)
    for slab in inferer.iter_scores(image, segmenter.network, *case_names(image[None])):
        yield slab.cpu()


def _stack(*sources: Iterator[torch.Tensor]) -> Iterator[torch.Tensor]:
    for slabs in zip(*sources, strict=True):
        yield torch.stack(slabs)
