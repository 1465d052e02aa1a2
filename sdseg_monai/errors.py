"""The one exception for what a user can put right, and how a run ends on it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

EXIT_BAD_INPUT = 2


class InputError(ValueError):
    """A file, folder or option that the user can put right; its message says what was found and what was expected.

    The message is one line, whatever a library or a file name put into it.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


def find_input_error(error: BaseException | None) -> InputError | None:
    """Return the :class:`InputError` that ``error`` is or was raised from, else None.

    MONAI wraps what a transform or a config expression raises, so the cause may lie several exceptions deep.
    """
    while error is not None and not isinstance(error, InputError):
        error = error.__cause__ or error.__context__
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


def report_input_errors() -> None:
    """Make an uncaught :class:`InputError` end the process with its one line on stderr and exit code 2.

    For programs of others that run our code, ``python -m monai.bundle run`` above all; every other exception keeps
    its traceback.
    """

    def excepthook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        input_error = find_input_error(error)
        if input_error is None:
            sys.__excepthook__(kind, error, traceback)
        else:
            sys.stderr.write(f"error: {input_error}\n")
            raise SystemExit(EXIT_BAD_INPUT)

    sys.excepthook = excepthook
