"""What the values of a mask stand for, and in what images, as a bundle's metadata says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

UNSURE = 255  # no class: the value of voxels on which a model abstains; there are at most 27 classes
UNKNOWN_COLOUR = (255, 0, 0)
PHOTOGRAPHS = "RGB"  # the modality of a bundle for them


@dataclass(frozen=True)
class Segment:
    """What a value of a mask stands for: colour in 0..255, code as (value, scheme, meaning), None where unknown."""

    name: str
    colour: tuple[int, int, int]
    code: tuple[str, str, str] | None


UNSURE_SEGMENT = Segment("unsure", (128, 128, 128), None)


def read_segments(metadata: dict[str, Any]) -> dict[int, Segment]:
    """Return the segments of a bundle's ``metadata`` by the masks' values, background left out.

    Names are those of the written masks' ``channel_def``; colours and codes are under ``segments``.

    Raises:
        KeyError, TypeError, ValueError: it is no bundle's metadata.
    """
    masks = next(iter(metadata["network_data_format"]["post_processed_outputs"].values()))
    looks = metadata.get("segments", {})
    segments = {}
    for value, name in masks["channel_def"].items():
        if int(value) != 0:
            look = looks.get(value, {})
            red, green, blue = (int(level) for level in look.get("color", UNKNOWN_COLOUR))
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
