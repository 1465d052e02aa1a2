"""The harness of make torture finds what is wrong; a fast sample of its tries is right."""

import json
import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from sdseg_monai.cli import main
from sdseg_monai.errors import InputError
from tests.makers.places import ROOT
from torment import folder_runs, hostile, mutants, names
from torment.children import SDSEG, call_in_child, files_left, processes_left, start
from torment.examples import WRITERS, write_phantom
from torment.groups import GROUPS
from torment.kills import while_writing
from torment.mutations import mutate
from torment.page import write_page
from torment.readers import READERS, WrongResult
from torment.tries import Group, Setting, Try, run_group

FIGURES = ROOT / "benchmarks" / "torment" / "reliability.json"
MUTANTS = range(7000, 7072)  # three of each kind; others than make torture makes


def right(results):
    """Check that tries are right, and return them."""
    results = list(results)
    wrong = [
        f"{result.index}, {result.what}: {result.failure} {result.left}" for result in results if not result.is_right
    ]
    assert not wrong, "\n".join(wrong)
    return results


# the harness


@pytest.mark.parametrize(
    ("function", "failure"),
    [
        (lambda: time.sleep(30), "hangs"),
        (lambda: os.kill(os.getpid(), signal.SIGSEGV), "crashes: SIGSEGV"),
        (lambda: len(bytes(1 << 30)), "MemoryError"),
        (lambda: 1 // 0, "ZeroDivisionError"),
        (lambda: os._exit(3), "ends with 3"),
    ],
)
def test_a_child_that_does_not_return_fails(function, failure):
    verdict = call_in_child(function, 1, 256)
    assert verdict.value is None and failure in verdict.failure


def test_a_child_returns_its_value():
    assert call_in_child(lambda: {"a": [1, "x" * 100_000]}, 10, 256).value == {"a": [1, "x" * 100_000]}


def test_a_program_is_killed_while_it_writes_and_its_child_is_found(tmp_path):
    program = (
        "import pathlib, subprocess, sys, time\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "pathlib.Path('.half').write_bytes(bytes(100))\n"
        "time.sleep(60)\n"
    )
    running = start([sys.executable, "-c", program], tmp_path)
    assert running.kill_when(while_writing(tmp_path, 1, 100), 30)
    assert running.process.returncode == -signal.SIGKILL
    assert files_left(tmp_path) == (str(tmp_path / ".half"),)
    (left,) = processes_left(running.mark, 0.1)
    assert "time.sleep(60)" in left
    assert processes_left(running.mark, 5) == ()


def test_mutants_are_a_function_of_the_seed_and_change_the_file():
    content = bytes(range(256)) * 4
    for index in range(200):
        first, second = (mutate("JPEG", content, Random(index)) for _ in range(2))
        assert first == second
    assert sum(mutate("JPEG", content, Random(index)).content != content for index in range(200)) > 190


def test_every_kind_has_a_good_file_that_is_read(tmp_path):
    assert WRITERS.keys() == READERS.keys()
    setting = Setting(tmp_path / "mutants", 0)
    mutants.prepare(setting)  # raises where a good file is not read
    for kind, (_, name) in WRITERS.items():
        assert (setting.common / kind / name).stat().st_size > 10


def test_only_one_line_of_an_input_error_is_a_refusal(tmp_path):
    def refuse(path):
        raise InputError("a reason")

    def refuse_in_two_lines(path):
        error = InputError("")
        error.args = ("two\nlines",)
        raise error

    def fail(path):
        raise ValueError("no InputError")

    assert mutants.read_or_refuse(refuse, tmp_path) == (mutants.REFUSED, "a reason")
    with pytest.raises(WrongResult, match="not one line"):
        mutants.read_or_refuse(refuse_in_two_lines, tmp_path)
    with pytest.raises(ValueError, match="no InputError"):
        mutants.read_or_refuse(fail, tmp_path)


def test_figures_count_what_failed_and_what_was_left(tmp_path):
    tries = [Try(0, "a", "x", "read"), Try(1, "a", "y", failure="wrong"), Try(2, "b", "z", left=("f", "g"))]
    group = Group("g", "G", "Text.", 3, 1, lambda setting, index: tries[index])
    reported: list[Try] = []
    figures = run_group(group, Setting(tmp_path, 0), False, None, reported.append)
    assert (figures["tried"], figures["failed"], figures["left"]) == (3, 1, 2)
    assert figures["kinds"]["a"] == {"tried": 2, "failed": 1, "left": 0, "outcomes": {"read": 1}}
    assert [failure["index"] for failure in figures["failures"]] == [1, 2] and reported == tries[1:]
    assert run_group(group, Setting(tmp_path, 0), True, None, reported.append)["tried"] == 1
    skipped = Group("g", "G", "Text.", 3, 1, lambda setting, index: tries[index], obstacle=lambda: "no server")
    assert run_group(skipped, Setting(tmp_path, 0), False, None, reported.append) == {"skipped": "no server"}


def test_the_page_is_that_of_the_figures():
    figures = json.loads(FIGURES.read_text())
    assert (ROOT / "docs" / "reliability.md").read_text() == write_page(figures), "make torture writes both"
    assert figures["groups"].keys() == {group.name for group in GROUPS}


def test_the_page_says_what_failed_and_was_skipped():
    figures = json.loads(FIGURES.read_text())
    figures["groups"]["server"] = {"skipped": "no environment"}
    failure = {"index": 7, "kind": "NRRD", "what": "a <b>\x1b[31m| x", "failure": "read", "left": []}
    figures["groups"]["mutants"]["failures"] = [failure]
    page = write_page(figures)
    assert "Not tried: no environment." in page and "| skipped |" in page
    assert r"- try 7, NRRD: a \<b\>?\[31m\| x: read" in page


# a sample of the tries


def test_mutated_files_are_read_or_refused(tmp_path):
    setting = Setting(tmp_path / "mutants", 0)
    mutants.prepare(setting)
    results = right(mutants.attempt(setting, index) for index in MUTANTS)
    assert Counter(result.kind for result in results) == dict.fromkeys(READERS, 3)
    assert {mutants.READ, mutants.REFUSED} == {result.outcome for result in results}


def of_kind(kind, count=None):
    indices = [index for index, case in enumerate(hostile.CASES) if case.kind == kind]
    return indices if count is None else Random(0).sample(indices, count)


def attempt_hostile(folder, indices):
    return right(hostile.attempt(Setting(folder, 0), index) for index in indices)


def test_no_header_makes_another_file_be_read(tmp_path):
    attempt_hostile(tmp_path, of_kind("header that names another file"))


def test_no_data_run_code(tmp_path):
    attempt_hostile(tmp_path, of_kind("data that would run code", 24))


def test_no_zip_leaves_its_folder(tmp_path):
    attempt_hostile(tmp_path, of_kind("zip that leaves its folder"))


@pytest.mark.parametrize("kind", ["list that names what is no image", "JSON that is none of ours"])
def test_lists_and_json_of_anything_are_refused(tmp_path, kind):
    attempt_hostile(tmp_path, of_kind(kind))


def test_what_would_grow_without_end_is_refused(tmp_path):
    attempt_hostile(tmp_path, of_kind("data that grow without end"))


def test_a_bundle_from_elsewhere_runs_no_code(tmp_path):
    attempt_hostile(tmp_path, of_kind("bundle that would run code", 12))


SOME_NAMES = (*names.NAMES[::3], names.NAMES[-1])


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    """What the commands make of images with some of the hostile names."""
    setting = Setting(tmp_path_factory.mktemp("names") / "names", 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(names, "NAMES", SOME_NAMES)
        names.prepare(setting)
    return setting


@pytest.mark.parametrize("surface", names.SURFACES)
def test_no_name_does_anything_where_it_is_shown(named, surface):
    right(names.attempt(named, names.TRIES.index((surface, name))) for name in SOME_NAMES)


def test_a_folder_run_that_is_killed_while_it_writes_is_resumed(tmp_path, monkeypatch):
    """At an exact moment: when the second image's mask is written, and has not yet its name."""
    images, whole, output = (tmp_path / name for name in ("images", "whole", "killed"))
    for seed, name in enumerate(folder_runs.IMAGES[:3]):
        write_phantom(images / name, seed)

    def segment(folder, *options):
        return main([str(word) for word in folder_runs.command(images, folder, *options)[len(SDSEG) :]])

    def kill(path, target):
        if target.name == "b.nrrd":
            os.kill(os.getpid(), signal.SIGKILL)
        return rename(path, target)

    rename = Path.replace
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", kill)
        assert "SIGKILL" in call_in_child(lambda: segment(output), 60, 4096).failure
    assert (output / "a.nii.gz").is_file() and len(files_left(output)) == 1
    assert segment(whole) == segment(output, "--resume") == 0
    assert folder_runs.difference(whole, output) == "" and files_left(output) == ()


@pytest.mark.slow
def test_a_folder_run_that_is_killed_and_resumed_ends_as_another(tmp_path):
    setting = Setting(tmp_path / "folder_runs", 0)
    folder_runs.prepare(setting)
    right([folder_runs.attempt(setting, 0)])
