"""Measures that a bundle declares of its segments: what people want to know of a mask beside its size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sdseg_monai.io.segments import Measure
from sdseg_monai.metrics import fit_ellipse

LEAST_OVERLAP = 0.95  # of a mask and its ellipse; of the masks of HC18 the lowest is 0.998
DIGITS = 4  # of values in JSON, as of volumes in ml
NO_VALUE = "none"


@dataclass(frozen=True)
class Measurement:
    """One measure of one mask.

    Attributes:
        segment: name of the segment.
        name: of the quantity, such as ``circumference``.
        unit: ``mm``, or ``pixels`` where the size of a pixel is not known.
        value: None where the mask has no such quantity, as an empty one.
        doubt: why the value means little, or why there is none; empty where nothing is known against it.
    """

    segment: str
    name: str
    unit: str
    value: float | None
    doubt: str = ""

    @property
    def key(self) -> str:
        """Name in JSON, with the unit: ``circumference_mm``."""
        return f"{self.name}_{self.unit}"


Value = tuple[float | None, str]  # with the doubt


def _ellipse_circumference(mask: np.ndarray, edges: tuple[float, float]) -> Value:
    if mask.shape[2] != 1:
        return None, f"it has {mask.shape[2]} slices, and an ellipse is fitted to a single one: no circumference"
    ellipse = fit_ellipse(mask[..., 0], edges)
    if ellipse is None:
        return None, ""
    doubts = ["it touches the edge of the picture"] * ellipse.touches_edge
    if ellipse.overlap < LEAST_OVERLAP:
        doubts.append(f"it is no ellipse (Dice of the mask and the fitted ellipse: {ellipse.overlap:.2f})")
    return ellipse.circumference, f"{' and '.join(doubts)}, so its circumference means little" if doubts else ""


# the name of the quantity, and how it is computed from a mask and the lengths of a voxel's edges
_QUANTITIES: dict[Measure, tuple[str, Callable[[np.ndarray, tuple[float, float]], Value]]] = {
    "ellipse_circumference": ("circumference", _ellipse_circumference)
}


def take_measure(
    measure: Measure, segment: str, mask: np.ndarray, edges: tuple[float, float], unit: str
) -> Measurement:
    """Measure a mask.

    Args:
        measure: see :attr:`~sdseg_monai.io.segments.Segment.measures`.
        segment: its name.
        mask: of one segment, [X, Y, Z], bool.
        edges: lengths of a voxel's edges along X and Y, in ``unit``.
        unit: ``mm`` or ``pixels``.
    """
    name, compute = _QUANTITIES[measure]
    value, doubt = compute(mask, edges)
    return Measurement(segment, name, unit, value, doubt)


def values_of(measurements: Iterable[Measurement]) -> dict[str, dict[str, float | None]]:
    """Return the values for JSON, rounded, by the names of the segments and the keys of the measurements."""
    values: dict[str, dict[str, float | None]] = {}
    for measurement in measurements:
        value = None if measurement.value is None else round(measurement.value, DIGITS)
        values.setdefault(measurement.segment, {})[measurement.key] = value
    return values


def measure_texts(case: Mapping[str, Any]) -> dict[str, str]:
    """Return the measures in a case of the manifest for people: ``{"Fetal head circumference": "175.3 mm"}``."""
    texts = {}
    for segment, values in case.get("measures", {}).items():
        for key, value in values.items():
            name, _, unit = key.rpartition("_")
            texts[f"{segment} {name}"] = NO_VALUE if value is None else f"{value:.1f} {unit}"
    return texts


def area_texts(case: Mapping[str, Any]) -> dict[str, str]:
    """Return the areas of a photograph's segments from its case of the manifest for people, by name."""
    areas = case.get("area_mm2", {})
    return {
        name: f"{count} pixels" + (f" ({areas[name]:.1f} mm²)" if name in areas else "")
        for name, count in case.get("pixels", {}).items()
    }
