"""From a volume or photograph with its masks to what a page holds of them: slices of 8 bits and still pictures."""

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
STILL_SIDE = 384  # pixels of a still picture's longer side
WINDOW = (0.5, 99.5)  # percentiles of what is shown
LOSSLESS_VOXELS = 400_000  # up to so many a PNG costs little
JPEG_QUALITY, JPEG_BLOCK = 75, 8  # a tile of whole blocks does not blur into its neighbour
THICK = 1.25  # slices so much thicker than the axial ones' distance are what was acquired
OBLIQUE = 5  # degrees from which the page says that a grid is turned
AXES = ("sagittal", "coronal", "axial")  # planes by the axis that they are across
PAGE_AXES = ((1, 2), (0, 2), (0, 1))  # of each plane: the axis that runs to the page's left, the one that runs up
UNSURE_GREYS = ((232, 232, 232), (64, 64, 64))  # its stripes
FILL, LIGHTER = 0.5, 0.4  # in a still picture: opacity of a filled mask; how much white an outline has


@dataclass(frozen=True)
class Drawing:
    """What a page holds of a picture.

    Attributes:
        data: for the viewer, as for JSON: sizes, the slices as one image, the masks, colours; no text of the user's.
        stills: of each plane, by the axis that it is across: its picture with the masks, as a data URI.
        amounts: of each value that a mask holds, background left out: ml, in a photograph the share of the pixels, by
            the mask's name.
        masks: their names.
        photograph: whether it is one.
        notes: what whoever looks at the pictures should know, one sentence each.
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
    """Reduce a picture to what a page can hold.

    Volumes are turned to the nearest RAS+ axes; intensities become 8 bits between the percentiles of :data:`WINDOW`.
    At most :data:`MOST_SLICES` slices, evenly spaced, of at most :data:`LONGEST_SIDE` pixels are kept; masks by nearest
    neighbour.

    Raises:
        InputError: image and masks have different shapes, or there is nothing to draw.
    """
    shape = _check(picture)
    photograph = picture.photograph or (picture.image is not None and len(picture.image) == 3)
    image, masks, spacing = _orient(picture, photograph)
    size = next(iter([*masks.values(), image])).shape[:3]  # type: ignore[union-attr]
    axis = _slice_axis(size, spacing)
    indices = np.unique(np.linspace(0, size[axis] - 1, min(size[axis], MOST_SLICES)).round().astype(int))
    small = _small_size(size, axis, LONGEST_PHOTOGRAPH if photograph else LONGEST_SIDE, len(indices))
    shown_masks = {name: _shrink(mask, axis, indices, small, Image.Resampling.NEAREST) for name, mask in masks.items()}
    levels = None if image is None else _eight_bits(_shrink_channels(image, axis, indices, small), photograph)
    shown_spacing = spacing * [_step(n, m, i == axis) for i, (n, m) in enumerate(zip(size, small, strict=True))]

    counts = {name: _count(mask) for name, mask in masks.items()}
    values = sorted({int(value) for count in counts.values() for value in np.flatnonzero(count)} - {0})
    unit = 1 / math.prod(size) if photograph else voxel_millilitres(picture.affine)
    amounts = {value: {name: int(count[value]) * unit for name, count in counts.items()} for value in values}
    colours = colours_of(values, segments)
    centre = _centre(list(shown_masks.values()), small)
    planes = [n for n in range(3) if n == axis or all(small[in_plane] > 1 for in_plane in PAGE_AXES[n])]
    planes = [axis] if photograph else planes
    data = {
        "size": list(small),
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
    notes = _notes(picture, photograph, shape, size, small, axis)
    invisible = sorted(set(values) - {int(value) for mask in shown_masks.values() for value in np.unique(mask)})
    if invisible:
        notes.append(
            f"Too small to be seen at this size: {', '.join(segment_name(value, segments) for value in invisible)}."
        )
    notes += [f"Nothing is segmented in the {name}." for name, count in counts.items() if not count[1:].any()]
    return Drawing(data, stills, amounts, list(masks), photograph, notes)


def segment_name(value: int, segments: Mapping[int, Segment]) -> str:
    """Return what a value of a mask is called."""
    if value == UNSURE:
        return "unsure"
    return segments[value].name if value in segments else f"class {value}"


def _count(mask: np.ndarray) -> np.ndarray:
    """Return how many voxels have each value 0 to 255; slab by slab, since numpy counts in 8 bytes a voxel."""
    return np.sum([np.bincount(slab.ravel(), minlength=UNSURE + 1) for slab in mask], axis=0)


def _check(picture: Picture) -> tuple[int, ...]:
    shapes = {f"the {name}": mask.shape for name, mask in picture.masks.items()}
    if picture.image is not None:
        if picture.image.ndim != 4 or picture.image.shape[0] not in (1, 3):
            raise InputError(f"an image of shape {picture.image.shape}, expected [C, X, Y, Z] with 1 or 3 channels")
        shapes["the image"] = picture.image.shape[1:]
    if not shapes:
        raise InputError("neither an image nor a mask, expected something to draw")
    first, *others = shapes.items()
    for name, mask in picture.masks.items():
        if mask.dtype != np.uint8:
            raise InputError(f"the {name} holds {mask.dtype}, expected classes in uint8")
    for name, shape in others:
        if shape != first[1]:
            raise InputError(f"{name} has the shape {shape}, {first[0]} {first[1]}: the two must lie on the same grid")
    colour = picture.image is not None and len(picture.image) == 3
    if len(first[1]) != 3 or min(first[1]) < 1 or ((colour or picture.photograph) and first[1][2] != 1):
        raise InputError(f"{first[0]} has the shape {first[1]}, expected [X, Y, Z], of a photograph [X, Y, 1]")
    return first[1]


def _orient(picture: Picture, photograph: bool) -> tuple[np.ndarray | None, dict[str, np.ndarray], np.ndarray]:
    """Return image [X, Y, Z, C], masks [X, Y, Z] and the edges of a voxel; X to the right, Y to the front, Z up.

    A photograph is laid so that its axial picture shows it as it lies in its file.
    """
    image = None if picture.image is None else np.moveaxis(picture.image, 0, -1)
    if photograph:
        masks = {name: mask.swapaxes(0, 1)[::-1, ::-1] for name, mask in picture.masks.items()}
        return None if image is None else image.swapaxes(0, 1)[::-1, ::-1], masks, np.ones(3)
    turn = io_orientation(picture.affine)
    masks = {name: apply_orientation(mask, turn) for name, mask in picture.masks.items()}
    spacing = voxel_sizes(picture.affine @ inv_ornt_aff(turn, (1, 1, 1)))
    return None if image is None else apply_orientation(image, turn), masks, spacing


def _slice_axis(size: Sequence[int], spacing: np.ndarray) -> int:
    """Return the axis across which slices are kept: that of a single slice, or of thick ones, or the third."""
    if min(size) == 1:
        return max(axis for axis in range(3) if size[axis] == 1)
    thickest = int(np.argmax(spacing))
    return thickest if spacing[thickest] > THICK * spacing[2] else 2


def _small_size(size: Sequence[int], axis: int, longest: int, slices: int) -> tuple[int, int, int]:
    factor = min(1.0, longest / max(n for i, n in enumerate(size) if i != axis))
    x, y, z = (slices if i == axis else max(1, round(n * factor)) for i, n in enumerate(size))
    return x, y, z


def _step(full: int, shown: int, is_slice_axis: bool) -> float:
    """Return how many voxels one shown voxel stands for: whole slices are left out, pixels are merged."""
    if is_slice_axis:
        return (full - 1) / (shown - 1) if shown > 1 else 1.0
    return full / shown


def _shrink(
    array: np.ndarray, axis: int, indices: np.ndarray, small: Sequence[int], method: Image.Resampling
) -> np.ndarray:
    """Return [X, Y, Z] of the size ``small``: the slices ``indices`` across ``axis``, each made smaller."""
    rows, columns = (n for i, n in enumerate(small) if i != axis)
    pages = []
    for index in indices:
        page = np.ascontiguousarray(array.take(index, axis))
        if page.shape != (rows, columns):
            page = np.asarray(Image.fromarray(page).resize((columns, rows), method))
        pages.append(page)
    return np.stack(pages, axis)


def _shrink_channels(image: np.ndarray, axis: int, indices: np.ndarray, small: Sequence[int]) -> np.ndarray:
    channels = (image[..., c].astype(np.float32, copy=False) for c in range(image.shape[-1]))
    return np.stack([_shrink(channel, axis, indices, small, Image.Resampling.BOX) for channel in channels], -1)


def _eight_bits(image: np.ndarray, photograph: bool) -> np.ndarray:
    low, high = 0.0, 255.0
    image = np.nan_to_num(image, posinf=0.0, neginf=0.0)
    if not photograph:
        low, high = (float(end) for end in np.percentile(image, WINDOW))
        if high <= low:  # all but a few voxels are alike
            low, high = float(image.min()), float(image.max())
    return np.rint(np.clip((image - low) / max(high - low, 1e-30), 0, 1) * 255).astype(np.uint8)


def _pack(mask: np.ndarray) -> str:
    """Return a mask's bytes, X fastest, deflated and in base64.

    Not a PNG: a page gets at the pixels of one through a canvas alone, and browsers that guard against fingerprints
    alter what they give out of a canvas, so that one class would turn into another.
    """
    return base64.b64encode(zlib.compress(mask.astype(np.uint8).tobytes(order="F"), 9)).decode()


def _mosaic(levels: np.ndarray | None, axis: int) -> dict[str, Any]:
    """Return the slices of [X, Y, Z, C] across ``axis`` beside each other, in a row as many as make it near square."""
    if levels is None:
        return {"image": None}
    pages = np.moveaxis(levels, axis, 0).swapaxes(1, 2)  # [slice, row, column, C]
    slices, height, width, channels = pages.shape
    lossless = math.prod(levels.shape) <= LOSSLESS_VOXELS
    if not lossless:
        rest = [(0, -n % JPEG_BLOCK) for n in (height, width)]
        pages = np.pad(pages, [(0, 0), *rest, (0, 0)], mode="edge")
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
    """Return along each axis the slice nearest to the masks' centre that has much of them; without any the middle."""
    foreground = np.zeros(size, bool)
    for select in (lambda mask: (mask > 0) & (mask != UNSURE), lambda mask: mask > 0):
        if masks and not foreground.any():
            foreground = np.any([select(mask) for mask in masks], axis=0)
    if not foreground.any():
        return [n // 2 for n in size]
    centre = []
    for axis in range(3):
        area = foreground.sum(axis=tuple(n for n in range(3) if n != axis))
        much = np.flatnonzero(2 * area >= area.max())  # the centre of two far parts may lie in neither
        middle = np.average(np.arange(size[axis]), weights=area)
        centre.append(int(much[np.abs(much - middle).argmin()]))
    return centre


def _still(
    axis: int,
    index: int,
    levels: np.ndarray | None,
    masks: Sequence[np.ndarray],
    spacing: np.ndarray,
    colours: Mapping[int, Rgb],
) -> str:
    """Draw one slice as the viewer does at first: the first mask filled, the others' outlines."""
    across, up = PAGE_AXES[axis]
    shape = (levels if levels is not None else masks[0]).shape
    lengths = np.array([shape[across] * spacing[across], shape[up] * spacing[up]])
    width, height = (max(1, round(float(n))) for n in lengths * STILL_SIDE / lengths.max())

    def page(array: np.ndarray, method: Image.Resampling) -> np.ndarray:
        flat = array.take(index, axis).swapaxes(0, 1)[::-1, ::-1]
        flat = flat[..., 0] if flat.ndim == 3 and flat.shape[-1] == 1 else flat
        return np.asarray(Image.fromarray(np.ascontiguousarray(flat)).resize((width, height), method))

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
        painted = table[values]
        painted[values == UNSURE] = np.array(UNSURE_GREYS)[stripes[values == UNSURE]]
        if number == 0:
            pixels = np.where((values > 0)[..., None], (1 - FILL) * pixels + FILL * painted, pixels)
        else:
            painted += LIGHTER * (255 - painted)
            pixels = np.where((_outline(values) & (values > 0))[..., None], painted, pixels)
    return _uri(np.rint(pixels).astype(np.uint8), lossless=False, subsampling=0)


def _outline(values: np.ndarray) -> np.ndarray:
    """Return which pixels [H, W] have another value within two pixels."""
    framed = np.pad(values, 2)
    height, width = values.shape
    near = [framed[2 + y : 2 + y + height, 2 + x : 2 + x + width] for y, x in ((0, 2), (0, -2), (2, 0), (-2, 0))]
    return np.asarray(np.any([other != values for other in near], axis=0))


def _notes(
    picture: Picture,
    photograph: bool,
    shape: Sequence[int],
    size: Sequence[int],
    small: Sequence[int],
    axis: int,
) -> list[str]:
    notes = []
    if picture.image is None:
        notes.append("No image was given: the masks are shown alone.")
    if small[axis] < size[axis]:
        notes.append(f"{small[axis]} of {size[axis]} {AXES[axis]} slices are shown, evenly spaced.")
    others = [i for i in range(3) if i != axis]
    if any(small[i] < size[i] for i in others):
        sides = [" × ".join(str(sizes[i]) for i in others) for sizes in (small, size)]
        notes.append(f"Shown with {sides[0]} of {sides[1]} pixels.")
    if photograph:
        return notes
    turned = math.degrees(float(np.max(obliquity(picture.affine))))
    if turned > OBLIQUE:
        notes.append(f"The grid is turned by up to {turned:.0f}° from the patient's axes, and shown along its own.")
    return notes
