"""Real labels of the abdomen: TotalSegmentator's classes as the organs of BTCV."""

from __future__ import annotations

from pathlib import Path

import torch
from monai.data import MetaTensor
from monai.transforms import MapLabelValue, Orientation

from sdseg_monai.io.label_maps import read_mask

NUM_CLASSES = 14
# of TotalSegmentator's classes, BTCV's number; the oesophagus (15 to 5) is not in every field of view
BTCV_NUMBERS = {1: 1, 2: 2, 3: 3, 4: 4, 15: 5, 5: 6, 6: 7, 52: 8, 63: 9, 64: 10, 7: 11, 8: 12, 9: 13}


def read_organs(path: Path) -> torch.Tensor:
    """Read TotalSegmentator's labels as BTCV's organs, in RAS+ order, [1, X, Y, Z] in {0..13}, float32."""
    volume = read_mask(path)
    values = range(int(volume.array.max()) + 1)
    to_btcv = MapLabelValue(list(values), [BTCV_NUMBERS.get(value, 0) for value in values])
    label = MetaTensor(to_btcv(volume.array)[None], affine=torch.from_numpy(volume.affine))
    return Orientation(axcodes="RAS", labels=None)(label).as_tensor().float()
