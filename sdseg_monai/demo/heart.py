"""A made-up volume, with a label, that resembles the left ventricle of the heart in short-axis MR."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from sdseg_monai.demo.phantom import save_volume

SHAPE, SPACING = (192, 192, 8), (1.4, 1.4, 10.0)  # voxels, and mm
AIR, LUNG, MUSCLE, LIVER, BLOOD, FAT = 2.0, 20.0, 60.0, 90.0, 160.0, 170.0
CENTRE, VIEW = (98.0, 92.0), 76.0  # of the left ventricle, and radius of what the scanner shows, voxels
RADIUS = 23.0  # of the cavity at the base, at end-diastole
PAPILLARY = ((0.45, 0.35), (-0.4, 0.5))  # the papillary muscles, in radii of the cavity from its centre


def make_heart(seed: int = 0, radius: float = RADIUS) -> tuple[np.ndarray, np.ndarray]:
    """Return short-axis slices from the base of the heart to its apex, and the cavity of the left ventricle.

    The cavity is bright, in a ring of dark muscle; the papillary muscles in it belong to it. The right ventricle is a
    bright crescent at the ring's side. Around them are lung with vessels, the liver under the diaphragm, and the fat of
    the chest's wall, which is brightest because the coil lies on it. Outside a circle there is nothing.

    Args:
        seed: of the texture, the vessels and the noise.
        radius: of the cavity at the base, in voxels; smaller at another phase.

    Returns:
        Image [X, Y, Z], float32, and label [X, Y, Z], uint8: 1 in the cavity.
    """
    rng = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*(np.arange(n, dtype=float) for n in SHAPE), indexing="ij")
    towards_apex = z / (SHAPE[2] - 1)  # 0 at the base
    across, down = x - CENTRE[0], y - CENTRE[1]
    middle = np.hypot(across, down)
    cavity_radius = radius * np.sqrt(1 - 0.75 * towards_apex**2)  # voxels
    wall_radius = cavity_radius + 8
    cavity, wall = middle < cavity_radius, middle < wall_radius
    papillary = np.zeros(SHAPE, bool)
    for right, below in PAPILLARY:
        papillary |= np.hypot(across - right * cavity_radius, down - below * cavity_radius) < 0.16 * cavity_radius
    right_radius = 27 * (1 - 0.6 * towards_apex)
    right_ventricle = np.hypot((across + wall_radius) / right_radius, (down - 6) / (1.25 * right_radius)) < 1
    sac = np.hypot(across + 12, (down - 2) / 0.9) < wall_radius + 17
    depth = x - 0.25 * y - 14 + 5 * np.sin(y / 30)  # below the skin of the chest's wall, voxels
    liver = down > 38 - 8 * towards_apex + 0.004 * across**2
    vessels = _texture(rng, 1.2) > 1.5  # of the lung and of the liver
    texture = np.exp(0.25 * _texture(rng, 6) + 0.2 * _texture(rng, 1.5))
    tissues = [papillary, cavity, wall, right_ventricle, sac, depth < 0, depth < 20, depth < 28, vessels, liver]
    values = [MUSCLE, BLOOD, MUSCLE, BLOOD, 0.6 * FAT, AIR, FAT, MUSCLE, 0.6 * BLOOD, LIVER]
    coil = 0.45 + 3.5 * np.exp(-np.clip(depth, 0, None) / 22)
    image = np.select(tissues, values, LUNG) * texture * coil
    image = gaussian_filter(image, (0.4, 0.4, 0)) + rng.normal(0, 1.5, SHAPE)
    image[np.hypot(x - 96, y - 96) > VIEW] = 0
    return image.clip(0).astype(np.float32), cavity.astype(np.uint8)


def _texture(rng: np.random.Generator, scale: float) -> np.ndarray:
    """Return smooth noise of unit variance in each slice, [X, Y, Z]; its grains have about ``scale`` voxels."""
    noise = gaussian_filter(rng.normal(size=SHAPE), (scale, scale, 0))
    return noise / noise.std()


def write_heart(folder: Path, radius: float = RADIUS) -> tuple[Path, Path]:
    """Write :func:`make_heart` to ``folder``; return the files of image and label."""
    paths = folder / "image.nii.gz", folder / "label.nii.gz"
    for path, array in zip(paths, make_heart(radius=radius), strict=True):
        save_volume(path, array, SPACING)
    return paths
