"""Names, colours, codes and measures of a mask's values, the images' modality: a bundle's metadata; the palette."""

from __future__ import annotations

import colorsys
import re
from dataclasses import dataclass
from typing import Literal, get_args

from sdseg_monai.io.bundles.entries import Entry

UNSURE = 255  # the value of voxels on which a model abstains; classes have lower values, at most 27
PHOTOGRAPHS = "RGB"  # the modality of a bundle for photographs
OTHER_MODALITY = "OT"  # DICOM's "other", which a bundle also has for modalities that init-bundle has no name for

Rgb = tuple[int, int, int]  # each 0 to 255
Measure = Literal["ellipse_circumference"]  # what can be measured of a segment beside its size

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
SIDES = re.compile(r"(^|[^a-z])(left|right|l|r)([^a-z]|$)", re.IGNORECASE)


@dataclass(frozen=True)
class Segment:
    """What a value of a mask stands for.

    Attributes:
        name: for people.
        colour: red, green and blue, 0 to 255.
        code: DICOM's coded concept: code value, coding scheme designator, code meaning; None where it is unknown.
        measures: what is measured of the segment in each mask, beside its size. ``ellipse_circumference``: the
            circumference of the ellipse that fits it best, see :func:`~sdseg_monai.metrics.fit_ellipse`.
    """

    name: str
    colour: Rgb
    code: tuple[str, str, str] | None
    measures: tuple[Measure, ...] = ()


def class_colour(value: int) -> Rgb:
    """Return the colour of a class without a colour of its own, by its ``value`` from 1; at least 26 differ clearly."""
    if value <= len(FIRST_COLOURS):
        return FIRST_COLOURS[value - 1]
    hue, brightness = value * GOLDEN_RATIO % 1, 1.0 if value % 2 else 0.75
    red, green, blue = (round(255 * level) for level in colorsys.hsv_to_rgb(hue, 0.8, brightness))
    return red, green, blue


UNSURE_SEGMENT = Segment("unsure", (128, 128, 128), None)


def names_side(name: str) -> bool:
    """Tell whether the name of a class names a side of the body, which would be the other one in a mirror image."""
    return SIDES.search(name) is not None


def read_segments(metadata: Entry) -> dict[int, Segment]:
    """Return the segments of a bundle's ``metadata`` by the masks' values, without the background, 0.

    Names are those of the written masks' ``channel_def``; colours, codes and measures are under ``segments``. A segment
    without a colour gets that of :func:`class_colour`.

    Raises:
        InputError: these are not a bundle's metadata; the message names the entry.
    """
    names = metadata["network_data_format"]["post_processed_outputs"].first()["channel_def"]
    attributes = metadata.get("segments") or Entry({})
    segments = {}
    for key, name in names.items():
        if not key.isdecimal():
            raise names.refused("an object whose keys are the values of a mask, such as '1'")
        if int(key) != 0:
            attribute = attributes.get(key) or Entry({})
            segments[int(key)] = Segment(
                name.text(), _read_colour(attribute, int(key)), _read_code(attribute), _read_measures(attribute)
            )
    return segments


def _read_colour(attribute: Entry, value: int) -> Rgb:
    entry = attribute.get("color")
    if entry is None:
        return class_colour(value)
    levels = entry.list_of(3, "red, green and blue, each from 0 to 255")
    red, green, blue = (level.whole(0, 255) for level in levels)
    return red, green, blue


def _read_code(attribute: Entry) -> tuple[str, str, str] | None:
    entry = attribute.get("code")
    if entry is None:
        return None
    code_value, scheme, meaning = (
        part.text() for part in entry.list_of(3, "code value, coding scheme designator and code meaning")
    )
    return code_value, scheme, meaning


def _read_measures(attribute: Entry) -> tuple[Measure, ...]:
    entry = attribute.get("measures")
    if entry is None:
        return ()
    known_measures = get_args(Measure)
    if not isinstance(entry.value, list) or any(name not in known_measures for name in entry.value):
        raise entry.refused(f"a list of measures, of which these are known: {', '.join(known_measures)}")
    return tuple(entry.value)


def read_modality(metadata: Entry) -> str:
    """Return the modality of the images from a bundle's ``metadata``, empty where they name none.

    Raises:
        InputError: these are not a bundle's metadata; the message names the entry.
    """
    modality = metadata["network_data_format"]["inputs"].first().get("modality")
    return "" if modality is None else modality.text()
