"""Names, colours and codes of a mask's values and the images' modality, from a bundle's metadata; the palette."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from typing import Any

UNSURE = 255  # the value of voxels on which a model abstains; classes have lower values, at most 27
PHOTOGRAPHS = "RGB"  # the modality of a bundle for photographs

Rgb = tuple[int, int, int]  # each 0 to 255

# Okabe and Ito's palette, whose colours also differ for colour-blind readers
FIRST_COLOURS: tuple[Rgb, ...] = (
    (230, 159, 0),
    (0, 114, 178),
    (0, 158, 115),
    (204, 121, 167),
    (240, 228, 66),
    (86, 180, 233),
    (213, 94, 0),
)
GOLDEN_RATIO = 0.618034  # the fractional parts of its multiples spread evenly over 0 to 1


@dataclass(frozen=True)
class Segment:
    """What a value of a mask stands for.

    Attributes:
        name: for people.
        colour: red, green and blue, 0 to 255.
        code: DICOM's coded concept: code value, coding scheme designator, code meaning; None where it is unknown.
    """

    name: str
    colour: Rgb
    code: tuple[str, str, str] | None


def class_colour(value: int) -> Rgb:
    """Return the colour of a class without a colour of its own, by its ``value`` from 1; at least 26 differ clearly."""
    if value <= len(FIRST_COLOURS):
        return FIRST_COLOURS[value - 1]
    hue, brightness = value * GOLDEN_RATIO % 1, 1.0 if value % 2 else 0.75
    red, green, blue = (round(255 * level) for level in colorsys.hsv_to_rgb(hue, 0.8, brightness))
    return red, green, blue


UNSURE_SEGMENT = Segment("unsure", (128, 128, 128), None)


def read_segments(metadata: dict[str, Any]) -> dict[int, Segment]:
    """Return the segments of a bundle's ``metadata`` by the masks' values, without the background, 0.

    Names are those of the written masks' ``channel_def``; colours and codes are under ``segments``. A segment without a
    colour gets that of :func:`class_colour`.

    Raises:
        KeyError, TypeError, ValueError, StopIteration: these are not a bundle's metadata.
    """
    masks = next(iter(metadata["network_data_format"]["post_processed_outputs"].values()))
    attributes = metadata.get("segments", {})
    segments = {}
    for value, name in masks["channel_def"].items():
        if int(value) != 0:
            attribute = attributes.get(value, {})
            red, green, blue = (int(level) for level in attribute.get("color", class_colour(int(value))))
            code = None
            if "code" in attribute:
                code_value, scheme, meaning = map(str, attribute["code"])
                code = (code_value, scheme, meaning)
            segments[int(value)] = Segment(str(name), (red, green, blue), code)
    return segments


def read_modality(metadata: dict[str, Any]) -> str:
    """Return the modality of the images from a bundle's ``metadata``, empty where they name none.

    Raises:
        KeyError, TypeError, StopIteration: these are not a bundle's metadata.
    """
    return str(next(iter(metadata["network_data_format"]["inputs"].values())).get("modality", ""))
