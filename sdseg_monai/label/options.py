"""Options of a request: viewers send numbers as numbers or texts, choices as one or as the whole list."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from sdseg_monai.errors import InputError

WEIGHTS = ("latest", "original")  # in service; those that came with the bundle


def whole_number(request: Mapping[str, Any], name: str, lowest: int, highest: int) -> int | None:
    """Return a whole number, None where the option is empty.

    Raises:
        InputError: it is none, or out of range.
    """
    number = real_number(request, name, lowest, highest)
    if number is not None and number != int(number):
        raise InputError(f"{name}={number}: expected a whole number")
    return None if number is None else int(str(request[name]).removesuffix(".0"))


def real_number(request: Mapping[str, Any], name: str, lowest: float, highest: float) -> float | None:
    """Return a number, None where the option is empty.

    Raises:
        InputError: it is none, or out of range.
    """
    value = request.get(name)
    if value is None or value == "":
        return None
    try:
        number = float(str(value))
    except ValueError as error:
        raise InputError(f"{name}={value!r}: expected a number") from error
    if not lowest <= number <= highest or math.isnan(number):
        raise InputError(f"{name}={value}: expected {lowest} to {highest}")
    return number


def choice(request: Mapping[str, Any], name: str, choices: Sequence[str]) -> str:
    """Return one of ``choices``, the first where the option is empty.

    Raises:
        InputError: it is none of them.
    """
    value = request.get(name) or choices[0]
    value = value[0] if isinstance(value, list) else value
    if value not in choices:
        raise InputError(f"{name}={value!r}: expected {' or '.join(choices)}")
    return value
