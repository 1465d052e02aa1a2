"""Arguments and types of arguments that several commands share, and options for the library's argument names."""

from __future__ import annotations

import argparse
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from sdseg_monai.bundle import DEFAULT_BUNDLE, Bundle
from sdseg_monai.errors import ArgumentError, InputError
from sdseg_monai.io.files import check_exists

# name=value, where value is a text in quotes or any characters but spaces
ARGUMENT = re.compile(r"""(?<![^\s(])(\w+)=('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[^\s,;:)]+)""")
# arguments that take several values, for which an option is repeated
PLURALS = {"bundles": "bundle", "names": "name", "overlays": "overlay"}


def add_bundle(command: argparse.ArgumentParser) -> None:
    """Add the options for a bundle and for overlays on its config."""
    command.add_argument(
        "--bundle",
        metavar="BUNDLE",
        help=f"name of a bundle, or its folder or zip file (default: {DEFAULT_BUNDLE}); a bundle is code, see --trust",
    )
    command.add_argument(
        "--overlay",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="config to chain after the bundle's own; may be repeated, the last one wins; it is code too, see --trust",
    )
    add_trust(command)


def add_trust(command: argparse.ArgumentParser) -> None:
    """Add the option with which code of a bundle runs that does not come with this package."""
    command.add_argument(
        "--trust",
        action="store_true",
        help="run the code of this bundle, also what does not come with this package; needed once, it is remembered "
        "until the code changes",
    )


def chosen_bundle(name: str | None, overlays: Sequence[Path]) -> str:
    """Return the bundle that ``--bundle`` names, or the default one.

    Raises:
        InputError: the bundle or an overlay does not exist.
    """
    bundle = DEFAULT_BUNDLE if name is None else name
    Bundle.open(bundle)
    for overlay in overlays:
        check_exists(overlay)
    return bundle


def add_device(command: argparse.ArgumentParser) -> None:
    """Add the options for the device, and for the threads on the CPU."""
    command.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: cuda where there is a GPU)")
    command.add_argument(
        "--threads",
        type=positive,
        metavar="N",
        help="threads that compute on the CPU (default: OMP_NUM_THREADS, else the cores that this process may use and "
        "that other programs leave free)",
    )


def name_options(message: str, options: Mapping[str, str]) -> str:
    """Return the message of an :class:`~sdseg_monai.errors.ArgumentError` with options in place of arguments.

    Args:
        message: with arguments as ``name=value``.
        options: such as ``--num-samples``, by the attributes of the parsed arguments that hold their values.
    """

    def replace(match: re.Match[str]) -> str:
        name, value = match.groups()
        option = options.get(PLURALS.get(name, name))
        if option is None:
            return match[0]
        if value == "True":
            return option
        text = shlex.quote(value[1:-1]) if value[0] in "'\"" else value
        return f"{option} {text}"

    return ARGUMENT.sub(replace, message)


def message_of(error: InputError, options: argparse.Namespace) -> str:
    """Return the message of an error as the command says it: with its options in place of arguments."""
    return name_options(str(error), options.option_names) if isinstance(error, ArgumentError) else str(error)


def path(text: str) -> Path:
    """Return a path; refuse an empty one, which would be the current folder."""
    if not text:  # as from a shell variable that is not set
        raise argparse.ArgumentTypeError("an empty name, expected a file or folder")
    return Path(text)


def seed(text: str) -> int:
    """Return a seed that torch accepts."""
    number = int(_number(text, int))
    if not 0 <= number < 2**63:
        raise argparse.ArgumentTypeError(f"{number}, expected 0 to 2^63 - 1")
    return number


def positive(text: str) -> int:
    """Return a whole number of at least 1."""
    number = int(_number(text, int))
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number}, expected at least 1")
    return number


def length(text: str) -> float:
    """Return a finite number of at least 0."""
    number = _number(text, float)
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text}, expected a finite number of at least 0")
    return number


def edge(text: str) -> float:
    """Return a finite number above 0."""
    number = _number(text, float)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text}, expected a finite number above 0")
    return number


def shard(text: str) -> tuple[int, int]:
    """Return the numbers of ``2/8``: which part, and how many there are."""
    match = re.fullmatch(r"([1-9]\d{0,5})/([1-9]\d{0,5})", text)
    if match is None or int(match[1]) > int(match[2]):
        raise argparse.ArgumentTypeError(f"{text!r}, expected such as 2/8, the second of eight parts")
    return int(match[1]), int(match[2])


def fraction(text: str) -> float:
    """Return a number from 0 to 1."""
    number = _number(text, float)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{text}, expected 0 to 1")
    return number


def _number(text: str, kind: type[int] | type[float]) -> float:
    try:
        return kind(text)
    except ValueError as error:
        expected = "a whole number" if kind is int else "a number"
        raise argparse.ArgumentTypeError(f"{text!r}, expected {expected}") from error
