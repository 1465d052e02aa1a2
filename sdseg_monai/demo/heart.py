"""A made-up volume, with a label, that resembles the left ventricle of the heart in short-axis MR."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from sdseg_monai.demo.phantom import save_volume

SHAPE, SPACING = (192, 192, 8), (1.4, 1.4, 10.0)  # voxels, and mm
LUNG, CHEST, MUSCLE, BLOOD, FAT = 25.0, 110.0, 70.0, 230.0, 280.0


def make_heart(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return short-axis slices from the base of the heart to its apex, and the cavity of the left ventricle.

    The cavity is bright, in a ring of dark muscle; the right ventricle is a bright crescent at the ring's side. Around
    them are lung, the wall of the chest, and fat under the skin.

    Args:
        seed: of the noise.

    Returns:
        Image [X, Y, Z], float32, and label [X, Y, Z], uint8: 1 in the cavity.
    """
    rng = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*(np.arange(n, dtype=float) for n in SHAPE), indexing="ij")
    towards_apex = z / (SHAPE[2] - 1)  # 0 at the base
    body = np.hypot((x - 96) / 88, (y - 96) / 70)
    middle = np.hypot(x - 104, y - 92)
    cavity_radius = 21 * np.sqrt(1 - 0.75 * towards_apex**2)  # voxels
    wall_radius = cavity_radius + 8
    right_radius = 30 * (1 - 0.7 * towards_apex)
    right = np.hypot((x - 104 + wall_radius) / right_radius, (y - 92) / (1.25 * right_radius)) < 1
    cavity, wall = middle < cavity_radius, middle < wall_radius
    lung = (np.hypot((np.abs(x - 96) - 44) / 34, (y - 100) / 48) < 1) & (middle > wall_radius + 12)
    tissues = [cavity, wall, right, lung, body > 1, body > 0.93]
    image = np.select(tissues, [BLOOD, MUSCLE, BLOOD, LUNG, 5.0, FAT], CHEST)
    image = gaussian_filter(image, (0.8, 0.8, 0)) + rng.normal(0, 8, SHAPE)
    return image.clip(0).astype(np.float32), cavity.astype(np.uint8)


def write_heart(folder: Path) -> tuple[Path, Path]:
    """Write :func:`make_heart` to ``folder``; return the files of image and label."""
    paths = folder / "image.nii.gz", folder / "label.nii.gz"
    for path, array in zip(paths, make_heart(), strict=True):
        save_volume(path, array, SPACING)
    return paths
