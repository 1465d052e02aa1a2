"""Where a file's voxels lie: for this package, and for ITK and the viewers that are built on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sdseg_monai.io.warnings import ImageWarning

LARGEST_OFFSET = 0.01  # between two places that count as one, in edges of a voxel
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])  # ITK's axes point left and posterior, NIfTI's right and anterior


@dataclass(frozen=True)
class Geometry:
    """Where a file's voxels lie.

    Attributes:
        affine: from voxel to RAS+ millimetres, [4, 4], float64.
        itk_affine: the same as ITK and its viewers (Slicer, ITK-SNAP) read the file, [4, 4], float64; None where that
            is ``affine`` too, or where ITK refuses the file.
        warnings: that the place is a guess, or that programs do not agree on it.
    """

    affine: np.ndarray
    itk_affine: np.ndarray | None = None
    warnings: tuple[ImageWarning, ...] = ()

    @property
    def viewer_affine(self) -> np.ndarray:
        """Where ITK and its viewers show the voxels, [4, 4]."""
        return self.affine if self.itk_affine is None else self.itk_affine


def volume_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """Return a shape without the axes of 1 after the third: many programs store a volume as X x Y x Z x 1."""
    count = len(shape)
    while count > 3 and shape[count - 1] == 1:
        count -= 1
    return tuple(int(n) for n in shape[:count])


def scaled(affine: np.ndarray, scale: float | np.ndarray) -> np.ndarray:
    """Return ``affine`` [4, 4] with its millimetres multiplied by ``scale``, one number or one for each axis, [3]."""
    factors = np.ones(4)
    factors[:3] = scale
    return factors[:, None] * affine


def offset_mm(shape: Sequence[int], first: np.ndarray, second: np.ndarray) -> float:
    """Return the largest distance along an axis of a corner of a grid between two affines [4, 4], in millimetres."""
    corners = np.array([[i, j, k, 1] for i in (0, 1) for j in (0, 1) for k in (0, 1)]) * [*shape, 1]
    return float(np.abs(corners @ (first - second).T).max())


def agree(shape: Sequence[int], first: np.ndarray, second: np.ndarray) -> bool:
    """Tell whether two affines [4, 4] place a grid alike, to 1 % of the shortest edge of the first one's voxels."""
    edge = float(np.linalg.norm(first[:3, :3], axis=0).min())
    return offset_mm(shape, first, second) <= LARGEST_OFFSET * edge


def disagreement(shape: Sequence[int], affine: np.ndarray, itk_affine: np.ndarray) -> str:
    """Return how far apart, and whether mirrored, two affines [4, 4] place a grid, for a message."""
    text = f"up to {offset_mm(shape, affine, itk_affine):.3g} mm apart"
    is_mirrored = np.linalg.det(affine[:3, :3]) * np.linalg.det(itk_affine[:3, :3]) < 0
    return f"{text} and as mirror images, so left and right may be swapped" if is_mirrored else text


def ignored_unit(shape: Sequence[int], affine: np.ndarray, itk_affine: np.ndarray) -> str:
    """Return the warning about a unit other than millimetres of a format of which ITK does not apply the unit."""
    return (
        "its unit is not mm, but ITK's viewers (Slicer, ITK-SNAP) take it for mm: there and here the image lies "
        f"{disagreement(shape, affine, itk_affine)}"
    )
