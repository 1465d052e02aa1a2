"""A bundle read as files: its description is read without running any code of its configs."""

import json
import shutil

import pytest
from monai.bundle import ConfigParser

from sdseg_monai.bundle import Bundle, bundles_dir
from sdseg_monai.cli import main
from sdseg_monai.errors import InputError
from sdseg_monai.io.bundles.texts import read_text

TRAP = "__import__('pathlib').Path('trapped').touch()"


@pytest.fixture
def root(tmp_path, monkeypatch):
    """The configs of a bundle without weights, beside the current folder."""
    shutil.copytree(bundles_dir() / "sdseg" / "configs", tmp_path / "mine" / "configs")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "mine"


def change(root, name, **values):
    file = root / "configs" / f"{name}.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def test_a_bundle_says_what_it_is(root):
    bundle = Bundle.open(root)
    assert (bundle.root, bundle.name, bundle.modality) == (root, "mine", "CT")
    assert bundle.labels == {"abdominal organs": 1} and bundle.segments[1].name == "abdominal organs"
    assert bundle.version == bundle.metadata["version"] and bundle.description == bundle.metadata["description"]
    assert bundle.weights is None and bundle.describe()["weights"] is None
    (root / "models").mkdir()
    (root / "models" / "model.pt").write_bytes(b"abc")
    assert bundle.weights == root / "models" / "model.pt"
    sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert bundle.describe()["weights"] == {"file": str(bundle.weights), "sha256": sha256}


@pytest.mark.parametrize("name", ["$touch", "@checkpoint", "%inference.json::checkpoint"])
def test_a_folder_may_be_called_like_an_expression(root, name):
    home = root.rename(root.parent / "here" / name).relative_to(root.parent / "here")
    (home / "models").mkdir()
    (home / "models" / "model.pt").touch()
    assert Bundle.open(home).weights.samefile(home / "models" / "model.pt")


@pytest.mark.parametrize(
    "checkpoint",
    [
        f"${TRAP}",
        f"$@bundle_root + {TRAP}",
        f"$'a' + str({TRAP})",
        f"$[{TRAP} for x in 'a']",
        f"$f'{{{TRAP}}}'",
        "@trap",
        "$@trap + '/model.pt'",
        f"$import {TRAP}",
        "$" + "(" * 500 + TRAP + ")" * 500,
    ],
)
def test_nothing_is_run(root, checkpoint, capsys):
    change(root, "inference", imports=[f"${TRAP}"], checkpoint=checkpoint, trap=f"${TRAP}", device=f"${TRAP}")
    change(root, "metadata", version=f"${TRAP}")
    assert main(["info", str(root)]) == 0
    (described,) = json.loads(capsys.readouterr().out).values()
    assert described["weights"] == {"file": None, "sha256": None, "checkpoint": checkpoint}
    assert described["version"] == f"${TRAP}"
    with pytest.raises(InputError, match=r"inference\.json: checkpoint .* expected a path"):
        _ = Bundle.open(root).weights
    assert list((root.parent / "here").iterdir()) == []


def test_the_trap_works(root):
    change(root, "inference", checkpoint=f"${TRAP}")
    Bundle.open(root, trust=True).config("inference").get_parsed_content("checkpoint")
    assert [path.name for path in (root.parent / "here").iterdir()] == ["trapped"]


@pytest.mark.parametrize(
    "change_of_config",
    [
        {"checkpoint": None},
        {"checkpoint": 3},
        {"checkpoint": ["a"]},
        {"checkpoint": "@checkpoint"},
        {"checkpoint": "@other", "other": "$@checkpoint + 'a'"},
        {"checkpoint": "@nosuch"},
        {"checkpoint": "$@num_classes + '/model.pt'"},
    ],
)
def test_a_config_that_does_not_name_the_weights_is_refused(root, change_of_config):
    change(root, "inference", **change_of_config)
    for reader in (Bundle.describe, lambda bundle: bundle.weights):
        with pytest.raises(InputError, match=r"inference\.json: cannot be used"):
            reader(Bundle.open(root))


@pytest.mark.parametrize("content", ["", "[1]", "{}", "{"])
@pytest.mark.parametrize("name", ["inference", "metadata"])
def test_damaged_configs_are_named(root, name, content):
    Bundle.open(root).config_file(name).write_text(content)
    with pytest.raises(InputError, match=rf"{name}\.json: cannot be used"):
        Bundle.open(root).describe()


@pytest.mark.parametrize(
    "checkpoint",
    [
        "models/model.pt",
        "",
        "a@folder/$model.pt",
        "@folder",
        "$@folder",
        "$(@folder + '/' + @file) + \"\"",
        "$'plain.pt'",
    ],
)
def test_what_is_told_is_what_monai_makes_of_it(checkpoint):
    config = {
        "bundle_root": "root",
        "folder": "$@bundle_root + '/models'",
        "file": "model.pt",
        "checkpoint": checkpoint,
    }
    assert read_text(config, "checkpoint") == ConfigParser(config).get_parsed_content("checkpoint")


@pytest.mark.parametrize(
    "checkpoint", ["%other.json::checkpoint", "@paths#file", "$'a@folder'", "$folder + 'a'", "$ @folder", "$1"]
)
def test_what_only_monai_can_tell(checkpoint):
    assert read_text({"folder": "models", "checkpoint": checkpoint}, "checkpoint") is None


def test_a_nested_reference_is_not_read_in_part():
    """To Python its # would begin a comment."""
    assert read_text({"checkpoint": "$@paths#root + '/model.pt'", "paths": "/r"}, "checkpoint") is None
    assert read_text({"checkpoint": "$@root + '/#1.pt'", "root": "/r"}, "checkpoint") == "/r/#1.pt"
