"""Checks of an image and its label, before they are written into a datalist."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sdseg_monai.errors import InputError
from sdseg_monai.io.pictures import read_picture, read_picture_mask
from sdseg_monai.io.volumes import Volume, check_same_grid, read_volume


def read_labelled_volume(image_path: Path, label_path: Path, label_values: frozenset[int]) -> tuple[Volume, Volume]:
    """Return the image and the label of a case.

    Raises:
        InputError: a file cannot be read, the two have different grids, or the label has another value than
            ``label_values``.
    """
    image, label = read_volume(image_path), read_volume(label_path)
    check_same_grid(image_path, image, label_path, label)
    check_values(label_path, label.array, label_values)
    return image, label


def check_labelled_picture(image_path: Path, label_path: Path) -> None:
    """Check a photograph and its black and white mask.

    Raises:
        InputError: a file cannot be read, the two have different sizes, or the mask is empty.
    """
    image, mask = read_picture(image_path), read_picture_mask(label_path)
    check_same_size(image_path, image, label_path, mask)
    if not mask.any():
        raise InputError(f"{label_path}: the mask is black all over, expected something white")


def check_values(label_path: Path, label: np.ndarray, expected: frozenset[int]) -> None:
    """Raise :class:`InputError` if ``label`` holds a value that is not in ``expected``."""
    values = {float(value) for value in np.unique(label)}
    if not values <= expected:
        raise InputError(
            f"{label_path}: holds the values {sorted(values - expected)}, expected only {sorted(expected)}"
        )


def check_same_size(image_path: Path, image: np.ndarray, label_path: Path, label: np.ndarray) -> None:
    """Raise :class:`InputError` unless ``image`` [3, H, W] and ``label`` [H, W] have the same H and W."""
    if image.shape[1:] != label.shape:
        raise InputError(
            f"{label_path}: {label.shape[1]} x {label.shape[0]} pixels, expected {image.shape[2]} x {image.shape[1]} "
            f"as {image_path}"
        )
