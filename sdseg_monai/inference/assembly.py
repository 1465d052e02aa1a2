"""The result of one image on its own grid, put together from slabs of scores as they come."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.utils import MetaKeys

from sdseg_monai.errors import InputError
from sdseg_monai.inference.results import CONFIDENCE, SCORES, SegmentationResult
from sdseg_monai.inference.segmenter import Segmenter
from sdseg_monai.io.arrays import make_array, put
from sdseg_monai.networks.codes import score_margin
from sdseg_monai.transforms.streaming import StreamedVolume


class Part(NamedTuple):
    """Some slices of a prepared image, or all of it: its item, as from :meth:`Segmenter.prepare`, and its place.

    The place, ``box``, is in the array [X, Y, Z] of the image's file.
    """

    item: Mapping[str, Any]
    box: tuple[slice, ...]


def iter_parts(
    segmenter: Segmenter, item: Mapping[str, Any], slabs: Iterable[torch.Tensor]
) -> Iterator[tuple[Part, torch.Tensor]]:
    """Yield the part of the image to which each slab of scores belongs, and the slab.

    Where preprocessing or postprocessing need the whole image, the slabs are joined, and there is one part.

    Args:
        segmenter: the model.
        item: the prepared image, from :meth:`Segmenter.prepare`.
        slabs: S samples of its score each, [S, K, X, Y, z], in order along the slice axis.
    """
    image, dim = item["image"], segmenter.inferer.slice_axis + 1
    if not isinstance(image, StreamedVolume):
        yield Part(item, (slice(None),) * 3), torch.cat(list(slabs), dim=dim + 1)
        return
    start = 0
    for slab in slabs:
        length = slab.shape[dim + 1]
        yield Part({**item, "image": image.narrow(dim, start, length)}, image.box(dim, start, length)), slab
        start += length


class Assembly:
    """A mask and maps beside it, which are filled in part by part, each resampled to the grid of the image's file.

    Args:
        segmenter: the model.
        item: the prepared image, from :meth:`Segmenter.prepare`.
        kept: which of ``scores`` and ``confidence`` are kept, see
            :class:`~sdseg_monai.inference.results.SegmentationResult`.
    """

    def __init__(self, segmenter: Segmenter, item: Mapping[str, Any], kept: Sequence[str] = ()) -> None:
        self.segmenter, self.item = segmenter, item
        self.shape = tuple(int(length) for length in item["image"].meta[MetaKeys.SPATIAL_SHAPE])
        self.labels = make_array(self.shape, np.uint8)
        self.kept: dict[str, np.ndarray] = {}
        if SCORES in kept:  # each class in a block of its own, as in the files of the maps
            self.kept[SCORES] = np.moveaxis(make_array((*self.shape, segmenter.num_classes - 1), np.float32), -1, 0)
        if CONFIDENCE in kept:
            self.kept[CONFIDENCE] = make_array(self.shape, np.float32)

    def add(self, part: Part, score: torch.Tensor) -> None:
        """Fill in a part.

        Args:
            part: of the image.
            score: of this part, in [0, 1], float32, on the CPU. Of two classes it is the score of the foreground,
                [1, X, Y, z]; of more classes one score for each class, [K, X, Y, z].

        Raises:
            InputError: the bundle's postprocessing leaves a mask on another grid than that of the image's file.
        """
        item_on_grid = self.segmenter.invert(part.item, score)
        labels = self.segmenter.classify(item_on_grid)
        expected = self.labels[part.box].shape
        if labels.shape != expected:
            raise InputError(
                f"{self.segmenter.config}: postprocessing leaves a mask of shape {labels.shape}, expected {expected} "
                "as in the image's file: the preprocessing must be inverted"
            )
        put(self.labels, part.box, labels)
        score_on_grid = item_on_grid["pred"].as_subclass(torch.Tensor).float()  # [K, x, y, z] of the file
        if CONFIDENCE in self.kept:
            put(self.kept[CONFIDENCE], part.box, score_margin(score_on_grid[None])[0, 0].numpy())
        if SCORES in self.kept:
            foreground = score_on_grid if len(score_on_grid) == 1 else score_on_grid[1:]
            for array, values in zip(self.kept[SCORES], foreground.numpy(), strict=True):
                put(array, part.box, values)

    def finish(self) -> SegmentationResult:
        """Return the result, after all parts; its mask is cleaned, where the bundle does so."""
        self.segmenter.clean(self.item, self.labels)
        return SegmentationResult(
            labels=self.labels,
            kept=self.kept,
            affine=self.item["image"].meta[MetaKeys.ORIGINAL_AFFINE].numpy(),
            segments=self.segmenter.segments,
            source=self.item["source"],
            num_classes=self.segmenter.num_classes,
            warnings=list(self.item["warnings"]),
        )
