"""From volumes to slices of the network's size and back, for training and inference alike."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import ImageMetaKey
from torch.nn import functional as F

from sdseg_monai.errors import InputError

if TYPE_CHECKING:
    from sdseg_monai.transforms.streaming import StreamedVolume

TIE_BREAK = 1e-3  # added to the share of the nearest pixel's class: decides only between classes that are about equal


def check_grid(size: Any, slice_axis: Any, context_mm: Any = None) -> None:
    """Check what a config says of the slices that its network gets.

    Args:
        size: (H, W), two whole numbers above 0.
        slice_axis: 0, 1 or 2.
        context_mm: a distance in millimetres above 0, or None.

    Raises:
        InputError: one of them is anything else.
    """
    is_size = isinstance(size, Sequence) and len(size) == 2 and all(_is_whole(length) and length > 0 for length in size)
    if not is_size or not (_is_whole(slice_axis) and 0 <= slice_axis <= 2):
        raise InputError(f"size={size!r}, slice_axis={slice_axis!r}: expected two lengths in pixels, and 0, 1 or 2")
    check_context(context_mm)


def check_context(context_mm: Any) -> None:
    """Check a distance of neighbouring slices in millimetres, above 0, or None.

    Raises:
        InputError: it is anything else.
    """
    if context_mm is not None and not (isinstance(context_mm, int | float) and 0 < context_mm < math.inf):
        raise InputError(f"context_mm={context_mm!r}: expected a distance in millimetres above 0, or null for none")


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def extract_slices(volume: torch.Tensor | StreamedVolume, slice_axis: int, start: int, stop: int) -> torch.Tensor:
    """Return slices of a volume.

    Args:
        volume: [C, X, Y, Z].
        slice_axis: spatial axis across which slices are taken, 0 to 2.
        start: index of the first slice.
        stop: index after the last slice.

    Returns:
        [stop - start, C, H, W]; H and W are the other two spatial axes, in their order.
    """
    axis = slice_axis + 1  # the first axis is the channels
    return volume.narrow(axis, start, stop - start).as_subclass(torch.Tensor).movedim(axis, 0)


def resize_slices(slices: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Return ``slices`` [N, C, H, W] in float32, resized to ``size`` (H, W) by bilinear interpolation.

    The outer edges of the pixels are aligned, not their centres (``align_corners=False``).
    """
    if tuple(slices.shape[-2:]) == tuple(size):
        return slices.float()
    return F.interpolate(slices.float(), size=tuple(size), mode="bilinear", align_corners=False)


def resize_labels(labels: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Return label maps ``labels`` [N, 1, H, W] in float32, resized to ``size`` (H, W).

    The binary mask of each class is resized as :func:`resize_slices` resizes scores, and the class with the largest
    share of a pixel is taken, so that labels and scores have the same outline. When a grid is halved, many pixels of an
    outline belong half to one class and half to another. A fixed order of the classes would enlarge all small objects
    of one class there; so the nearest pixel of ``labels`` decides.
    """
    nearest_labels = F.interpolate(labels.float(), size=tuple(size), mode="nearest-exact")
    largest_share, resized_labels = torch.full_like(nearest_labels, -1.0), torch.zeros_like(nearest_labels)
    for value in labels.unique():  # one class after another: all masks of a CT at once would need gigabytes
        share = resize_slices(labels == value, size) + TIE_BREAK * (nearest_labels == value)
        resized_labels = torch.where(share > largest_share, value.float(), resized_labels)
        largest_share = torch.maximum(largest_share, share)
    return resized_labels


def add_context(slices: torch.Tensor, start: int, stop: int, offset: float) -> torch.Tensor:
    """Return slices with their two neighbours as further channels ("2.5D").

    Args:
        slices: all slices of a stack, [N, 1, H, W], in order.
        start: index of the first slice to return.
        stop: index after the last slice to return.
        offset: distance of the neighbours, in slices. Between two slices a neighbour is interpolated; outside the stack
            it is the first or last slice.

    Returns:
        [stop - start, 3, H, W]: the neighbour ``offset`` before the slice, the slice, the neighbour after it.
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


def context_offset(image: torch.Tensor | StreamedVolume, slice_axis: int, context_mm: float | None) -> float | None:
    """Return the distance ``context_mm`` as a number of slices of an image.

    Args:
        image: [C, X, Y, Z], with an affine.
        slice_axis: spatial axis across which slices are taken, 0 to 2.
        context_mm: distance in millimetres above 0; None returns None.

    Raises:
        InputError: the image is a photograph, or ``context_mm`` is no distance.
        ValueError: the image has no affine, which holds the distance of its slices.
    """
    check_context(context_mm)
    if context_mm is None:
        return None
    if not isinstance(image, MetaTensor) and isinstance(image, torch.Tensor):
        raise ValueError(f"context_mm={context_mm} needs an image with an affine, got a {type(image).__name__}")
    if image.shape[0] != 1:
        name = image.meta.get(ImageMetaKey.FILENAME_OR_OBJ, "image")
        raise InputError(
            f"{name}: has {image.shape[0]} channels, a photograph without neighbours, expected a grey-value volume for "
            f"context_mm={context_mm}; set context_mm to null"
        )
    return context_mm / float(image.affine[:3, slice_axis].double().norm())


def to_three_channels(slices: torch.Tensor) -> torch.Tensor:
    """Return ``slices`` [..., 1 or 3, H, W] with three channels: a single channel is repeated.

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
        keys: volumes; the one under the key ``label`` is a label map.
        slice_axis: spatial axis across which slices are taken, 0 to 2.
        size: (H, W) of the slices.
        context_mm: see :class:`sdseg_monai.data.SliceDataset`.

    Raises:
        InputError: ``slice_axis`` or ``size`` is anything else.
    """

    def __init__(
        self, keys: KeysCollection, slice_axis: int, size: Sequence[int], context_mm: float | None = None
    ) -> None:
        super().__init__(keys)
        check_grid(size, slice_axis)
        self.slice_axis = slice_axis
        self.size = tuple(size)
        self.context_mm = context_mm

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with stacks instead of volumes, and the image's :func:`context_offset` as ``context``."""
        item = dict(data)
        item["context"] = context_offset(item["image"], self.slice_axis, self.context_mm)
        for key in self.key_iterator(item):
            volume = torch.as_tensor(item[key]).as_subclass(torch.Tensor)
            slices = extract_slices(volume, self.slice_axis, 0, volume.shape[self.slice_axis + 1])
            resize = resize_labels if key == "label" else resize_slices
            item[key] = resize(slices, self.size).contiguous()
        return item
