"""Pictures of images, masks and latents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from sdseg_monai.io.segments import class_colour

Colour = Sequence[float]  # red, green and blue in [0, 1]

LABEL_COLOUR: Colour = (0.1, 0.8, 0.2)
PREDICTION_COLOUR: Colour = (0.95, 0.25, 0.2)


def slice_panel(
    image: np.ndarray,
    label: np.ndarray | None,
    prediction: np.ndarray,
    slice_axis: int,
    gap: int = 2,
    colours: Mapping[int, Colour] | None = None,
) -> np.ndarray:
    """Draw the slice with the most foreground: the image, the image with the label, the image with the prediction.

    If there is one foreground class, it is green in the label and red in the prediction; if there are several, a class
    has the same colour in both.

    Args:
        image: [X, Y, Z] in RAS+, any range.
        label: [X, Y, Z], class of each voxel, 0 for the background; None leaves its picture out.
        prediction: [X, Y, Z], likewise.
        slice_axis: axis across which slices are taken.
        gap: pixels between two pictures.
        colours: colours of several classes; None, or a missing class, for those of
            :func:`~sdseg_monai.io.segments.class_colour`.

    Returns:
        RGB [H, W, 3], float32 in [0, 1], in the radiological convention: of the two axes of the slice, the first points
        to the left of the page and the second up.
    """
    in_plane_axes = tuple(axis for axis in range(3) if axis != slice_axis)
    mask = prediction if label is None else label
    areas = (mask > 0).sum(axis=in_plane_axes)
    index = int(areas.argmax()) if areas.any() else len(areas) // 2
    low, high = np.percentile(image, [1, 99])
    grey = np.clip((_page(image, slice_axis, index) - low) / max(high - low, 1e-6), 0, 1)
    picture = np.repeat(grey[..., None], 3, axis=2).astype(np.float32)
    label_page = None if label is None else _page(label, slice_axis, index)
    palette = _palette([prediction] if label is None else [label, prediction], colours or {})
    return _join_overlays(picture, label_page, _page(prediction, slice_axis, index), gap, palette)


def picture_panel(image: np.ndarray, label: np.ndarray, prediction: np.ndarray, gap: int = 2) -> np.ndarray:
    """Draw a photograph, the photograph with the label and the photograph with the prediction, in its own orientation.

    Args:
        image: [3, H, W] in [-1, 1].
        label: [H, W], class of each pixel, 0 for the background; colours as in :func:`slice_panel`.
        prediction: [H, W], likewise.
        gap: pixels between two pictures.

    Returns:
        RGB [H, 3 W + 2 gap, 3], float32 in [0, 1].
    """
    picture = _unit_range(image).transpose(1, 2, 0)
    return _join_overlays(picture, label, prediction, gap, _palette([label, prediction], {}))


def latent_panel(images: np.ndarray, latents: np.ndarray, gap: int = 2) -> np.ndarray:
    """Draw one row per image: the image, then each channel of its latent, from black (its minimum) to white.

    Args:
        images: [N, 3, H, W] in [-1, 1].
        latents: [N, Z, h, w]; h and w divide H and W.
        gap: pixels between two pictures.

    Returns:
        RGB [N H + (N - 1) gap, (Z + 1) W + Z gap, 3], float32 in [0, 1].
    """
    height, width = images.shape[-2:]
    rows = []
    for image, latent in zip(images, latents, strict=True):
        low, high = latent.min(axis=(1, 2), keepdims=True), latent.max(axis=(1, 2), keepdims=True)
        grey = (latent - low) / np.maximum(high - low, 1e-6)
        enlarged_grey = grey.repeat(height // latent.shape[1], axis=1).repeat(width // latent.shape[2], axis=2)
        channels = [np.repeat(channel[..., None], 3, axis=2) for channel in enlarged_grey]
        rows.append(join_pictures([_unit_range(image).transpose(1, 2, 0), *channels], axis=1, gap=gap))
    return join_pictures(rows, axis=0, gap=gap)


def join_pictures(pictures: Sequence[np.ndarray], axis: int, gap: int = 2) -> np.ndarray:
    """Join RGB pictures [H, W, 3] to one, with white between them.

    Args:
        pictures: of the same height for ``axis`` 1, of the same width for ``axis`` 0.
        axis: 0 for a column, 1 for a row.
        gap: pixels between two pictures.
    """
    shape = list(pictures[0].shape)
    shape[axis] = gap
    spacer = np.ones(shape, np.float32)
    parts = [part.astype(np.float32) for picture in pictures for part in (picture, spacer)]
    return np.concatenate(parts[:-1], axis=axis)


def _palette(masks: Sequence[np.ndarray], colours: Mapping[int, Colour]) -> dict[int, Colour] | None:
    """Return the colour of each class of ``masks``; None if there is at most one foreground class."""
    highest = max(int(mask.max()) for mask in masks)
    if highest < 2:
        return None
    default_colours = {value: [level / 255 for level in class_colour(value)] for value in range(1, highest + 1)}
    return {value: colours.get(value, colour) for value, colour in default_colours.items()}


def _join_overlays(
    picture: np.ndarray,
    label: np.ndarray | None,
    prediction: np.ndarray,
    gap: int,
    palette: Mapping[int, Colour] | None,
) -> np.ndarray:
    overlays = [
        _overlay(picture, mask > 0, {1: colour}) if palette is None else _overlay(picture, mask, palette)
        for mask, colour in ((label, LABEL_COLOUR), (prediction, PREDICTION_COLOUR))
        if mask is not None
    ]
    return join_pictures([picture, *overlays], axis=1, gap=gap)


def _unit_range(image: np.ndarray) -> np.ndarray:
    return np.clip((image + 1) / 2, 0, 1).astype(np.float32)


def _page(volume: np.ndarray, slice_axis: int, index: int) -> np.ndarray:
    return np.rot90(np.take(volume, index, axis=slice_axis))[:, ::-1]


def _overlay(picture: np.ndarray, mask: np.ndarray, colours: Mapping[int, Colour], opacity: float = 0.45) -> np.ndarray:
    overlay = picture.copy()
    for value, colour in colours.items():
        is_class = mask == value
        overlay[is_class] = (1 - opacity) * overlay[is_class] + opacity * np.asarray(colour, np.float32)
    return overlay
