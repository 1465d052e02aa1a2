"""The regular grid that slices or frames form by their positions, and what is wrong where they form none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from sdseg_monai.io.formats.itk import LPS_TO_RAS

LARGEST_OFFSET = 0.05  # of a slice from its evenly spaced position, in spacings
LARGEST_TILT = 1e-3  # of direction cosines: between slices, and between the normal and the direction of the stack
LARGEST_GAP = 0.1  # by which a gap may differ from a whole number of spacings, in spacings
NAMES_SHOWN = 3


def slice_order(cosines: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Return the indices [N] that sort slices along their normal.

    Args:
        cosines: ImageOrientationPatient of a slice, [6].
        positions: ImagePositionPatient of each slice, [N, 3], in millimetres.
    """
    return np.argsort(positions @ np.cross(cosines[:3], cosines[3:]), kind="stable")


def is_plane(cosines: np.ndarray) -> bool:
    """Tell whether direction cosines, [6], are two unit vectors at right angles."""
    if cosines.size != 6:
        return False
    axes = cosines.reshape(2, 3)
    return bool(np.abs(axes @ axes.T - np.eye(2)).max() <= LARGEST_TILT)


def grid_affine(cosines: np.ndarray, positions: np.ndarray, edges: np.ndarray, thickness: float = 1.0) -> np.ndarray:
    """Return the affine [4, 4] of slices from voxels (column, row, slice) to RAS+ millimetres.

    Only what the slices say of their positions counts. ITK instead takes the thickness of a single slice, and the side
    on which its normal points, from SpacingBetweenSlices.

    Args:
        cosines: ImageOrientationPatient of the slices, [6].
        positions: ImagePositionPatient of the slices in their order, [N, 3], in millimetres; a regular grid.
        edges: PixelSpacing of the slices, of rows and of columns, [2], in millimetres.
        thickness: of a single slice, in millimetres.
    """
    row, column = cosines.reshape(2, 3)
    normal = np.cross(row, column)
    if len(positions) > 1:
        thickness = (positions[-1] - positions[0]) @ normal / (len(positions) - 1)
    affine = np.eye(4)
    affine[:3, :3] = np.column_stack([row * edges[1], column * edges[0], normal * thickness])
    affine[:3, 3] = positions[0]
    return LPS_TO_RAS @ affine


def grid_fault(
    cosines: np.ndarray,
    positions: np.ndarray,
    edges: np.ndarray,
    names: Sequence[str],
    attributes: Mapping[str, Sequence[str]],
) -> str | None:
    """Return why several slices do not form a regular grid, as what follows "its slices", or None where they form one.

    They must be alike in the size of their pixels and in direction; none may be missing or there twice; and they must
    not be sheared.

    Args:
        cosines: ImageOrientationPatient of the slices, [N, 6].
        positions: ImagePositionPatient of the slices, in order along their normal, [N, 3], in millimetres.
        edges: PixelSpacing of the slices, [N, 2], in millimetres.
        names: of the slices, in the same order.
        attributes: elements that may explain several slices at one position, such as the echo time: by the name of the
            element its value in each slice, in the same order.
    """
    tolerance = LARGEST_TILT * edges.min()
    if np.ptp(edges, axis=0).max() > tolerance:
        unlike_names = some(names, _unlike_most(edges, tolerance))
        return f"have pixels of several sizes: {unlike_names} unlike the others, expected one stack"
    if np.ptp(cosines, axis=0).max() > LARGEST_TILT:
        across_names = some(names, _unlike_most(cosines, LARGEST_TILT))
        return (
            f"lie in several directions: {across_names} across the others (a localizer?), expected one stack: move "
            "what does not belong to it out of the folder"
        )
    step = (positions[-1] - positions[0]) / (len(positions) - 1)
    spacing = np.linalg.norm(step)
    offset = np.abs(positions - positions[0] - np.outer(range(len(positions)), step)).max()
    if offset >= LARGEST_OFFSET * spacing:
        reason = _unevenness(cosines[0], positions, names, attributes)
        return f"are not evenly spaced: {reason}; expected one stack, none missing"
    if np.linalg.norm(np.cross(np.cross(cosines[0, :3], cosines[0, 3:]), step / spacing)) > LARGEST_TILT:
        return "are sheared (tilted gantry), expected a stack along their normal"
    return None


def some(names: Sequence[str], chosen: np.ndarray | None = None) -> str:
    """Return a text with the ``names``, or those that are ``chosen``, [N], bool; of many only the first ones."""
    if chosen is not None:
        names = [names[index] for index in np.flatnonzero(chosen).tolist()]
    count = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {count} more" if count > 0 else "")


def _unlike_most(values: np.ndarray, tolerance: float) -> np.ndarray:
    """Return which rows of ``values``, [N, M], differ from the row that is there most often, [N], bool."""
    keys = list(map(tuple, np.round(values / tolerance)))
    typical = values[keys.index(Counter(keys).most_common(1)[0][0])]
    return np.abs(values - typical).max(axis=1) > tolerance / 2


def _unevenness(
    cosines: np.ndarray, positions: np.ndarray, names: Sequence[str], attributes: Mapping[str, Sequence[str]]
) -> str:
    normal = np.cross(cosines[:3], cosines[3:])
    steps = np.diff(positions @ normal)
    real_steps = np.sort(steps[steps > 1e-3])  # millimetres
    spacing = real_steps[(len(real_steps) - 1) // 2] if len(real_steps) else 1.0
    places = np.split(np.arange(len(positions)), 1 + np.flatnonzero(steps > LARGEST_OFFSET * spacing))
    if len(places) < len(positions):
        return _repetition(places, normal, positions, names, attributes)
    gaps = np.rint(steps / spacing)
    is_gap = (gaps > 1) & (np.abs(steps / spacing - gaps) < LARGEST_GAP)
    if is_gap.any():
        first = int(np.argmax(is_gap))
        missing = _place(positions[first] + (positions[first + 1] - positions[first]) / gaps[first], normal)
        count = int((gaps[is_gap] - 1).sum())
        also = "" if count == 1 else f" ({count} slices are missing in all)"
        return f"no slice at {missing}, between {names[first]} and {names[first + 1]}{also}"
    worst = int(np.argmax(np.abs(steps - spacing)))
    if np.isclose(steps[worst], spacing):  # shifted sideways
        return "some are shifted within their plane"
    return f"{names[worst]} and {names[worst + 1]} lie {steps[worst]:.4g} mm apart, others {spacing:.4g} mm"


def _repetition(
    places: Sequence[np.ndarray],
    normal: np.ndarray,
    positions: np.ndarray,
    names: Sequence[str],
    attributes: Mapping[str, Sequence[str]],
) -> str:
    several = [place for place in places if len(place) > 1]
    first = several[0]
    slice_names = some([names[index] for index in first])
    if len({len(place) for place in places}) > 1:
        also = "" if len(several) == 1 else f", and so on at {len(several)} of {len(places)} positions"
        text = f"{len(first)} images at {_place(positions[first[0]], normal)}: {slice_names}{also}"
    else:
        text = f"{len(first)} images at each of {len(places)} positions, such as {slice_names}"
    for is_enough in (_all_differ, _some_differ):
        for attribute, values in attributes.items():
            if is_enough([[values[index] for index in place] for place in several]):
                found = dict.fromkeys(values[index] or "none" for index in first)  # in order, each once
                return f"{text}, which differ in {attribute} ({some(list(found))})"
    return f"{text}: a series over time, several echoes, or a slice that is there twice"


def _all_differ(values: Sequence[Sequence[str]]) -> bool:
    """Tell whether all values at each of the positions differ."""
    return all(len(set(at_place)) == len(at_place) for at_place in values)


def _some_differ(values: Sequence[Sequence[str]]) -> bool:
    """Tell whether values at the first of the positions differ."""
    return len(set(values[0])) > 1


def _place(position: np.ndarray, normal: np.ndarray) -> str:
    """Return a position by its coordinate along that axis of the patient to which the normal is closest."""
    axis = int(np.argmax(np.abs(normal)))
    return f"{'xyz'[axis]} = {round(float(position[axis]), 2):g} mm"
