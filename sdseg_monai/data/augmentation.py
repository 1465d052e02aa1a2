"""Random transforms as a pure function of a seed."""

from __future__ import annotations

import torch
from monai.data import get_track_meta, set_track_meta
from monai.transforms import Compose, Randomizable

from sdseg_monai.seeding import seed_from


def augment(item: dict[str, torch.Tensor], augmentation: Compose, seed: int) -> dict[str, torch.Tensor]:
    """Apply the random dictionary transforms of ``augmentation``, each drawing from ``seed`` and its position.

    MONAI's record of positions and operations, which cached slices do not have and nobody asks for, took 60 % of the
    time: it is off meanwhile.

    Args:
        item: plain tensors.
        augmentation: the transforms.
        seed: makes another augmentation.

    Returns:
        Plain tensors again.
    """
    for position, step in enumerate(augmentation.flatten().transforms):
        if isinstance(step, Randomizable):
            step.set_random_state(seed=seed_from(seed, position) % 2**32)
    tracked = get_track_meta()
    set_track_meta(False)
    try:
        augmented = augmentation(item)
    finally:
        set_track_meta(tracked)
    return {key: augmented[key].as_subclass(torch.Tensor) for key in item}
