"""Dictionary transforms of whole volumes: reading and checking a volume, and writing a mask to a file."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import ImageMetaKey, MetaKeys

from sdseg_monai.errors import InputError
from sdseg_monai.io.label_maps import UNSURE_MEANING, rounded_labels, stray_values, value_text
from sdseg_monai.io.pictures import is_picture, read_picture, read_picture_mask, write_picture_mask
from sdseg_monai.io.segments import UNSURE
from sdseg_monai.io.volumes import Volume, read_volume, write_volume
from sdseg_monai.io.voxel_order import on_same_grid
from sdseg_monai.io.warnings import LoggedWarnings


class LoadVolumed(MapTransform):
    """Read files, or take volumes in memory, as MetaTensors in float32: a volume becomes [1, X, Y, Z].

    A picture becomes a volume of one slice: [3, H, W, 1] with intensities from 0 to 255, or, under the key ``label``,
    [1, H, W, 1] in {0, 1}. Unlike MONAI's LoadImaged it refuses files that would fail or give wrong masks later: see
    :func:`sdseg_monai.io.volumes.read_volume` and :mod:`sdseg_monai.io.pictures`. All volumes of a case must have the
    same grid; where only the order of the voxels differs, they are brought into that of the first one, and get
    its affine. Warnings about the place of a volume go where :class:`WarnFieldOfViewd` puts its own.

    Args:
        keys: paths, or each a :class:`~sdseg_monai.io.volumes.Volume`.

    Raises:
        InputError: a file cannot be used, or two of them differ in shape or position.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with MetaTensors."""
        item = dict(data)
        first_volume = None
        for key in self.key_iterator(item):
            source = item[key]
            path = Path(source.name if isinstance(source, Volume) else source)
            is_photograph = not isinstance(source, Volume) and is_picture(path)
            if is_photograph:
                channels, volume = _read_picture_as_volume(path, key)
            else:
                volume = source if isinstance(source, Volume) else read_volume(path)
                channels = volume.array[None]
            warnings = item.get("warnings", LoggedWarnings(str(path)))
            for warning in volume.warnings:
                warnings.append(warning)
            if first_volume is None:
                first_volume = (path, volume)
            else:
                volume = on_same_grid(*first_volume, path, volume)
                channels = channels if is_photograph else volume.array[None]
            affine = torch.from_numpy(first_volume[1].affine)  # one for all: a label may be placed by other programs
            meta = {
                ImageMetaKey.FILENAME_OR_OBJ: str(path),
                MetaKeys.ORIGINAL_AFFINE: affine.clone(),
                MetaKeys.SPATIAL_SHAPE: np.array(volume.array.shape),
                MetaKeys.ORIGINAL_CHANNEL_DIM: 0 if is_photograph else "no_channel",
            }
            item[key] = MetaTensor(torch.from_numpy(channels), affine=affine, meta=meta)
        return item


def _read_picture_as_volume(path: Path, key: Hashable) -> tuple[np.ndarray, Volume]:
    picture = read_picture_mask(path)[None].astype(np.float32) if key == "label" else read_picture(path)
    channels = picture[..., None]  # [C, H, W, 1]
    return channels, Volume(channels[0], np.eye(4))


class SaveMaskd(MapTransform):
    """Write masks as ``uint8`` on the grid of the file from which the reference image was read.

    The mask's file has the name and format of the image's file, so that predictions and labels match by name; the mask
    of a picture is a PNG.

    Args:
        keys: masks, each [1, X, Y, Z] on the grid of the reference image.
        output_dir: folder for the masks; it is made if it does not exist.
        reference_key: key of the reference image.

    Raises:
        InputError: the folder cannot be written, or a mask would replace a file of the case, a picture in the same
            folder, or the mask of another image with the same name.
    """

    def __init__(self, keys: KeysCollection, output_dir: str | Path, reference_key: str = "image") -> None:
        super().__init__(keys)
        self.output_dir = Path(output_dir)
        self.reference_key = reference_key
        self.references: dict[Path, Path] = {}  # image of every mask that was written, to refuse two of one name

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write each mask; return the data unchanged."""
        item = dict(data)
        reference = Path(item[self.reference_key].meta[ImageMetaKey.FILENAME_OR_OBJ])
        for key in self.key_iterator(item):
            path = self.output_dir / (f"{reference.stem}.png" if is_picture(reference) else reference.name)
            input_paths = {
                Path(str(value.meta[ImageMetaKey.FILENAME_OR_OBJ])).resolve()
                for value in item.values()
                if _has_file_name(value)
            }
            is_in_picture_folder = is_picture(reference) and path.parent.resolve() == reference.parent.resolve()
            if is_in_picture_folder or path.resolve() in input_paths:
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
    """Check the values of label maps: with two classes all above 0.5 becomes 1; with more they must be 0 to K-1.

    Values within 1e-3 of a whole number count as that number, see
    :func:`~sdseg_monai.io.label_maps.rounded_labels`.

    Args:
        keys: label maps, each [1, X, Y, Z].
        num_classes: K, including the background.

    Raises:
        InputError: K is more than 2, and a label map has a value that is not one of 0 to K-1; or K is 2, and a label
            map has unsure voxels (255) beside its class.
    """

    def __init__(self, keys: KeysCollection, num_classes: int) -> None:
        super().__init__(keys)
        self.num_classes = num_classes

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with float32 label maps."""
        item = dict(data)
        for key in self.key_iterator(item):
            label = item[key]
            name = label.meta.get(ImageMetaKey.FILENAME_OR_OBJ, key)
            if self.num_classes == 2:
                # a map of 0 and 255 alone is one of black and white
                if (label == UNSURE).any() and ((label > 0.5) & (label < UNSURE)).any():
                    raise InputError(f"{name}: a label of {UNSURE} beside others; {UNSURE_MEANING}")
                item[key] = (label > 0.5).float()
                continue
            array = rounded_labels(torch.as_tensor(label).cpu().numpy())
            strays = stray_values(array, largest=self.num_classes - 1)
            if strays.size:
                hint = f"; {UNSURE_MEANING}" if (strays == UNSURE).all() else ""
                raise InputError(
                    f"{name}: a label of {value_text(strays[0])}, expected 0 to {self.num_classes - 1} for "
                    f"num_classes={self.num_classes}{hint}"
                )
            item[key] = label.clone().copy_(torch.from_numpy(array))
        return item


def _has_file_name(value: Any) -> bool:
    return isinstance(value, MetaTensor) and ImageMetaKey.FILENAME_OR_OBJ in value.meta


def mask_to_array(mask: torch.Tensor) -> np.ndarray:
    """Return ``mask`` [1, X, Y, Z] as an array [X, Y, Z] of ``uint8``.

    Raises:
        ValueError: it has several channels: scores of several classes, not a mask.
    """
    if len(mask) != 1:
        raise ValueError(f"{len(mask)} channels, expected one: a score per class is no mask, take its argmax first")
    return torch.as_tensor(mask)[0].cpu().numpy().astype(np.uint8)
