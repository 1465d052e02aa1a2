"""From volumes to network-sized slices and back; training and inference both go through here."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from torch.nn import functional as F

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
    """Resize binary ``labels`` [N, C, H, W] to ``size`` as :func:`resize_slices` does scores, cut at 0.5; {0, 1}.

    Labels and scores then meet on one outline. Halving a grid puts much of an outline at exactly 0.5, where a plain
    cut would enlarge every small object: the nearest pixel decides there.
    """
    nearest = F.interpolate(labels.float(), size=tuple(size), mode="nearest-exact")
    return (resize_slices(labels, size) + TIE_BREAK * (nearest - 0.5) >= 0.5).float()


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
        keys: volumes; the one called ``label`` is binary.
        slice_axis: spatial axis across which slices are taken.
        size: (H, W) of the slices.
    """

    def __init__(self, keys: KeysCollection, slice_axis: int, size: Sequence[int]) -> None:
        super().__init__(keys)
        self.slice_axis = slice_axis
        self.size = tuple(size)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace each volume by its stack."""
        item = dict(data)
        for key in self.key_iterator(item):
            volume = torch.as_tensor(item[key]).as_subclass(torch.Tensor)
            slices = extract_slices(volume, self.slice_axis, 0, volume.shape[self.slice_axis + 1])
            resize = resize_labels if key == "label" else resize_slices
            item[key] = resize(slices, self.size).contiguous()
        return item
