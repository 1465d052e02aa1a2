"""The lock files name what the constraints name, with hashes; the list of licences names what the lock files name."""

import configparser
import re

import pytest

from tests.docs.pages import tables
from tests.makers.places import ROOT

CONSTRAINTS = {"demo": "constraints.txt", "test": "constraints.txt", "label-env": "constraints-label.txt"}
EXTRAS = {"demo": (), "test": ("dev",), "label-env": ("label",)}
BY_VERSION = {"torch", "torchvision"}  # whose build depends on the machine
BUILD = {"setuptools"}  # what installing this package itself needs
LINE = re.compile(r"([a-z0-9-]+)==(\S+) --hash=sha256:[0-9a-f]{64}")


def plain(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def locked(target):
    lines = (ROOT / "locks" / f"{target}.txt").read_text().splitlines()
    assert lines[0].startswith("#")
    matches = [LINE.fullmatch(line) for line in lines[1:]]
    assert all(matches), "a line without a version and a hash"
    versions = {match[1]: match[2] for match in matches if match is not None}
    assert list(versions) == sorted(versions)
    return versions


@pytest.mark.parametrize("target", CONSTRAINTS)
def test_versions_are_those_of_the_constraints(target):
    lines = (ROOT / CONSTRAINTS[target]).read_text().splitlines()
    versions = {plain(name): version for name, _, version in (line.partition("==") for line in lines if line[0] != "#")}
    found = locked(target)
    assert not BY_VERSION & found.keys()
    assert {name: version for name, version in found.items() if name not in BUILD}.items() <= versions.items()


@pytest.mark.parametrize("target", CONSTRAINTS)
def test_all_that_setup_cfg_names_is_locked(target):
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    texts = [config["options"]["install_requires"], *(config["options.extras_require"][e] for e in EXTRAS[target])]
    names = {plain(re.split(r"[<>=]", line)[0]) for text in texts for line in text.split()}
    assert names - BY_VERSION <= locked(target).keys()


def test_what_the_demo_needs_is_the_same_in_the_tests():
    assert locked("demo").items() <= locked("test").items()


def test_the_list_of_licences_is_that_of_the_lock_files():
    ((_, rows),) = tables("docs/licences.md")
    listed = {(row[0], row[1]): set(re.findall(r"`make ([\w-]+)`", row[4])) for row in rows[1:]}
    expected: dict[tuple[str, str], set[str]] = {("torch", "2.13.0"): set(CONSTRAINTS)}
    for target in CONSTRAINTS:
        for package in locked(target).items():
            expected.setdefault(package, set()).add(target)
    assert listed == expected, "make licences"
    assert all(row[2] for row in rows), "a package without a licence"
