"""Code that does not come with this package runs only if the user trusts it; data runs without a question."""

import json
import shutil
import zipfile

import pytest
import yaml

from sdseg_monai import Pipeline
from sdseg_monai.bundle import Bundle, bundles_dir
from sdseg_monai.cli import main
from sdseg_monai.errors import ArgumentError, InputError
from sdseg_monai.io.bundles.trust import trust_folder
from sdseg_monai.weights.convert import network_config
from tests.makers.places import ROOT

TRAP = "$__import__('pathlib').Path('trapped').touch()"
TOUCH = {"_target_": "os.mkdir", "path": "trapped"}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty current folder, in which traps leave a file, and no trust from before."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr("sdseg_monai.io.bundles.trust._trusted", set())
    return tmp_path / "here"


@pytest.fixture
def root(tmp_path):
    """A copy of the embedded bundle, as somebody else might send it."""
    source = bundles_dir() / "hippocampus_sdseg"
    shutil.copytree(source, tmp_path / "mine", ignore=shutil.ignore_patterns("logs", "eval", "docs"))
    return tmp_path / "mine"


def change(root, name="inference", **values):
    file = root / "configs" / f"{name}.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def edit(root, path, value, name="inference"):
    """Set the value at a path such as ``preprocessing/transforms/0/keys``."""
    file = root / "configs" / f"{name}.json"
    config = node = json.loads(file.read_text())
    *parents, last = (int(key) if key.isdecimal() else key for key in path.split("/"))
    for key in parents:
        node = node[key]
    node[last] = value
    file.write_text(json.dumps(config))


def is_refused(capsys, *command):
    assert main([str(word) for word in command]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line.startswith("error: ") and line.endswith("if you trust it, give --trust once")


EVIL = {
    "an expression": {"device": TRAP},
    "an import": {"imports": ["$import antigravity"]},
    "an import beside those that ship": {"other": ["$from os import system"]},
    "a class": {"network": TOUCH},
    "a class in a class": {"mask_cleaning": [TOUCH]},
    "a list in a list": {"mask_cleaning": [[[TOUCH]]]},
    "an expression as a class": {"inferer": {"_target_": "$__import__('os').mkdir", "path": "trapped"}},
    "a text as a class": {"inferer": {"_target_": "@which", "path": "trapped"}, "which": "os.mkdir"},
    "a list as a class": {"inferer": {"_target_": ["os.mkdir"], "path": "trapped"}},
    "another file": {"device": "%/tmp/other.json#device"},
    "a relative macro": {"device": "%#other"},
    "known code under a key that is a remark": {"network_def": {"_desc_": {"run": ["$@evaluator.run()"]}}},
    "known code in a new place": {
        "copied": {
            "handlers": [{"_target_": "sdseg_monai.handlers.LastModel", "path": "trapped", "network": "@network"}]
        }
    },
    "a known class in another place": {
        "device": {"_target_": "SupervisedEvaluator", "val_data_loader": [], "device": "cpu", "network": None}
    },
    "a known expression in another place": {"device": "$@evaluator.run()"},
    "a reference to what is run": {"device": "@run"},
    "a reference in a path": {"checkpoint": "$@run + '/model.pt'"},
    "a macro in a path": {"checkpoint": "$@inference + '/model.pt'"},
    "a reference to everything": {"checkpoint": "$@bundle_root + '@'"},
    "a key in place of a text": {"x' + str(1) + '": {"checkpoint": "$@bundle_root + '%#'"}},
    "an argument of a class of others": {"dataloader": {"_target_": "DataLoader", "dataset": [], "collate_fn": 1}},
    "a mode": {"evaluator": {"_target_": "SupervisedEvaluator", "_mode_": "debug"}},
    "a requirement": {"evaluator": {"_target_": "SupervisedEvaluator", "_requires_": []}},
    "a debugger": {"inferer": {"_target_": "sdseg_monai.inferers.SliceWiseInferer", "_debug_": True}},
    "a key that is a path": {"inferer": {"a#transforms": []}},
    "the root as a class": {"_target_": "os.mkdir"},
}


@pytest.mark.parametrize("values", EVIL.values(), ids=EVIL)
def test_code_from_elsewhere_is_refused(root, here, values):
    change(root, **values)
    with pytest.raises(ArgumentError, match=r"mine: has code of its own, .* give trust=True once$"):
        Pipeline(root, device="cpu")
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("checkpoint", "$@bundle_root + '/models/other run/model-2.pt'"),
        ("checkpoint", "weights/model.pt"),
        ("checkpoint", "@dataset_dir"),
        ("output_dir", "$@dataset_dir + '/masks' + '/new'"),
        ("batch_size", 2),
        ("network_def/num_inference_steps", 4),
        ("preprocessing/transforms/3/lower", 1),
        ("preprocessing/transforms/1/extent_mm", None),
        ("mask_cleaning", [{"_target_": "KeepLargestConnectedComponentd", "keys": "pred"}]),
        ("note", "costs 5 $, not @home, 100 %"),
        ("inferer/_desc_", "slice by slice"),
    ],
)
def test_data_needs_no_trust(root, path, value):
    edit(root, path, value)
    Bundle.open(root).config("inference")
    assert not trust_folder().exists()


@pytest.mark.parametrize("name", ["hippocampus_sdseg", "init_bundle_pictures", "init_bundle_volumes", "sdseg"])
def test_bundles_of_0_4_0_need_no_trust(name):
    bundle = Bundle.open(ROOT / "tests" / "data" / "bundles_0.4.0" / name)
    for config in ("inference", "train"):
        bundle.config(config, imports_modules=True)


@pytest.mark.parametrize(
    "overlay", [None, *(pytest.param(name, marks=pytest.mark.slow) for name in ("taesd", "ablations/cross_attention"))]
)
def test_converted_networks_need_no_trust(root, overlay):
    overlays = [] if overlay is None else [bundles_dir() / "sdseg" / "configs" / f"{overlay}.json"]
    network = Bundle.open("sdseg").config("inference", overlays).get_parsed_content("network_def")
    change(root, network_def=network_config(network))
    Bundle.open(root).config("inference")


@pytest.mark.parametrize("name", ["hippocampus_sdseg", "sdseg"])
def test_shipped_overlays_need_no_trust(name):
    files = sorted((bundles_dir() / name / "configs").rglob("*.json"))
    bundle = Bundle.open(name)
    chains = 0
    for overlay in files:
        if overlay.stem not in ("metadata", "datalist", "inference", "train", "train_autoencoder"):
            for config in ("inference", "train"):
                try:
                    bundle.config(config, [overlay])
                    chains += 1
                except ArgumentError as error:
                    raise AssertionError(overlay) from error
                except InputError:  # it is for the other config
                    pass
    assert chains >= 8


def test_trust_is_remembered_until_the_code_changes(root, here):
    change(root, device=TRAP)
    Pipeline(root, trust=True)
    assert [path.name for path in here.iterdir()] == ["trapped"]
    bundle = Bundle.open(root)
    bundle.config("inference")
    (root / "models" / "model.pt").write_bytes(b"other weights")
    bundle.config("inference")
    (record,) = trust_folder().iterdir()
    assert record.stat().st_mode & 0o777 == 0o600 and record.parent.stat().st_mode & 0o777 == 0o700
    change(root, "train", epochs=1)
    with pytest.raises(ArgumentError, match=r"device: \$__import__"):
        bundle.config("inference")


def test_another_process_remembers(root, monkeypatch):
    change(root, device=TRAP)
    Bundle.open(root, trust=True).config("inference")
    monkeypatch.setattr("sdseg_monai.io.bundles.trust._trusted", set())
    moved = shutil.copytree(root, root.parent / "moved")
    Bundle.open(moved).config("inference")


def test_trust_holds_without_a_folder_for_it(root, monkeypatch, caplog):
    change(root, device=TRAP)
    (root.parent / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(root.parent / "file"))
    Bundle.open(root, trust=True).config("inference")
    assert "cannot be remembered" in caplog.text
    Bundle.open(root).config("inference")


@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_an_overlay_is_code_of_its_own(root, here, suffix):
    overlay = here / f"overlay.{suffix}"
    content = {"device": TRAP}
    overlay.write_text(json.dumps(content) if suffix == "json" else yaml.safe_dump(content))
    with pytest.raises(ArgumentError, match=r"overlay\.\w+: has code of its own"):
        Pipeline(root, overlays=[overlay])
    Bundle.open(root, trust=True).config("inference", [overlay])
    Bundle.open(root).config("inference", [overlay])
    change(root, device=TRAP)  # that of the overlay is trusted, that of the bundle is not
    with pytest.raises(ArgumentError, match=r"mine: has code of its own"):
        Bundle.open(root).config("inference")


def test_an_overlay_cannot_hide_code_in_a_path(root, here):
    overlay = here / "overlay.json"
    for content in (
        {"inferer#_target_": "os.mkdir"},
        {"+imports": ["$import antigravity"]},
        {"inferer#_mode_": "debug"},
    ):
        overlay.write_text(json.dumps(content))
        with pytest.raises(ArgumentError, match="has code of its own"):
            Bundle.open(root).config("inference", [overlay])


def test_modules_in_the_folder_are_code_where_it_is_imported_from(root):
    (root / "nibabel.py").write_text("")
    bundle = Bundle.open(root)
    bundle.config("train")
    with pytest.raises(ArgumentError, match=r"nibabel\.py"):
        bundle.config("train", imports_modules=True)
    Bundle.open(root, trust=True).config("train", imports_modules=True)
    bundle.config("train", imports_modules=True)
    (root / "nibabel.py").write_text("1")
    with pytest.raises(ArgumentError):
        bundle.config("train", imports_modules=True)


@pytest.mark.parametrize("place", ["preprocessing", "postprocessing"])
def test_data_cannot_write_where_it_likes(root, here, place):
    transforms = json.loads((root / "configs" / "inference.json").read_text())[place]["transforms"]
    step = {"_target_": "sdseg_monai.transforms.SaveMaskd", "keys": "image", "output_dir": "trapped"}
    edit(root, f"{place}/transforms", [step, *transforms])
    with pytest.raises(InputError, match=r"writes a file before there is a mask|has code of its own"):
        Pipeline(root, device="cpu")


def test_no_command_runs_it(root, here, capsys):
    for name in ("inference", "train"):
        change(root, name, imports=[TRAP], network_def=TOUCH, device=TRAP)
    change(root, "metadata", version=TRAP)
    image = here.parent / "image.png"
    (here.parent / "labels").mkdir()
    for path in (image, here.parent / "labels" / "a.png"):
        from PIL import Image

        Image.new("L", (32, 32), 255).save(path)
    assert main(["info", str(root)]) == 0
    assert TRAP in capsys.readouterr().out
    assert is_refused(capsys, "segment", image, "-o", "mask.png", "--bundle", root)
    assert is_refused(capsys, "audit", "--labels", here.parent / "labels", "--bundle", root)
    assert is_refused(capsys, "convert", root, "-o", "model.pt", "--from", "bundle", "--to", "bundle")
    archive = here.parent / "mine.zip"
    with zipfile.ZipFile(archive, "w") as zipped:
        for file in root.rglob("*"):
            zipped.write(file, file.relative_to(root.parent))
    assert main(["info", str(archive)]) == 0
    assert TRAP in capsys.readouterr().out
    assert is_refused(capsys, "segment", image, "-o", "mask.png", "--bundle", archive)
    assert list(here.iterdir()) == []


def test_the_message_is_one_line_of_what_would_run(root):
    change(root, device="$print(1,\n2)" + "x" * 500, **{f"a{number}": "$1" for number in range(8)})
    with pytest.raises(ArgumentError) as caught:
        Bundle.open(root).config("inference")
    message = str(caught.value)
    assert "a0: $1; a1: $1; a2: $1 and 6 more;" in message and "\n" not in message and len(message) < 500


def test_the_help_says_that_a_bundle_is_code(capsys):
    for command in ("segment", "audit", "label", "convert"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        assert "--trust" in capsys.readouterr().out
