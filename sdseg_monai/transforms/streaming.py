"""A bundle's preprocessing of a volume, slab by slab: what it makes of each slab, it would make of the whole volume.

So the prepared volume, which is larger than the file, never lies in memory as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import (
    Compose,
    MapTransform,
    Orientationd,
    ScaleIntensityRanged,
    ScaleIntensityRangePercentilesd,
    Transform,
)
from monai.transforms.utils_pytorch_numpy_unification import percentile
from nibabel.orientations import inv_ornt_aff, io_orientation

from sdseg_monai.io.arrays import IN_MEMORY_BYTES, chunks, take
from sdseg_monai.io.volumes import Volume
from sdseg_monai.io.warnings import ImageWarnings
from sdseg_monai.transforms.checks import CheckImaged
from sdseg_monai.transforms.volumes import LoadVolumed

KEY = "image"
HALF = 1 << 16  # values of half the bits of a float32
CPU = torch.device("cpu")
SIGN = np.uint32(1 << 31)


def can_stream(preprocessing: Transform) -> bool:
    """Tell whether all steps of a preprocessing are known to work slab by slab: reading, orientation, intensities.

    Percentiles are of the whole volume, so that they must be of the intensities of its file.
    """
    steps: Sequence[Any] = Compose([preprocessing]).flatten().transforms
    if not all(isinstance(step, MapTransform) and tuple(step.keys) == (KEY,) for step in steps):
        return False
    if not steps or type(steps[0]) is not LoadVolumed:
        return False
    is_scaled = False
    for step in steps[1:]:
        if type(step) is ScaleIntensityRangePercentilesd:
            is_known = not (is_scaled or step.scaler.relative or step.scaler.channel_wise)
        else:  # not subclasses, which may do more
            is_known = type(step) in (Orientationd, ScaleIntensityRanged) or isinstance(step, CheckImaged)
        if not is_known:
            return False
        is_scaled = is_scaled or type(step) in (ScaleIntensityRanged, ScaleIntensityRangePercentilesd)
    return True


@dataclass(frozen=True, eq=False)
class StreamedVolume:
    """A prepared volume that stands for a MetaTensor [1, X, Y, Z], and makes a slab of it when one is taken.

    Attributes:
        volume: as read, [X, Y, Z].
        steps: from a slab of ``volume`` to that of the prepared volume.
        orientation: of each axis of ``volume`` the prepared axis and the direction, [3, 2], as in nibabel.
        device: of the slabs.
        flipped: dimensions along which the prepared volume is mirrored.
    """

    volume: Volume
    steps: tuple[Transform, ...] = ()
    orientation: np.ndarray = field(default_factory=lambda: np.array([[0, 1], [1, 1], [2, 1]]))
    device: torch.device = CPU
    flipped: tuple[int, ...] = ()
    _last: list[tuple[int, int, MetaTensor]] = field(default_factory=list)

    @property
    def shape(self) -> torch.Size:
        """Of the prepared volume, [1, X, Y, Z]."""
        shape = [0, 0, 0]
        for axis, length in enumerate(self.volume.array.shape):
            shape[int(self.orientation[axis, 0])] = length
        return torch.Size([1, *shape])

    @property
    def affine(self) -> torch.Tensor:
        """From prepared voxels to RAS+ millimetres, [4, 4], float64."""
        return torch.from_numpy(self.volume.affine @ inv_ornt_aff(self.orientation, self.volume.array.shape))

    @property
    def meta(self) -> dict[str, Any]:
        """As LoadVolumed sets it."""
        return dict(LoadVolumed(KEY)({KEY: self.volume})[KEY].meta)

    def min(self) -> torch.Tensor:
        """Return the lowest value."""
        return self._extremes().min()

    def max(self) -> torch.Tensor:
        """Return the highest value."""
        return self._extremes().max()

    def narrow(self, dim: int, start: int, length: int) -> MetaTensor:
        """Return the slab of ``length`` slices from ``start`` along dimension 1 to 3, as that of a tensor."""
        size = self.shape[dim]
        if dim in self.flipped:
            start = size - start - length
        slab = self._slab(dim, start, length)
        return (slab.flip(self.flipped) if self.flipped else slab).to(self.device)

    def flip(self, dim: int) -> StreamedVolume:
        """Return the mirror image along a dimension."""
        return replace(self, flipped=(*self.flipped, dim))

    def to(self, device: torch.device) -> StreamedVolume:
        """Return the volume with its slabs on a device."""
        return replace(self, device=device)

    def whole(self) -> MetaTensor:
        """Return all of the prepared volume."""
        return self.narrow(1, 0, self.shape[1])

    def box(self, dim: int, start: int, length: int) -> tuple[slice, ...]:
        """Return where the slab of :meth:`narrow` lies in the array of the file."""
        axis = int(np.flatnonzero(self.orientation[:, 0] == dim - 1)[0])
        size = self.volume.array.shape[axis]
        first = start if self.orientation[axis, 1] > 0 else size - start - length
        box = [slice(None)] * 3
        box[axis] = slice(first, first + length)
        return tuple(box)

    def _slab(self, dim: int, start: int, length: int) -> MetaTensor:
        """Return an unflipped slab; the last one is kept, since its slices are asked for again to resample scores."""
        if self._last:
            last_dim, last_start, slab = self._last[0]
            if dim == last_dim and last_start <= start and start + length <= last_start + slab.shape[dim]:
                return slab.narrow(dim, start - last_start, length)
        box = self.box(dim, start, length)
        affine = self.volume.affine.copy()
        affine[:3, 3] += affine[:3, :3] @ [step.start or 0 for step in box]
        slab = self._prepare(Volume(take(self.volume.array, box), affine, self.volume.name))
        self._last[:] = [(dim, start, slab)]
        return slab

    def _extremes(self) -> MetaTensor:
        """Return what the steps make of the lowest and the highest value; each of them is monotonic."""
        return self._prepare(Volume(np.array([[self.volume.range]], dtype=np.float32), self.volume.affine))

    def _prepare(self, part: Volume) -> MetaTensor:
        return Compose(self.steps)(LoadVolumed(KEY)({KEY: part}))[KEY]


def stream(preprocessing: Transform, volume: Volume, warnings: ImageWarnings) -> StreamedVolume:
    """Prepare a volume by steps of which :func:`can_stream` is true; its slabs are made later.

    Args:
        preprocessing: a bundle's.
        volume: as read.
        warnings: list for the warnings about the image, see :class:`~sdseg_monai.transforms.checks.CheckImaged`.

    Raises:
        RuntimeError: a step cannot be applied, as from MONAI's Compose.
    """
    for warning in volume.warnings:
        warnings.append(warning)
    image = StreamedVolume(replace(volume, warnings=()))
    for step in Compose([preprocessing]).flatten().transforms[1:]:
        if isinstance(step, CheckImaged):
            Compose([step])({KEY: image, "warnings": warnings})
            continue
        orientation = image.orientation
        if isinstance(step, ScaleIntensityRangePercentilesd):
            step = _with_range(step, volume)
        elif isinstance(step, Orientationd):
            probe = MetaTensor(torch.zeros(1, 2, 2, 2), affine=image.affine)
            target = Compose([step])({KEY: probe})[KEY].affine
            orientation = io_orientation(np.linalg.inv(target.numpy()) @ volume.affine)
        image = StreamedVolume(image.volume, (*image.steps, step), orientation)
    return image


def _with_range(step: ScaleIntensityRangePercentilesd, volume: Volume) -> ScaleIntensityRanged:
    """Return what ``step`` does to the whole of ``volume``, with its percentiles as numbers."""
    scaler = step.scaler
    low, high = percentiles(volume.array, (scaler.lower, scaler.upper))
    return ScaleIntensityRanged(KEY, low, high, scaler.b_min, scaler.b_max, scaler.clip, scaler.dtype)


def percentiles(array: np.ndarray, ranks: Sequence[float]) -> list[torch.Tensor]:
    """Return percentiles of an array, float32, each of exactly the value that MONAI computes from all of it at once.

    Args:
        array: float32, finite; a large one is read twice, and nothing of its size is allocated.
        ranks: from 0 to 100.
    """
    if array.nbytes <= IN_MEMORY_BYTES:
        return [percentile(torch.from_numpy(array), rank) for rank in ranks]
    positions = [(array.size - 1) * (rank / 100) for rank in ranks]
    indices = [min(math.floor(position) + step, array.size - 1) for position in positions for step in (0, 1)]
    values = _sorted_values(array, indices)
    results = []
    for position, lower, upper in zip(positions, values[::2], values[1::2], strict=True):
        share, difference = position - math.floor(position), upper - lower
        # numpy's interpolation, to the bit
        value = lower + difference * np.float64(share) if share < 0.5 else upper - difference * np.float64(1 - share)
        results.append(torch.tensor(value, dtype=torch.float32))
    return results


def _sorted_values(array: np.ndarray, indices: Sequence[int]) -> list[np.float32]:
    """Return the values that ``array`` has at ``indices`` when it is sorted, by histograms of halves of the bits."""
    counts = np.zeros(HALF, dtype=np.int64)
    for part in chunks(array):
        counts += np.bincount(_sortable(part) >> 16, minlength=HALF)
    ends = counts.cumsum()
    tops = [int(np.searchsorted(ends, index, side="right")) for index in indices]
    lower_counts = {top: np.zeros(HALF, dtype=np.int64) for top in tops}
    for part in chunks(array):
        keys = _sortable(part)
        for top, count in lower_counts.items():
            count += np.bincount(keys[keys >> 16 == top] & (HALF - 1), minlength=HALF)
    values = []
    for index, top in zip(indices, tops, strict=True):
        rest = index - (ends[top] - counts[top])
        key = top << 16 | int(np.searchsorted(lower_counts[top].cumsum(), rest, side="right"))
        bits = np.uint32(key)
        values.append((bits ^ SIGN if bits & SIGN else ~bits).view(np.float32))
    return values


def _sortable(part: np.ndarray) -> np.ndarray:
    """Return unsigned numbers, [N], uint32, that are in order as the float32 numbers are from which they come."""
    bits = part.ravel(order="K").view(np.uint32)
    masks = bits.view(np.int32) >> 31  # of negative numbers all bits, else none
    masks |= np.int32(-(1 << 31))
    return masks.view(np.uint32) ^ bits
