"""Random transforms whose result depends on a seed alone."""

from __future__ import annotations

import torch
from monai.data import get_track_meta, set_track_meta
from monai.transforms import Compose, Randomizable

from sdseg_monai.seeding import seed_from


def augment(item: dict[str, torch.Tensor], augmentation: Compose, seed: int) -> dict[str, torch.Tensor]:
    """Apply random dictionary transforms; the random state of each follows from ``seed`` and its position.

    MONAI's tracking of metadata and applied operations is switched off meanwhile: nothing uses it here, and it took
    60 % of the time.

    Args:
        item: plain tensors, by key.
        augmentation: the transforms.
        seed: another seed gives another augmentation.

    Returns:
        The augmented tensors under the same keys, plain again.
    """
    for position, transform in enumerate(augmentation.flatten().transforms):
        if isinstance(transform, Randomizable):
            transform.set_random_state(seed=seed_from(seed, position) % 2**32)
    track_meta = get_track_meta()
    set_track_meta(False)
    try:
        augmented_item = augmentation(item)
    finally:
        set_track_meta(track_meta)
    return {key: augmented_item[key].as_subclass(torch.Tensor) for key in item}
