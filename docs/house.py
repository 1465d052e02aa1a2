"""Draw the package as docs/images/house.svg: its layers from setup.cfg, what each room is for from its docstring.

Run it after a move: ``python docs/house.py``. A test holds the picture against the code.
"""

from __future__ import annotations

import ast
import configparser
import textwrap
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "sdseg_monai"
PICTURE = ROOT / "docs" / "images" / "house.svg"
# from the top down; docs/design.md says what each layer is for
LAYERS = ("command", "applications", "runs", "steps", "parts", "files and mathematics", "ground")
WIDTH, MARGIN, GAP, CAPTION = 1200, 16, 10, 110  # pixels
LINE, PADDING, CHARACTER = 14, 8, 5.6
STYLE = (
    "text{font:11px sans-serif;fill:#333}.name{font-weight:bold;font-size:13px;fill:#000}"
    ".layer{font-style:italic;fill:#555}.files{fill:#777}rect{fill:#fff;stroke:#789}.row{fill:#eef3f7;stroke:none}"
)


def layers() -> list[list[str]]:
    """Return the rooms of each layer, from the top down, as the contract in setup.cfg has them."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    rows = config["importlinter:contract:layers"]["layers"].strip().splitlines()
    return [[name.strip().removeprefix("sdseg_monai.") for name in row.split("|")] for row in rows]


def purpose(room: str) -> str:
    """Return the first line of a room's docstring, without its marks."""
    path = PACKAGE / room
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return (ast.get_docstring(ast.parse(file.read_text())) or "").splitlines()[0].replace("`", "")


def files(room: str) -> list[str]:
    """Return the modules and packages in a room; none of a module."""
    path = PACKAGE / room
    children = sorted(path.iterdir()) if path.is_dir() else []
    modules = [child.stem for child in children if child.suffix == ".py" and child.stem[0] != "_"]
    return [*modules, *(f"{child.name}/" for child in children if (child / "__init__.py").is_file())]


def draw() -> str:
    """Return the picture as SVG: a row for each layer; what is in it imports from rows below alone."""
    rows, top = [], MARGIN
    for layer, rooms in zip(LAYERS, layers(), strict=True):
        width = (WIDTH - 2 * MARGIN - CAPTION - GAP * (len(rooms) + 1)) / len(rooms)
        texts = [_lines(room, int((width - 2 * PADDING) / CHARACTER)) for room in rooms]
        height = 2 * PADDING + LINE * max(map(len, texts))
        row = [f'<rect class="row" x="{MARGIN}" y="{top}" width="{WIDTH - 2 * MARGIN}" height="{height + 2 * GAP}"/>']
        for number, line in enumerate(textwrap.wrap(layer, 15)):
            row.append(_text("layer", MARGIN + PADDING, top + GAP + PADDING + LINE * (number + 1), line))
        for number, lines in enumerate(texts):
            left = MARGIN + CAPTION + GAP + number * (width + GAP)
            row.append(f'<rect x="{left:.0f}" y="{top + GAP}" width="{width:.0f}" height="{height}" rx="4"/>')
            for index, (kind, line) in enumerate(lines, 1):
                row.append(_text(kind, left + PADDING, top + GAP + PADDING / 2 + LINE * index, line))
        rows.append("\n".join(row))
        top += height + 3 * GAP
    size = f'width="{WIDTH}" height="{top + MARGIN - GAP}" viewBox="0 0 {WIDTH} {top + MARGIN - GAP}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>\n<style>{STYLE}</style>\n' + "\n".join(rows) + "\n</svg>\n"


def _lines(room: str, characters: int) -> list[tuple[str, str]]:
    is_package = (PACKAGE / room).is_dir()
    lines = [("name", f"{room}/" if is_package else f"{room}.py")]
    lines += [("purpose", line) for line in textwrap.wrap(purpose(room), characters)]
    return lines + [("files", line) for line in textwrap.wrap("  ".join(files(room)), characters)]


def _text(kind: str, x: float, y: float, line: str) -> str:
    return f'<text class="{kind}" x="{x:.0f}" y="{y:.0f}">{escape(line)}</text>'


if __name__ == "__main__":
    PICTURE.write_text(draw())
