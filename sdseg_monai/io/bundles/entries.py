"""Entries of a JSON text, each of which knows where it stands, so that what is wrong with it can be said."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sdseg_monai.errors import InputError, short


@dataclass(frozen=True)
class Entry:
    """A value of a JSON text.

    Attributes:
        value: as Python reads it.
        place: the keys that lead to it, such as ``segments#1#color``; empty for the whole text.

    Raises:
        InputError: it is of another kind than is asked for; the message names the entry, not the file.
    """

    value: Any
    place: str = ""

    def __getitem__(self, key: str) -> Entry:
        """Return the entry under ``key``, which must be there."""
        entry = self.get(key)
        if entry is None:
            raise InputError(f"{self._name}: no {key!r} there, expected one")
        return entry

    def get(self, key: str) -> Entry | None:
        """Return the entry under ``key``, None where there is none."""
        return dict(self.items()).get(key)

    def items(self) -> Iterator[tuple[str, Entry]]:
        """Yield the keys of an object and their entries."""
        if not isinstance(self.value, dict):
            raise self.refused("an object")
        for key, value in self.value.items():
            yield key, Entry(value, f"{self.place}#{key}" if self.place else key)

    def first(self) -> Entry:
        """Return the first entry of an object, which must have one."""
        for _, entry in self.items():
            return entry
        raise self.refused("an object with an entry")

    def text(self) -> str:
        """Return a text; a number, such as a version, is one too."""
        if isinstance(self.value, bool) or not isinstance(self.value, str | int | float):
            raise self.refused("a text")
        return str(self.value)

    def list_of(self, count: int, expected: str) -> list[Entry]:
        """Return the entries of a list of ``count``; ``expected`` says in words what the list must be."""
        if not isinstance(self.value, list) or len(self.value) != count:
            raise self.refused(expected)
        return [Entry(value, f"{self.place}#{index}") for index, value in enumerate(self.value)]

    def whole(self, low: int, high: int) -> int:
        """Return a whole number from ``low`` to ``high``."""
        if isinstance(self.value, bool) or not isinstance(self.value, int) or not low <= self.value <= high:
            raise self.refused(f"a whole number from {low} to {high}")
        return self.value

    def refused(self, expected: str) -> InputError:
        """Return the error for an entry that is not what was ``expected``."""
        return InputError(f"{self._name} is {short(self.value)}, expected {expected}")

    @property
    def _name(self) -> str:
        return self.place or "the content"
