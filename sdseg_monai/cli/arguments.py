"""Kinds of arguments that several commands take."""

from __future__ import annotations

import argparse
import math
from pathlib import Path


def add_bundle(command: argparse.ArgumentParser) -> None:
    """Add which bundle to use, and how it is changed."""
    command.add_argument("--bundle", metavar="BUNDLE", help="name, folder or zip (default: hippocampus_sdseg)")
    command.add_argument(
        "--overlay",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="config to chain after the bundle's own; may be repeated, the last one wins; code: use what you trust",
    )


def add_device(command: argparse.ArgumentParser) -> None:
    """Add the device."""
    command.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: cuda where there is some)")


def path(text: str) -> Path:
    """Return a path; the empty one would be the current folder."""
    if not text:  # a shell variable that is not set
        raise argparse.ArgumentTypeError("an empty name, expected a file or folder")
    return Path(text)


def seed(text: str) -> int:
    """Return a seed that torch takes."""
    number = int(_number(text, int))
    if not 0 <= number < 2**63:
        raise argparse.ArgumentTypeError(f"{number}, expected 0 to 2^63 - 1")
    return number


def positive(text: str) -> int:
    """Return a whole number from 1 on."""
    number = int(_number(text, int))
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number}, expected at least 1")
    return number


def length(text: str) -> float:
    """Return a finite number from 0 on."""
    number = _number(text, float)
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text}, expected a length from 0 on")
    return number


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
