"""Training volumes that depend on (seed, draw) alone, for networks that take a whole volume as input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.data import CacheDataset
from monai.transforms import CastToTyped, Compose, ResizeWithPadOrCropd
from torch.utils.data import Dataset

from sdseg_monai.data.augmentation import augment
from sdseg_monai.seeding import seed_from

BLACK = -1.0  # lowest intensity after scaling


class VolumeDataset(Dataset):
    """Whole volumes, padded with black or cropped around their centre, cached in memory, augmented when they are read.

    Args:
        data: datalist, one dict per case.
        transform: deterministic transforms of a volume, as of :class:`sdseg_monai.data.SliceDataset`.
        size: (X, Y, Z) of the network's input, in voxels.
        augmentation: random dictionary transforms of ``image`` and ``label``, each [1, X, Y, Z]; None to augment
            nothing.
        seed: seed of the augmentation and of the random draws of training for each sample.
        progress: show a progress bar while the volumes are read.

    Attributes:
        data: the datalist.
        settings: as of :class:`sdseg_monai.data.SliceDataset`.
    """

    def __init__(
        self,
        data: Sequence[dict[str, Any]],
        transform: Callable,
        size: Sequence[int],
        augmentation: Compose | None = None,
        seed: int = 0,
        progress: bool = True,
    ) -> None:
        self.data = data
        self.settings = {"size": list(size), "seed": seed}
        self.augmentation = augmentation
        self.seed = seed
        transforms = [
            transform,
            ResizeWithPadOrCropd("image", tuple(size), constant_values=BLACK),
            ResizeWithPadOrCropd("label", tuple(size)),
            CastToTyped("label", torch.uint8),
        ]
        # CacheDataset caches only what comes before the first nested Compose, so the transforms must be flat
        self.volumes = CacheDataset(data, Compose(transforms).flatten(), num_workers=1, progress=progress)

    def __len__(self) -> int:
        return len(self.volumes)

    def __getitem__(self, draw: int) -> dict[str, torch.Tensor]:
        """Return volume ``draw % len(self)`` with its augmentation of epoch ``draw // len(self)``.

        Returns:
            ``image`` [1, X, Y, Z] in [-1, 1] before its augmentation, ``label`` [1, X, Y, Z] in {0..K-1}, both float32,
            and ``seed``, int64.
        """
        volume = self.volumes[draw % len(self)]
        item = {key: volume[key].as_subclass(torch.Tensor).float() for key in ("image", "label")}
        if self.augmentation is not None:
            item = augment(item, self.augmentation, seed_from(self.seed, draw))
        return {**item, "seed": torch.tensor(seed_from(self.seed, draw))}
