"""Names of files that would do something where they are shown: in a terminal, a table, a page, a shell."""

from __future__ import annotations

import contextlib
import csv
import html
import io
import json
import os
import shutil
import unicodedata
from collections.abc import Callable
from functools import partial
from html.parser import HTMLParser
from pathlib import Path

import nibabel as nib
import numpy as np

from sdseg_monai.cli import main
from sdseg_monai.demo.phantom import make_phantom
from torment.children import call_in_child
from torment.folder_runs import MANIFEST
from torment.readers import WrongResult
from torment.tries import Group, Setting, Try

SUFFIX = ".nii.gz"
SECONDS, MEGABYTES = 300, 4096
NAMES = (  # without the suffix
    "=cmd|' C calc'!A0",
    "=HYPERLINK(A1)",
    "+1+1",
    "-2+3",
    "@SUM(A1)",
    "\tTab",
    "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07",
    "bell\x07",
    "back\x08\x08\x08\x08",
    "carriage\rreturn",
    "line\nbreak",
    "\x7fdelete",
    "c1\x9b31m",
    "next\x85line",
    "right\u202eto left",
    "isolate\u2066x",
    "separator\u2028line",
    "<img src=x onerror=alert(1)>",
    '"><script>alert(1)',
    "' onmouseover='alert(1)",
    "<!--<script>",
    "&lt;b&gt;",
    "$(touch executed)",
    "`touch executed`",
    ";touch executed;",
    "@nothing#0",
    "$__import__('os').abort()",
    "%nothing.json",
    "{0}%s%n",
    "--help",
    " space ",
    "not UTF-8 \udcff\udcfe",
)
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # how a cell begins that a table's program would compute
OBEYED = ("Cc", "Cs", "Zl", "Zp")  # categories of characters that a terminal obeys or cannot show
TURNING = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")  # that turn the direction of a text
SEGMENT, EVALUATE, AUDIT, INIT = "sdseg segment", "sdseg evaluate", "sdseg audit", "sdseg init-bundle"


def prepare(setting: Setting) -> None:
    """Run the commands on images with these names, and on one damaged file for each."""
    folder = setting.common
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    verdict = call_in_child(partial(_run_commands, folder), SECONDS, MEGABYTES)
    (folder / "verdict.json").write_text(json.dumps(verdict.failure))


def _run_commands(folder: Path) -> None:
    os.chdir(folder)
    image, label = (array[::2, ::2, ::2] for array in make_phantom())  # quicker, and in voxels of 2 mm as large
    for name in NAMES:
        for kind, array in (("images", image), ("labels", label)):
            (folder / kind).mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(array, np.diag([2, 2, 2, 1])), folder / kind / f"{name}{SUFFIX}")
    shutil.copytree(folder / "images", folder / "mixed")
    for name in NAMES:
        (folder / "mixed" / f"{name} damaged{SUFFIX}").write_bytes(b"damaged")
    labels = ("--labels", "labels")
    commands = {
        SEGMENT: ("segment", "mixed", "-o", "masks", "--report", "masks.html", "-v"),
        EVALUATE: ("evaluate", "--predictions", "masks", *labels, "-o", "metrics.csv", "--report", "evaluation.html"),
        AUDIT: ("audit", *labels, "-o", "audit.csv"),
        INIT: ("init-bundle", "--images", "images", *labels, "-o", "bundle", "--minutes", "1"),
    }
    for command, words in commands.items():
        stdout, stderr = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
            code = main([*words])
        content = {"code": code, "stdout": stdout.getvalue(), "stderr": stderr.getvalue()}
        (folder / f"{command}.json").write_text(json.dumps(content))


def is_hidden(character: str) -> bool:
    """Tell whether a terminal would obey a character, not show it, or show others in another order for it."""
    return unicodedata.category(character) in OBEYED or is_turning(character)


def is_turning(character: str) -> bool:
    """Tell whether a character turns the direction of the text after it."""
    return unicodedata.bidirectional(character) in TURNING


def _check_text(name: str, text: str) -> None:
    """Check that no hidden character of the name is in a text as it is; line ends and tabs alone are the text's own."""
    for character in filter(is_hidden, name):
        is_own = character in "\n\r\t"
        if (name if is_own else character) in text:
            at = text.index(name if is_own else character)
            raise WrongResult(f"the character {character!r} stands there as it is: {text[max(0, at - 40) : at + 40]!r}")


def _outcome(folder: Path, command: str) -> dict[str, str]:
    path = folder / f"{command}.json"
    if not path.is_file():
        raise WrongResult(f"{command} did not end: {json.loads((folder / 'verdict.json').read_text())}")
    content = json.loads(path.read_text())
    if content["code"] not in (0, 1):
        raise WrongResult(f"{command}: exit code {content['code']}: {content['stderr'][-500:]}")
    return content


def _check_terminal(command: str, folder: Path, name: str) -> None:
    content = _outcome(folder, command)
    _check_text(name, content["stdout"] + content["stderr"])
    if "Traceback" in content["stderr"] and command != SEGMENT:  # which is verbose
        raise WrongResult("a traceback")


def _check_csv(file: str, command: str, folder: Path, name: str) -> None:
    _outcome(folder, command)
    text = (folder / file).read_text(errors="surrogateescape")
    _check_text(name, text)
    rows = list(csv.reader(io.StringIO(text)))
    core = name.strip("=+-@\t\r ")[:8]
    cells = [cell for row in rows for cell in row if core in cell]
    if not any(is_hidden(character) for character in name) and not cells:
        raise WrongResult(f"no cell of {name!r} in {file}")
    for cell in cells:
        if cell.startswith(FORMULA):
            raise WrongResult(f"a cell that a table's program would compute: {cell!r}")


class _Elements(HTMLParser):
    """Collects what a page would run."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.handlers: list[str] = []
        self.sources: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        self.sources += [value or "" for name, value in attrs if name in ("src", "href") and tag != "a"]


def _check_page(file: str, command: str, folder: Path, name: str) -> None:
    _outcome(folder, command)
    text = (folder / file).read_text(errors="surrogateescape")
    # a browser obeys no other characters
    _check_text("".join(filter(is_turning, name)), text)
    if html.escape(name, quote=False) != name and "<" in name and name in text:
        raise WrongResult("the name stands in the page as it is")
    elements = _Elements(text)
    if elements.handlers or any(source and not source.startswith(("data:", "#")) for source in elements.sources):
        raise WrongResult(f"the page would run {elements.handlers} or load {elements.sources[:3]}")


def _check_manifest(folder: Path, name: str) -> None:
    _outcome(folder, SEGMENT)
    text = (folder / "masks" / MANIFEST).read_text()
    _check_text(name, text)
    case = json.loads(text)["cases"].get(f"{name}{SUFFIX}")
    if case is None or case["status"] != "done":
        raise WrongResult(f"the manifest says {case}")


def _check_bundle(folder: Path, name: str) -> None:
    _outcome(folder, INIT)
    for path in (folder / "bundle" / "docs").iterdir():
        _check_text(name, path.read_text(errors="surrogateescape"))
    datalist = json.loads((folder / "bundle" / "configs" / "datalist.json").read_text())
    items = [item for split in ("training", "validation", "test") for item in datalist.get(split, [])]
    if not any(Path(item["image"]).name == f"{name}{SUFFIX}" for item in items):
        raise WrongResult("the datalist does not name it")


SURFACES: dict[str, Callable[[Path, str], None]] = {
    **{f"terminal of {command}": partial(_check_terminal, command) for command in (SEGMENT, EVALUATE, AUDIT, INIT)},
    "CSV of sdseg evaluate": partial(_check_csv, "metrics.csv", EVALUATE),
    "CSV of sdseg audit": partial(_check_csv, "audit.csv", AUDIT),
    "page of sdseg segment": partial(_check_page, "masks.html", SEGMENT),
    "page of sdseg evaluate": partial(_check_page, "evaluation.html", EVALUATE),
    "manifest": _check_manifest,
    "bundle of sdseg init-bundle": _check_bundle,
}
TRIES = [(surface, name) for surface in SURFACES for name in NAMES]


def attempt(setting: Setting, index: int) -> Try:
    """Look at one name in one place."""
    surface, name = TRIES[index]
    failure = ""
    if (setting.common / "executed").exists():
        failure = "a name was run as a command"
    try:
        SURFACES[surface](setting.common, name)
    except WrongResult as error:
        failure = str(error)
    return Try(index, surface, f"{name!r} in {surface}", "", failure)


GROUP = Group(
    name="names",
    title="Names of files",
    about=f"{len(NAMES)} images have names that would do something where they are shown: formulas of a table, "
    "characters that a terminal obeys or that turn the direction of a text, parts of HTML, commands of a "
    "shell, expressions of a config, bytes that are no UTF-8. There is a damaged file for each as well, so "
    "that error lines name them. Right is that the images are segmented and evaluated, that no such character"
    " reaches terminal, table, page or manifest as it is, that no cell begins as a formula, and that a page "
    "has no part that a name made.",
    number=len(TRIES),
    quick=len(TRIES),
    attempt=attempt,
    prepare=prepare,
)
