"""Made-up pictures, with labels, for the bundles of photographs: they resemble a kind of image and show nobody."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from sdseg_monai.io.files import write_atomically
from sdseg_monai.io.pictures import write_picture_mask

SKIN, PIGMENT, HAIR = np.array([214, 168, 150]), np.array([112, 70, 58]), np.array([45, 32, 30])  # red, green, blue


def make_skin_lesion(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return a dermoscopic photograph: a pigmented spot with an uneven outline, hairs, and a darker rim.

    Args:
        seed: of the outline, the pigment, the hairs and the noise.

    Returns:
        Picture [H, W, 3], uint8, and label [H, W], bool, True in the spot.
    """
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:240, :320].astype(float)
    angle, radius = np.arctan2(y - 118, x - 165), np.hypot((y - 118) / 0.85, x - 165)
    outline = 68 + sum(rng.normal(0, 6 / k) * np.cos(k * angle + rng.uniform(0, 7)) for k in range(2, 7))
    label = radius < outline
    pigment = gaussian_filter(label.astype(float), 2.5) * (1 + 0.18 * _unit_noise(rng, y.shape, 7))
    picture = (
        SKIN + 6 * _unit_noise(rng, y.shape, 25)[..., None] + np.clip(pigment, 0, 1.3)[..., None] * (PIGMENT - SKIN)
    )
    for _ in range(7):
        start, slope, bend = rng.uniform(-60, 300), rng.uniform(-0.7, 0.7), rng.normal(0, 0.0012)
        distance = np.abs(y - start - slope * x - bend * (x - 160) ** 2) / np.hypot(1, slope)
        picture += np.exp(-((distance / 1.1) ** 2))[..., None] * (HAIR - picture) * 0.8
    picture *= (1 - 0.35 * np.clip(np.hypot(y - 120, x - 160) / 200, 0, 1) ** 4)[..., None]
    return _to_bytes(picture + rng.normal(0, 3, picture.shape)), label


def make_fetal_head(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return an ultrasound picture of a fetal head: a fan with speckle, and the bright ellipse of the skull in it.

    Args:
        seed: of the speckle and of how the head lies.

    Returns:
        Picture [H, W, 3], grey, uint8, and label [H, W], bool, True within the outer edge of the skull.
    """
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:270, :400].astype(float)
    turn = rng.uniform(-0.4, 0.4)
    along = (x - 200) * np.cos(turn) + (y - 150) * np.sin(turn)
    across = (y - 150) * np.cos(turn) - (x - 200) * np.sin(turn)
    distance = np.hypot(along / 105, across / 80)  # 1 at the outer edge of the skull
    label = distance < 1
    echo = np.where(label, 45.0, 70 + 25 * _unit_noise(rng, y.shape, 12))
    echo += 35 * np.exp(-((across / 3) ** 2)) * (distance < 0.8)  # the midline of the brain
    # the skull is brightest where the beam meets it at a right angle: above and below
    echo += (
        190 * np.exp(-(((distance - 0.965) / 0.03) ** 2)) * (0.35 + 0.65 * np.abs(np.sin(np.arctan2(across, along))))
    )
    echo *= gaussian_filter(rng.rayleigh(0.8, y.shape), (0.7, 1.6))
    depth, beam = np.hypot(y + 60, x - 200), np.arctan2(x - 200, y + 60)
    fan = (depth > 75) & (depth < 325) & (np.abs(beam) < 0.62)
    return _to_bytes(np.repeat((echo * fan)[..., None], 3, axis=2)), label


def write_skin_lesion(folder: Path) -> tuple[Path, Path]:
    """Write :func:`make_skin_lesion` to ``folder``; return the files of image and label."""
    return _write(folder, *make_skin_lesion())


def write_fetal_head(folder: Path) -> tuple[Path, Path]:
    """Write :func:`make_fetal_head` to ``folder``; return the files of image and label."""
    return _write(folder, *make_fetal_head())


def _unit_noise(rng: np.random.Generator, shape: tuple[int, ...], width: float) -> np.ndarray:
    """Return smooth noise with a standard deviation of 1, whose spots are ``width`` pixels wide."""
    noise = gaussian_filter(rng.standard_normal(shape), width)
    return noise / noise.std()


def _to_bytes(picture: np.ndarray) -> np.ndarray:
    return picture.clip(0, 255).astype(np.uint8)


def _write(folder: Path, picture: np.ndarray, label: np.ndarray) -> tuple[Path, Path]:
    image = Image.fromarray(picture)
    paths = folder / "image.png", folder / "label.png"
    write_atomically(paths[0], lambda temporary: image.save(temporary, format="PNG"), ".png")
    write_picture_mask(paths[1], label)
    return paths
