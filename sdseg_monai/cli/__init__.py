"""The ``sdseg`` command: it owns stdout and the exit codes.

Exit codes: 0 all done; 1 some cases of several failed, the others are done; 2 nothing done, the input cannot be used;
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
from sdseg_monai.cli import audit, convert, demo, evaluate, info, init_bundle, label, segment
from sdseg_monai.cli.arguments import name_options
from sdseg_monai.errors import EXIT_BAD_INPUT, ArgumentError, InputError

COMMANDS = {
    "segment": segment,
    "evaluate": evaluate,
    "init-bundle": init_bundle,
    "audit": audit,
    "info": info,
    "label": label,
    "convert": convert,
    "demo": demo,
}
EXIT_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    sys.stdout, sys.stderr = sys.stdout or _nowhere(), sys.stderr or _nowhere()  # a program may be started without
    options = make_parser().parse_args(arguments)
    _set_logging(options)
    warnings.filterwarnings("ignore", category=UserWarning)  # MONAI's notes to developers
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", module="monai")
    try:
        with _termination_as_interrupt():
            return COMMANDS[options.command].run(options)
    except ArgumentError as error:
        sys.stderr.write(f"error: {name_options(str(error), options.option_names)}\n")
        return EXIT_BAD_INPUT
    except (InputError, OSError) as error:  # a name that is too long, a folder that may not be read, a closed pipe
        sys.stderr.write(f"error: {error}\n")
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; what was finished is kept\n")
        return EXIT_INTERRUPTED


@contextmanager
def _termination_as_interrupt() -> Iterator[None]:
    """End on SIGTERM, which a cluster sends before it takes a machine away, as on an interrupt: tidily."""

    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # others may set no handler
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _nowhere() -> TextIO:
    return Path(os.devnull).open("w")


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as every other error is told.

    Attributes:
        option_names: such as ``--num-samples``, by the names of their values.
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
        self.exit(EXIT_BAD_INPUT, f"error: {message}; see {self.prog} --help\n")


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = _Parser(
        prog="sdseg",
        description=f"Segment medical images with SDSeg. {RESEARCH_ONLY}",
        epilog="Exit codes: 0 all done; 1 some cases failed; 2 nothing done, in one line why; 130 interrupted.",
    )
    parser.add_argument("--version", action="version", version=f"sdseg {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module in COMMANDS.items():
        command = commands.add_parser(name, help=module.HELP, description=module.HELP, epilog=module.NOTE)
        module.add_arguments(command)
        command.set_defaults(option_names=command.option_names)
        loudness = command.add_mutually_exclusive_group()
        loudness.add_argument("-q", "--quiet", action="store_true", help="nothing on stderr but errors")
        loudness.add_argument("-v", "--verbose", action="store_true", help="also how it is done, and tracebacks")
    return parser


def _set_logging(options: argparse.Namespace) -> None:
    shown = logging.StreamHandler(sys.stderr)
    shown.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    shown.setLevel(logging.ERROR if options.quiet else logging.DEBUG)
    # the root's own level stays: a manifest keeps warnings, shown or not
    logging.basicConfig(level=logging.WARNING, handlers=[shown])
    if options.verbose:
        logging.getLogger("sdseg_monai").setLevel(logging.DEBUG)
