"""One image in, one result out, however the image is given; the same from a program and from the command."""

import json
import logging
import os
import shutil
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from PIL import Image

import sdseg_monai
from sdseg_monai import Pipeline, SegmentationResult, segment
from sdseg_monai.bundle import Bundle, bundles_dir
from sdseg_monai.cli import main
from sdseg_monai.demo.phantom import write_phantom
from sdseg_monai.errors import InputError
from sdseg_monai.io.archives import unpack_bundle
from sdseg_monai.io.nifti_labels import read_label_names
from sdseg_monai.io.pictures import read_picture_mask
from sdseg_monai.io.segments import UNSURE
from sdseg_monai.io.volumes import read_volume
from tests.conftest import OBLIQUE, write_case
from tests.dicom import write_mr_series

NAMES = {1: "Anterior hippocampus", 2: "Posterior hippocampus"}


@pytest.fixture(scope="module")
def volume(tmp_path_factory):
    folder = tmp_path_factory.mktemp("volume")
    write_phantom(folder / "a.nii.gz", folder / "label.nii.gz")
    return folder / "a.nii.gz"


@pytest.fixture(scope="module")
def result(volume):
    return segment(volume, device="cpu")


@pytest.fixture(scope="module")
def picture_bundle(tmp_path_factory):
    """A bundle for photographs with random weights, as a folder."""
    root = tmp_path_factory.mktemp("pictures") / "polyps"
    configs = bundles_dir() / "hippocampus_sdseg" / "configs"
    (root / "configs").mkdir(parents=True)
    content = json.loads((configs / "inference.json").read_text())
    content |= {"num_classes": 2, "size": [32, 32], "slice_axis": 2, "context_mm": None}
    content["preprocessing"] = json.loads((bundles_dir() / "sdseg" / "configs" / "inference.json").read_text())[
        "preprocessing"
    ]
    content["intensity_range"] = [0, 255]
    (root / "configs" / "inference.json").write_text(json.dumps(content))
    metadata = json.loads((configs / "metadata.json").read_text())
    metadata["network_data_format"]["inputs"]["image"]["modality"] = "RGB"
    for output in ("outputs", "post_processed_outputs"):
        metadata["network_data_format"][output]["pred"]["channel_def"] = {"0": "background", "1": "polyp"}
    (root / "configs" / "metadata.json").write_text(json.dumps(metadata))
    torch.manual_seed(0)
    network = Bundle(root).config("inference").get_parsed_content("network_def")
    network.scale_factor.fill_(0.1)
    (root / "models").mkdir()
    torch.save(network.state_dict(), root / "models" / "model.pt")
    return root


@pytest.fixture
def photographs(tmp_path):
    folder = tmp_path / "photographs"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.jpg", "c.tif"):
        Image.fromarray(rng.integers(0, 255, (40, 56, 3), dtype=np.uint8)).save(folder / name)
    return folder


def test_a_result_tells_everything(volume, result):
    assert isinstance(result, SegmentationResult)
    image = nib.load(volume)
    assert result.labels.shape == image.shape and result.labels.dtype == np.uint8
    np.testing.assert_array_equal(result.affine, image.affine)
    assert result.names == NAMES and set(np.unique(result.labels)) == {0, 1, 2}
    np.testing.assert_array_equal(result.volumes, [(result.labels == n).sum() / 1000 for n in (1, 2)])
    manifest = result.manifest
    assert manifest["about"]["versions"]["sdseg-monai"] == sdseg_monai.__version__
    assert len(manifest["settings"]["weights_sha256"][0]) == 64 and manifest["case"]["input"] == "a.nii.gz"
    assert manifest["case"]["volume_ml"] == dict(zip(NAMES.values(), result.volumes.tolist(), strict=True))
    json.dumps(manifest)


def test_every_way_to_give_an_image_gives_the_same(volume, result, tmp_path):
    image = nib.load(volume)
    array = np.asarray(image.dataobj)
    before = array.copy()
    flipped = np.ascontiguousarray(array[:, ::-1])[:, ::-1]  # negative strides
    read_only = array.copy()
    read_only.flags.writeable = False
    sitk.WriteImage(sitk.ReadImage(str(volume)), str(tmp_path / "a.nrrd"))
    for given in (str(volume), image, (array, image.affine), (flipped, image.affine), (read_only, image.affine)):
        found = segment(given, device="cpu")
        np.testing.assert_array_equal(found.labels, result.labels)
        np.testing.assert_array_equal(found.scores, result.scores)
        np.testing.assert_allclose(found.affine, result.affine)
    np.testing.assert_array_equal(array, before)
    np.testing.assert_array_equal(segment(tmp_path / "a.nrrd", device="cpu").labels, result.labels)
    command = ["segment", str(volume), "-o", str(tmp_path / "mask.nii.gz"), "--device", "cpu", "--quiet"]
    assert main(command) == 0
    np.testing.assert_array_equal(read_volume(tmp_path / "mask.nii.gz").array, result.labels)


def test_a_saved_mask_names_its_values(result, tmp_path):
    for suffix in (".nii.gz", ".nii", ".nrrd", ".mha"):
        path = tmp_path / suffix[1:] / f"mask{suffix}"
        result.save(path)
        mask = read_volume(path)
        np.testing.assert_array_equal(mask.array, result.labels)
        np.testing.assert_allclose(mask.affine, result.affine, atol=1e-5)
        beside = json.loads(path.with_name("mask.json").read_text())
        assert {int(value): label["name"] for value, label in beside["labels"].items()} == NAMES
        assert beside["settings"] == json.loads(json.dumps(result.manifest["settings"]))
        if suffix.startswith(".nii"):
            assert read_label_names(path) == NAMES


def test_what_cannot_be_saved_leaves_nothing(volume, result, tmp_path):
    before = volume.read_bytes()
    for wrong in ("mask.png", "mask.dcm", "mask.txt", "mask", ".nii.gz", "mask.nii.gz."):
        with pytest.raises(InputError, match=r"expected a file ending in .nii.gz, .nii, .nrrd, .mha"):
            result.save(tmp_path / wrong)
    with pytest.raises(InputError, match="no map is called 'score_7'"):
        result.save(tmp_path / "m.nii.gz", {"score_7": tmp_path / "s.nii.gz"})
    with pytest.raises(InputError, match="would be written twice"):
        result.save(tmp_path / "m.nii.gz", {"score_1": tmp_path / "m.nii.gz"})
    with pytest.raises(InputError, match="is an input"):
        result.save(volume)
    assert list(tmp_path.iterdir()) == [] and volume.read_bytes() == before
    (tmp_path / "m.json").write_text('{"labels": {"0": "of a dataset"}}')
    with pytest.raises(InputError, match="is not of a mask and would be replaced"):
        result.save(tmp_path / "m.nii.gz")
    assert [path.name for path in tmp_path.iterdir()] == ["m.json"]
    (tmp_path / "m.json").unlink()
    result.save(tmp_path / "m.nii.gz")
    result.save(tmp_path / "m.nii.gz")  # its own may be


@pytest.mark.parametrize(
    ("listed", "options"),
    [
        ("out/a.json", ()),
        ("out/sdseg_manifest.json", ()),
        ("list.json", ("--overlay", "out/a.json")),
    ],
)
def test_no_json_of_the_users_is_replaced(volume, tmp_path, capsys, listed, options):
    (tmp_path / "out").mkdir()
    (tmp_path / listed).write_text(json.dumps({"test": [{"image": str(volume)}]}))
    options = [str(tmp_path / option) if "." in option else option for option in options]
    for path in options[1:]:
        Path(path).write_text("{}")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.json")}
    assert main(["segment", str(tmp_path / listed), "-o", str(tmp_path / "out"), "-q", *options]) == 2
    assert "would be replaced" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before


def test_two_images_of_one_name_do_not_share_a_file(volume, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    nib.save(nib.load(volume), tmp_path / "in" / "a.nii")
    nib.save(nib.load(volume), tmp_path / "in" / "a.nii.gz")
    assert main(["segment", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "-q"]) == 2
    assert "would be written twice" in capsys.readouterr().err and not list((tmp_path / "out").glob("*.nii*"))


def test_the_headers_of_images_lend_masks_nothing_of_the_patient(volume, tmp_path):
    image = nib.load(volume)
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"Jane Doe"))
    nib.save(image, tmp_path / "a.nii")
    segment(tmp_path / "a.nii", device="cpu").save(tmp_path / "mask.nii")
    assert b"Jane Doe" in (tmp_path / "a.nii").read_bytes() and b"Jane Doe" not in (tmp_path / "mask.nii").read_bytes()


def test_a_result_without_a_file_is_saved_by_its_affine(volume, result, tmp_path):
    array = np.asarray(nib.load(volume).dataobj)
    found = segment((array, OBLIQUE), device="cpu")
    found.save(tmp_path / "mask.nii.gz")
    mask = nib.load(tmp_path / "mask.nii.gz")
    np.testing.assert_allclose(mask.affine, OBLIQUE, atol=1e-5)
    assert mask.header["sform_code"] > 0 and mask.header["qform_code"] > 0
    np.testing.assert_array_equal(np.asarray(mask.dataobj), found.labels)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (3, "int: expected a path"),
        ((np.zeros((4, 4, 4)),), "a tuple of 1"),
        ((np.zeros((4, 4)), np.eye(4)), "2-D"),
        ((np.zeros((4, 4, 4)), np.eye(3)), r"affine of shape \(3, 3\)"),
        ((np.zeros((4, 4, 4)), np.zeros((4, 4))), "singular"),
        ((np.full((4, 4, 4), np.nan), np.eye(4)), "64 of 64 voxels are NaN"),
        ((np.full((4, 4, 4), "x"), np.eye(4)), "expected one real number each"),
        (([[[1, 2], [3]]], np.eye(4)), "that are no arrays"),
        ((np.zeros((4, 4, 4)), "words"), "that are no arrays"),
        ((torch.zeros(4, 4, 4, requires_grad=True), np.eye(4)), "that are no arrays"),
        (nib.Nifti1Image(np.zeros((4, 4, 4, 2)), np.eye(4)), "4-D"),
        ("x" * 300 + ".nii", "cannot be read"),
        ("missing.nii.gz", "no such file"),
        ("missing.txt", "no such file"),
    ],
)
def test_images_that_are_none(image, message):
    with pytest.raises(InputError, match=message):
        segment(image, device="cpu")


def test_abstaining_and_uncertainty_are_the_commands(volume, result):
    limit = float(np.quantile(result.confidence, 0.05))
    unsure = segment(volume, device="cpu", abstain_below=limit)
    np.testing.assert_array_equal(unsure.labels == UNSURE, result.confidence < limit)
    assert unsure.names == {**NAMES, UNSURE: "unsure"}
    flips = segment(volume, device="cpu", uncertainty="flips")
    assert (
        flips.manifest["case"]["disagreement"] == round(flips.disagreement, 4)
        and flips.manifest["case"]["samples"] == 2
    )
    np.testing.assert_array_equal(flips.labels, result.labels)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": ["a.pt", "b.pt"]}, "2 weights: expected one"),
        ({"num_samples": 3}, "--num-samples"),
        ({"bundle": "nothing"}, "no bundle of that name"),
        ({"series": "1.2.3"}, "is no DICOM"),
        ({"uncertainty": "flip"}, "uncertainty 'flip': expected one of flips"),
        ({"abstain_below": 2}, "abstain_below=2"),
        ({"abstain_below": float("nan")}, "abstain_below=nan"),
        ({"abstain_below": "0.5"}, "abstain_below='0.5'"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": 1.5}, "batch_size=1.5"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": "x"}, "seed='x'"),
        ({"seed": 2**63}, "seed="),
        ({"weights": "missing.pt"}, "missing.pt"),
        ({"weights": 3}, "weights 3"),
        ({"overlays": ["missing.json"]}, "missing.json: no such file"),
        ({"bundle": None}, "bundle None"),
        ({"bundle": ""}, "a bundle without a name"),
        ({"bundle": ".."}, "no configs/inference.json there"),
    ],
)
def test_options_that_cannot_be(volume, options, message):
    with pytest.raises(InputError, match=message):
        segment(volume, **options)


def test_a_bundle_may_be_a_zip(volume, result, tmp_path):
    root = Bundle.open("hippocampus_sdseg").root
    for prefix in ("", "hippocampus_sdseg_v1/"):
        path = tmp_path / f"bundle{len(prefix)}.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for file in (*root.glob("configs/*.json"), root / "models" / "model.pt"):
                archive.write(file, prefix + str(file.relative_to(root)))
        np.testing.assert_array_equal(segment(volume, bundle=path, device="cpu").labels, result.labels)
        assert unpack_bundle(path) == unpack_bundle(path), "once a process"


def test_zips_that_are_no_bundles(tmp_path):
    (tmp_path / "text.zip").write_text("no zip")
    with zipfile.ZipFile(tmp_path / "slip.zip", "w") as archive:
        archive.writestr("../outside.txt", "x")
    with zipfile.ZipFile(tmp_path / "empty.zip", "w") as archive:
        archive.writestr("readme.txt", "x")
    for name, message in (("text", "not a readable zip"), ("slip", "not a readable zip"), ("empty", "no configs")):
        with pytest.raises(InputError, match=message):
            Pipeline(tmp_path / f"{name}.zip")
    assert not (tmp_path / "outside.txt").exists() and not (tmp_path.parent / "outside.txt").exists()


def test_photographs_become_black_and_white_pictures(picture_bundle, photographs, tmp_path, capsys):
    code = main(["segment", str(photographs), "-o", str(tmp_path / "out"), "--bundle", str(picture_bundle), "--quiet"])
    captured = capsys.readouterr()
    assert code == 0 and captured.err == "" and json.loads(captured.out)["done"] == 3
    pipeline = Pipeline(picture_bundle, device="cpu")
    manifest = json.loads((tmp_path / "out" / "sdseg_manifest.json").read_text())
    for path in photographs.iterdir():
        mask = read_picture_mask(tmp_path / "out" / f"{path.stem}.png")
        assert mask.shape == (40, 56)
        np.testing.assert_array_equal(mask, pipeline.segment(path).labels[..., 0] == 1)
        assert manifest["cases"][path.name]["pixels"] == {"polyp": int(mask.sum())}
    again = ["segment", str(photographs), "-o", str(tmp_path / "out"), "--bundle", str(picture_bundle), "--resume"]
    assert main(again) == 0 and json.loads(capsys.readouterr().out)["skipped"] == 3
    (tmp_path / "out" / "a.png").write_bytes(b"")
    assert main(again) == 0 and json.loads(capsys.readouterr().out)["skipped"] == 2


def test_one_photograph(picture_bundle, photographs, tmp_path, capsys):
    command = ["segment", str(photographs / "b.jpg"), "--bundle", str(picture_bundle), "-q", "-o"]
    assert main([*command, str(tmp_path / "m.png"), "--save-score"]) == 0
    assert {p.name for p in tmp_path.iterdir()} == {"photographs", "m.png", "m.json", "m_score.nii.gz"}
    assert main([*command, str(tmp_path / "m.nii.gz")]) == 2
    assert "expected a file ending in .png" in capsys.readouterr().err
    assert main([*command, str(tmp_path / "n.png"), "--abstain-below", "0.1"]) == 2
    assert "no value for an unsure pixel" in capsys.readouterr().err and not (tmp_path / "n.png").exists()
    assert main([*command, str(photographs / "c.png")]) == 0, "another name than any picture there"


def test_another_kind_of_image_than_the_bundles_warns(picture_bundle, photographs, volume, caplog):
    with caplog.at_level(logging.WARNING), pytest.raises(InputError, match="expected a grey-value volume"):
        segment(photographs / "a.png", device="cpu")
    assert "a.png: a picture, but the network knows MR" in caplog.text
    found = segment(volume, bundle=picture_bundle, device="cpu")
    assert found.manifest["case"]["warnings"][0].startswith("a.nii.gz: a volume, but the network knows RGB")
    assert "the network knows RGB" in caplog.text
    caplog.clear()
    segment(photographs / "a.png", bundle=picture_bundle, device="cpu")
    assert not caplog.records


@pytest.fixture
def listed(tmp_path):
    for name in ("one", "two", "three"):
        write_case(tmp_path, name)
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
        write_case(listed, name, affine=np.diag([1, 1, 2, 1]))
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
    write_case(tmp_path, "a", affine=np.diag([1, 1, 2, 1]))
    files = write_mr_series(tmp_path / "images" / "a.nii.gz", tmp_path / "study")
    files[-1].write_bytes(files[-1].read_bytes()[:200])  # the last one: the others still are a stack
    assert main(["segment", str(tmp_path / "study"), "-o", str(tmp_path / "seg.dcm"), "-q", "--device", "cpu"]) == 0
    (warning,) = [w for w in json.loads((tmp_path / "seg.json").read_text())["case"]["warnings"] if "left out" in w]
    assert str(files[-1]) in warning
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
    write_case(tmp_path, "a", affine=np.diag([1, 1, 2, 1]))
    write_mr_series(tmp_path / "images" / "a.nii.gz", tmp_path / "study")
    Image.new("RGB", (8, 8)).save(tmp_path / "study" / "thumb.png")
    assert main(["segment", str(tmp_path / "study"), "-o", str(tmp_path / "m.nii.gz"), "-q", "--device", "cpu"]) == 0


def test_a_slice_is_known_by_its_content(tmp_path):
    write_case(tmp_path, "a", affine=np.diag([1, 1, 2, 1]))
    files = write_mr_series(tmp_path / "images" / "a.nii.gz", tmp_path / "study")
    nameless = files[0].rename(tmp_path / "IM0001")
    assert segment(nameless, device="cpu").labels.shape[2] == 1


def test_dicom_beside_volumes_is_not_passed_over(tmp_path, capsys):
    write_case(tmp_path, "a", affine=np.diag([1, 1, 2, 1]))
    write_mr_series(tmp_path / "images" / "a.nii.gz", tmp_path / "images")
    assert main(["segment", str(tmp_path / "images"), "-o", str(tmp_path / "out"), "-q"]) == 2
    assert "holds DICOM and volume files" in capsys.readouterr().err


def test_a_nibabel_image_is_not_replaced_by_its_mask(volume):
    before = volume.read_bytes()
    found = segment(nib.load(volume), device="cpu")
    with pytest.raises(InputError, match="is an input"):
        found.save(volume)
    assert volume.read_bytes() == before


def test_a_pipe_is_not_waited_for(tmp_path, capsys):
    os.mkfifo(tmp_path / "a.nii.gz")
    assert main(["segment", str(tmp_path / "a.nii.gz"), "-o", str(tmp_path / "m.nii.gz")]) == 2
    assert "is no ordinary file" in capsys.readouterr().err
    assert main(["segment", str(tmp_path), "-o", str(tmp_path / "out")]) == 2


def test_threads_keep_their_warnings(volume, tmp_path):
    """One model for several threads: equal masks, and each manifest has the warnings of its own image."""
    image = nib.load(volume)
    paths = []
    for index in range(6):
        paths.append(tmp_path / f"{index}.nii.gz")
        nib.save(nib.Nifti1Image(image.get_fdata(), (1 + 3 * (index % 2)) * image.affine), paths[-1])
    pipeline = Pipeline(device="cpu")
    with ThreadPoolExecutor(3) as threads:
        results = list(threads.map(pipeline.segment, paths))
    for index, (path, found) in enumerate(zip(paths, results, strict=True)):
        warned = found.manifest["case"]["warnings"]
        assert len(warned) == index % 2 and all(str(path) in warning for warning in warned)
        np.testing.assert_array_equal(found.labels, pipeline.segment(path).labels)


def test_an_image_of_one_value_is_said_to_be_so(tmp_path, capfd):
    nib.save(nib.Nifti1Image(np.full((20, 20, 20), 5, np.int16), np.eye(4)), tmp_path / "a.nii")
    assert main(["segment", str(tmp_path / "a.nii"), "-o", str(tmp_path / "m.nii"), "-q", "--device", "cpu"]) == 0
    shown = capfd.readouterr()
    assert shown.err == "" and any("all voxels are alike" in warning for warning in json.loads(shown.out)["warnings"])
    warnings = json.loads((tmp_path / "m.json").read_text())["case"]["warnings"]
    assert any("all voxels are alike" in warning for warning in warnings)


def test_another_config_is_not_resumed(volume, tmp_path, capsys):
    shutil.copytree(Bundle.open("hippocampus_sdseg").root, tmp_path / "b", ignore=shutil.ignore_patterns("logs"))
    command = ["segment", str(volume.parent / "folder"), "-o", str(tmp_path / "out"), "--bundle", str(tmp_path / "b")]
    (volume.parent / "folder").mkdir()
    shutil.copy(volume, volume.parent / "folder")
    assert main([*command, "-q"]) == 0
    config = tmp_path / "b" / "configs" / "inference.json"
    config.write_text(config.read_text().replace('"slice_axis": 1', '"slice_axis": 2'))
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
