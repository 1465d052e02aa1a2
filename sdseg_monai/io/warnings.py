"""Warnings about an image, to be known before its mask is trusted: a kind for programs, a sentence for people."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from sdseg_monai.errors import ArgumentError, InputError

WarningKind = Literal[
    "constant",
    "empty",
    "field_of_view",
    "geometry",
    "intensity",
    "left_out",
    "measure",
    "modality",
    "same_uid",
    "text",
    "thickness",
    "unlike",
]
NOT_TRUSTED = "NOT TRUSTED"  # before the reason, wherever a mask is shown or kept that was made with ``force``

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageWarning:
    """A warning about one image, kept in the series or result that it is about; its text does not name the image.

    Attributes:
        kind: for programs:

            * ``constant``: all voxels have the same value after intensity scaling.
            * ``empty``: nothing was found in it.
            * ``field_of_view``: the image shows more or less of the body than the training's images.
            * ``geometry``: its header does not say for certain where it lies, or programs do not agree on it.
            * ``intensity``: it has intensities that the network's modality cannot have.
            * ``left_out``: a file in the image's folder could not be used.
            * ``measure``: what is measured of its mask means little: the mask touches the edge of the picture,
              or is not like an ellipse.
            * ``modality``: its modality is not the one that the network was trained on.
            * ``same_uid``: two files of a series have the same SOPInstanceUID.
            * ``text``: texts of its headers, such as the description of a series, may be wrong.
            * ``thickness``: the thickness of a single slice is unknown.
            * ``unlike``: the network's vision encoder finds it unlike the images of the training.
        text: what was found and what it means, in one line.
        contradiction: whether a network of this training cannot segment this image: it has another modality,
            intensities that the modality cannot have, shows far more of the body, or looks like something else. Without
            ``force`` it is refused.
    """

    kind: WarningKind
    text: str
    contradiction: bool = False


def contradictions(warnings: Iterable[ImageWarning]) -> str:
    """Return the texts of those ``warnings`` that are contradictions, in one line; empty where none is."""
    return "; ".join(warning.text for warning in warnings if warning.contradiction)


def not_trusted(warnings: Iterable[ImageWarning]) -> str:
    """Return the mark of a mask: ``NOT TRUSTED: `` and the contradictions among ``warnings``; empty without one."""
    reasons = contradictions(warnings)
    return f"{NOT_TRUSTED}: {reasons}" if reasons else ""


def log_warnings(path: Path, warnings: Iterable[ImageWarning]) -> None:
    """Log the warnings about a file; the name of its folder tells a label from its image or prediction."""
    logged_warnings = LoggedWarnings(str(Path(path.parent.name, path.name)))
    for warning in warnings:
        logged_warnings.append(warning)


class ImageWarnings(list[ImageWarning]):
    """The warnings about one image, from the time it is opened until its result or error carries them.

    As a context manager the list gives the warnings to an :class:`~sdseg_monai.errors.InputError` that ends it.

    Args:
        name: of the image, in messages.
        force: use the image also where a warning is a contradiction.
    """

    def __init__(self, name: str, force: bool = False) -> None:
        super().__init__()
        self.name = name
        self.force = force

    def check(self) -> None:
        """Refuse an image that contradicts the training, unless ``force`` is set.

        Raises:
            ArgumentError: a warning is a contradiction.
        """
        reasons = contradictions(self)
        if reasons and not self.force:
            raise ArgumentError(
                f"{self.name}: {reasons}; expected an image like those of the training: choose a bundle for such "
                f"images, or force=True for a mask that is {NOT_TRUSTED}"
            )

    def __enter__(self) -> Self:
        """Return the list."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Give the warnings to the error."""
        if isinstance(error, InputError):
            error.warnings = list(self)


class LoggedWarnings(ImageWarnings):
    """Warnings that are logged once each, when they are appended."""

    def append(self, warning: ImageWarning) -> None:
        """Add a warning and log it; a contradiction that :meth:`check` refuses is left to its message."""
        super().append(warning)
        if not warning.contradiction:
            logger.warning("%s: %s", self.name, warning.text)
        elif self.force:
            logger.warning("%s: %s: %s", self.name, NOT_TRUSTED, warning.text)
