"""One image gives one result, in whichever form the image comes; a program and the command give the same."""

import json
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch

import sdseg_monai
from sdseg_monai import Pipeline, SegmentationResult, segment
from sdseg_monai.bundle import Bundle
from sdseg_monai.cli import main
from sdseg_monai.errors import InputError
from sdseg_monai.io.bundles.archives import unpack_bundle
from sdseg_monai.io.class_names import read_class_names
from sdseg_monai.io.formats.nifti_labels import read_label_names
from sdseg_monai.io.segments import UNSURE
from sdseg_monai.io.volumes import read_volume
from tests.makers.bundles import write_sdseg
from tests.makers.volumes import OBLIQUE, load_nifti, write_nifti

NAMES = {1: "Anterior hippocampus", 2: "Posterior hippocampus"}


def test_a_result_tells_everything(volume, result):
    assert isinstance(result, SegmentationResult)
    image = load_nifti(volume)
    assert result.labels.shape == image.shape and result.labels.dtype == np.uint8
    np.testing.assert_array_equal(result.affine, image.affine)
    assert result.names == NAMES and set(np.unique(result.labels)) == {0, 1, 2}
    volumes = [3 * (result.labels == value).sum() / 1000 for value in NAMES]  # slices of 3 mm
    np.testing.assert_allclose(list(result.volumes.values()), volumes)
    assert list(result.volumes) == list(NAMES.values())
    manifest = result.manifest
    assert manifest["about"]["versions"]["sdseg-monai"] == sdseg_monai.__version__
    assert len(manifest["settings"]["weights_sha256"][0]) == 64 and manifest["case"]["input"] == "a.nii.gz"
    assert manifest["case"]["volume_ml"] == pytest.approx(result.volumes)  # rounded
    json.dumps(manifest)


def test_every_way_to_give_an_image_gives_the_same(volume, result, tmp_path):
    image = load_nifti(volume)
    array = np.asarray(image.dataobj)
    before = array.copy()
    flipped = np.ascontiguousarray(array[:, ::-1])[:, ::-1]  # negative strides
    read_only = array.copy()
    read_only.flags.writeable = False
    sitk.WriteImage(sitk.ReadImage(str(volume)), str(tmp_path / "a.nrrd"))
    for form in (str(volume), image, (array, image.affine), (flipped, image.affine), (read_only, image.affine)):
        segmentation = segment(form, device="cpu")
        np.testing.assert_array_equal(segmentation.labels, result.labels)
        np.testing.assert_array_equal(segmentation.scores, result.scores)
        np.testing.assert_allclose(segmentation.affine, result.affine)
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


def test_masks_of_one_stem_have_a_json_each(result, tmp_path):
    for name in ("m.nii.gz", "m.mha", "m.nii.gz"):
        result.save(tmp_path / name)
    assert {path.name for path in tmp_path.iterdir()} == {"m.nii.gz", "m.json", "m.mha", "m.mha.json"}
    for name, beside in (("m.nii.gz", "m.json"), ("m.mha", "m.mha.json")):
        assert json.loads((tmp_path / beside).read_text())["mask"] == name
        assert read_class_names(tmp_path / name) == NAMES
    (tmp_path / "m.nii.gz").unlink()  # its JSON belongs to nobody now
    result.save(tmp_path / "m.mha")
    assert json.loads((tmp_path / "m.json").read_text())["mask"] == "m.mha"


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
    nib.save(load_nifti(volume), tmp_path / "in" / "a.nii")
    nib.save(load_nifti(volume), tmp_path / "in" / "a.nii.gz")
    assert main(["segment", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "-q"]) == 2
    assert "would be written twice" in capsys.readouterr().err and not list((tmp_path / "out").glob("*.nii*"))


def test_the_headers_of_images_lend_masks_nothing_of_the_patient(volume, tmp_path):
    image = load_nifti(volume)
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"Jane Doe"))
    nib.save(image, tmp_path / "a.nii")
    segment(tmp_path / "a.nii", device="cpu").save(tmp_path / "mask.nii")
    assert b"Jane Doe" in (tmp_path / "a.nii").read_bytes() and b"Jane Doe" not in (tmp_path / "mask.nii").read_bytes()


def test_a_result_without_a_file_is_saved_by_its_affine(volume, result, tmp_path):
    array = np.asarray(load_nifti(volume).dataobj)
    segmentation = segment((array, OBLIQUE), device="cpu")
    segmentation.save(tmp_path / "mask.nii.gz")
    mask = load_nifti(tmp_path / "mask.nii.gz")
    np.testing.assert_allclose(mask.affine, OBLIQUE, atol=1e-5)
    assert mask.header["sform_code"] > 0 and mask.header["qform_code"] > 0
    np.testing.assert_array_equal(np.asarray(mask.dataobj), segmentation.labels)


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
        ({"num_samples": 3}, "num_samples=3: only uncertainty='seeds'"),
        ({"bundle": "nothing"}, "no bundle of that name"),
        ({"series": "1.2.3"}, "is not DICOM"),
        ({"uncertainty": "flip"}, "uncertainty='flip': expected one of flips"),
        ({"abstain_below": 2}, "abstain_below=2"),
        ({"abstain_below": float("nan")}, "abstain_below=nan"),
        ({"abstain_below": "0.5"}, "abstain_below='0.5'"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": 1.5}, "batch_size=1.5"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": "x"}, "seed='x'"),
        ({"seed": 2**63}, "seed="),
        ({"weights": "missing.pt"}, "missing.pt"),
        ({"weights": 3}, "weights=3"),
        ({"overlays": ["missing.json"]}, "missing.json: no such file"),
        ({"bundle": None}, "bundle=None"),
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


def test_a_nibabel_image_is_not_replaced_by_its_mask(volume):
    before = volume.read_bytes()
    result = segment(load_nifti(volume), device="cpu")
    with pytest.raises(InputError, match="is an input"):
        result.save(volume)
    assert volume.read_bytes() == before


def test_threads_keep_their_warnings(volume, tmp_path):
    """One model for several threads: equal masks, and each manifest has the warnings of its own image."""
    image = load_nifti(volume)
    paths = []
    for index in range(6):
        paths.append(tmp_path / f"{index}.nii.gz")
        write_nifti(paths[-1], image.get_fdata(), (1 + 0.6 * (index % 2)) * image.affine)
    pipeline = Pipeline(device="cpu")
    with ThreadPoolExecutor(3) as threads:
        results = list(threads.map(pipeline.segment, paths))
    for index, (path, result) in enumerate(zip(paths, results, strict=True)):
        warned = result.manifest["case"]["warnings"]
        assert len(warned) == index % 2 and all(warning["kind"] == "field_of_view" for warning in warned)
        np.testing.assert_array_equal(result.labels, pipeline.segment(path).labels)


@pytest.mark.parametrize("length", [16, 1])
def test_a_mask_on_another_grid_than_the_image_is_refused(volume, tmp_path, length):
    """Of a bundle that resamples images and does not lead back; numpy would spread a mask of one slice over all."""
    folder = write_sdseg(tmp_path / "bundle", "zeros")
    file = folder / "configs" / "inference.json"
    config = json.loads(file.read_text())
    config["preprocessing"]["transforms"] += [
        {"_target_": "Resized", "keys": "image", "spatial_size": [16, length, 16]}
    ]
    config["postprocessing"]["transforms"].remove("@inverse")
    file.write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"leaves a mask of shape .*, expected .* as in the image's file"):
        segment(volume, bundle=folder, device="cpu", trust=True)
