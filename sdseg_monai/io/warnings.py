"""Warnings about an image, to be known before its mask is trusted: a kind for programs, a sentence for people."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

WarningKind = Literal["constant", "field_of_view", "geometry", "intensity", "left_out", "modality", "same_uid"]


@dataclass(frozen=True)
class ImageWarning:
    """A warning about one image, kept in the series or result that it is about; its text does not name the image.

    Attributes:
        kind: for programs:

            * ``constant``: all voxels have the same value after intensity scaling.
            * ``field_of_view``: the image shows more or less of the body than the training's images.
            * ``geometry``: its header does not say for certain where it lies, or programs do not agree on it.
            * ``intensity``: it has intensities that the network's modality cannot have.
            * ``left_out``: a file in the image's folder could not be used.
            * ``modality``: its modality is not the one that the network was trained on.
            * ``same_uid``: two files of a series have the same SOPInstanceUID.
        text: what was found and what it means, in one line.
    """

    kind: WarningKind
    text: str
