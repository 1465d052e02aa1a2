"""Cleaning of masks that MONAI's transforms do not offer."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import FillHoles, MapTransform


class FillBackgroundHolesd(MapTransform):
    """Fill background that one class encloses with that class.

    MONAI's FillHolesd would also overwrite other classes inside, for example a vessel in an organ.

    Args:
        keys: label maps, each [1, X, Y, Z].
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
