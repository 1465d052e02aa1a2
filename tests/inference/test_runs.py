"""Many images: folders, datalists and DICOM, files that are skipped, and runs that are resumed."""

import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from sdseg_monai import segment
from sdseg_monai.bundle import Bundle
from sdseg_monai.cli import main
from tests.makers.dicom import write_mr_series
from tests.makers.volumes import write_crop, write_nifti


@pytest.fixture
def listed(tmp_path):
    for name in ("one", "two", "three"):
        write_crop(tmp_path, name)
    items = [{"image": f"images/{name}.nii.gz", "label": f"labels/{name}.nii.gz"} for name in ("one", "two", "three")]
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "d.json").write_text(json.dumps({"name": "x", "training": items[:1], "test": items[1:]}))
    (tmp_path / "lists" / "d.csv").write_text("id,image\n1,images/one.nii.gz\n2,images/three.nii.gz\n")
    return tmp_path


def masks_of(folder, capsys, *arguments):
    code = main(["segment", *map(str, arguments), "-o", str(folder / "out"), "-q", "--device", "cpu"])
    captured = capsys.readouterr()
    return code, sorted(path.name.split(".")[0] for path in folder.glob("out/*.nii.gz")), captured.err


@pytest.mark.parametrize(
    ("name", "options", "names"),
    [("d.json", ("--split", "test"), ["three", "two"]), ("d.csv", (), ["one", "three"])],
)
def test_a_datalist_names_what_to_segment(listed, capsys, name, options, names):
    arguments = (listed / "lists" / name, "--dataset-dir", listed, *options)
    assert masks_of(listed, capsys, *arguments)[:2] == (0, names)


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("d.json", None, (), "choose one with --split"),
        ("d.json", None, ("--split", "nothing"), "no list 'nothing'"),
        ("d.csv", None, ("--split", "test"), "a CSV file has no splits"),
        ("e.csv", "picture\na.nii.gz\n", (), "expected one called image"),
        ("e.csv", "image\n", (), "names no image"),
        ("e.csv", "image\nmissing.nii.gz\n", (), "no such file"),
        ("e.csv", "image\nimages/one.nii.gz\nimages/one.nii.gz\n", (), "have the same name"),
        ("e.csv", b"\xff\xfe\x00image", (), "not a datalist"),
        ("e.json", "[1]", (), "not a datalist"),
        ("e.json", '{"test": [{"label": "a"}]}', (), "not a datalist"),
        ("e.json", '{"test": [3]}', (), "not a datalist"),
        ("e.json", "{", (), "not a datalist"),
        ("e.json", "[" * 100_000, (), "not a datalist"),
        ("e.json", '{"test": [{"image": ""}]}', (), "an image without a name"),
        ("e.csv", "id,image\n1,images/one.nii.gz\n2\n", (), "an image without a name"),
    ],
)
def test_datalists_that_cannot_be_read(listed, capsys, name, content, options, message):
    if content is not None:
        (listed / "lists" / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    code, masks, err = masks_of(listed, capsys, listed / "lists" / name, "--dataset-dir", listed, *options)
    assert code == 2 and masks == [] and message in err and err.count("\n") == 1


def test_a_datalist_of_dicom_folders_is_resumed(listed, capsys):
    """Each series has its own SEG; what is whole is skipped."""
    for name in ("one", "two"):
        write_crop(listed, name, affine=np.diag([1, 1, 2, 1]))
        write_mr_series(listed / "images" / f"{name}.nii.gz", listed / "studies" / name)
    (listed / "lists" / "s.csv").write_text("image\nstudies/one\nstudies/two\n")
    arguments = ["segment", str(listed / "lists" / "s.csv"), "--dataset-dir", str(listed), "-o", str(listed / "out")]
    arguments += ["-q", "--device", "cpu", "--save-confidence", "--report", str(listed / "r.html")]
    assert main(arguments) == 0 and json.loads(capsys.readouterr().out)["done"] == 2
    page = (listed / "r.html").read_text()
    assert page.count("<canvas></canvas>") == 2 and "no pictures" not in page
    assert page.count(">T1 (MR)</h2>") == 2, "a series is called as the scanner called it"
    segs = sorted((listed / "out").glob("*.dcm"))
    assert len(segs) == 2 and len(list((listed / "out" / "confidence").glob("*.nii.gz"))) == 2
    segs[0].write_bytes(segs[0].read_bytes()[:-500])
    assert main([*arguments, "--resume"]) == 0 and json.loads(capsys.readouterr().out)["skipped"] == 1
    assert main([*arguments, "--resume"]) == 0 and json.loads(capsys.readouterr().out)["skipped"] == 2


def test_what_a_dicom_folder_lacks_is_kept_with_the_mask(tmp_path, capsys):
    write_crop(tmp_path, "a", affine=np.diag([1, 1, 2, 1]))
    files = write_mr_series(tmp_path / "images" / "a.nii.gz", tmp_path / "study")
    files[-1].write_bytes(files[-1].read_bytes()[:200])  # the last one: the others still are a stack
    assert main(["segment", str(tmp_path / "study"), "-o", str(tmp_path / "seg.dcm"), "-q", "--device", "cpu"]) == 0
    warnings = json.loads((tmp_path / "seg.json").read_text())["case"]["warnings"]
    (warning,) = [warning for warning in warnings if warning["kind"] == "left_out"]
    assert files[-1].name in warning["text"] and "left out" in warning["text"]
    assert warning in segment(tmp_path / "study", device="cpu").manifest["case"]["warnings"]


def test_a_datalist_is_no_mask_and_no_folder_has_a_split(listed, capsys):
    code, _, err = masks_of(listed, capsys, listed / "images", "--split", "test")
    assert code == 2 and "are for a datalist" in err
    code = main(
        ["segment", str(listed / "lists" / "d.csv"), "--dataset-dir", str(listed), "-o", str(listed / "m.nii.gz")]
    )
    assert code == 2 and "expected a folder" in capsys.readouterr().err


def test_a_decathlon_dataset_file_is_a_datalist(listed, capsys):
    content = {"labels": ["background", "ball"], "modality": ["MR"], "numTest": 2}
    content["test"] = ["images/one.nii.gz", "images/two.nii.gz"]
    (listed / "lists" / "dataset.json").write_text("\ufeff" + json.dumps(content), encoding="utf-8")
    arguments = (listed / "lists" / "dataset.json", "--dataset-dir", listed)
    assert masks_of(listed, capsys, *arguments)[:2] == (0, ["one", "two"])


def test_a_preview_picture_does_not_hide_a_series(tmp_path, capsys):
    write_crop(tmp_path, "a", affine=np.diag([1, 1, 2, 1]))
    write_mr_series(tmp_path / "images" / "a.nii.gz", tmp_path / "study")
    Image.new("RGB", (8, 8)).save(tmp_path / "study" / "thumb.png")
    assert main(["segment", str(tmp_path / "study"), "-o", str(tmp_path / "m.nii.gz"), "-q", "--device", "cpu"]) == 0


def test_a_slice_is_known_by_its_content(tmp_path):
    write_crop(tmp_path, "a", affine=np.diag([1, 1, 2, 1]))
    files = write_mr_series(tmp_path / "images" / "a.nii.gz", tmp_path / "study")
    nameless = files[0].rename(tmp_path / "IM0001")
    assert segment(nameless, device="cpu", force=True).labels.shape[2] == 1  # one slice looks unlike a hippocampus


def test_dicom_beside_volumes_is_not_passed_over(tmp_path, capsys):
    write_crop(tmp_path, "a", affine=np.diag([1, 1, 2, 1]))
    write_mr_series(tmp_path / "images" / "a.nii.gz", tmp_path / "images")
    assert main(["segment", str(tmp_path / "images"), "-o", str(tmp_path / "out"), "-q"]) == 2
    assert "holds DICOM and volume files" in capsys.readouterr().err


def test_a_pipe_is_not_waited_for(tmp_path, capsys):
    os.mkfifo(tmp_path / "a.nii.gz")
    assert main(["segment", str(tmp_path / "a.nii.gz"), "-o", str(tmp_path / "m.nii.gz")]) == 2
    assert "is no ordinary file" in capsys.readouterr().err
    assert main(["segment", str(tmp_path), "-o", str(tmp_path / "out")]) == 2


def test_an_image_of_one_value_is_said_to_be_so(tmp_path, capfd):
    write_nifti(tmp_path / "a.nii", np.full((20, 20, 20), 5, np.int16))
    arguments = ["segment", str(tmp_path / "a.nii"), "-o", str(tmp_path / "m.nii"), "-q", "--device", "cpu", "--force"]
    assert main(arguments) == 0
    captured = capfd.readouterr()
    assert captured.err == ""
    for warnings in (
        json.loads(captured.out)["warnings"],
        json.loads((tmp_path / "m.json").read_text())["case"]["warnings"],
    ):
        assert any("all voxels are alike" in warning["text"] for warning in warnings)


def test_another_config_is_not_resumed(volume, tmp_path, capsys):
    shutil.copytree(Bundle.open("hippocampus_sdseg").root, tmp_path / "b", ignore=shutil.ignore_patterns("logs"))
    command = ["segment", str(volume.parent / "folder"), "-o", str(tmp_path / "out"), "--bundle", str(tmp_path / "b")]
    (volume.parent / "folder").mkdir()
    shutil.copy(volume, volume.parent / "folder")
    assert main([*command, "-q"]) == 0
    config = tmp_path / "b" / "configs" / "inference.json"
    config.write_text(config.read_text().replace('"batch_size": 8', '"batch_size": 4'))
    capsys.readouterr()
    assert main([*command, "-q", "--resume"]) == 2 and "with config_sha256" in capsys.readouterr().err


@pytest.mark.parametrize(
    "spoilt",
    [
        {"seconds": None},
        {"seconds": "x"},
        {"warnings": None},
        {"volume_ml": [1]},
        {"volume_ml": {"a": "x"}},
        {"pixels": 3},
    ],
)
def test_a_case_that_is_not_ours_is_done_again(volume, tmp_path, capsys, spoilt):
    (tmp_path / "in").mkdir()
    shutil.copy(volume, tmp_path / "in")
    command = ["segment", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--device", "cpu", "--resume"]
    assert main([*command, "-q"]) == 0
    manifest = tmp_path / "out" / "sdseg_manifest.json"
    content = json.loads(manifest.read_text())
    content["cases"]["a.nii.gz"] |= spoilt
    manifest.write_text(json.dumps(content))
    capsys.readouterr()
    assert main([*command, "--report", str(tmp_path / "r.html")]) == 0
    assert json.loads(capsys.readouterr().out)["skipped"] == 0


def test_quiet_and_verbose(volume, tmp_path, capsys):
    command = ["segment", str(volume), "-o", str(tmp_path / "m.nii.gz"), "--device", "cpu"]
    assert main([*command, "--quiet"]) == 0
    captured = capsys.readouterr()
    assert captured.err == "" and json.loads(captured.out)["mask"]
    with pytest.raises(SystemExit):
        main([*command, "--quiet", "--verbose"])
    assert "not allowed with" in capsys.readouterr().err
