"""What the documentation says holds: its commands run, its tables are the configs', its links lead somewhere.

Every line of every shell block on every page is run, or checked as far as that is possible here, by the first of
:data:`RULES` that fits; a line that none fits fails. ``SDSEG_PICTURES=docs/images`` saves the picture of the report.
"""

from __future__ import annotations

import argparse
import ast
import configparser
import contextlib
import inspect
import io
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit

import fire
import monai.bundle
import nibabel as nib
import numpy as np
import pytest
import requests
import torch
from markdown_it import MarkdownIt
from mkdocs.commands.build import build
from mkdocs.config import load_config
from monai.bundle import ConfigParser
from PIL import Image
from selenium.webdriver.support.ui import WebDriverWait

from sdseg_monai.bundle import bundles_dir
from sdseg_monai.cli import COMMANDS, main, make_parser
from sdseg_monai.demo.phantom import make_phantom, write_phantom
from sdseg_monai.inference.manifest import FILE_NAME
from sdseg_monai.inferers import SliceWiseInferer
from sdseg_monai.networks import DenoisingUNet, MaskAutoencoder, SDSeg
from sdseg_monai.planning import init_bundle
from tests.bundles.test_overlays import arguments
from tests.makers.browser import needs_browser, start_chromium
from tests.makers.compvis import tiny_official
from tests.makers.dicom import HAS_ORTHANC, OrthancServer, write_mr_series
from tests.makers.label_server import LabelServer, needs_label_env
from tests.makers.places import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted(ROOT.glob("bundles/*/docs/*.md"))]
NAMES = [str(path.relative_to(ROOT)) for path in PAGES]
BASH = shutil.which("bash") or "bash"
LANGUAGES = {"bash", "csv", "json", "python", "text"}
BUNDLES = ("sdseg", "hippocampus_sdseg")
WHOLE = {"train", "inference", "evaluate", "train_autoencoder", "metadata", "datalist"}  # all others are overlays
SPLITS = {"training": [f"case_{n}" for n in (2, 3, 4, 5)], "validation": ["case_6"], "test": ["case_0", "case_1"]}
CASES = [f"case_{number}" for number in range(7)]  # so many that some are kept for a test
CROP = (slice(4, 30), slice(18, 42), slice(11, 19))  # of the phantom: small, a slab, with both classes
DATASET = "data/Task04_Hippocampus"
STAND_INS = {  # what pages leave to the reader
    "IMAGE_OR_FOLDER": "scans",
    "IMAGE": "scan.nii.gz",
    "MASK": "mask.nii.gz",
    "FOLDER": "scans",
    "OUT": "out",
    "DATASET_DIR": DATASET,
    ".../RawData/Training": "btcv",
    ".../RawData/Training/label": "btcv/label",
}
REFUSED = {  # commands that need weights which are not shipped, with what they say
    "--bundle sdseg --overlay bundles/sdseg/configs/classes/organs.json": "expected a trained mask autoencoder",
    "-o out --bundle sdseg --overlay bundles/sdseg/configs/classes/organs.json": "no weights in this bundle",
}
NOT_TRAINED = ("sd_autoencoder.json", "paper_weights.json", "taesd", "distill_taesd")  # full size, or a download
ROUTES = re.compile(r"(http://)?127\.0\.0\.1:\d+/(infer|train|activelearning|datastore/label|instances)\b")
SEARCH = "return document.querySelector('.md-search-result__list')?.innerText ?? ''"


# --- pages ------------------------------------------------------------------------------------------------------------


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
        said = subprocess.run([BASH, "-efuc", script], env=nothing, capture_output=True, text=True, check=True).stdout
        words = [STAND_INS.get(word, word) for word in said.split("\0")[:-1]]
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


# --- a folder in which every file is that a page names ----------------------------------------------------------------


def write_volumes(folder: Path, names: list[str]) -> None:
    """Write small phantoms to ``folder``/images and ``folder``/labels."""
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    for name in names:
        image, label = make_phantom(seed=int(name[-1]))
        for kind, array in (("images", np.rint(image.clip(0)).astype(np.uint16)), ("labels", label)):
            nib.save(nib.Nifti1Image(array[CROP], np.eye(4)), folder / kind / f"{name}.nii.gz")


def write_photographs(folder: Path, names: list[str]) -> None:
    """Write pictures with a light disc to ``folder``/images and where it is to ``folder``/masks."""
    rng = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for name in names:
        rows, columns = np.mgrid[:48, :56]
        disc = np.hypot(rows - rng.integers(16, 32), columns - rng.integers(20, 36)) < 12
        photograph = rng.integers(0, 100, (48, 56, 3)) + 120 * disc[..., None]
        Image.fromarray(photograph.astype(np.uint8)).save(folder / "images" / f"{name}.png")
        Image.fromarray(disc.astype(np.uint8) * 255).save(folder / "masks" / f"{name}.png")


def write_weights(path: Path, bundle: Path, *overlays: Path) -> None:
    """Write random weights for the network of a bundle's inference."""
    parser = ConfigParser()
    parser.read_config([bundle / "configs" / "inference.json", *overlays])
    parser["bundle_root"] = str(bundle)
    torch.manual_seed(0)
    network = parser.get_parsed_content("network_def")
    network.scale_factor.fill_(0.1)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), path)


def write_datalist(path: Path, image: str, label: str) -> None:
    """Write a datalist of :data:`SPLITS`; ``image`` and ``label`` are paths with a ``{}`` for the case."""
    items = {k: [{"image": image.format(c), "label": label.format(c)} for c in v] for k, v in SPLITS.items()}
    path.write_text(json.dumps(items))


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What lies about before a page's first command: the reader's files, and the repository's bundles and scripts."""
    root = tmp_path_factory.mktemp("docs") / "template"
    write_volumes(root, CASES)
    for case in CASES[:2]:
        for source, folder in (("images", "scans"), ("labels", "masks")):
            (root / folder).mkdir(exist_ok=True)
            shutil.copy(root / source / f"{case}.nii.gz", root / folder)
    shutil.copy(root / "scans" / "case_0.nii.gz", root / "scan.nii.gz")
    write_mr_series(root / "scan.nii.gz", root / "STUDY")
    for uid in ("1.2.3.4", "1.2.3.5"):
        write_mr_series(root / "scan.nii.gz", root / "STUDIES" / uid, SeriesInstanceUID=uid)
    pictures = root / "data" / "Kvasir-SEG"
    write_photographs(pictures, CASES)
    shutil.copytree(pictures / "images", root / "photos")
    write_datalist(pictures / "datalist.json", "images/{}.png", "masks/{}.png")
    for kind, name in (("images", "img"), ("labels", "label")):
        shutil.copytree(root / kind, root / "btcv" / name)
        shutil.copytree(root / kind, root / DATASET / kind)
        shutil.copytree(root / kind, root / "data" / kind)
    for folder, image, label in (("btcv", "img", "label"), (DATASET, "images", "labels")):
        write_datalist(root / folder / "datalist.json", f"{image}/{{}}.nii.gz", f"{label}/{{}}.nii.gz")

    ignored = shutil.ignore_patterns("logs", "eval", "*checkpoint.pt")
    shutil.copytree(ROOT / "bundles", root / "bundles", ignore=ignored)
    for name in ("benchmarks", "preprocessing", "constraints.txt"):
        (root / name).symlink_to(ROOT / name)
    own, configs = root / "bundles" / "hippocampus_sdseg", root / "bundles" / "sdseg" / "configs"
    for name in ("A.pt", "B.pt", "other.pt"):
        shutil.copy(own / "models" / "model.pt", root / name)
    write_weights(root / "half" / "model.pt", own, own / "configs" / "recipe" / "half_width.json")
    write_weights(own / "logs" / "paper" / "model.pt", own, configs / "recipe" / "paper.json")
    shutil.copytree(own, root / "from_noise")
    config = root / "from_noise" / "configs" / "inference.json"
    content = json.loads(config.read_text())
    content["network_def"]["start_noise"] = "shared"
    config.write_text(json.dumps(content))
    folders = (pictures / "images", pictures / "masks", root / "polyps")
    init_bundle(*folders, minutes=0.01, seconds_per_slice=0.1, progress=False)
    write_weights(root / "polyps" / "models" / "model.pt", root / "polyps")
    torch.save({"state_dict": tiny_official()}, root / "official.ckpt")
    return root


@pytest.fixture
def workspace(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Page], Path]:
    """Return how to make the folder for a page, which becomes the current one."""

    def enter(page: Page) -> Path:
        root = tmp_path / "work"
        shutil.copytree(template, root, symlinks=True)
        if "init-bundle" not in page.text:  # it speaks of a bundle that there is already
            shutil.copytree(root / "bundles" / "hippocampus_sdseg", root / "my_bundle")
            with zipfile.ZipFile(root / "my_bundle.zip", "w") as archive:
                for path in (root / "my_bundle").rglob("*"):
                    archive.write(path, path.relative_to(root))
        for block in page.blocks:
            if block.title in ("cases.csv", "datalist.json", "at_least.json"):
                (root / block.title).write_text(block.text)
        monkeypatch.chdir(root)
        return root

    return enter


# --- rules ------------------------------------------------------------------------------------------------------------


def run_sdseg(words: list[str]) -> None:
    """Run it here; what it needs not to take long, or not to ask a network, is added."""
    added = {"demo": ["--offline"], "init-bundle": ["--minutes", "0.01"]}.get(words[1], [])
    line = " ".join(words)
    refusal = next((said for tail, said in reversed(REFUSED.items()) if line.endswith(tail)), None)
    errors = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
        try:
            code = main([*words[1:], *added])
        except SystemExit as stop:  # --help
            code = stop.code
    assert code == (0 if refusal is None else 2), errors.getvalue()
    assert refusal is None or refusal in errors.getvalue(), errors.getvalue()


def parse_sdseg(words: list[str]) -> None:
    """The label server: its options; :func:`test_the_label_servers_commands` runs it."""
    make_parser().parse_args(words[1:])


def run_or_read_bundle(words: list[str]) -> None:
    """Of a bundle that the page makes, run it here; else see that its configs have all it names.

    :func:`test_trainings` runs the others too.
    """
    arguments_of_run = words[words.index("monai.bundle") + 1 :]
    if words[0] == "python" and "my_bundle/" in " ".join(words):
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            fire.Fire({"run": monai.bundle.run}, command=[*arguments_of_run, "--logging_file", "False"])
        return
    read_bundle(arguments_of_run)


def read_bundle(words: list[str]) -> ConfigParser:
    """Check the words after ``monai.bundle``: the files are there, and have what is to be run and to be changed."""
    run, name, *options = words
    keys = [option.removeprefix("--") for option in options[::2]]
    assert run == "run" and len(options) % 2 == 0 and all(option.startswith("--") for option in options[::2])
    given = dict(zip(keys, options[1::2], strict=True))
    files = given.pop("config_file")
    parser = ConfigParser()
    parser.read_config(ast.literal_eval(files) if files.startswith("[") else [files])
    assert name in parser, f"{files}: no {name}"
    for key in given:
        parent, _, leaf = key.rpartition("#")
        assert key in parser or (parent and leaf in arguments(parser[parent]["_target_"])), f"no knob {key}"
    return parser


class Accepted(Exception):
    """A script's parser took the arguments."""


def parse_script(words: list[str]) -> None:
    """Start a script until its own parser has taken the arguments; the repository's files that they name are there."""
    parse = argparse.ArgumentParser.parse_args

    def stop(parser: argparse.ArgumentParser, *args: object, **options: object) -> None:
        parse(parser, *args, **options)
        raise Accepted

    for word in words[1:]:
        if word.startswith(("benchmarks/", "bundles/", "docs/", "preprocessing/")) and not word.endswith(".pt"):
            assert (ROOT / word).exists(), word
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        patch.setattr(sys, "argv", words[1:])
        patch.syspath_prepend(str((ROOT / words[1]).parent))
        with pytest.raises(Accepted):
            runpy.run_path(str(ROOT / words[1]), run_name="__main__")


def run_python(words: list[str]) -> None:
    """Run a module of Python itself."""
    done = subprocess.run([sys.executable, *words[1:]], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def check_pip(words: list[str]) -> None:
    """Without a network: pip knows the options, the extras are there, the pins are those of the tested set."""
    done = subprocess.run(
        [sys.executable, *words[1:], "--help"], capture_output=True, text=True
    )  # reads what is before
    assert done.returncode == 0, done.stderr
    pinned = (ROOT / words[words.index("-c") + 1]).read_text().splitlines()
    assert all(word in pinned for word in words if "==" in word)
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    for place in (words[at + 1] for at, word in enumerate(words) if word == "-e"):
        extra = re.fullmatch(r"\.(?:\[(\w+)\])?", place)
        assert extra and (extra[1] is None or extra[1] in setup["options.extras_require"]), place


def check_tool(words: list[str]) -> None:
    """A tool of the development's environment; :func:`test_the_tools` runs it."""
    name = words[0] if "-m" not in words else words[2]
    assert (Path(sys.executable).parent / Path(name).name).exists(), name


def check_make(words: list[str]) -> None:
    """Make knows what it would do."""
    done = subprocess.run([*words[:1], "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def inspect_logs(words: list[str]) -> None:
    """TensorBoard takes the folder; of a training of this page it finds its events."""
    done = subprocess.run([sys.executable, "-m", "tensorboard.main", *words[1:], "--inspect"], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    assert (b"train_loss" in done.stdout or b"val_mean_dice" in done.stdout) == Path(words[-1]).is_dir()


def check_route(words: list[str]) -> None:
    """A request to the label server, or to Orthanc; :func:`test_the_label_servers_commands` sends it."""
    (url,) = [word for word in words if ROUTES.match(word)]
    model = re.search(r"/(?:infer|train|activelearning)/(\w+?)(_flips|_seeds)?(\?|$)", url)
    assert model is None or model[1] in BUNDLES


def check_venv(words: list[str]) -> None:
    """Make the environment, without pip, which takes long, and see that it can be entered as the pages say."""
    subprocess.run([sys.executable, *words[1:], "--without-pip"], check=True)
    assert Path(".venv/bin/activate").is_file()


def check_activation(words: list[str]) -> None:
    """The environment's own script is what is sourced."""
    assert words == ["source", ".venv/bin/activate"]


Rule = Callable[[list[str]], None]
RULES: tuple[tuple[str, Rule], ...] = (
    (r"(\.venv/bin/)?sdseg ", run_sdseg),
    (r"\.venv-label/bin/sdseg label ", parse_sdseg),
    (r"(python|torchrun( --standalone)? --nproc_per_node=\d+) -m monai\.bundle run ", run_or_read_bundle),
    (r"python (benchmarks|preprocessing)/\w+\.py ?", parse_script),
    (r"python -m zipfile ", run_python),
    (r"\.venv/bin/python -m pip install ", check_pip),
    (r"\.venv/bin/(ruff|mypy|lint-imports|mkdocs|python -m pytest)\b", check_tool),
    (r"(\.venv-label/bin/)?tensorboard --logdir \S+$", inspect_logs),
    (r"make [\w-]+( \w+=\S+)?$", check_make),
    (r"curl ", check_route),
    (r"python3 -m venv \.venv$", check_venv),
    (r"source ", check_activation),
)


def rule_of(words: list[str]) -> Rule:
    """Return the first rule that fits; there must be one."""
    line = " ".join(words)
    found = [rule for pattern, rule in RULES if re.match(pattern, line)]
    assert found, f"no rule says how to check {line!r}"
    return found[0]


# --- commands ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("keep_global_state")
@pytest.mark.parametrize("name", NAMES)
def test_commands_and_programs(name, workspace):
    page = Page(name)
    workspace(page)
    for block in page.blocks:
        assert block.language in LANGUAGES, f"{name}:{block.line}: a block of {block.language!r}"
        if block.language == "python":
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(block.text, f"{name}:{block.line}", "exec"), {"__name__": "__main__"})
        elif block.language == "bash":
            for place, words in page.commands(block):
                try:
                    rule_of(words)(words)
                except (Exception, SystemExit) as error:
                    raise AssertionError(f"{place}: {' '.join(words)}: {error}") from error


def test_the_first_commands_are_the_two():
    page = Page("README.md")
    commands = [words for block in page.blocks if block.language == "bash" for _, words in page.commands(block)]
    assert commands[:2] == [["make", "demo"], ["make", "test"]]


def test_a_command_that_no_rule_knows_fails():
    for line in ("rm -rf masks", "python script.py", "sdsegment scan.nii.gz", ".venv/bin/pip install x"):
        with pytest.raises(AssertionError, match="no rule"):
            rule_of(line.split())


def test_what_a_shell_makes_of_a_block():
    page = Page("README.md")
    text = "C=a/b; D=c\nrun --x#y \"['$C/1','\n  $D']\" \\\n  'k={1}'   # why\n\nmake it && make that\n"
    found = list(page.commands(Block("p", 7, "bash", "", text)))
    assert found == [
        ("p:8", ["run", "--x#y", "['a/b/1','\n  c']", "k={1}"]),
        ("p:12", ["make", "it"]),
        ("p:12", ["make", "that"]),
    ]
    with pytest.raises(AssertionError, match="plain commands"):
        list(page.commands(Block("p", 1, "bash", "", "cat x | sh")))
    with pytest.raises(subprocess.CalledProcessError):
        list(page.commands(Block("p", 1, "bash", "", "sdseg info; rm x")))


def limits(words: list[str]) -> list[str]:
    """Return a ``monai.bundle`` command at toy size: with data, folders and lengths that it does not name itself."""
    at = words.index("--config_file") + 1
    chain = ast.literal_eval(words[at]) if words[at].startswith("[") else [words[at]]
    names = {Path(path).name for path in chain}
    added: dict[str, str] = {}
    if "train_autoencoder.json" in names:
        added = {"epochs": "1", "masks_per_epoch": "32", "size": "32", "batch_size": "8", "ckpt_dir": "trained"}
    elif chain[0] == "bundles/hippocampus_sdseg/configs/train.json":
        added = {"dataset_dir": DATASET, "datalist": f"{DATASET}/datalist.json", "epochs": "1", "val_interval": "1"}
        if "evaluate.json" not in names:  # that takes the shipped weights
            added |= {
                "ckpt_dir": "trained_here",
                "autoencoder_weights": "bundles/hippocampus_sdseg/models/autoencoder.pt",
            }
    elif chain[0].startswith("bundles/sdseg/"):
        chain.append("bundles/sdseg/configs/smoke.json")
        kind = next(kind for kind in ("kvasir", "organs", "multi_gpu", "") if any(kind in name for name in names))
        if chain[0].endswith("inference.json"):
            added = {"checkpoint": f"trained_{kind}/model.pt"}
        else:
            added = {"dataset_dir": "data/Kvasir-SEG" if kind == "kvasir" else "btcv", "ckpt_dir": f"trained_{kind}"}
    extra = [part for key, value in added.items() if f"--{key}" not in words for part in (f"--{key}", value)]
    return [*words[:at], str(chain).replace(" ", ""), *words[at + 1 :], *extra]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if "monai.bundle" in Page(name).text])
def test_trainings(name, workspace):
    """Every command of ``monai.bundle`` as a process of its own, at toy size, in the order of the page."""
    page = Page(name)
    workspace(page)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    programs = {"python": [sys.executable], "torchrun": [sys.executable, "-m", "torch.distributed.run"]}
    for block in page.blocks:
        for place, words in page.commands(block) if block.language == "bash" else ():
            if words[:2] == ["sdseg", "init-bundle"]:
                run_sdseg(words)
            if "monai.bundle" in words and not any(part in " ".join(words) for part in NOT_TRAINED):
                command = limits(words)
                full = [*programs[command[0]], *command[1:]]
                done = subprocess.run(full, env=environment, capture_output=True, text=True)
                assert done.returncode == 0, f"{place}: {' '.join(command)}: {done.stderr[-2000:]}"


@pytest.mark.slow
def test_the_tools(tmp_path):
    """The checks that the pages name, as they name them; of the tests only that they are found."""
    page = Page("docs/development.md")
    for block in page.blocks:
        for place, words in page.commands(block):
            if rule_of(words) is check_tool:
                program = [str(Path(sys.executable).parent / Path(words[0]).name), *words[1:]]
                program += ["--collect-only", "-q"] if "pytest" in words else []
                program += ["--site-dir", str(tmp_path)] if words[0].endswith("mkdocs") else []
                done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True)
                assert done.returncode == 0, f"{place}: {done.stdout[-2000:]}{done.stderr[-2000:]}"


@needs_label_env
@pytest.mark.slow
def test_the_label_servers_commands(template, tmp_path, monkeypatch):
    """The server starts as the page says, and answers each request as it is written there."""
    page = Page("docs/label.md")
    studies = tmp_path / "studies"
    studies.mkdir()
    for case, name in zip(CASES, ("scan", "second", "third"), strict=False):
        shutil.copy(template / "images" / f"{case}.nii.gz", studies / f"{name}.nii.gz")
    shutil.copy(template / "images" / "case_5.nii.gz", tmp_path / "other.nii.gz")
    shutil.copy(template / "labels" / "case_0.nii.gz", tmp_path / "corrected.nii.gz")
    shutil.copy(template / "STUDY" / "0001.dcm", tmp_path / "slice.dcm")
    monkeypatch.chdir(tmp_path)
    commands = [words for block in page.blocks for _, words in page.commands(block)]
    servers = [make_parser().parse_args(words[1:]) for words in commands if words[0].endswith("bin/sdseg")]
    assert {options.studies for options in servers} == {"DIR", "http://127.0.0.1:8042/dicom-web"}
    requested = [words for words in commands if words[0] == "curl"]
    with LabelServer(studies, tmp_path / "sdseg_label") as server:
        for name in ("second", "third"):
            label = {"label": ("corrected.nii.gz", (tmp_path / "corrected.nii.gz").read_bytes())}
            address = f"{server.url}/datastore/label?image={name}&tag=final"
            requests.put(address, files=label, timeout=60).raise_for_status()
        for words in requested:
            if "/instances" not in " ".join(words):
                here = [word.replace("127.0.0.1:8000", server.url.removeprefix("http://")) for word in words]
                done = subprocess.run([*here, "--silent", "--show-error", "--fail"], capture_output=True, text=True)
                assert done.returncode == 0, f"{here}: {done.stdout} {done.stderr}"
        mask = nib.load(tmp_path / "mask.nii.gz")
        assert mask.shape == nib.load(tmp_path / "other.nii.gz").shape
        assert requests.get(f"{server.url}/train/", timeout=60).json()["status"] in ("RUNNING", "DONE")
        requests.delete(f"{server.url}/train/", timeout=60)
    if HAS_ORTHANC:
        (upload,) = (words for words in requested if "/instances" in " ".join(words))
        with OrthancServer() as orthanc:
            here = [word.replace("http://127.0.0.1:8042", orthanc.url) for word in upload]
            subprocess.run([*here, "--silent", "--fail"], check=True, capture_output=True)
            assert len(orthanc.instances()) == 1


# --- tables and examples ----------------------------------------------------------------------------------------------


def config_of(bundle: str, name: str) -> dict:
    return json.loads((ROOT / "bundles" / bundle / "configs" / f"{name}.json").read_text())


def is_plain(value: object) -> bool:
    """Whether a value is neither a part nor an expression."""
    if isinstance(value, list):
        return all(not isinstance(item, dict | list) and is_plain(item) for item in value)
    return not isinstance(value, dict) and not (isinstance(value, str) and value.startswith(("$", "@", "%")))


def codes(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


@pytest.mark.parametrize("name", ["train", "evaluate", "inference", "train_autoencoder"])
def test_the_reference_names_every_knob_with_its_value(name):
    configs = [config_of(bundle, name) for bundle in BUNDLES]
    found = [rows for heading, rows in tables("docs/bundles.md") if heading == f"{name}.json"]
    knobs = next(rows for rows in found if rows[0] == ["knob", *BUNDLES, "meaning"])
    for cell, *values, meaning in knobs[1:]:
        (knob,) = codes(cell)
        assert meaning and any(knob in config for config in configs), knob
        for value, config in zip(values, configs, strict=True):
            if "#" in knob and knob not in config and config.get("network_def"):
                config = {knob: ConfigParser(config)[knob]}
            if knob not in config:
                assert value == "", f"{knob}: {value} of a bundle that has none"
            elif is_plain(config[knob]) and knob != "how_to_get_data":
                assert codes(value) == [json.dumps(config[knob])], knob
            else:
                assert value in ("computed", "text"), knob
    said = {knob for row in knobs[1:] for knob in codes(row[0])}
    said |= {part for rows in found if rows[0][0] == "part" for row in rows[1:] for part in codes(row[0])}
    section = (ROOT / "docs" / "bundles.md").read_text().partition(f"\n## {name}.json\n")[2].partition("\n## ")[0]
    prose = set(codes(re.sub(r"^\|.*$", "", section, flags=re.MULTILINE)))  # parts of the smaller configs
    there = {key for config in configs for key in config}
    assert there <= said | prose, there - said - prose
    assert {knob for knob in said if "#" not in knob} <= there, said - there


def test_the_reference_names_leaves_with_their_defaults():
    rows = next(rows for _, rows in tables("docs/bundles.md") if rows[0][0] == "leaf")
    config = ConfigParser(config_of("sdseg", "train"))
    owners = {
        "network_def": SDSeg,
        "network_def#unet": DenoisingUNet,
        "network_def#autoencoder": MaskAutoencoder,
        "validate#inferer": SliceWiseInferer,
    }
    for cell, default, _ in rows[1:]:
        (key,) = codes(cell)
        parent, _, leaf = key.rpartition("#")
        value = config[key] if key in config else inspect.signature(owners[parent]).parameters[leaf].default
        assert codes(default) == [json.dumps(value)], key


@pytest.mark.parametrize("bundle", BUNDLES)
def test_the_reference_names_every_overlay(bundle):
    configs = ROOT / "bundles" / bundle / "configs"
    there = {str(path.relative_to(configs)) for path in configs.rglob("*.json") if path.stem not in WHOLE}
    found = [rows for heading, rows in tables("docs/bundles.md") if heading == "Overlays"]
    said = [name for row in found[BUNDLES.index(bundle)][1:] for name in codes(row[0])]
    assert Counter(said) == Counter(there)


def test_every_option_of_the_command_is_described():
    pages = {"segment": "segment", "evaluate": "segment", "init-bundle": "train", "audit": "train", "label": "label"}
    (commands,) = (action for action in make_parser()._actions if isinstance(action, argparse._SubParsersAction))
    texts = {page: (ROOT / "docs" / f"{page}.md").read_text() for page in pages.values()}
    for command, page in pages.items():
        for action in commands.choices[command]._actions:
            longest = max(action.option_strings, key=len, default="")
            if longest not in ("", "--help", "--output") and not (command == "audit" and longest in texts["segment"]):
                assert longest in texts[page] or longest in ("--quiet", "--verbose"), f"{command} {longest}"
    known = {option for name in COMMANDS for a in commands.choices[name]._actions for option in a.option_strings}
    knobs = {f"--{knob}" for bundle in BUNDLES for name in WHOLE - {"metadata", "datalist"}
             for knob in config_of(bundle, name)}  # fmt: skip
    for page, text in texts.items():
        named = {word for code in codes(re.sub(r"```.*?```", "", text, flags=re.DOTALL)) for word in code.split()}
        other = {"--app", "--conf", "--uvicorn_app", "--bundle_root"}  # of monailabel
        unknown = {word for word in named if word.startswith("--")} - known - knobs - other
        assert not unknown, f"docs/{page}.md: {unknown}"


def keys(value: object) -> object:
    """Return the names in JSON, without the values."""
    return {name: keys(item) for name, item in value.items()} if isinstance(value, dict) else None


def test_the_example_of_a_plan_is_one(tmp_path):
    (shown,) = (block.text for block in Page("docs/train.md").blocks if block.language == "text")
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
    for number in range(8):
        files = [tmp_path / kind / f"case_{number}.nii.gz" for kind in ("images", "labels")]
        write_phantom(*files, seed=number)
    folders = (tmp_path / "images", tmp_path / "labels", tmp_path / "my_bundle")
    plan = init_bundle(*folders, names={1: "Head", 2: "Tail"}, seconds_per_slice=0.03, progress=False)
    said = [line.replace(f"{tmp_path}/", "") for line in plan.lines]
    assert [line for line in said if line in shown.splitlines()] == [row for row in shown.splitlines() if row != "..."]


def test_the_example_of_a_mask_s_file_has_what_is_written(template, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (said,) = (block.text for block in Page("docs/segment.md").blocks if block.language == "text")
    assert main(["segment", str(template / "scan.nii.gz"), "-o", "mask.nii.gz", "-q", "--device", "cpu"]) == 0
    assert capsys.readouterr().out.startswith(said.partition("...")[0])
    (shown,) = (block.text for block in Page("docs/segment.md").blocks if block.title == "mask.json")
    written = json.loads((tmp_path / "mask.json").read_text())
    assert keys(json.loads(shown)) == keys(written)
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(["segment", str(template / "scans"), "-o", str(tmp_path / "masks"), "-q", "--device", "cpu"]) == 0
    manifest = json.loads((tmp_path / "masks" / FILE_NAME).read_text())
    assert set(manifest) == {"about", "settings", "cases"} and keys(manifest["about"]) == keys(written["about"])
    assert {"status", *written["case"]} == set(manifest["cases"]["case_0.nii.gz"])


# --- links and the site -----------------------------------------------------------------------------------------------


def slug(heading: str) -> str:
    """Return the anchor of a heading, as the repository's pages have it."""
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def links(name: str) -> Iterator[str]:
    for token in tokens((ROOT / name).read_text()):
        for child in token.children or ():
            yield from (child.attrs[key] for key in ("href", "src") if key in child.attrs)


@pytest.mark.parametrize("name", NAMES)
def test_links_and_pictures_are_there(name):
    here = ROOT / name
    for link in links(name):
        address = urlsplit(link)
        if address.scheme:
            assert address.scheme in ("http", "https") and address.netloc, link
            continue
        target = (here.parent / address.path).resolve() if address.path else here
        assert target.exists() and target.is_relative_to(ROOT), link
        if address.fragment:
            headings = re.findall(r"^#+ (.+)$", target.read_text(), flags=re.MULTILINE)
            assert address.fragment in map(slug, headings), link


TAGS = ("pre", "li", "table", "tr", "img", "h1", "h2", "h3")


class Structure(HTMLParser):
    """Counts the parts of a page, within its article where it has one."""

    def __init__(self, html: str, within: str | None = None) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()
        self.hosts: set[str] = set()
        self.within, self.inside = within, within is None
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.inside = self.inside or tag == self.within
        if self.inside and tag in TAGS:
            self.count[tag] += 1
        given = dict(attrs)
        for key in ("src", "href") if tag != "a" else ():
            self.hosts.add(urlsplit(given.get(key) or "").netloc)

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.inside and tag != self.within


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site, built strictly."""
    folder = tmp_path_factory.mktemp("site")
    config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder), strict=True)
    config.plugins.on_startup(command="build", dirty=False)
    build(config)
    return folder


def page_of(site: Path, name: str) -> Path:
    path = Path(name.removeprefix("docs/"))
    return site / (path.with_name("index.html") if path.name == "README.md" else path.with_suffix(".html"))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "README.md"])
def test_the_site_shows_what_the_repository_shows(site, name):
    html = page_of(site, name).read_text()
    shown = Structure(html, "article").count
    expected = Structure(MarkdownIt("commonmark").enable("table").render((ROOT / name).read_text())).count
    if name == "docs/api.md":  # and the docstrings
        assert shown["pre"] > expected["pre"] and "doc-signature" in html
        assert not re.search(r":(class|func|meth|data|attr):", html), "a role that nothing replaced"
        return
    assert shown == expected


def test_the_site_asks_nothing_of_any_network(site):
    for path in site.rglob("*.html"):
        assert Structure(path.read_text()).hosts <= {""}, path


@needs_browser
def test_the_site_is_searched_without_a_network(site):
    """From the folder itself, as on a machine without a server."""
    driver = start_chromium()
    try:
        driver.get((site / "index.html").as_uri() + "?q=abstain")
        wait = WebDriverWait(driver, 30, 0.2)
        wait.until(lambda d: "Segment my data" in d.execute_script(SEARCH), "the page that search should find")
        asked = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
        urls = [event["params"]["request"]["url"] for event in asked if event["method"] == "Network.requestWillBeSent"]
        assert {urlsplit(url).scheme for url in urls} <= {"file", "data", "blob", "about"}, urls
    finally:
        driver.quit()


@needs_browser
@pytest.mark.shared
@pytest.mark.slow
def test_the_picture_of_the_report(hippocampus, tmp_path):
    """An evaluation of one test case, as the picture of README.md shows it."""
    item = json.loads((bundles_dir() / "hippocampus_sdseg" / "configs" / "datalist.json").read_text())["test"][0]
    for kind in ("image", "label"):
        (tmp_path / f"{kind}s").mkdir()
        shutil.copy(hippocampus / item[kind], tmp_path / f"{kind}s")
    folders = {name: str(tmp_path / name) for name in ("images", "labels", "masks")}
    report = tmp_path / "report.html"
    command = ["evaluate", "--predictions", folders["masks"], "--labels", folders["labels"], "-q"]
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(["segment", folders["images"], "-o", folders["masks"], "-q", "--device", "cpu"]) == 0
        command += ["-o", str(tmp_path / "metrics.csv"), "--report", str(report), "--images", folders["images"]]
        assert main(command) == 0
    driver = start_chromium()
    try:
        window = {"width": 1150, "height": 715, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", window)
        driver.get(report.as_uri())
        driver.execute_script("""
            document.documentElement.style.scrollBehavior = 'auto';
            document.querySelector('.viewer').closest('section').scrollIntoView()
        """)
        live = "return document.querySelector('.viewer').className.includes('live')"
        WebDriverWait(driver, 30, 0.1).until(lambda d: d.execute_script(live))
        shown = Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")
        colours = np.asarray(shown).reshape(-1, 3).astype(int)
        for orange_or_blue in ((230, 159, 0), (0, 114, 178)):
            assert (np.abs(colours - orange_or_blue).sum(1) < 150).sum() > 2000, "a class that is not drawn"
        if folder := os.environ.get("SDSEG_PICTURES"):
            small = shown.quantize(256, dither=Image.Dither.NONE)
            small.save(ROOT / folder / "report.png", optimize=True)
    finally:
        driver.quit()
