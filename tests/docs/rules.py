"""How a command on a page is tested: the first of :data:`RULES` that matches runs or checks it; one must match."""

from __future__ import annotations

import argparse
import ast
import configparser
import contextlib
import io
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import fire
import monai.bundle
import pytest
from monai.bundle import ConfigParser

from sdseg_monai.cli import main, make_parser
from tests.bundles.overlays import arguments
from tests.docs.pages import BUNDLES
from tests.makers.places import ROOT

REFUSED = {  # commands that need weights that are not shipped, with what they say
    "-o out --bundle sdseg --overlay bundles/sdseg/configs/classes/organs.json": "no weights in this bundle",
}
ROUTES = re.compile(r"(http://)?127\.0\.0\.1:\d+/(infer|train|activelearning|datastore/label|instances)\b")


def run_sdseg(words: list[str]) -> None:
    """Run it here; what it needs not to take long, or not to ask a network, is added."""
    extra_options = {"demo": ["--offline"], "init-bundle": ["--minutes", "0.01"]}.get(words[1], [])
    line = " ".join(words)
    refusal = next((message for tail, message in reversed(REFUSED.items()) if line.endswith(tail)), None)
    errors = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
        try:
            code: str | int | None = main([*words[1:], *extra_options])
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
    overrides = dict(zip(keys, options[1::2], strict=True))
    files = overrides.pop("config_file")
    parser = ConfigParser()
    parser.read_config(ast.literal_eval(files) if files.startswith("[") else [files])
    assert name in parser, f"{files}: no {name}"
    for key in overrides:
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
    rules = [rule for pattern, rule in RULES if re.match(pattern, line)]
    assert rules, f"no rule says how to check {line!r}"
    return rules[0]
