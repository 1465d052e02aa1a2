"""The ``sdseg`` command, which alone writes to stdout and sets exit codes.

Exit codes: 0 all done; 1 some of several cases failed, the others are done; 2 nothing done, the input cannot be used;
130 interrupted or terminated.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TextIO

from sdseg_monai.about import RESEARCH_ONLY, __version__
from sdseg_monai.cli import audit, convert, demo, ejection, evaluate, info, init_bundle, label, segment
from sdseg_monai.cli.arguments import message_of
from sdseg_monai.cli.threads import set_threads
from sdseg_monai.errors import EXIT_BAD_INPUT, InputError, PrintableFormatter, printable

COMMANDS = {
    "segment": segment,
    "evaluate": evaluate,
    "ejection": ejection,
    "init-bundle": init_bundle,
    "audit": audit,
    "info": info,
    "label": label,
    "convert": convert,
    "demo": demo,
}
EXIT_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Args:
        arguments: of the command line, by default those of this process.
    """
    sys.stdout, sys.stderr = sys.stdout or _nowhere(), sys.stderr or _nowhere()  # None where a process starts without
    options = make_parser().parse_args(arguments)
    if hasattr(options, "threads"):
        set_threads(options.threads)
    with _libraries_off_stderr(options):
        return _run(options)


def _run(options: argparse.Namespace) -> int:
    _set_logging(options)
    warnings.filterwarnings("ignore", category=UserWarning)  # MONAI's hints for developers
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", module="monai")
    try:
        with _termination_as_interrupt():
            return COMMANDS[options.command].run(options)
    except InputError as error:
        sys.stderr.write(f"error: {message_of(error, options)}\n")
        return EXIT_BAD_INPUT
    except OSError as error:  # a name that is too long, no permission for a folder, a closed pipe
        sys.stderr.write(f"error: {printable(str(error))}\n")
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; what was finished is kept\n")
        return EXIT_INTERRUPTED


@contextmanager
def _libraries_off_stderr(options: argparse.Namespace) -> Iterator[None]:
    """Keep off stderr what C++ libraries (ITK, GDCM, libtiff, HDF5) write there past Python, unless ``--verbose``.

    What went wrong they also tell Python. Their lines would pass ``--quiet``, and hold names of files as they are.
    """
    if options.verbose:
        yield
        return
    try:
        descriptor, python_stderr = os.dup(2), sys.stderr
    except OSError:  # the process was started without stderr
        yield
        return
    try:
        is_same = python_stderr.fileno() == 2
    except (AttributeError, OSError, ValueError):  # a stream in memory
        is_same = False
    try:
        python_stderr.flush()
        if is_same:
            errors = python_stderr.errors or "backslashreplace"
            sys.stderr = open(descriptor, "w", 1, python_stderr.encoding, errors, closefd=False)  # noqa: SIM115
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        os.close(nowhere)
        yield
    finally:
        sys.stderr.flush()
        sys.stderr = python_stderr
        os.dup2(descriptor, 2)
        if not is_same:  # else a handler of the log may go on writing to it
            os.close(descriptor)


@contextmanager
def _termination_as_interrupt() -> Iterator[None]:
    """Treat SIGTERM, which a cluster sends before it stops a job, as an interrupt, so that temporary files go."""

    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # Python lets only the main thread set handlers
        yield
        return
    previous_handler = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous_handler)


def _nowhere() -> TextIO:
    return Path(os.devnull).open("w")


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, as all other errors of the command are.

    Attributes:
        option_names: options such as ``--num-samples``, by the attributes that hold their values.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.option_names: dict[str, str] = {}
        super().__init__(*args, **kwargs)

    def add_argument(self, *args: Any, **kwargs: Any) -> argparse.Action:
        action = super().add_argument(*args, **kwargs)
        if action.option_strings:
            self.option_names[action.dest] = action.option_strings[-1]
        return action

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_BAD_INPUT, f"error: {printable(message)}; see {self.prog} --help\n")


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = _Parser(
        prog="sdseg",
        description=f"Segment medical images with SDSeg. {RESEARCH_ONLY}",
        epilog="Exit codes: 0 all done; 1 some cases failed; 2 nothing done, one line says why; 130 interrupted.",
    )
    parser.add_argument("--version", action="version", version=f"sdseg {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module in COMMANDS.items():
        command = commands.add_parser(name, help=module.HELP, description=module.HELP, epilog=module.NOTE)
        module.add_arguments(command)
        command.set_defaults(option_names=command.option_names)
        verbosity = command.add_mutually_exclusive_group()
        verbosity.add_argument("-q", "--quiet", action="store_true", help="write only errors to stderr")
        verbosity.add_argument(
            "-v",
            "--verbose",
            action="store_true",
            help="also write details, tracebacks and the lines of C++ libraries to stderr",
        )
    return parser


def _set_logging(options: argparse.Namespace) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PrintableFormatter("%(levelname)s: %(message)s"))
    handler.setLevel(logging.ERROR if options.quiet else logging.DEBUG)
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    if options.verbose:
        logging.getLogger("sdseg_monai").setLevel(logging.DEBUG)
    else:  # pydicom warns anew in each slice, of what is a warning of the series here or ends as an error
        logging.getLogger("pydicom").setLevel(logging.ERROR)
