"""Tables as CSV files, whose texts a spreadsheet shows and never runs."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from sdseg_monai.errors import printable
from sdseg_monai.io.files import write_atomically

# a cell that begins so is a formula to a spreadsheet; the last four are the wide forms that Japanese ones take as well
FORMULA_STARTS = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def text_cell(text: str) -> str:
    """Return a text that a spreadsheet shows as it is: after an apostrophe if it would be taken for a formula.

    It is :func:`~sdseg_monai.errors.printable` too, so that it stays in its row, and no tab hides how it begins.

    Source: https://owasp.org/www-community/attacks/CSV_Injection
    """
    text = printable(text)
    return f"'{text}" if text.lstrip(" ").startswith(FORMULA_STARTS) else text


def write_table(path: Path, rows: Iterable[Sequence[str | float | None]]) -> None:
    """Write rows as CSV in UTF-8; the file appears under its name only when it is complete.

    Texts are escaped by :func:`text_cell`. Numbers stay numbers, negative ones too: a float has eight decimals. None is
    an empty cell.

    Raises:
        InputError: the folder cannot be written.
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(map(_cell, row) for row in rows)
    write_atomically(path, lambda temporary: temporary.write_text(text.getvalue(), "utf-8"))


def _cell(value: str | float | None) -> str | int | None:
    if isinstance(value, float):
        return f"{value:.8f}"
    return text_cell(value) if isinstance(value, str) else value
