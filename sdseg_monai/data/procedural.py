"""Masks from a formula, to train a mask autoencoder without data of patients."""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt, gaussian_filter, zoom
from torch.utils.data import Dataset

from sdseg_monai.networks.codes import class_codes, is_one_hot, mask_to_image
from sdseg_monai.seeding import seed_from

SMALLEST_RADIUS = 1.5  # pixels
LARGEST_RADIUS = 0.45  # as a fraction of the slice's edge
# of masks of many classes, like an abdominal slice of 256 x 256 pixels
ORGANS = (3, 14)  # number of organs of a mask: least and most
THIN_SHARE = 0.3  # of the organs, which are thin as vessels and adrenal glands are
THIN_WIDTH = (2.0, 8.0)  # pixels
THIN_LENGTH = (6.0, 70.0)  # pixels
ENCLOSED_SHARE = 0.35  # of the other organs, in which a small organ of another class lies
ENCLOSED_RADIUS = (1.5, 8.0)  # pixels
GAP_SHARE = 0.4  # of all organs, which a gap of background parts from those around it
GAP_WIDTH = (1.0, 8.0)  # pixels
FILLED_SHARE = 0.04  # of masks, in which an organ lies behind all others


class ProceduralMasks(Dataset):
    """Masks of one or several smooth regions, from a few pixels to most of the slice; about 3 % are empty.

    A mask has several parts; later ones cover earlier ones. A part is a rotated ellipse whose outline is deformed by a
    smooth random field, and about a third of the parts have a hole in the form of a smaller copy: the parts look like
    organs, rings, crescents and specks. If there are several foreground classes, each part has one of them, and about
    half of the parts are divided by a curved line, with another class on the other side, so that classes touch as
    often as they stand alone; such masks have twice as many parts. Masks of more than four classes are like slices of
    the abdomen: they have many parts; some are thin and bent, others enclose a small part of another class, and some
    are parted from their neighbours by a narrow gap; in a few masks one class lies behind all parts, in place of
    background. An item depends on ``seed`` and its index alone.

    Args:
        size: height and width in pixels.
        length: number of masks in an epoch.
        seed: another seed gives other masks.
        num_classes: K, including the background.

    Attributes:
        settings: as of :class:`sdseg_monai.data.SliceDataset`.
    """

    def __init__(self, size: int, length: int, seed: int = 0, num_classes: int = 2) -> None:
        self.size = size
        self.length = length
        self.seed = seed
        self.num_classes = num_classes
        self.codes = class_codes(num_classes)
        self.settings = {"size": size, "seed": seed, "num_classes": num_classes}

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """Return mask ``index``; an index of ``length`` or more is a mask of a later epoch.

        Returns:
            ``label`` [1, size, size] in {0..K-1} and ``image`` [C, size, size], the same mask as a mask image, see
            :func:`~sdseg_monai.networks.codes.mask_to_image`, both float32, and ``seed``, int64, for the posterior's
            noise.
        """
        seed = seed_from("procedural", self.seed, index)
        rng = np.random.default_rng(seed)
        mask = np.zeros((self.size, self.size), np.float32)
        if rng.random() > 0.03:
            if is_one_hot(self.num_classes):
                self._add_organs(mask, rng)
            else:
                num_parts = rng.choice([1, 2, 3, 6], p=[0.5, 0.25, 0.15, 0.1])
                for _ in range(num_parts if self.num_classes == 2 else 2 * num_parts):
                    self._add_part(mask, rng)
        label = torch.from_numpy(mask[None])
        return {"image": mask_to_image(label[None], self.codes)[0], "label": label, "seed": torch.tensor(seed)}

    def _add_part(self, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Add a part, or one that is divided between two classes, to ``mask`` [size, size]; return where it lies."""
        part = self._part(rng)
        if self.num_classes == 2:
            mask[part] = 1
            return part
        part_class, neighbour_class = rng.choice(np.arange(1, self.num_classes), 2, replace=False)
        mask[part] = part_class
        if rng.random() < 0.5:
            y, x = np.nonzero(part)
            if len(y):
                angle = rng.uniform(0, 2 * np.pi)
                # coordinates of the part's pixels, from its centre: across the dividing line and along it
                u = (x - x.mean()) * np.cos(angle) + (y - y.mean()) * np.sin(angle)
                v = (y - y.mean()) * np.cos(angle) - (x - x.mean()) * np.sin(angle)
                curvature = rng.uniform(-0.5, 0.5) * v**2 / np.sqrt(len(y))
                is_neighbour = u + curvature > rng.uniform(-0.3, 0.3) * np.sqrt(len(y))
                mask[y[is_neighbour], x[is_neighbour]] = neighbour_class
        return part

    def _add_organs(self, mask: np.ndarray, rng: np.random.Generator) -> None:
        if rng.random() < FILLED_SHARE:
            mask[:] = rng.integers(1, self.num_classes)
        for _ in range(rng.integers(*ORGANS, endpoint=True)):
            is_thin = rng.random() < THIN_SHARE
            if is_thin:
                organ = self._thin_part(rng)
                mask[organ] = rng.integers(1, self.num_classes)
            else:
                organ = self._add_part(mask, rng)
            if organ.any() and rng.random() < GAP_SHARE:
                distance = distance_transform_edt(~organ)
                mask[(distance > 0) & (distance <= rng.uniform(*GAP_WIDTH))] = 0
            if organ.any() and not is_thin and rng.random() < ENCLOSED_SHARE:
                centre = rng.choice(np.argwhere(organ))
                y, x = np.mgrid[: self.size, : self.size] - centre[:, None, None]
                enclosed = np.hypot(x, y) < rng.uniform(*ENCLOSED_RADIUS)
                mask[enclosed & organ] = rng.integers(1, self.num_classes)

    def _thin_part(self, rng: np.random.Generator) -> np.ndarray:
        """Return a bent line of a constant width, [size, size]: a quadratic Bezier curve through three points."""
        start = rng.uniform(0, self.size, 2)
        length, angle = np.exp(rng.uniform(*np.log(THIN_LENGTH))), rng.uniform(0, 2 * np.pi)
        along = np.array([np.sin(angle), np.cos(angle)])
        end = start + length * along
        bend = (start + end) / 2 + rng.uniform(-0.6, 0.6) * length * along[::-1] * (1, -1)
        steps = np.linspace(0, 1, max(2, int(length)))[:, None]
        curve = (1 - steps) ** 2 * start + 2 * steps * (1 - steps) * bend + steps**2 * end
        pixels = curve.round().astype(int)
        pixels = pixels[((pixels >= 0) & (pixels < self.size)).all(axis=1)]
        is_line = np.zeros((self.size, self.size), bool)
        is_line[tuple(pixels.T)] = True
        if not is_line.any():
            return is_line
        return distance_transform_edt(~is_line) <= rng.uniform(*THIN_WIDTH) / 2

    def _part(self, rng: np.random.Generator) -> np.ndarray:
        radius = np.exp(rng.uniform(np.log(SMALLEST_RADIUS), np.log(LARGEST_RADIUS * self.size)))
        stretch = np.exp(rng.uniform(-0.7, 0.7))
        angle = rng.uniform(0, np.pi)
        centre = rng.uniform(-0.05, 1.05, 2) * self.size
        y, x = np.mgrid[: self.size, : self.size] - centre[:, None, None]
        u = (x * np.cos(angle) + y * np.sin(angle)) / (radius * stretch)
        v = (-x * np.sin(angle) + y * np.cos(angle)) / (radius / stretch)
        deformation = rng.uniform(0, 0.5) * self._smooth_field(rng, radius)
        part = np.hypot(u, v) + deformation < 1
        if rng.random() < 0.3:
            shift = rng.uniform(-0.5, 0.5, 2)
            part &= np.hypot(u - shift[0], v - shift[1]) + deformation > rng.uniform(0.3, 0.8)
        return part

    def _smooth_field(self, rng: np.random.Generator, radius: float) -> np.ndarray:
        """Return a field [size, size] of unit variance that varies over about half of ``radius``.

        It is computed on a coarse grid and interpolated.
        """
        grid_size = max(4, min(self.size, int(4 * self.size / max(radius, 1))))
        field = gaussian_filter(rng.standard_normal((grid_size, grid_size)), 1.0)
        field /= field.std() + 1e-6
        return zoom(field, self.size / grid_size, order=1)[: self.size, : self.size]
