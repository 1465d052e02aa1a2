"""A made-up volume that resembles a cropped hippocampus in T1-weighted MR, for machines without data."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy.ndimage import gaussian_filter

from sdseg_monai.io import write_atomically

SHAPE = (35, 51, 36)  # voxels of 1 mm: the median crop of MSD Task04
HEAD = 0.6  # of the length, from the tail: where the head begins


def make_phantom(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return image [X, Y, Z] in float32 and label [X, Y, Z], uint8: a bent tube in uneven tissue.

    The label is 1 in the tube's front part, the head, and 2 behind it.
    """
    rng = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*(np.arange(n, dtype=float) for n in SHAPE), indexing="ij")
    along = (y - 6) / 38  # 0 at the tail, 1 at the head, which is thicker and bent down
    centre_x = 17 + 4 * (1 - along) ** 2
    centre_z = 18 + 5 * (0.5 - along)
    radius_x, radius_z = 3.0 + 3.5 * along, 2.2 + 2.0 * along
    distance = np.hypot((x - centre_x) / radius_x, (z - centre_z) / radius_z)
    tube = (distance < 1) & (along > 0) & (along < 1)
    fluid = ~tube & (distance < 1.3) & (x > centre_x)
    image = np.select([tube, fluid], [95.0, 35.0], 150.0)
    image = gaussian_filter(image, 0.7) + rng.normal(0, 4, SHAPE)
    image *= 1 + 0.05 * gaussian_filter(rng.standard_normal(SHAPE), 8) * 50
    label = np.where(along > HEAD, 1, 2) * tube
    return image.astype(np.float32), label.astype(np.uint8)


def write_phantom(image: Path, label: Path, seed: int = 0) -> None:
    """Write :func:`make_phantom` as two NIfTI files with 1 mm voxels."""
    for path, array in zip((image, label), make_phantom(seed), strict=True):
        nifti = nib.Nifti1Image(array, np.eye(4))
        nifti.set_sform(np.eye(4), code="scanner")
        write_atomically(path, partial(nib.save, nifti), ".nii.gz")
