"""Every command in the shell blocks of all pages is run, or checked as far as possible."""

from __future__ import annotations

import ast
import contextlib
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import requests

from sdseg_monai.cli import make_parser
from tests.docs.folders import CASES
from tests.docs.pages import DATASET, LANGUAGES, NAMES, Block, Page
from tests.docs.rules import check_tool, rule_of, run_sdseg
from tests.makers.label_server import LabelServer, needs_label_env
from tests.makers.orthanc import HAS_ORTHANC, OrthancServer
from tests.makers.places import ROOT
from tests.makers.volumes import load_nifti

LONG_PAGES = (
    *("docs/train.md", "docs/segment.md", "docs/uncertainty.md", "docs/development.md"),
    "bundles/sdseg/docs/README.md",
)
NOT_TRAINED = ("sd_autoencoder.json", "paper_weights.json", "taesd", "distill_taesd")  # full size, or a download


@pytest.mark.usefixtures("keep_global_state")
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in LONG_PAGES)) for name in NAMES]
)
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
    commands = list(page.commands(Block("p", 7, "bash", "", text)))
    assert commands == [
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
    overrides: dict[str, str] = {}
    if "train_autoencoder.json" in names:
        overrides = {"epochs": "1", "masks_per_epoch": "32", "size": "32", "batch_size": "8", "ckpt_dir": "trained"}
    elif chain[0] == "bundles/hippocampus_sdseg/configs/train.json":
        overrides = {"dataset_dir": DATASET, "datalist": f"{DATASET}/datalist.json", "epochs": "1", "val_interval": "1"}
        if "evaluate.json" not in names:  # that takes the shipped weights
            overrides |= {
                "ckpt_dir": "trained_here",
                "autoencoder_weights": "bundles/hippocampus_sdseg/models/autoencoder.pt",
            }
    elif chain[0].startswith("bundles/sdseg/"):
        chain.append("bundles/sdseg/configs/smoke.json")
        kind = next(kind for kind in ("kvasir", "organs", "multi_gpu", "") if any(kind in name for name in names))
        if chain[0].endswith("inference.json"):
            overrides = {"checkpoint": f"trained_{kind}/model.pt"}
        else:
            overrides = {
                "dataset_dir": "data/Kvasir-SEG" if kind == "kvasir" else "btcv",
                "ckpt_dir": f"trained_{kind}",
            }
    extra = [part for key, value in overrides.items() if f"--{key}" not in words for part in (f"--{key}", value)]
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
                for checkpoint in Path().rglob("*checkpoint.pt"):  # each command starts a training of its own
                    checkpoint.unlink()
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
        mask = load_nifti(tmp_path / "mask.nii.gz")
        assert mask.shape == load_nifti(tmp_path / "other.nii.gz").shape
        assert requests.get(f"{server.url}/train/", timeout=60).json()["status"] in ("RUNNING", "DONE")
        requests.delete(f"{server.url}/train/", timeout=60)
    if HAS_ORTHANC:
        (upload,) = (words for words in requested if "/instances" in " ".join(words))
        with OrthancServer() as orthanc:
            here = [word.replace("http://127.0.0.1:8042", orthanc.url) for word in upload]
            subprocess.run([*here, "--silent", "--fail"], check=True, capture_output=True)
            assert len(orthanc.instances()) == 1
