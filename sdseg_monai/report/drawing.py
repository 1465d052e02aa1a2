"""Reduce a volume or photograph with its masks to slices of 8 bits and to still pictures, for a page."""

from __future__ import annotations

import base64
import io
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from nibabel.affines import obliquity, voxel_sizes
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation
from PIL import Image

from sdseg_monai.errors import InputError
from sdseg_monai.io.segments import UNSURE, Rgb, Segment, class_colour
from sdseg_monai.io.volumes import voxel_millilitres
from sdseg_monai.report.cases import Picture

MOST_SLICES = 128
LONGEST_SIDE, LONGEST_PHOTOGRAPH = 256, 1024  # pixels
STILL_SIDE = 384  # pixels of the longer side of a still picture
WINDOW = (0.5, 99.5)  # percentiles of the intensities that become black and white
LOSSLESS_VOXELS = 400_000  # up to this number of voxels, slices are stored as PNG, without loss
JPEG_QUALITY, JPEG_BLOCK = 75, 8  # tiles are multiples of a block, so that they do not blur into each other
THICK = 1.25  # an axis whose voxels are this factor longer than those of the third axis is the slice axis
OBLIQUE = 5  # degrees; if a grid is rotated by more, the page says so
AXES = ("sagittal", "coronal", "axial")  # name of the plane perpendicular to each axis
PAGE_AXES = ((1, 2), (0, 2), (0, 1))  # for each plane: the axes that point left and up on the page
UNSURE_GREYS = ((232, 232, 232), (64, 64, 64))  # colours of the stripes for the value 255
FILL, LIGHTER = 0.5, 0.4  # in a still picture: opacity of a filled mask; share of white in an outline


@dataclass(frozen=True)
class Drawing:
    """A picture in the form in which a page holds it.

    Attributes:
        data: the JSON data of the viewer: sizes, the slices as one image, the masks, the colours; no text of the user.
        stills: for each plane a still picture with the masks, as a data URI, by the axis perpendicular to the plane.
        amounts: for each value in a mask, without the background, its amount by the name of the mask: the volume in ml,
            in a photograph the share of the pixels.
        masks: names of the masks.
        photograph: whether the picture is a photograph.
        notes: sentences for people who look at the picture.
    """

    data: dict[str, Any]
    stills: dict[int, str]
    amounts: dict[int, dict[str, float]]
    masks: list[str]
    photograph: bool
    notes: list[str]


def colours_of(values: Sequence[int], segments: Mapping[int, Segment]) -> dict[int, Rgb]:
    """Return the colour of each value of a mask, 0 to 255."""
    return {value: _colour_of(value, segments) for value in values}


def _colour_of(value: int, segments: Mapping[int, Segment]) -> Rgb:
    if value == UNSURE:
        return UNSURE_GREYS[0]
    return segments[value].colour if value in segments else class_colour(value)


def draw(picture: Picture, segments: Mapping[int, Segment]) -> Drawing:
    """Reduce a picture to a size that a page can hold.

    The axes of a volume are permuted and flipped to the nearest RAS+ orientation. Intensities become 8 bits, between
    the percentiles :data:`WINDOW`. At most :data:`MOST_SLICES` slices remain, evenly spaced, with sides of at most
    :data:`LONGEST_SIDE` pixels. Masks are resized by nearest neighbour.

    Args:
        picture: image and masks.
        segments: names and colours of the masks' values.

    Raises:
        InputError: image and masks have different shapes, or there is nothing to draw.
    """
    _check(picture)
    photograph = picture.photograph or (picture.image is not None and len(picture.image) == 3)
    image, masks, spacing = _orient(picture, photograph)
    size = next(iter([*masks.values(), image])).shape[:3]  # type: ignore[union-attr]
    axis = _slice_axis(size, spacing)
    indices = np.unique(np.linspace(0, size[axis] - 1, min(size[axis], MOST_SLICES)).round().astype(int))
    small_size = _small_size(size, axis, LONGEST_PHOTOGRAPH if photograph else LONGEST_SIDE, len(indices))
    nearest = Image.Resampling.NEAREST
    shown_masks = {name: _shrink(mask, axis, indices, small_size, nearest) for name, mask in masks.items()}
    levels = None if image is None else _eight_bits(_shrink_channels(image, axis, indices, small_size), photograph)
    shown_spacing = spacing * [_step(n, m, i == axis) for i, (n, m) in enumerate(zip(size, small_size, strict=True))]

    counts = {name: _count(mask) for name, mask in masks.items()}
    values = sorted({int(value) for count in counts.values() for value in np.flatnonzero(count)} - {0})
    unit = 1 / math.prod(size) if photograph else voxel_millilitres(picture.affine)
    amounts = {value: {name: int(count[value]) * unit for name, count in counts.items()} for value in values}
    colours = colours_of(values, segments)
    centre = _centre(list(shown_masks.values()), small_size)
    planes = [n for n in range(3) if n == axis or all(small_size[in_plane] > 1 for in_plane in PAGE_AXES[n])]
    planes = [axis] if photograph else planes
    data = {
        "size": list(small_size),
        "full": list(size),
        "spacing": [round(float(edge), 6) for edge in shown_spacing],
        "axis": axis,
        "kept": indices.tolist(),
        "planes": planes,
        "centre": centre,
        "colours": colours,
        "stripes": UNSURE_GREYS,
        "masks": [_pack(mask) for mask in shown_masks.values()],
        **_mosaic(levels, axis),
    }
    stills = {n: _still(n, centre[n], levels, list(shown_masks.values()), shown_spacing, colours) for n in planes}
    notes = _notes(picture, photograph, size, small_size, axis)
    lost_values = sorted(set(values) - {int(value) for mask in shown_masks.values() for value in np.unique(mask)})
    if lost_values:
        notes.append(
            f"Too small to be seen at this size: {', '.join(segment_name(value, segments) for value in lost_values)}."
        )
    notes += [f"Nothing is segmented in the {name}." for name, count in counts.items() if not count[1:].any()]
    return Drawing(data, stills, amounts, list(masks), photograph, notes)


def segment_name(value: int, segments: Mapping[int, Segment]) -> str:
    """Return the name of a value of a mask."""
    if value == UNSURE:
        return "unsure"
    return segments[value].name if value in segments else f"class {value}"


def _count(mask: np.ndarray) -> np.ndarray:
    """Return the number of voxels with each value from 0 to 255; slab by slab, since numpy needs 8 bytes a voxel."""
    return np.sum([np.bincount(slab.ravel(), minlength=UNSURE + 1) for slab in mask], axis=0)


def _check(picture: Picture) -> None:
    """Raise :class:`InputError` unless image and masks have one shape that can be drawn."""
    shapes = {f"the {name}": mask.shape for name, mask in picture.masks.items()}
    if picture.image is not None:
        if picture.image.ndim != 4 or picture.image.shape[0] not in (1, 3):
            raise InputError(f"an image of shape {picture.image.shape}, expected [C, X, Y, Z] with 1 or 3 channels")
        shapes["the image"] = picture.image.shape[1:]
    if not shapes:
        raise InputError("neither an image nor a mask, expected something to draw")
    (first_name, first_shape), *other_shapes = shapes.items()
    for name, mask in picture.masks.items():
        if mask.dtype != np.uint8:
            raise InputError(f"the {name} holds {mask.dtype}, expected classes in uint8")
    for name, shape in other_shapes:
        if shape != first_shape:
            raise InputError(
                f"{name} has the shape {shape}, {first_name} {first_shape}: the two must lie on the same grid"
            )
    has_colours = picture.image is not None and len(picture.image) == 3
    if len(first_shape) != 3 or min(first_shape) < 1 or ((has_colours or picture.photograph) and first_shape[2] != 1):
        raise InputError(f"{first_name} has the shape {first_shape}, expected [X, Y, Z], of a photograph [X, Y, 1]")


def _orient(picture: Picture, photograph: bool) -> tuple[np.ndarray | None, dict[str, np.ndarray], np.ndarray]:
    """Return image [X, Y, Z, C], masks [X, Y, Z] and the lengths of a voxel's edges, in RAS+ orientation.

    The axes of a photograph are chosen so that its axial picture shows it as it is in its file.
    """
    image = None if picture.image is None else np.moveaxis(picture.image, 0, -1)
    if photograph:
        masks = {name: mask.swapaxes(0, 1)[::-1, ::-1] for name, mask in picture.masks.items()}
        return None if image is None else image.swapaxes(0, 1)[::-1, ::-1], masks, np.ones(3)
    orientation = io_orientation(picture.affine)
    masks = {name: apply_orientation(mask, orientation) for name, mask in picture.masks.items()}
    spacing = voxel_sizes(picture.affine @ inv_ornt_aff(orientation, (1, 1, 1)))
    return None if image is None else apply_orientation(image, orientation), masks, spacing


def _slice_axis(size: Sequence[int], spacing: np.ndarray) -> int:
    """Return the slice axis: an axis with one slice, or the axis with clearly the longest voxels, or the third axis."""
    if min(size) == 1:
        return max(axis for axis in range(3) if size[axis] == 1)
    thickest = int(np.argmax(spacing))
    return thickest if spacing[thickest] > THICK * spacing[2] else 2


def _small_size(size: Sequence[int], axis: int, longest: int, slices: int) -> tuple[int, int, int]:
    factor = min(1.0, longest / max(n for i, n in enumerate(size) if i != axis))
    x, y, z = (slices if i == axis else max(1, round(n * factor)) for i, n in enumerate(size))
    return x, y, z


def _step(num_voxels: int, num_shown: int, is_slice_axis: bool) -> float:
    """Return how many voxels one shown voxel stands for. Slices are left out, pixels within a slice are merged."""
    if is_slice_axis:
        return (num_voxels - 1) / (num_shown - 1) if num_shown > 1 else 1.0
    return num_voxels / num_shown


def _shrink(
    array: np.ndarray, axis: int, indices: np.ndarray, small_size: Sequence[int], method: Image.Resampling
) -> np.ndarray:
    """Return an array [X, Y, Z] of the size ``small_size``: the slices ``indices`` along ``axis``, resized."""
    rows, columns = (n for i, n in enumerate(small_size) if i != axis)
    pages = []
    for index in indices:
        page = np.ascontiguousarray(array.take(index, axis))
        if page.shape != (rows, columns):
            page = np.asarray(Image.fromarray(page).resize((columns, rows), method))
        pages.append(page)
    return np.stack(pages, axis)


def _shrink_channels(image: np.ndarray, axis: int, indices: np.ndarray, small_size: Sequence[int]) -> np.ndarray:
    channels = (image[..., c].astype(np.float32, copy=False) for c in range(image.shape[-1]))
    return np.stack([_shrink(channel, axis, indices, small_size, Image.Resampling.BOX) for channel in channels], -1)


def _eight_bits(image: np.ndarray, photograph: bool) -> np.ndarray:
    low, high = 0.0, 255.0
    image = np.nan_to_num(image, posinf=0.0, neginf=0.0)
    if not photograph:
        low, high = (float(end) for end in np.percentile(image, WINDOW))
        if high <= low:  # nearly all voxels are equal
            low, high = float(image.min()), float(image.max())
    return np.rint(np.clip((image - low) / max(high - low, 1e-30), 0, 1) * 255).astype(np.uint8)


def _pack(mask: np.ndarray) -> str:
    """Return the bytes of a mask, X fastest, compressed (deflate) and in base64.

    A PNG would not do: a page can only read its pixels through a canvas, and browsers that protect against
    fingerprinting change the values that they return, so that one class would become another.
    """
    return base64.b64encode(zlib.compress(mask.astype(np.uint8).tobytes(order="F"), 9)).decode()


def _mosaic(levels: np.ndarray | None, axis: int) -> dict[str, Any]:
    """Return the slices of [X, Y, Z, C] along ``axis`` as one image, in rows and columns, nearly square."""
    if levels is None:
        return {"image": None}
    pages = np.moveaxis(levels, axis, 0).swapaxes(1, 2)  # [slice, row, column, C]
    slices, height, width, channels = pages.shape
    lossless = math.prod(levels.shape) <= LOSSLESS_VOXELS
    if not lossless:
        padding = [(0, -n % JPEG_BLOCK) for n in (height, width)]
        pages = np.pad(pages, [(0, 0), *padding, (0, 0)], mode="edge")
        _, height, width, _ = pages.shape
    columns = math.ceil(math.sqrt(slices * height / width))
    rows = math.ceil(slices / columns)
    sheet = np.zeros((rows, height, columns, width, channels), np.uint8)
    for index, page in enumerate(pages):
        sheet[index // columns, :, index % columns] = page
    flat = sheet.reshape(rows * height, columns * width, channels)
    return {"image": _uri(flat, lossless), "tile": [width, height], "columns": columns}


def _uri(pixels: np.ndarray, lossless: bool, **options: Any) -> str:
    file = io.BytesIO()
    picture = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels))
    if lossless:
        picture.save(file, format="PNG", optimize=True)
    else:
        picture.save(file, format="JPEG", quality=JPEG_QUALITY, optimize=True, **options)
    return f"data:image/{'png' if lossless else 'jpeg'};base64,{base64.b64encode(file.getvalue()).decode()}"


def _centre(masks: Sequence[np.ndarray], size: Sequence[int]) -> list[int]:
    """Return for each axis a slice near the centre of the masks that shows much of them; of empty masks the middle."""
    foreground = np.zeros(size, bool)
    for select in (lambda mask: (mask > 0) & (mask != UNSURE), lambda mask: mask > 0):
        if masks and not foreground.any():
            foreground = np.any([select(mask) for mask in masks], axis=0)
    if not foreground.any():
        return [n // 2 for n in size]
    centre = []
    for axis in range(3):
        area = foreground.sum(axis=tuple(n for n in range(3) if n != axis))
        candidates = np.flatnonzero(2 * area >= area.max())  # the centre of two distant parts may be in neither of them
        mean_index = np.average(np.arange(size[axis]), weights=area)
        centre.append(int(candidates[np.abs(candidates - mean_index).argmin()]))
    return centre


def _still(
    axis: int,
    index: int,
    levels: np.ndarray | None,
    masks: Sequence[np.ndarray],
    spacing: np.ndarray,
    colours: Mapping[int, Rgb],
) -> str:
    """Draw one slice as the viewer shows it at first: the first mask filled, the others as outlines."""
    left_axis, up_axis = PAGE_AXES[axis]
    shape = (levels if levels is not None else masks[0]).shape
    lengths = np.array([shape[left_axis] * spacing[left_axis], shape[up_axis] * spacing[up_axis]])
    width, height = (max(1, round(float(n))) for n in lengths * STILL_SIDE / lengths.max())

    def page(array: np.ndarray, method: Image.Resampling) -> np.ndarray:
        values = array.take(index, axis).swapaxes(0, 1)[::-1, ::-1]
        values = values[..., 0] if values.ndim == 3 and values.shape[-1] == 1 else values
        return np.asarray(Image.fromarray(np.ascontiguousarray(values)).resize((width, height), method))

    pixels = np.zeros((height, width, 3), np.float32)
    if levels is not None:
        image = page(levels, Image.Resampling.BICUBIC)
        pixels[:] = image if image.ndim == 3 else image[..., None]
    stripes = (np.add.outer(np.arange(height), np.arange(width)) // 4) % 2
    for number, mask in enumerate(masks):
        values = page(mask, Image.Resampling.NEAREST)
        table = np.zeros((UNSURE + 1, 3), np.float32)
        for value, colour in colours.items():
            table[value] = colour
        paint = table[values]
        paint[values == UNSURE] = np.array(UNSURE_GREYS)[stripes[values == UNSURE]]
        if number == 0:
            pixels = np.where((values > 0)[..., None], (1 - FILL) * pixels + FILL * paint, pixels)
        else:
            paint += LIGHTER * (255 - paint)
            pixels = np.where((_outline(values) & (values > 0))[..., None], paint, pixels)
    return _uri(np.rint(pixels).astype(np.uint8), lossless=False, subsampling=0)


def _outline(values: np.ndarray) -> np.ndarray:
    """Tell for each pixel [H, W] whether a pixel at a distance of two has another value."""
    padded_values = np.pad(values, 2)
    height, width = values.shape
    shifts = ((0, 2), (0, -2), (2, 0), (-2, 0))
    neighbours = [padded_values[2 + y : 2 + y + height, 2 + x : 2 + x + width] for y, x in shifts]
    return np.asarray(np.any([neighbour != values for neighbour in neighbours], axis=0))


def _notes(
    picture: Picture,
    photograph: bool,
    size: Sequence[int],
    small_size: Sequence[int],
    axis: int,
) -> list[str]:
    notes = []
    if picture.image is None:
        notes.append("No image was given: the masks are shown alone.")
    if small_size[axis] < size[axis]:
        notes.append(f"{small_size[axis]} of {size[axis]} {AXES[axis]} slices are shown, evenly spaced.")
    in_plane_axes = [i for i in range(3) if i != axis]
    if any(small_size[i] < size[i] for i in in_plane_axes):
        sides = [" × ".join(str(sizes[i]) for i in in_plane_axes) for sizes in (small_size, size)]
        notes.append(f"Shown with {sides[0]} of {sides[1]} pixels.")
    if photograph:
        return notes
    angle = math.degrees(float(np.max(obliquity(picture.affine))))
    if angle > OBLIQUE:
        notes.append(f"The grid is turned by up to {angle:.0f}° from the patient's axes, and shown along its own.")
    return notes
