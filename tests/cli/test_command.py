"""The command: ``sdseg info``, the demo, and that every option is read."""

import argparse
import ast
import hashlib
import inspect
import json

import numpy as np
import pytest
from PIL import Image

from sdseg_monai import cli
from sdseg_monai.bundle import Bundle, bundles_dir
from sdseg_monai.cli import main
from sdseg_monai.demo.phantom import make_phantom
from sdseg_monai.demo.run import MAKERS
from tests.cli.running import run
from tests.makers.processes import run_process


def test_bundles_say_what_they_are(bundle, tmp_path, capsys):
    code, out, _ = run(capsys, "info")
    described = json.loads(out)
    others = {"skin_lesion_sdseg": "RGB", "fetal_head_sdseg": "RGB", "left_ventricle_sdseg": "MR"}
    assert code == 0 and set(described) == {"hippocampus_sdseg", "sdseg", *others}
    assert {name: described[name]["modality"] for name in others} == others
    hippocampus, organs = described["hippocampus_sdseg"], described["sdseg"]
    assert (
        hippocampus["labels"] == {"Anterior hippocampus": 1, "Posterior hippocampus": 2}
        and hippocampus["modality"] == "MR"
    )
    weights = hashlib.sha256((bundles_dir() / "hippocampus_sdseg" / "models" / "model.pt").read_bytes()).hexdigest()
    assert hippocampus["weights"]["sha256"] == weights and "CC BY-SA 4.0" in hippocampus["copyright"]
    assert organs["weights"] is None and organs["modality"] == "CT"
    code, out, _ = run(capsys, "info", bundle)
    assert code == 0 and json.loads(out)[str(bundle)]["folder"] == str(bundle)
    code, out, err = run(capsys, "info", tmp_path / "none")
    assert (code, out) == (2, "") and "no bundle of that name" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("segment", "", "-o", "out"), "an empty name, expected a file or folder"),
        (("segment", "in", "-o", ""), "an empty name, expected a file or folder"),
        (("segment", "in", "-o", "out", "--seed", "x"), "'x', expected a whole number"),
        (("segment", "in", "-o", "out", "--abstain-below", "much"), "'much', expected a number"),
        (("evaluate", "--tolerance", "-1"), "-1, expected a finite number of at least 0"),
        (("segments",), "invalid choice: 'segments'"),
    ],
)
def test_a_command_that_is_none_ends_with_one_line(arguments, message, capsys):
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    out, err = capsys.readouterr()
    assert (caught.value.code, out) == (2, "") and message in err and err.count("\n") == 1
    assert err.startswith("error: ") and err.endswith("--help\n")


def test_demo_offline(tmp_path, capsys):
    code, out, _ = run(capsys, "demo", "--offline", "-o", tmp_path / "demo")
    assert code == 0 and "made up" in out and "Research use only" in out
    assert all(f"{name}: volume " in out for name in ("Anterior hippocampus", "Posterior hippocampus", "together"))
    picture = np.asarray(Image.open(tmp_path / "demo" / "overlay.png"))
    assert picture.shape[1] > 3 * 35 and picture.std() > 20
    assert {p.name for p in (tmp_path / "demo").iterdir()} == {
        "image.nii.gz",
        "label.nii.gz",
        "mask.json",
        "mask.nii.gz",
        "overlay.png",
        "report.html",
        *(name for name in MAKERS if Bundle.open(name).weights is not None),
    }


def test_demo_data_must_hold_a_test_case(tmp_path, capsys):
    code, _, err = run(capsys, "demo", "--data", tmp_path, "-o", tmp_path / "demo")
    assert code == 2 and "no case of the test split" in err


def test_phantom_is_like_a_cropped_hippocampus():
    image, label = make_phantom()
    assert image.shape == label.shape and set(np.unique(label)) == {0, 1, 2}
    assert 1500 < (label > 0).sum() < 6000 and np.isfinite(image).all()
    front, back = (np.argwhere(label == value)[:, 1] for value in (1, 2))
    assert front.min() > back.max() and min(len(front), len(back)) > 500
    assert not np.array_equal(image, make_phantom(seed=1)[0])


def test_the_command_itself_ends_with_the_exit_code(tmp_path):
    process = run_process("sdseg", "segment", tmp_path / "missing.nii.gz", "-o", tmp_path / "x.nii.gz")
    assert process.returncode == 2 and process.stdout == ""
    assert process.stderr == f"error: {tmp_path / 'missing.nii.gz'}: no such file or folder\n"
    assert run_process("sdseg", "--version").stdout.startswith("sdseg ")


def read_options(module):
    """Return what the functions of a module read of their options."""
    tree = ast.parse(inspect.getsource(module))
    return {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute) and getattr(n.value, "id", "") == "options"}


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_no_option_is_read_by_nothing(command):
    (subparsers,) = (a for a in cli.make_parser()._actions if isinstance(a, argparse._SubParsersAction))
    options = {action.dest for action in subparsers.choices[command]._actions} - {"help"}
    assert options > {"quiet", "verbose"}
    assert options <= read_options(cli.COMMANDS[command]) | read_options(cli)
    assert all(action.help for action in subparsers.choices[command]._actions), "every option has its line"
