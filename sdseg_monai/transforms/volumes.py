"""Dictionary transforms at the two ends of a pipeline: from a file to a MetaTensor, and back to a file."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import ImageMetaKey, MetaKeys

from sdseg_monai.errors import InputError
from sdseg_monai.io.label_maps import stray_values
from sdseg_monai.io.pictures import is_picture, read_picture, read_picture_mask, write_picture_mask
from sdseg_monai.io.volumes import Volume, check_same_grid, read_volume, write_volume
from sdseg_monai.io.warnings import ImageWarning

logger = logging.getLogger(__name__)


class LoadVolumed(MapTransform):
    """Read the files named under ``keys``, or volumes in memory, into MetaTensors in float32: volumes as [1, X, Y, Z].

    A picture is a volume of one slice: [3, H, W, 1] with intensities of 0 to 255, or, under the key ``label``,
    [1, H, W, 1] in {0, 1}. Unlike MONAI's LoadImaged it refuses what would only fail, or mislead, later: see
    :func:`sdseg_monai.io.volumes.read_volume` and :mod:`sdseg_monai.io.pictures`. All keys of a case must lie on one
    grid.

    Raises:
        InputError: a file cannot be used, or two of them differ in shape or position.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Read each file; all keys must lie on one grid."""
        item = dict(data)
        first = None
        for key in self.key_iterator(item):
            given = item[key]
            path = Path(given.name if isinstance(given, Volume) else given)
            picture = not isinstance(given, Volume) and is_picture(path)
            if picture:
                channels, volume = _read_picture_as_volume(path, key)
            else:
                volume = given if isinstance(given, Volume) else read_volume(path)
                channels = volume.array[None]
            if first is None:
                first = (path, volume)
            else:
                check_same_grid(*first, path, volume)
            affine = torch.from_numpy(volume.affine)
            meta = {
                ImageMetaKey.FILENAME_OR_OBJ: str(path),
                MetaKeys.ORIGINAL_AFFINE: affine.clone(),
                MetaKeys.SPATIAL_SHAPE: np.array(volume.array.shape),
                MetaKeys.ORIGINAL_CHANNEL_DIM: 0 if picture else "no_channel",
            }
            item[key] = MetaTensor(torch.from_numpy(channels), affine=affine, meta=meta)
        return item


def _read_picture_as_volume(path: Path, key: Hashable) -> tuple[np.ndarray, Volume]:
    picture = read_picture_mask(path)[None].astype(np.float32) if key == "label" else read_picture(path)
    channels = picture[..., None]  # [C, H, W, 1]
    return channels, Volume(channels[0], np.eye(4))


class SaveMaskd(MapTransform):
    """Write the masks under ``keys`` as ``uint8`` on the grid of the file that ``reference_key`` was read from.

    The file keeps the input's name and kind, so that predictions and labels match by name; a picture's mask is a PNG.

    Args:
        keys: masks, each [1, X, Y, Z] on the reference's grid.
        output_dir: folder for the results; made if need be.
        reference_key: the image.

    Raises:
        InputError: the folder cannot be written, or a mask would replace a file that the case was read from, a picture
            beside it, or the mask of another image of the same name.
    """

    def __init__(self, keys: KeysCollection, output_dir: str | Path, reference_key: str = "image") -> None:
        super().__init__(keys)
        self.output_dir = Path(output_dir)
        self.reference_key = reference_key
        self.references: dict[Path, Path] = {}  # of every mask written: two images of one name would share it

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write each mask; the data pass unchanged."""
        item = dict(data)
        reference = Path(item[self.reference_key].meta[ImageMetaKey.FILENAME_OR_OBJ])
        for key in self.key_iterator(item):
            path = self.output_dir / (f"{reference.stem}.png" if is_picture(reference) else reference.name)
            inputs = [Path(str(i.meta[ImageMetaKey.FILENAME_OR_OBJ])) for i in item.values() if _was_read(i)]
            beside = is_picture(reference) and path.parent.resolve() == reference.parent.resolve()
            if beside or path.resolve() in {path.resolve() for path in inputs}:
                raise InputError(f"{path}: the mask would replace an input, name another output folder")
            if self.references.setdefault(path, reference) != reference:
                raise InputError(
                    f"{path}: is the mask of {self.references[path]} and of {reference}, rename one of them"
                )
            mask = mask_to_array(item[key])
            if is_picture(reference):
                write_picture_mask(path, mask[..., 0])
            else:
                write_volume(path, mask, reference)
        return item


class ClassLabelsd(MapTransform):
    """Make sure of the classes of label maps: of two, all above 0.5 is foreground; more must be named 0 to K-1.

    Args:
        keys: label maps [1, X, Y, Z].
        num_classes: K, the background's included.

    Raises:
        InputError: a label map of more than two classes has another value.
    """

    def __init__(self, keys: KeysCollection, num_classes: int) -> None:
        super().__init__(keys)
        self.num_classes = num_classes

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with float32 label maps."""
        item = dict(data)
        for key in self.key_iterator(item):
            label = item[key]
            if self.num_classes == 2:
                item[key] = (label > 0.5).float()
                continue
            stray = stray_values(torch.as_tensor(label).cpu().numpy(), largest=self.num_classes - 1)
            if stray.size:
                raise InputError(
                    f"{label.meta.get(ImageMetaKey.FILENAME_OR_OBJ, key)}: a label of {stray[0]:g}, expected 0 to "
                    f"{self.num_classes - 1} for num_classes={self.num_classes}"
                )
        return item


def _was_read(item: Any) -> bool:
    return isinstance(item, MetaTensor) and ImageMetaKey.FILENAME_OR_OBJ in item.meta


class WarnFieldOfViewd(MapTransform):
    """Warn where a volume is unlike those that a network was trained on; the data pass unchanged.

    Warnings go into the list that the data have under ``warnings``; without one they are logged.

    Args:
        keys: volumes [1, X, Y, Z] as read, before their intensities are scaled.
        extent_mm: smallest and largest extent along right-left, posterior-anterior and inferior-superior of the
            training volumes, each in millimetres.
        tolerance: factor by which an extent may lie outside.
        lowest: smallest intensity that the training's modality knows; below it (CT has air at -1000 HU) is another.
    """

    def __init__(
        self, keys: KeysCollection, extent_mm: Sequence[Sequence[float]], lowest: float, tolerance: float = 1.25
    ) -> None:
        super().__init__(keys)
        self.extent_mm = np.asarray(extent_mm, dtype=float)  # [3, 2]
        self.lowest = lowest
        self.tolerance = tolerance

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Look at each volume; the data pass unchanged."""
        for key in self.key_iterator(data):
            for warning in self._look(data[key]):
                if "warnings" in data:
                    data["warnings"].append(warning)
                else:
                    logger.warning("%s: %s", data[key].meta.get(ImageMetaKey.FILENAME_OR_OBJ, "volume"), warning.text)
        return dict(data)

    def _look(self, image: MetaTensor) -> Iterator[ImageWarning]:
        voxel_axes = image.affine[:3, :3].numpy()  # columns in RAS+ millimetres
        extent = np.abs(voxel_axes * np.array(image.shape[1:])).sum(axis=1)
        low, high = self.extent_mm.T
        if (extent < low / self.tolerance).any() or (extent > high * self.tolerance).any():
            seen, smallest, largest = (" x ".join(f"{edge:.0f}" for edge in edges) for edges in (extent, low, high))
            yield ImageWarning(
                "field_of_view",
                f"field of view {seen} mm, but the network was trained on {smallest} to {largest} mm: crop to the "
                "structure first, the mask is not to be trusted",
            )
        if float(image.min()) < self.lowest:
            yield ImageWarning(
                "intensity",
                f"lowest intensity {float(image.min()):.0f}, expected at least {self.lowest:.0f}: this looks like "
                "another modality (CT?), the mask is not to be trusted",
            )


def mask_to_array(mask: torch.Tensor) -> np.ndarray:
    """Return ``mask`` [1, X, Y, Z] as an array [X, Y, Z] of ``uint8``.

    Raises:
        ValueError: it has several channels, as the scores of a class-conditional network have.
    """
    if len(mask) != 1:
        raise ValueError(f"{len(mask)} channels, expected one: a score per class is no mask, take its argmax first")
    return torch.as_tensor(mask)[0].cpu().numpy().astype(np.uint8)
