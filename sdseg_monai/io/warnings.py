"""What a user must know of an image before its mask is trusted, as data: a kind for programs, a sentence for people."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

WarningKind = Literal["constant", "field_of_view", "intensity", "left_out", "modality", "same_uid"]


@dataclass(frozen=True)
class ImageWarning:
    """A warning about one image; it travels with what it is about and never holds that image's name.

    Attributes:
        kind: for programs:

            * ``constant``: all voxels are alike to the network.
            * ``field_of_view``: the image shows more or less of the body than those of the training.
            * ``intensity``: it has intensities that the network's modality cannot have.
            * ``left_out``: a file of the image's folder could not be used.
            * ``modality``: it is of another modality than the network knows.
            * ``same_uid``: two files of a series have one SOPInstanceUID.
        text: what was found and what that means, in one line.
    """

    kind: WarningKind
    text: str
