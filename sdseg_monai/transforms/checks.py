"""Checks of an image against those of a network's training: what it shows, and of what size."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import ImageMetaKey

from sdseg_monai.io.warnings import ImageWarning, LoggedWarnings

LEAST_PIXELS = 8  # across a slice: one that is narrower shows too little to contradict the training
AIR_BELOW = -800  # HU; an MR whose intensities are stored with an offset, such as -300, is not taken for a CT


class CheckImaged(MapTransform):
    """Warn about images that differ from those of the training.

    Each :class:`~sdseg_monai.io.warnings.ImageWarning` is appended to the list under the key ``warnings`` of the data:
    whoever keeps the list decides on contradictions. Without one, as in ``monai.bundle run``, warnings are logged and
    contradictions are refused here.

    Args:
        keys: images, each [C, X, Y, Z].
        force: where there is no list, log contradictions too, and go on.

    Raises:
        ArgumentError: there is no list, an image contradicts the training, and ``force`` is not set.
    """

    def __init__(self, keys: KeysCollection, force: bool = False) -> None:
        super().__init__(keys)
        self.force = force

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Check each image; return the data unchanged."""
        for key in self.key_iterator(data):
            name = str(data[key].meta.get(ImageMetaKey.FILENAME_OR_OBJ, "volume"))
            own_warnings = LoggedWarnings(name, self.force)
            warnings = data.get("warnings", own_warnings)
            for warning in self._check(data[key]):
                warnings.append(warning)
            own_warnings.check()
        return dict(data)

    @abstractmethod
    def _check(self, image: MetaTensor) -> Iterator[ImageWarning]: ...


class WarnFieldOfViewd(CheckImaged):
    """Warn if the field of view or the intensities of a volume differ from those of the training volumes.

    A far larger field of view, and intensities that only air in CT has, are contradictions, see :class:`CheckImaged`.

    Args:
        keys: volumes, each [1, X, Y, Z], with the intensities of the file.
        extent_mm: smallest and largest extent of the training volumes in millimetres, along right-left,
            posterior-anterior and inferior-superior.
        lowest: lowest intensity of the training volumes' modality; a lower one may mean another modality, and one below
            -800 too that of air in CT (-1000 HU).
        tolerance: factor by which an extent may be smaller or larger than those of the training volumes.
        limit: factor by which an extent may be larger before that is a contradiction. One that is smaller never is: a
            single slice of the structure, or a closer crop, still shows it.
        force: see :class:`CheckImaged`.
        along_file: the extents are along the axes of the file, not of the body: for slices that lie obliquely in it.
    """

    def __init__(
        self,
        keys: KeysCollection,
        extent_mm: Sequence[Sequence[float]],
        lowest: float,
        tolerance: float = 1.25,
        limit: float = 2.0,
        force: bool = False,
        along_file: bool = False,
    ) -> None:
        super().__init__(keys, force)
        self.extent_mm = np.asarray(extent_mm, dtype=float)  # [3, 2]
        self.lowest = lowest
        self.tolerance = tolerance
        self.limit = limit
        self.along_file = along_file

    def _check(self, image: MetaTensor) -> Iterator[ImageWarning]:
        edges = image.affine[:3, :3].numpy() * np.array(image.shape[1:])  # columns in RAS+ millimetres
        extent = np.linalg.norm(edges, axis=0) if self.along_file else np.abs(edges).sum(axis=1)  # [3]
        low, high = self.extent_mm.T
        is_far = bool((extent > high * self.limit).any())
        if (extent < low / self.tolerance).any() or (extent > high * self.tolerance).any():
            extent_text, low_text, high_text = (
                " x ".join(f"{edge:.0f}" for edge in edges) for edges in (extent, low, high)
            )
            text = f"field of view {extent_text} mm, but the network was trained on {low_text} to {high_text} mm"
            is_larger = bool((extent > high * self.tolerance).any())
            remedies = ["crop to the structure first"] if is_larger else []
            doubts = [] if is_far else ["the mask is not to be trusted"]
            yield ImageWarning("field_of_view", f"{text}: {', '.join(remedies + doubts)}", contradiction=is_far)
        lowest = float(image.min())
        if lowest < self.lowest:
            is_air = lowest < AIR_BELOW
            text = (
                f"lowest intensity {lowest:.0f}, expected at least {self.lowest:.0f}: this looks like another modality"
            )
            advice = "(CT?)" if is_air else "(CT?), the mask is not to be trusted"
            yield ImageWarning("intensity", f"{text} {advice}", contradiction=is_air)


class WarnUnlikeTrainingd(CheckImaged):
    """Warn if an image looks unlike those of the training to the network's vision encoder.

    One that is more unlike than any of the training is a contradiction, see :class:`CheckImaged`. Nothing is known
    of weights whose training did not describe its images, see :class:`sdseg_monai.handlers.DescribeImages`.

    Args:
        keys: images, each [C, X, Y, Z] in [-1, 1], prepared for the network.
        network: an :class:`~sdseg_monai.networks.SDSeg`, with its weights when an image comes.
        inferer: a :class:`~sdseg_monai.inferers.SliceWiseInferer`, which makes the network's slices.
        tolerance: distance beyond which there is a warning; 98 % of the slices that validated the training lie within
            1. The distance of a volume is the median of its slices'.
        limit: distance beyond which that is a contradiction, unless the slices are less than 8 pixels wide, as those of
            a single slice across another axis are: these always look otherwise, and other checks warn of them.
        kind: what the training's images show, in words.
        force: see :class:`CheckImaged`.
    """

    def __init__(
        self,
        keys: KeysCollection,
        network: Any,
        inferer: Any,
        tolerance: float = 1.0,
        limit: float = 1.1,
        kind: str = "an image of their kind",
        force: bool = False,
    ) -> None:
        super().__init__(keys, force)
        self.network = network
        self.inferer = inferer
        self.tolerance = tolerance
        self.limit = limit
        self.kind = kind

    @torch.inference_mode()
    def _check(self, image: MetaTensor) -> Iterator[ImageWarning]:
        if not hasattr(self.network, "image_distance"):  # a network in pixel space
            return
        device = next(self.network.parameters()).device
        distances = self.network.image_distance(self.inferer.sample_slices(image).to(device))
        if distances is None:
            return
        distance = float(distances.median())
        width = min(size for axis, size in enumerate(image.shape[1:]) if axis != self.inferer.slice_axis)
        if distance > self.tolerance:
            text = f"it looks unlike the images of the training: {distance:.2f} times as far from them as is usual"
            is_far = distance > self.limit and width >= LEAST_PIXELS
            advice = "" if is_far else ", the mask is not to be trusted"
            yield ImageWarning("unlike", f"{text}: is this {self.kind}?{advice}", contradiction=is_far)
