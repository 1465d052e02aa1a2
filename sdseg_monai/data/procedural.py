"""Masks made by a formula, to train a mask autoencoder without any patient's data."""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import gaussian_filter, zoom
from torch.utils.data import Dataset

from sdseg_monai.networks.codes import class_codes, mask_to_image
from sdseg_monai.seeding import seed_from

SMALLEST_RADIUS = 1.5  # pixels
LARGEST_RADIUS = 0.45  # of the slice


class ProceduralMasks(Dataset):
    """Masks of one to several smooth blobs from a few pixels to most of the slice; about 3 % are empty.

    A mask is made of parts, later ones over earlier ones. A part is a rotated ellipse whose outline is bent by a smooth
    random field, and about a third of the parts lose an inner copy of themselves: organs, rings, crescents and specks.
    Where there are several foreground classes a part has one of them, and every other part is cut in two by a bent
    line, with another class beyond it, so that classes touch as often as they stand alone; masks have twice the parts.
    An item is a pure function of ``seed`` and its index.

    Args:
        size: height and width in pixels.
        length: number of masks in an epoch.
        seed: makes another set.
        num_classes: classes of a pixel, the background's included.
    """

    def __init__(self, size: int, length: int, seed: int = 0, num_classes: int = 2) -> None:
        self.size = size
        self.length = length
        self.seed = seed
        self.num_classes = num_classes
        self.codes = class_codes(num_classes)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """Return mask ``index``; an index beyond the length is a mask of a later epoch.

        Returns:
            ``label`` [1, size, size] in {0..K-1}, ``image`` [3, size, size], the same as a mask image in [-1, 1], both
            float32, and ``seed``, int64, for the posterior's noise.
        """
        seed = seed_from("procedural", self.seed, index)
        rng = np.random.default_rng(seed)
        mask = np.zeros((self.size, self.size), np.float32)
        if rng.random() > 0.03:
            parts = rng.choice([1, 2, 3, 6], p=[0.5, 0.25, 0.15, 0.1])
            for _ in range(parts if self.num_classes == 2 else 2 * parts):
                self._add_part(mask, rng)
        label = torch.from_numpy(mask[None])
        return {"image": mask_to_image(label[None], self.codes)[0], "label": label, "seed": torch.tensor(seed)}

    def _add_part(self, mask: np.ndarray, rng: np.random.Generator) -> None:
        part = self._part(rng)
        if self.num_classes == 2:
            mask[part] = 1
            return
        one, other = rng.choice(np.arange(1, self.num_classes), 2, replace=False)
        mask[part] = one
        if rng.random() < 0.5:
            y, x = np.nonzero(part)
            if len(y):
                angle = rng.uniform(0, 2 * np.pi)
                across = (x - x.mean()) * np.cos(angle) + (y - y.mean()) * np.sin(angle)
                along = (y - y.mean()) * np.cos(angle) - (x - x.mean()) * np.sin(angle)
                bend = rng.uniform(-0.5, 0.5) * along**2 / np.sqrt(len(y))
                beyond = across + bend > rng.uniform(-0.3, 0.3) * np.sqrt(len(y))
                mask[y[beyond], x[beyond]] = other

    def _part(self, rng: np.random.Generator) -> np.ndarray:
        radius = np.exp(rng.uniform(np.log(SMALLEST_RADIUS), np.log(LARGEST_RADIUS * self.size)))
        stretch = np.exp(rng.uniform(-0.7, 0.7))
        angle = rng.uniform(0, np.pi)
        centre = rng.uniform(-0.05, 1.05, 2) * self.size
        y, x = np.mgrid[: self.size, : self.size] - centre[:, None, None]
        u = (x * np.cos(angle) + y * np.sin(angle)) / (radius * stretch)
        v = (-x * np.sin(angle) + y * np.cos(angle)) / (radius / stretch)
        bend = rng.uniform(0, 0.5) * self._smooth_field(rng, radius)
        distance = np.hypot(u, v) + bend
        part = distance < 1
        if rng.random() < 0.3:
            shift = rng.uniform(-0.5, 0.5, 2)
            part &= np.hypot(u - shift[0], v - shift[1]) + bend > rng.uniform(0.3, 0.8)
        return part

    def _smooth_field(self, rng: np.random.Generator, radius: float) -> np.ndarray:
        """Return a unit-variance field that varies over about half of ``radius``, computed on a coarse grid."""
        coarse = max(4, min(self.size, int(4 * self.size / max(radius, 1))))
        field = gaussian_filter(rng.standard_normal((coarse, coarse)), 1.0)
        field /= field.std() + 1e-6
        return zoom(field, self.size / coarse, order=1)[: self.size, : self.size]
