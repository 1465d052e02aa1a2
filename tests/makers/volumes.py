"""Small volumes on awkward grids."""

from pathlib import Path

import nibabel as nib
import numpy as np

OBLIQUE = np.array([[0.9, 0.2, 0.1, -20.0], [-0.25, 1.1, 0.3, 31.0], [0.05, -0.3, 1.6, 7.0], [0, 0, 0, 1]])


def write_case(folder: Path, name: str, shape=(18, 20, 6), affine=OBLIQUE, seed=0, dtype=np.int16) -> None:
    """Write a volume with a bright ball in noise to ``folder``/images and its label to ``folder``/labels."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1)
    centre = np.array(shape) / 2 + rng.uniform(-2, 2, 3)
    ball = np.linalg.norm((grid - centre) / (np.array(shape) / 3), axis=-1) < 1
    image = rng.normal(0, 10, shape) + 100 * ball
    for kind, array in (("images", image.astype(dtype)), ("labels", ball.astype(np.uint8))):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(array, affine), folder / kind / f"{name}.nii.gz")
