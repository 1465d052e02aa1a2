"""The exceptions for what a user can correct, how a process ends on them, and texts that a terminal can show."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

EXIT_BAD_INPUT = 2
BAD_CONFIG = "Failed to instantiate component"  # how MONAI's message begins where a component refused a config's values

# what a terminal obeys, or what makes a reader see another text: control characters, line separators, marks that change
# the direction of writing, and halves of characters, which stand for bytes of a file's name
UNPRINTABLE = re.compile(r"[\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """Return ``text`` for a terminal, a table or a log: a file's name in it can give no commands and hide nothing.

    Example:
        >>> print(printable(f"scan{chr(27)}[2J.nii.gz") == f"scan{chr(92)}x1b[2J.nii.gz")
        True
    """
    return UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


class PrintableFormatter(logging.Formatter):
    """A formatter of log records that passes their texts through :func:`printable`; only tracebacks have lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return the record as one line."""
        return printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:
        """Return the traceback in its lines."""
        return "\n".join(map(printable, super().formatException(ei).split("\n")))


def make_logs_printable() -> None:
    """Give a :class:`PrintableFormatter` to all handlers of this process that have a plain formatter."""
    loggers = [logging.getLogger(), *logging.Logger.manager.loggerDict.values()]
    for logger in loggers:
        for handler in getattr(logger, "handlers", ()):  # the dictionary also has placeholders
            if type(handler.formatter) is logging.Formatter:
                handler.setFormatter(PrintableFormatter(handler.formatter._fmt, handler.formatter.datefmt))


class InputError(ValueError):
    """A file, folder or option that the user can correct; its message says what was found and what was expected.

    The message is one line: line breaks from a library's message or a file name become spaces, and it is
    :func:`printable`.

    Attributes:
        warnings: what was known of the image before it could not be used, as
            :class:`~sdseg_monai.io.warnings.ImageWarning`.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(" ".join(message.split())))
        self.warnings: list[Any] = []


class ArgumentError(InputError):
    """An argument of a call that the caller can correct.

    The message names arguments as Python does, by ``name=value`` with the value's ``repr``, or ``name=VALUE`` for any
    value. The command replaces them by its options: ``num_samples=3`` becomes ``--num-samples 3``.
    """


class Cancelled(Exception):
    """The caller's ``progress`` has cancelled a segmentation; nothing was written."""


def find_input_error(error: BaseException | None) -> InputError | None:
    """Return the :class:`InputError` that ``error`` is or was raised from, else None.

    MONAI wraps what a transform or a config expression raises, so the cause may lie several exceptions deep.
    """
    while error is not None and not isinstance(error, InputError):
        error = error.__cause__ or error.__context__
    return error


def root_cause(error: BaseException) -> BaseException:
    """Return the first exception in the chain of causes of ``error``, which is ``error`` itself where it has none."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


@contextmanager
def unwrapped_input_errors() -> Iterator[None]:
    """Raise the :class:`InputError` that a MONAI transform has wrapped in a RuntimeError; pass others as they are."""
    try:
        yield
    except RuntimeError as error:
        input_error = find_input_error(error)
        if input_error is None:
            raise
        raise input_error from error


def _refused_value(error: BaseException) -> InputError | None:
    """Return why a component refused the config's values, None where ``error`` was not raised from such a refusal."""
    cause, component = root_cause(error), None
    while error.__cause__ is not None:
        if str(error).startswith(BAD_CONFIG):
            component = str(error).split("'")[1]
        error = error.__cause__
    if component is None or not isinstance(cause, ValueError | TypeError):
        return None
    return InputError(f"{component} cannot be made of the config's values: {cause}")


def report_input_errors() -> None:
    """Make an uncaught :class:`InputError` end the process with its one line on stderr and exit code 2.

    The same holds where a component refuses a config's values; the line then names the component. This is for other
    programs that run this package, above all ``python -m monai.bundle run``; every other exception keeps its traceback.
    Their logs become :func:`printable` too.
    """
    make_logs_printable()

    def excepthook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        reason = find_input_error(error) or _refused_value(error)
        if reason is None:
            sys.__excepthook__(kind, error, traceback)
            return
        sys.stderr.write(f"error: {reason}\n")
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(EXIT_BAD_INPUT)  # threads that a failed cache leaves behind may abort a normal exit

    sys.excepthook = excepthook
