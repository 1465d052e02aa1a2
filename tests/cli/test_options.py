"""Library errors name arguments; the command writes its options in their place."""

import json

import pytest

from sdseg_monai.cli import main, make_parser
from sdseg_monai.cli.arguments import name_options
from sdseg_monai.errors import ArgumentError
from sdseg_monai.io.sources import list_sources


def options_of(command):
    return make_parser().parse_args(command.split()).option_names


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            "num_samples=3: only uncertainty='seeds' has a number to choose",
            "--num-samples 3: only --uncertainty seeds has a number to choose",
        ),
        ("weights=['a.pt', 'b.pt']: expected one", "--weights ['a.pt', 'b.pt']: expected one"),
        ("overlays=PATH, or none (dataset_dir=FOLDER)", "--overlay PATH, or none (--dataset-dir FOLDER)"),
        ("split='my list': no such", "--split 'my list': no such"),
        ("split='': no such", "--split '': no such"),
        ('split="it\'s": no such', "--split 'it'\"'\"'s': no such"),
        ("resume=True: this is one image", "--resume: this is one image"),
        ("choose one with series=UID: 1.2 (MR)", "choose one with --series UID: 1.2 (MR)"),
        ("runs/seed=3/a.nii.gz: seed=-1", "runs/seed=3/a.nii.gz: --seed -1"),
        ("image=3, input='a': no option of the command", "image=3, input='a': no option of the command"),
    ],
)
def test_arguments_become_options(message, expected):
    assert name_options(message, options_of("segment in -o out")) == expected


def test_only_the_options_of_the_command_are_named():
    options = options_of("convert a -o b --from bundle --to inference")
    assert name_options("source_kind='bundle', seed=3", options) == "--from bundle, seed=3"


def test_the_library_and_the_command_each_speak_their_language(tmp_path, capsys):
    datalist = tmp_path / "d.json"
    datalist.write_text(json.dumps({"training": [{"image": "a.nii.gz"}], "test": [{"image": "b.nii.gz"}]}))
    with pytest.raises(ArgumentError, match=r"choose one with split=NAME$"):
        list_sources(datalist)
    (tmp_path / "d.csv").write_text("image\na.nii.gz\n")
    with pytest.raises(ArgumentError, match=r"split='my list': a CSV file has no splits"):
        list_sources(tmp_path / "d.csv", split="my list")
    assert main(["segment", str(tmp_path / "d.csv"), "--split", "my list", "-o", str(tmp_path / "out")]) == 2
    assert "--split 'my list': a CSV file has no splits" in capsys.readouterr().err
