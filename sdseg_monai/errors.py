"""The exceptions for what a user can correct, where MONAI's come from, how a process ends, texts for a terminal."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Mapping
from reprlib import Repr
from traceback import walk_tb
from types import TracebackType
from typing import Any, NamedTuple

EXIT_BAD_INPUT = 2
# how the messages begin with which MONAI wraps an exception
WRAPPERS = ("Failed to instantiate component", "Failed to evaluate", "applying transform")
RESOLVER, TRANSFORMS = "monai.bundle.reference_resolver", "monai.transforms.transform"
TARGET = "_target_"
RUNS = ".run("  # in an expression that is no value but does the work, such as $@trainer.run()
# what Python raises where a value is of a wrong kind, and not where the machine fails
VALUE_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    NameError,
    NotImplementedError,
    SyntaxError,
    TypeError,
    ValueError,
)
_values = Repr()
_values.maxstring = _values.maxother = 70  # characters

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


class Fault(NamedTuple):
    """What a config asks for that cannot be done.

    Attributes:
        text: the entry or transform and what is wrong with it, such as ``device: '$nonsense()' cannot be used
            (NameError: name 'nonsense' is not defined)``.
        cause: what was raised first.
    """

    text: str
    cause: BaseException

    @property
    def is_of_value(self) -> bool:
        """Whether a value is of a wrong kind; False where the machine failed, as without memory."""
        return isinstance(self.cause, VALUE_ERRORS)


def find_fault(error: BaseException) -> Fault | None:
    """Return the entry of a MONAI config, or the transform, that ``error`` was raised for; None where it is neither.

    MONAI's messages do not name it, but the traceback leads through the call that works on it.
    """
    cause = error
    while cause.__cause__ is not None and str(cause).startswith(WRAPPERS):
        cause = cause.__cause__
    reason = f"{type(cause).__name__}: {cause}"
    applying = _innermost_call(error, TRANSFORMS, "transform")
    if applying:
        return Fault(f"{type(applying['transform']).__name__} cannot be applied ({reason})", cause)
    resolving = _innermost_call(error, RESOLVER, "item_config")
    if not resolving:
        return None
    item, content = resolving["item"], resolving["item_config"]  # the content as it was before references are replaced
    if isinstance(content, str) and RUNS in content:
        return None
    entry = item.get_id().replace("::", "#")
    if _last_module(cause) == RESOLVER:  # there is no value yet: a reference leads nowhere, or in a circle
        text = str(cause)
    elif isinstance(content, Mapping) and TARGET in content:
        if isinstance(cause, TypeError | ValueError):
            reason = str(cause)
        values = {name: value for name, value in item.get_config().items() if name != TARGET}
        text = f"{content[TARGET]} cannot be made of the config's values: {reason}; found {_listed(values)}"
    else:
        text = f"{short(content)} cannot be used ({reason})"
    return Fault(f"{entry}: {text}", cause)


def short(value: Any) -> str:
    """Return a value of a config as Python writes it, shortened; of an object only its class."""
    is_plain = value is None or isinstance(value, str | int | float | list | tuple | Mapping)
    return _values.repr(value) if is_plain else f"a {type(value).__name__}"


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={short(value)}" for name, value in values.items()) or "none"


def _innermost_call(error: BaseException | None, module: str, name: str) -> dict[str, Any]:
    """Return the variables of the last call in a module, with one of that ``name``, out of which ``error`` came.

    They are looked for in its causes too, and are empty where there is no such call.
    """
    variables: dict[str, Any] = {}
    while error is not None:
        for frame, _ in walk_tb(error.__traceback__):
            if frame.f_globals.get("__name__") == module and name in frame.f_locals:
                variables = frame.f_locals
        error = error.__cause__
    return variables


def _last_module(error: BaseException) -> str:
    """Return the module in which ``error`` was raised."""
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    return frames[-1].f_globals.get("__name__", "") if frames else ""


def _value_fault(error: BaseException) -> InputError | None:
    """Return which value of a MONAI config is of a wrong kind, None where ``error`` has another reason."""
    fault = find_fault(error)
    return InputError(fault.text) if fault is not None and fault.is_of_value else None


def report_input_errors() -> None:
    """Make an uncaught :class:`InputError` end the process with its one line on stderr and exit code 2.

    The same holds where a value of a config is of a wrong kind; the line then names its entry or the transform. This is
    for other programs that run this package, above all ``python -m monai.bundle run``; every other exception keeps its
    traceback. Their logs become :func:`printable` too.
    """
    make_logs_printable()

    def excepthook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        reason = find_input_error(error) or _value_fault(error)
        if reason is None:
            sys.__excepthook__(kind, error, traceback)
            return
        sys.stderr.write(f"error: {reason}\n")
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(EXIT_BAD_INPUT)  # threads that a failed cache leaves behind may abort a normal exit

    sys.excepthook = excepthook
