"""What the values of a mask stand for, and in what images, as a bundle's metadata says; the palette of classes."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from typing import Any

UNSURE = 255  # no class: the value of voxels on which a model abstains; there are at most 27 classes
UNKNOWN_COLOUR = (255, 0, 0)  # in a DICOM SEG, of a segment that no bundle describes
PHOTOGRAPHS = "RGB"  # the modality of a bundle for them

Rgb = tuple[int, int, int]  # each 0 to 255

# Okabe and Ito's palette, whose colours differ to colour-blind eyes too
FIRST_COLOURS: tuple[Rgb, ...] = (
    (230, 159, 0),
    (0, 114, 178),
    (0, 158, 115),
    (204, 121, 167),
    (240, 228, 66),
    (86, 180, 233),
    (213, 94, 0),
)
GOLDEN_RATIO = 0.618034  # multiples of it, without their whole part, spread evenly


@dataclass(frozen=True)
class Segment:
    """What a value of a mask stands for: colour in 0..255, code as (value, scheme, meaning), None where unknown."""

    name: str
    colour: Rgb
    code: tuple[str, str, str] | None


def class_colour(value: int) -> Rgb:
    """Return the colour of a class that has none of its own, by its ``value`` from 1; at least 26 differ clearly."""
    if value <= len(FIRST_COLOURS):
        return FIRST_COLOURS[value - 1]
    hue, brightness = value * GOLDEN_RATIO % 1, 1.0 if value % 2 else 0.75
    red, green, blue = (round(255 * level) for level in colorsys.hsv_to_rgb(hue, 0.8, brightness))
    return red, green, blue


UNSURE_SEGMENT = Segment("unsure", (128, 128, 128), None)


def read_segments(metadata: dict[str, Any]) -> dict[int, Segment]:
    """Return the segments of a bundle's ``metadata`` by the masks' values, background left out.

    Names are those of the written masks' ``channel_def``; colours and codes are under ``segments``. A
    segment without a colour has that of :func:`class_colour`.

    Raises:
        KeyError, TypeError, ValueError: it is no bundle's metadata.
    """
    masks = next(iter(metadata["network_data_format"]["post_processed_outputs"].values()))
    looks = metadata.get("segments", {})
    segments = {}
    for value, name in masks["channel_def"].items():
        if int(value) != 0:
            look = looks.get(value, {})
            red, green, blue = (int(level) for level in look.get("color", class_colour(int(value))))
            code = None
            if "code" in look:
                number, scheme, meaning = map(str, look["code"])
                code = (number, scheme, meaning)
            segments[int(value)] = Segment(str(name), (red, green, blue), code)
    return segments


def read_modality(metadata: dict[str, Any]) -> str:
    """Return the modality of the images that a bundle's ``metadata`` name, empty where they name none.

    Raises:
        KeyError, TypeError, StopIteration: it is no bundle's metadata.
    """
    return str(next(iter(metadata["network_data_format"]["inputs"].values())).get("modality", ""))
