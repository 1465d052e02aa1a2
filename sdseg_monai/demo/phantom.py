"""An artificial volume that resembles a cropped hippocampus in T1-weighted MR, for computers without data."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy.ndimage import gaussian_filter

from sdseg_monai.io.files import write_atomically

SHAPE = (35, 51, 36)  # voxels of 1 mm: as a crop of MSD Task04
HEAD = 0.6  # share of the length, from the tail, at which the head begins
FLUID, GREY, WHITE = 40.0, 95.0, 150.0


def make_phantom(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return an artificial image and its label: a bent grey tube in white matter.

    Size and surroundings of the tube are roughly those of the crops of MSD Task04: white matter at the side and above,
    a layer of fluid on top, and cortex with fluid in its folds medially and below. The label is 1 in the front part of
    the tube, the head, and 2 behind it.

    Args:
        seed: of the noise and the folds.

    Returns:
        Image [X, Y, Z], float32, and label [X, Y, Z], uint8, with voxels of 1 mm.
    """
    rng = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*(np.arange(n, dtype=float) for n in SHAPE), indexing="ij")
    position = (y - 6) / 38  # 0 at the tail, 1 at the head
    widening = np.clip(position, 0, 1) ** 2  # the tube is thicker towards the head
    lateral_distance = (x - 12.5 - 18 * (position - 0.5) ** 2) / (6.3 + 4 * widening)  # in radii of the tube
    vertical_distance = (z - 23 + 13 * position) / (3.9 + 3 * widening)
    distance = np.hypot(lateral_distance, vertical_distance)
    is_in_range = (position > 0) & (position < 1)
    tube = (distance < 1) & is_in_range
    fluid = (distance < 1.25) & (vertical_distance > 0) & is_in_range
    folds = gaussian_filter(rng.standard_normal(SHAPE), 3)
    folds /= folds.std()
    cortex = (lateral_distance > 1.3) | (vertical_distance < -1.7)
    tissues = [tube, fluid, cortex & (folds < -0.8), cortex & (folds < 0.3)]
    image = np.select(tissues, [GREY, FLUID, FLUID, GREY], WHITE)
    image = gaussian_filter(image, 0.7) + rng.normal(0, 4, SHAPE)
    image *= 1 + 0.05 * gaussian_filter(rng.standard_normal(SHAPE), 8) * 50
    label = np.where(position > HEAD, 1, 2) * tube
    return image.astype(np.float32), label.astype(np.uint8)


def write_phantom(image: Path, label: Path, seed: int = 0) -> None:
    """Write :func:`make_phantom` as two NIfTI files with 1 mm voxels."""
    for path, array in zip((image, label), make_phantom(seed), strict=True):
        save_volume(path, array)


def save_volume(path: Path, array: np.ndarray, spacing: tuple[float, float, float] = (1, 1, 1)) -> None:
    """Write ``array`` [X, Y, Z] in RAS orientation as a NIfTI file with voxels of ``spacing``, in mm."""
    affine = np.diag([*spacing, 1.0])
    nifti = nib.Nifti1Image(array, affine)
    nifti.set_sform(affine, code="scanner")
    write_atomically(path, partial(nib.save, nifti), ".nii.gz")
