"""From volumes to network-sized slices and back; training and inference both go through here."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import ImageMetaKey
from torch.nn import functional as F

from sdseg_monai.errors import InputError

TIE_BREAK = 1e-3


def extract_slices(volume: torch.Tensor, slice_axis: int, start: int, stop: int) -> torch.Tensor:
    """Return slices ``start`` to ``stop`` of ``volume`` [C, X, Y, Z] across ``slice_axis`` as [N, C, H, W].

    H and W are the two other spatial axes in their order.
    """
    axis = slice_axis + 1  # after the channels
    return volume.narrow(axis, start, stop - start).movedim(axis, 0)


def resize_slices(slices: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Resize ``slices`` [N, C, H, W] bilinearly in-plane to ``size``, pixel areas aligned; float32."""
    if tuple(slices.shape[-2:]) == tuple(size):
        return slices.float()
    return F.interpolate(slices.float(), size=tuple(size), mode="bilinear", align_corners=False)


def resize_labels(labels: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Resize class maps ``labels`` [N, 1, H, W] to ``size``; float32.

    Each class is resized as :func:`resize_slices` does scores, the largest wins.
    Labels and scores then meet on one outline. Halving a grid puts much of an outline half-way between two classes,
    where any fixed order would enlarge every small object of one of them: the nearest pixel decides there.
    """
    nearest = F.interpolate(labels.float(), size=tuple(size), mode="nearest-exact")
    best, resized = torch.full_like(nearest, -1.0), torch.zeros_like(nearest)
    for value in labels.unique():  # one by one: of all classes at once a CT would need gigabytes
        share = resize_slices(labels == value, size) + TIE_BREAK * (nearest == value)
        resized = torch.where(share > best, value.float(), resized)
        best = torch.maximum(best, share)
    return resized


def add_context(slices: torch.Tensor, start: int, stop: int, offset: float) -> torch.Tensor:
    """Put the neighbours of slices ``start`` to ``stop`` of a stack beside them, as channels.

    Args:
        slices: [N, 1, H, W], in order.
        start: first slice to return.
        stop: one after the last.
        offset: how far away the neighbours are, in slices; between two slices they are interpolated, beyond the
            stack its last slice stands for them.

    Returns:
        [stop - start, 3, H, W]: what lies ``offset`` below, the slice, what lies ``offset`` above.
    """
    positions = torch.arange(start, stop, dtype=torch.float64)
    channels = []
    for shift in (-offset, 0.0, offset):
        position = (positions + shift).clamp(0, len(slices) - 1)
        lower = position.floor().long().clamp_max(max(len(slices) - 2, 0))
        upper = (lower + 1).clamp_max(len(slices) - 1)
        weight = (position - lower).to(slices).view(-1, 1, 1, 1)
        channels.append(torch.lerp(slices[lower], slices[upper], weight))
    return torch.cat(channels, dim=1)


def context_offset(image: torch.Tensor, slice_axis: int, context_mm: float | None) -> float | None:
    """Return ``context_mm`` in slices of ``image`` [C, X, Y, Z] across ``slice_axis``; None for None.

    Raises:
        InputError: the image is a photograph, or ``context_mm`` is no distance.
        ValueError: the image does not say how far apart its slices are.
    """
    if context_mm is None:
        return None
    if not 0 < context_mm < math.inf:
        raise InputError(f"context_mm={context_mm}: expected a distance in millimetres above 0, or null for none")
    if not isinstance(image, MetaTensor):
        raise ValueError(f"context_mm={context_mm} needs an image with an affine, got a {type(image).__name__}")
    if image.shape[0] != 1:
        name = image.meta.get(ImageMetaKey.FILENAME_OR_OBJ, "image")
        raise InputError(
            f"{name}: has {image.shape[0]} channels, a photograph without neighbours, expected a grey-value volume for "
            f"context_mm={context_mm}; set context_mm to null"
        )
    return context_mm / float(image.affine[:3, slice_axis].double().norm())


def to_three_channels(slices: torch.Tensor) -> torch.Tensor:
    """Repeat one-channel slices [..., 1, H, W] to three channels; three-channel slices pass through.

    Raises:
        ValueError: the number of channels is neither 1 nor 3.
    """
    channels = slices.shape[-3]
    if channels not in (1, 3):
        raise ValueError(f"image has {channels} channels: expected 1 (a grey-value volume) or 3 (RGB)")
    return slices if channels == 3 else slices.expand(*slices.shape[:-3], 3, *slices.shape[-2:])


class StackSlicesd(MapTransform):
    """Turn volumes [C, X, Y, Z] into stacks of resized slices [N, C, H, W], plain float32 tensors.

    Args:
        keys: volumes; the one called ``label`` is a class map.
        slice_axis: spatial axis across which slices are taken.
        size: (H, W) of the slices.
        context_mm: see :class:`sdseg_monai.data.SliceDataset`.
    """

    def __init__(
        self, keys: KeysCollection, slice_axis: int, size: Sequence[int], context_mm: float | None = None
    ) -> None:
        super().__init__(keys)
        self.slice_axis = slice_axis
        self.size = tuple(size)
        self.context_mm = context_mm

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace each volume by its stack; ``context`` is the :func:`context_offset` of the image."""
        item = dict(data)
        item["context"] = context_offset(item["image"], self.slice_axis, self.context_mm)
        for key in self.key_iterator(item):
            volume = torch.as_tensor(item[key]).as_subclass(torch.Tensor)
            slices = extract_slices(volume, self.slice_axis, 0, volume.shape[self.slice_axis + 1])
            resize = resize_labels if key == "label" else resize_slices
            item[key] = resize(slices, self.size).contiguous()
        return item
