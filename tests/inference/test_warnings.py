"""Warnings are records that belong to an image, in whichever form the image comes."""

import json
import logging

import numpy as np
import pytest
from PIL import Image

from sdseg_monai import Pipeline, segment
from sdseg_monai.cli import main
from sdseg_monai.inference.segmenter import Segmenter
from sdseg_monai.io.warnings import ImageWarning
from sdseg_monai.transforms import LoadVolumed, WarnFieldOfViewd
from tests.makers.dicom import write_mr_series
from tests.makers.processes import run_forked
from tests.makers.volumes import write_crop


@pytest.fixture
def study(tmp_path):
    """A DICOM folder whose last file is damaged: the others still are a stack."""
    write_crop(tmp_path, "a", affine=np.diag([1, 1, 2, 1]))
    files = write_mr_series(tmp_path / "images" / "a.nii.gz", tmp_path / "study")
    files[-1].write_bytes(files[-1].read_bytes()[:200])
    return tmp_path / "study"


def test_every_way_to_segment_a_damaged_folder_warns_alike(study, tmp_path, capsys, caplog):
    warnings = {}
    warnings["function"] = segment(study, device="cpu").warnings
    warnings["pipeline"] = Pipeline(device="cpu")(study).warnings
    (tmp_path / "list.csv").write_text(f"image\n{study}\n")
    for name, image, manifest in (
        ("command", study, tmp_path / "command.json"),
        ("list", tmp_path / "list.csv", tmp_path / "list" / "sdseg_manifest.json"),
    ):
        output = tmp_path / "list" if name == "list" else tmp_path / "command.dcm"
        assert main(["segment", str(image), "-o", str(output), "--device", "cpu", "-q"]) == 0
        content = json.loads(manifest.read_text())
        case = content["case"] if name == "command" else next(iter(content["cases"].values()))
        warnings[name] = [ImageWarning(**warning) for warning in case["warnings"]]
    assert all(list(of_way) == list(warnings["function"]) for of_way in warnings.values())
    kinds = [warning.kind for warning in warnings["function"]]
    assert kinds == ["left_out", "field_of_view"], "one each, none twice"
    uid = json.loads((tmp_path / "command.json").read_text())["case"]["input"]
    assert all(uid not in warning.text for warning in warnings["function"])


def test_a_warning_is_printed_once_with_a_short_name(study, tmp_path):
    run = run_forked("sdseg", "segment", study, "-o", tmp_path / "mask.dcm", "--device", "cpu")
    lines = [line for line in run.stderr.splitlines() if line.startswith("WARNING")]
    assert len(lines) == 2 and all(line.startswith("WARNING: T1 (series 1): ") for line in lines)
    assert "left out" in lines[0] and "field of view" in lines[1]


def test_the_transform_logs_where_nobody_collects(study, tmp_path, caplog):
    """As ``monai.bundle run`` uses it."""
    item = LoadVolumed("image")({"image": str(tmp_path / "images" / "a.nii.gz")})
    with caplog.at_level(logging.WARNING):
        WarnFieldOfViewd("image", [[30, 40]] * 3, lowest=-1000)(item)
    assert "a.nii.gz: field of view" in caplog.messages[0]


def test_a_result_knows_its_own_warnings_alone(tmp_path):
    """Of several images that one model has seen."""
    for name, scale in (("large", 1.6), ("small", 1)):
        write_crop(tmp_path, name, shape=(36, 48, 34), affine=np.diag([scale, scale, scale, 1]))
    segmenter = Segmenter(device="cpu")
    items = [segmenter.prepare(tmp_path / "images" / f"{name}.nii.gz") for name in ("large", "small")]
    assert [[warning.kind for warning in item["warnings"]] for item in items] == [["field_of_view"], []]


def test_a_case_that_fails_keeps_its_warnings(tmp_path, capsys):
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "pictures" / "a.png")
    assert main(["segment", str(tmp_path / "pictures"), "-o", str(tmp_path / "masks"), "--device", "cpu", "-q"]) == 2
    case = json.loads((tmp_path / "masks" / "sdseg_manifest.json").read_text())["cases"]["a.png"]
    assert case["status"] == "failed" and "modality" in [warning["kind"] for warning in case["warnings"]]
