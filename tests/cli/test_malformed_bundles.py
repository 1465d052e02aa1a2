"""Values of a wrong kind in a bundle's configs: one line that names the file, the entry and what was found."""

import json
import shutil
import sys

import numpy as np
import pytest
from monai.bundle import create_workflow

from sdseg_monai.errors import InputError
from tests.cli.running import run
from tests.makers.bundles import INFERENCE, SDSEG, write_sdseg
from tests.makers.volumes import write_nifti

SIZES = "network_def#unet: sdseg_monai.networks.DenoisingUNet cannot be made of the config's values: "
INFERENCE_FAULTS = {
    "size": (["a", 1], "inferer: size=['a', 1], slice_axis=1: expected two lengths in pixels, and 0, 1 or 2"),
    "slice_axis": (1.5, "slice_axis=1.5: expected two lengths"),
    "context_mm": ("x", "inferer: context_mm='x': expected a distance in millimetres above 0, or null for none"),
    "batch_size": ("many", "inferer: batch_size='many': expected a whole number"),
    "num_classes": ([3], "num_classes is a list, [3], expected int"),
    "device": ("$nonsense()", "device: '$nonsense()' cannot be used (NameError: name 'nonsense' is not defined)"),
    "checkpoint": (7, "checkpoint is a int, 7, expected str or Path"),
    "network": ("$[]", "network is a list, [], expected Module"),
    "network_def/unet": ({}, "AttributeError: 'dict' object has no attribute 'config'; found autoencoder="),
    "network_def/unet/num_heads": ("x", SIZES),
    "network_def/unet/block_out_channels": (None, SIZES),
    "network_def/prediction_type": ("@nowhere", "network_def: the referring item `@nowhere` is not defined"),
    "inferer": ([], "inferer is a list, [], expected Inferer"),
    "preprocessing": ({}, "preprocessing is a dict, {}, expected Transform"),
    "preprocessing/transforms": ([], "preprocessing leaves 'image' of type Volume, expected transforms that make"),
    "preprocessing/transforms/2/axcodes": (5, "preprocessing: Orientationd cannot be applied (TypeError: "),
    "preprocessing/transforms/3": (None, "preprocessing: NoneType cannot be applied (TypeError: "),
    "mask_from_score/keys": ("x", "postprocessing: AsDiscreted cannot be applied (KeyError: "),
    "postprocessing/transforms": (["$1 / 0"], "postprocessing#transforms#0: '$1 / 0' cannot be used (ZeroDivisionErr"),
}
TRAIN_FAULTS = {
    "size": ("x", "size='x', slice_axis=1: expected two lengths in pixels, and 0, 1 or 2"),
    "num_classes": (
        None,
        "network_def#autoencoder: sdseg_monai.networks.MaskAutoencoder cannot be made of the config's",
    ),
    "autoencoder_weights": ([], "autoencoder_weights is a list, [], expected str or Path"),
    "network_def/autoencoder": (
        4,
        "network_def#autoencoder is a int, 4, expected MaskAutoencoder or TinyMaskAutoencoder",
    ),
    "train/preprocessing/transforms": ([], "train#preprocessing leaves 'label' of type str, expected transforms that"),
    "train/preprocessing/transforms/0/keys": (["image", "x"], "train#preprocessing: LoadVolumed cannot be applied"),
}
METADATA_FAULTS: dict[str, tuple[object, str]] = {
    "network_data_format": ([], "network_data_format is [], expected an object"),
    "network_data_format/inputs": ({}, "network_data_format#inputs is {}, expected an object with an entry"),
    "network_data_format/inputs/image/modality": (
        None,
        "network_data_format#inputs#image#modality is None, expected a",
    ),
    "network_data_format/post_processed_outputs/pred": ({}, "post_processed_outputs#pred: no 'channel_def' there"),
    "network_data_format/post_processed_outputs/pred/channel_def": (
        {"one": "a"},
        "whose keys are the values of a mask",
    ),
    "segments/1/color": ([1, 2], "segments#1#color is [1, 2], expected red, green and blue, each from 0 to 255"),
    "segments/1/color/0": (256, "segments#1#color#0 is 256, expected a whole number from 0 to 255"),
    "segments/2/code": ("x", "segments#2#code is 'x', expected code value, coding scheme designator and code meaning"),
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A bundle of three classes with a tiny network, a folder of an image and one of a label."""
    folder = tmp_path_factory.mktemp("tiny")
    root = write_sdseg(folder / "bundle", "zeros", num_classes=3)
    train = json.loads(INFERENCE.with_name("train.json").read_text()) | {"size": [16, 16]}
    for part, sizes in SDSEG.items():
        train["network_def"][part] |= sizes
    (root / "configs" / "train.json").write_text(json.dumps(train))
    grid = np.stack(np.meshgrid(*[np.arange(16)] * 3))
    for name, array in (("images", grid.sum(axis=0, dtype=np.int16)), ("labels", (grid[0] > 7).astype(np.uint8))):
        (folder / name).mkdir()
        write_nifti(folder / name / "a.nii.gz", array, np.diag([2.5, 2.5, 2.5, 1]))
    return folder


@pytest.fixture
def edit(tiny, tmp_path):
    """Return a function that copies the bundle, sets the entry at a path in a config, and returns the config's file."""

    def edited(config, path, value):
        root = shutil.copytree(tiny / "bundle", tmp_path / "bundle")
        file = root / "configs" / f"{config}.json"
        content = node = json.loads(file.read_text())
        *parents, last = path.split("/")
        for key in parents:
            node = node[int(key) if isinstance(node, list) else key]
        node[int(last) if isinstance(node, list) else last] = value
        file.write_text(json.dumps(content))
        return file

    return edited


def refused(capsys, file, *command):
    """Return the one line with which a command refuses a bundle of which ``file`` is malformed."""
    code, out, err = run(capsys, *command, "--trust")
    assert (code, out) == (2, "") and err.count("\n") == 1, err
    assert err.startswith(f"error: {file}: ")
    return err


def test_a_whole_bundle_is_used(tiny, tmp_path, capsys):
    bundle = ("--bundle", tiny / "bundle", "--device", "cpu")
    assert run(capsys, "segment", tiny / "images" / "a.nii.gz", "-o", tmp_path / "m.nii.gz", *bundle)[0] == 0
    assert run(capsys, "audit", "--labels", tiny / "labels", *bundle)[0] == 0
    assert run(capsys, "info", tiny / "bundle")[0] == 0


@pytest.mark.parametrize("path", INFERENCE_FAULTS)
def test_segment_names_the_entry(tiny, edit, tmp_path, capsys, path):
    value, message = INFERENCE_FAULTS[path]
    file = edit("inference", path, value)
    command = ("segment", tiny / "images" / "a.nii.gz", "-o", tmp_path / "m.nii.gz", "--bundle", file.parents[1])
    assert message in refused(capsys, file, *command)
    assert not (tmp_path / "m.nii.gz").exists()


@pytest.mark.parametrize("path", TRAIN_FAULTS)
def test_audit_names_the_entry(tiny, edit, capsys, path):
    value, message = TRAIN_FAULTS[path]
    file = edit("train", path, value)
    assert message in refused(capsys, file, "audit", "--labels", tiny / "labels", "--bundle", file.parents[1])


@pytest.mark.parametrize("path", METADATA_FAULTS)
def test_info_names_the_entry(edit, capsys, path):
    value, message = METADATA_FAULTS[path]
    file = edit("metadata", path, value)
    code, out, err = run(capsys, "info", file.parents[1])
    assert (code, out, err.count("\n")) == (2, "", 1) and err.startswith(f"error: {file}: ") and message in err, err


def test_convert_names_the_entry(edit, tmp_path, capsys):
    file = edit("inference", "network_def/vision_encoder/layers_per_block", "x")
    command = ("convert", file.parents[1], "-o", tmp_path / "m.pt", "--from", "bundle", "--to", "bundle")
    line = refused(capsys, file, *command)
    assert "network_def#vision_encoder: " in line and "layers_per_block='x'" in line


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("context_mm", "x", "context_mm='x': expected a distance"),
        ("size", ["a", 1], "size=['a', 1]: expected whole numbers from 1 on"),
        ("network", {}, "network={}: expected a component, with its _target_, or an expression"),
        ("preprocessing/transforms", [], "preprocessing#transforms=[]: expected at least one transform"),
        ("preprocessing/transforms/2", None, "NoneType cannot be applied (TypeError: "),
        ("network_def/unet/num_heads", "x", SIZES),
        ("checkpoint", 7, "'$load_weights(@network_def, @checkpoint)' cannot be used (TypeError: "),
    ],
)
def test_a_run_of_the_bundle_names_the_entry(tiny, edit, tmp_path, monkeypatch, capsys, path, value, message):
    file = edit("inference", path, value)
    places = {"bundle_root": file.parents[1], "dataset_dir": tiny / "images", "output_dir": tmp_path / "out"}
    options = {name: str(place) for name, place in places.items()}
    with pytest.raises((InputError, RuntimeError)) as error:
        create_workflow(config_file=str(file), meta_file=[], logging_file=False, workflow_type="infer", **options).run()
    monkeypatch.setattr("os._exit", sys.exit)  # the process of the tests goes on
    with pytest.raises(SystemExit, match="2"):
        sys.excepthook(error.type, error.value, error.tb)
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("error: ") and message in lines[-1] and "Traceback" not in "".join(lines), lines
