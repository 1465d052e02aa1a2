"""Pictures of results."""

from __future__ import annotations

import numpy as np

LABEL_COLOUR = (0.1, 0.8, 0.2)
PREDICTION_COLOUR = (0.95, 0.25, 0.2)


def slice_panel(
    image: np.ndarray,
    label: np.ndarray | None,
    prediction: np.ndarray,
    slice_axis: int,
    gap: int = 2,
) -> np.ndarray:
    """Draw the slice with most foreground: the image, then it with the label (green) and the prediction (red) over it.

    Args:
        image: [X, Y, Z] in RAS+, any range.
        label: [X, Y, Z], non-zero is foreground; None leaves its picture out.
        prediction: [X, Y, Z], likewise.
        slice_axis: axis across which to cut.
        gap: pixels between two pictures.

    Returns:
        RGB [H, W, 3], float32 in [0, 1]; right and front, or up, as radiologists have them: the first remaining axis
        runs to the left of the page, the second up.
    """
    others = tuple(axis for axis in range(3) if axis != slice_axis)
    counted = prediction if label is None else label
    index = int((counted > 0).sum(axis=others).argmax()) if (counted > 0).any() else counted.shape[slice_axis] // 2
    low, high = np.percentile(image, [1, 99])
    grey = np.clip((_page(image, slice_axis, index) - low) / max(high - low, 1e-6), 0, 1)
    picture = np.repeat(grey[..., None], 3, axis=2).astype(np.float32)
    pictures = [picture]
    for mask, colour in ((label, LABEL_COLOUR), (prediction, PREDICTION_COLOUR)):
        if mask is not None:
            pictures.append(_overlay(picture, _page(mask, slice_axis, index) > 0, colour))
    spacer = np.ones((picture.shape[0], gap, 3), np.float32)
    row = [part for p in pictures for part in (p, spacer)][:-1]
    return np.concatenate(row, axis=1)


def _page(volume: np.ndarray, slice_axis: int, index: int) -> np.ndarray:
    return np.rot90(np.take(volume, index, axis=slice_axis))[:, ::-1]


def _overlay(
    picture: np.ndarray, mask: np.ndarray, colour: tuple[float, float, float], opacity: float = 0.45
) -> np.ndarray:
    mixed = picture.copy()
    mixed[mask] = (1 - opacity) * mixed[mask] + opacity * np.asarray(colour, np.float32)
    return mixed
