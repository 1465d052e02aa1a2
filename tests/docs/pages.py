"""The pages of the repository: their blocks of code, commands and tables."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field

from markdown_it import MarkdownIt

from tests.makers.places import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted(ROOT.glob("bundles/*/docs/*.md"))]
NAMES = [str(path.relative_to(ROOT)) for path in PAGES]
BASH = shutil.which("bash") or "bash"
LANGUAGES = {"bash", "csv", "json", "python", "text"}
BUNDLES = ("sdseg", "hippocampus_sdseg")
WHOLE = {"train", "inference", "evaluate", "train_autoencoder", "metadata", "datalist"}  # all others are overlays
DATASET = "data/Task04_Hippocampus"
STAND_INS = {  # what pages leave to the reader
    "IMAGE_OR_FOLDER": "scans",
    "IMAGE": "scan.nii.gz",
    "MASK": "mask.nii.gz",
    "PHOTOGRAPH_OR_FOLDER": "skin",
    "ULTRASOUND_OR_FOLDER": "womb",
    "END_DIASTOLE.nii.gz": "filled_heart.nii.gz",
    "END_SYSTOLE.nii.gz": "emptied_heart.nii.gz",
    "FOLDER": "scans",
    "OUT": "out",
    "DATASET_DIR": DATASET,
    ".../RawData/Training": "btcv",
    ".../RawData/Training/label": "btcv/label",
}


@dataclass(frozen=True)
class Block:
    """A block of code: where it begins, in what language, what its title is."""

    place: str
    line: int
    language: str
    title: str
    text: str


@dataclass
class Page:
    """A page of the repository, and what its shell has set so far."""

    name: str
    variables: list[str] = field(default_factory=list)

    @property
    def blocks(self) -> Iterator[Block]:
        """The blocks of code, in their order."""
        for token in tokens((ROOT / self.name).read_text()):
            if token.type in ("fence", "code_block"):
                language, _, options = token.info.partition(" ")
                title = re.search(r'title="(.+?)"', options)
                indented = token.type == "code_block"
                line = token.map[0] + (1 if indented else 2)
                yield Block(self.name, line, "bash" if indented else language, title[1] if title else "", token.content)

    @property
    def text(self) -> str:
        """All of its shell's lines."""
        return "\n".join(block.text for block in self.blocks if block.language == "bash")

    def commands(self, block: Block) -> Iterator[tuple[str, list[str]]]:
        """Yield each command of a shell block: its place, and its words as the shell makes them."""
        text, start = "", block.line
        for number, line in enumerate(block.text.splitlines(), block.line):
            start, text = (start, f"{text}\n{line}") if text else (number, line)
            if text.endswith("\\") or subprocess.run([BASH, "-nc", text], capture_output=True).returncode:  # goes on
                continue
            if re.fullmatch(r"(\w+=\S+;? ?)+", text):
                self.variables.append(text)
            elif text.strip():
                assert not re.search(r"[`|<>]|\$\(", text), f"{block.place}:{start}: expected plain commands"
                for part in text.split(" && "):
                    yield f"{block.place}:{start}", self.words(part)
            text = ""
        assert not text, f"{block.place}:{start}: does not end"

    def words(self, command: str) -> list[str]:
        """Return the words of a command, with stand-ins for what is left to the reader."""
        script = "\n".join([*self.variables, rf"printf '%s\0' {command}"])
        nothing = {"PATH": ""}  # to run: a second command on the line would end this
        stdout = subprocess.run([BASH, "-efuc", script], env=nothing, capture_output=True, text=True, check=True).stdout
        words = [STAND_INS.get(word, word) for word in stdout.split("\0")[:-1]]
        data = {"kvasir": "data/Kvasir-SEG", "hippocampus": DATASET}
        elided = next((folder for name, folder in data.items() if name in command), "btcv")
        return [elided if word == "..." else word for word in words]


def tokens(text: str) -> list:
    """Return the parts of a page as the repository shows them."""
    return MarkdownIt("commonmark").enable("table").parse(text)


def tables(name: str) -> Iterator[tuple[str, list[list[str]]]]:
    """Yield each table of a page with the heading before it: its rows, the head first, of cells in Markdown."""
    heading, kind, rows, cells = "", "", [], []
    for token in tokens((ROOT / name).read_text()):
        if token.type == "heading_open":
            kind = "heading"
        elif token.type in ("th_open", "td_open"):
            kind = "cell"
        elif token.type == "inline" and kind == "heading":
            heading, kind = token.content, ""
        elif token.type == "inline" and kind == "cell":
            cells.append(token.content)
            kind = ""
        elif token.type == "tr_close":
            rows.append(cells)
            cells = []
        elif token.type == "table_close":
            yield heading, rows
            rows = []


def codes(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)
