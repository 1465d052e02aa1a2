"""What MONAI's transforms for cleaning masks lack."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import FillHoles, MapTransform


class FillBackgroundHolesd(MapTransform):
    """Give background that a class encloses to that class.

    MONAI's FillHolesd would also overwrite other classes within, a vessel in an organ.

    Args:
        keys: label maps [1, X, Y, Z].
    """

    def __init__(self, keys: KeysCollection) -> None:
        super().__init__(keys)
        self.fill = FillHoles()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with filled label maps."""
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = torch.where(item[key] == 0, self.fill(item[key].clone()), item[key])
        return item
