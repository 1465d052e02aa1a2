"""Training volumes as a pure function of (seed, draw), for networks that see all of a volume at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.data import CacheDataset
from monai.transforms import CastToTyped, Compose, ResizeWithPadOrCropd
from torch.utils.data import Dataset

from sdseg_monai.data.augmentation import augment
from sdseg_monai.seeding import seed_from

BLACK = -1.0


class VolumeDataset(Dataset):
    """Whole volumes, padded with black or cropped about their centre, cached in memory, augmented on the fly.

    Args:
        data: datalist, one dict per case.
        transform: deterministic transforms of a volume, as for :class:`sdseg_monai.data.SliceDataset`.
        size: (X, Y, Z) of the network's input, in voxels.
        augmentation: random dictionary transforms of ``image`` and ``label``, each [1, X, Y, Z]; None for none.
        seed: seed of the augmentation and of what training draws per sample.
        progress: show a bar while the volumes are read.
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
        self.augmentation = augmentation
        self.seed = seed
        steps = [
            transform,
            ResizeWithPadOrCropd("image", tuple(size), constant_values=BLACK),
            ResizeWithPadOrCropd("label", tuple(size)),
            CastToTyped("label", torch.uint8),
        ]
        # flat: CacheDataset caches nothing from the first nested Compose on
        self.volumes = CacheDataset(data, Compose(steps).flatten(), num_workers=1, progress=progress)

    def __len__(self) -> int:
        return len(self.volumes)

    def __getitem__(self, draw: int) -> dict[str, torch.Tensor]:
        """Return the volume ``draw % len(self)`` as drawn in epoch ``draw // len(self)``.

        Returns:
            ``image`` [1, X, Y, Z] in [-1, 1] before its augmentation, ``label`` [1, X, Y, Z] in {0..K-1}, both float32,
            and ``seed``, int64.
        """
        volume = self.volumes[draw % len(self)]
        item = {key: volume[key].as_subclass(torch.Tensor).float() for key in ("image", "label")}
        if self.augmentation is not None:
            item = augment(item, self.augmentation, seed_from(self.seed, draw))
        return {**item, "seed": torch.tensor(seed_from(self.seed, draw))}
