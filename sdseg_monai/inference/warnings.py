"""The warnings about one image, from the time it is opened until its result or error carries them."""

from __future__ import annotations

import logging
from types import TracebackType
from typing import Self

from sdseg_monai.errors import InputError
from sdseg_monai.io.sources import Source, short_name
from sdseg_monai.io.warnings import ImageWarning

logger = logging.getLogger(__name__)


class LoggedWarnings(list[ImageWarning]):
    """A list that logs each warning once, when it is appended, under a short name of the image.

    As a context manager it gives the warnings to an :class:`~sdseg_monai.errors.InputError` that ends the context.

    Args:
        source: the image.
    """

    def __init__(self, source: Source) -> None:
        super().__init__()
        self.name = short_name(source)

    def append(self, warning: ImageWarning) -> None:
        """Add a warning and log it."""
        super().append(warning)
        logger.warning("%s: %s", self.name, warning.text)

    def __enter__(self) -> Self:
        """Return the list."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Give the warnings to the error."""
        if isinstance(error, InputError):
            error.warnings = list(self)
