"""The command as users run it, with the embedded weights on volumes that the tests make."""

import ast
import hashlib
import inspect
import json
import shutil

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nibabel.orientations import axcodes2ornt, ornt_transform
from PIL import Image

from sdseg_monai import __version__, cli
from sdseg_monai.bundle import bundles_dir, read_config
from sdseg_monai.cli import main
from sdseg_monai.demo.phantom import make_phantom, write_phantom
from sdseg_monai.evaluation import METRICS, NSD_TOLERANCE
from sdseg_monai.inference.manifest import FILE_NAME
from sdseg_monai.io.segments import UNSURE
from tests.conftest import run_process
from tests.test_io import bad_files


@pytest.fixture
def volume(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    write_phantom(folder / "a.nii.gz", tmp_path / "label.nii.gz")
    return folder / "a.nii.gz"


@pytest.fixture(scope="module", params=[2, 3])
def bundle(request, tmp_path_factory):
    """The embedded bundle's configs for so many classes, with random weights, whose scores are near each other."""
    root = tmp_path_factory.mktemp(f"classes_{request.param}")
    shutil.copytree(bundles_dir() / "hippocampus_sdseg" / "configs", root / "configs")
    config = root / "configs" / "inference.json"
    content = json.loads(config.read_text())
    config.write_text(json.dumps({**content, "num_classes": request.param, "size": [32, 32]}))
    torch.manual_seed(0)
    network = read_config(config, root).get_parsed_content("network_def")
    network.scale_factor.fill_(0.1)
    (root / "models").mkdir()
    torch.save(network.state_dict(), root / "models" / "model.pt")
    return root


def run(capsys, *arguments):
    """Return (exit code, stdout, stderr)."""
    code = main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_segment_a_file(volume, tmp_path, capsys):
    code, out, err = run(capsys, "segment", volume, "-o", tmp_path / "mask.nii.gz", "--save-score", "--device", "cpu")
    assert code == 0
    report = json.loads(out)
    volumes = report.pop("volume_ml")
    assert report == {
        "mask": str(tmp_path / "mask.nii.gz"),
        "labels": {"Anterior hippocampus": 1, "Posterior hippocampus": 2},
    }
    assert "Research use only" in err
    source, mask = nib.load(volume), nib.load(tmp_path / "mask.nii.gz")
    assert mask.shape == source.shape and mask.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(mask.affine, source.affine)
    for name in ("sform_code", "qform_code"):
        assert mask.header[name] == source.header[name]
    classes = np.asarray(mask.dataobj)
    assert set(np.unique(classes)) == {0, 1, 2}
    label = nib.load(tmp_path / "label.nii.gz").get_fdata()
    for name, value in report["labels"].items():  # the front is in front
        inside, expected = classes == value, label == value
        assert volumes[name] == pytest.approx(inside.sum() / 1000), "1 mm voxels"
        assert 2 * (inside & expected).sum() / (inside.sum() + expected.sum()) > 0.75


def test_scores_and_confidence_say_what_the_mask_says(bundle, volume, tmp_path, capsys):
    names = ["score"] if "_2" in bundle.name else ["score_1", "score_2"]
    arguments = ("segment", volume, "--bundle", bundle, "--save-score", "--save-confidence", "-o")
    code, out, _ = run(capsys, *arguments, tmp_path / "out" / "m.nii.gz")
    assert code == 0
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {"m.json", "m.nii.gz", "m_confidence.nii.gz", *(f"m_{name}.nii.gz" for name in names)}
    mask = np.asarray(nib.load(tmp_path / "out" / "m.nii.gz").dataobj)
    maps = [nib.load(tmp_path / "out" / f"m_{name}.nii.gz") for name in (*names, "confidence")]
    assert all(image.get_data_dtype() == np.float32 for image in maps)
    *scores, confidence = (image.get_fdata() for image in maps)
    assert min(map(np.min, (*scores, confidence))) >= 0 and max(map(np.max, (*scores, confidence))) <= 1
    background = 1 - sum(scores)
    sure = confidence > 1e-4
    np.testing.assert_array_equal(mask[sure], np.argmax([background, *scores], axis=0)[sure])
    assert sure.mean() > 0.9 and len(np.unique(mask)) > 1
    assert ("labels" in json.loads(out)) and bool(json.loads(out)["labels"]) == (len(names) == 2), (
        "of 2 classes no names"
    )

    limit = float(np.quantile(confidence, 0.3))
    code, out, _ = run(capsys, *arguments, tmp_path / "unsure", "--abstain-below", limit)
    abstained = np.asarray(nib.load(tmp_path / "unsure" / volume.name).dataobj)
    assert code == 0 and json.loads(out)["labels"]["unsure"] == UNSURE
    unsure = abstained == UNSURE
    np.testing.assert_array_equal(unsure, confidence < limit)
    assert 0.2 < unsure.mean() < 0.4
    np.testing.assert_array_equal(abstained[~unsure], mask[~unsure])


def write_overlay(path, **content):
    path.write_text(json.dumps(content))
    return path


def test_overlays_are_chained_after_the_bundles_config(bundle, volume, tmp_path, capsys):
    """Another network, of another number of classes and other weights, in the bundle's folder."""
    root = tmp_path / "bundle"
    shutil.copytree(bundle / "configs", root / "configs")
    shutil.copytree(bundle / "models", root / "models" / "other")
    config = root / "configs" / "inference.json"
    content = json.loads(config.read_text())
    own = content["num_classes"]
    config.write_text(json.dumps({**content, "num_classes": 5 - own}))  # 2 or 3
    first = write_overlay(tmp_path / "a.json", num_classes=4, checkpoint="$@bundle_root + '/models/other/model.pt'")
    second = write_overlay(tmp_path / "b.json", num_classes=own)
    code, *_ = run(capsys, "segment", volume, "-o", tmp_path / "own.nii.gz", "--bundle", bundle)
    assert code == 0
    options = ("-o", tmp_path / "m.nii.gz", "--bundle", root, "--overlay", first)
    code, out, err = run(capsys, "segment", volume, *options)
    assert (code, out) == (2, "") and "not the weights of this network" in err  # of four classes
    code, *_ = run(capsys, "segment", volume, *options, "--overlay", second)
    assert code == 0
    masks = [np.asarray(nib.load(tmp_path / f"{name}.nii.gz").dataobj) for name in ("own", "m")]
    np.testing.assert_array_equal(*masks)


def test_bad_overlays_end_with_one_line(volume, tmp_path, capsys):
    files = {"list.json": "[1]", "text.json": "{", "text.yaml": "- a: [", "text.txt": "{}", "bytes.json": "\xff"}
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="latin-1")
    write_overlay(tmp_path / "elsewhere.json", **{"train#dataset#size": [1, 1]})
    write_overlay(tmp_path / "broken.json", network_def="$nonsense()")
    for name in (*files, "elsewhere.json", "missing.json", "broken.json"):
        overlay = tmp_path / name
        code, out, err = run(capsys, "segment", volume, "-o", tmp_path / "m.nii.gz", "--overlay", overlay)
        assert (code, out) == (2, "") and err.startswith("error: ") and err.count("\n") == 1, err
        assert (str(overlay) in err) == (name != "broken.json"), err
    assert not (tmp_path / "m.nii.gz").exists()


def test_everything_lies_on_the_grid_of_the_file(bundle, volume, tmp_path, capsys):
    turned = nib.load(volume).as_reoriented(ornt_transform(axcodes2ornt("RAS"), axcodes2ornt("PIL")))
    (tmp_path / "turned").mkdir()
    nib.save(turned, tmp_path / "turned" / "a.nii.gz")
    for folder in ("in", "turned"):
        arguments = ("-o", tmp_path / f"{folder}_out", "--bundle", bundle, "--save-score", "--save-confidence")
        assert run(capsys, "segment", tmp_path / folder, *arguments)[0] == 0
    written = sorted(path.relative_to(tmp_path / "in_out") for path in (tmp_path / "in_out").rglob("*.nii.gz"))
    assert len(written) in (3, 4)
    for path in written:
        image = nib.load(tmp_path / "turned_out" / path)
        assert image.shape == turned.shape and np.array_equal(image.affine, turned.affine)
        array, expected = nib.as_closest_canonical(image).get_fdata(), nib.load(tmp_path / "in_out" / path).get_fdata()
        np.testing.assert_allclose(array, expected, atol=1e-5)


def test_a_folder_of_masks_has_folders_of_maps(bundle, volume, tmp_path, capsys):
    arguments = ("--bundle", bundle, "--save-score", "--save-confidence")
    code, _, _ = run(capsys, "segment", volume.parent, "-o", tmp_path / "out", *arguments)
    scores = ["scores"] if "_2" in bundle.name else ["scores_1", "scores_2"]
    found = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*")}
    maps = {f"{folder}/a.nii.gz" for folder in (*scores, "confidence")}
    assert code == 0 and found == {"a.json", "a.nii.gz", FILE_NAME} | maps


def test_masks_with_unsure_voxels_are_not_evaluated(bundle, volume, tmp_path, capsys):
    (tmp_path / "labels").mkdir()
    shutil.copy(tmp_path / "label.nii.gz", tmp_path / "labels" / volume.name)
    run(capsys, "segment", volume, "-o", tmp_path / "masks", "--bundle", bundle, "--abstain-below", 1)
    arguments = ("evaluate", "--predictions", tmp_path / "masks", "--labels", tmp_path / "labels")
    code, out, err = run(capsys, *arguments, "-o", tmp_path / "m.csv")
    assert code == 2 and out == "" and "255 stands for an unsure voxel" in err and not (tmp_path / "m.csv").exists()


def test_bundles_say_what_they_are(bundle, tmp_path, capsys):
    code, out, _ = run(capsys, "info")
    described = json.loads(out)
    assert code == 0 and set(described) == {"hippocampus_sdseg", "sdseg"}
    own, other = described["hippocampus_sdseg"], described["sdseg"]
    assert own["labels"] == {"Anterior hippocampus": 1, "Posterior hippocampus": 2} and own["modality"] == "MR"
    weights = hashlib.sha256((bundles_dir() / "hippocampus_sdseg" / "models" / "model.pt").read_bytes()).hexdigest()
    assert own["weights"]["sha256"] == weights and "CC BY-SA 4.0" in own["copyright"]
    assert other["weights"] is None and other["modality"] == "CT"
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
        (("evaluate", "--tolerance", "-1"), "-1, expected a length from 0 on"),
        (("segments",), "invalid choice: 'segments'"),
    ],
)
def test_a_command_that_is_none_ends_with_one_line(arguments, message, capsys):
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    out, err = capsys.readouterr()
    assert (caught.value.code, out) == (2, "") and message in err and err.count("\n") == 1
    assert err.startswith("error: ") and err.endswith("--help\n")


def test_an_output_that_is_no_volume_is_not_made_a_folder(volume, tmp_path, capsys):
    for source, output in ((volume, "mask.png"), (volume.parent, "mask.nii.gz")):
        code, out, err = run(capsys, "segment", source, "-o", tmp_path / output)
        assert (code, out) == (2, "") and f"{output}: expected a f" in err and not (tmp_path / output).exists()


def test_labels_are_not_evaluated_against_themselves(volume, tmp_path, capsys):
    arguments = ("--predictions", volume.parent, "--labels", volume.parent / ".." / "in", "-o", tmp_path / "m.csv")
    code, out, err = run(capsys, "evaluate", *arguments)
    assert (code, out) == (2, "") and "the labels are the predictions" in err


@pytest.mark.parametrize("value", ["-0.1", "1.1", "nan", "much"])
def test_a_confidence_lies_in_0_to_1(volume, tmp_path, capsys, value):
    with pytest.raises(SystemExit) as caught:
        main(["segment", str(volume), "-o", str(tmp_path / "m.nii.gz"), f"--abstain-below={value}"])
    assert caught.value.code == 2 and "--abstain-below" in capsys.readouterr().err


def test_segment_is_reproducible_whatever_the_batch(volume, tmp_path, capsys):
    for name, options in (("x", ()), ("y", ("--batch-size", 1)), ("z", ("--seed", 5))):
        assert run(capsys, "segment", volume, "-o", tmp_path / f"{name}.nii.gz", *options)[0] == 0
    masks = [nib.load(tmp_path / f"{name}.nii.gz").get_fdata() for name in "xyz"]
    assert (masks[0] == masks[1]).mean() > 0.9999
    np.testing.assert_array_equal(masks[0], masks[2])  # the embedded network starts from zeros: no noise to seed


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_other_formats_give_the_same_mask(volume, tmp_path, capsys, suffix):
    image = sitk.ReadImage(str(volume))
    sitk.WriteImage(image, str(tmp_path / f"a{suffix}"))
    assert run(capsys, "segment", tmp_path / f"a{suffix}", "-o", tmp_path / "out")[0] == 0
    assert run(capsys, "segment", volume, "-o", tmp_path / "out")[0] == 0
    mask = sitk.ReadImage(str(tmp_path / "out" / f"a{suffix}"))
    assert mask.GetPixelID() == sitk.sitkUInt8
    np.testing.assert_allclose(mask.GetDirection(), image.GetDirection())
    np.testing.assert_allclose(mask.GetOrigin(), image.GetOrigin())
    np.testing.assert_array_equal(
        sitk.GetArrayFromImage(mask), sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / "a.nii.gz")))
    )


def test_bad_files_give_one_line_and_code_2_and_no_output(tmp_path, capsys):
    folder = tmp_path / "bad"
    folder.mkdir()
    for path, message in bad_files(folder):
        out = tmp_path / "out" / "mask.nii.gz"
        code, stdout, stderr = run(capsys, "segment", path, "-o", out)
        line = stderr.strip()
        assert code == 2 and stdout == "" and "\n" not in line and line.startswith("error: ")
        assert str(path) in line, message
        assert not list((tmp_path / "out").glob("*"))


def test_a_folder_goes_on_after_a_bad_case(volume, tmp_path, capsys):
    write_phantom(volume.parent / "c.nii.gz", tmp_path / "label.nii.gz", seed=1)
    (volume.parent / "b.nii.gz").write_bytes(volume.read_bytes()[:2000])
    code, out, err = run(capsys, "segment", volume.parent, "-o", tmp_path / "out", "--save-score")
    assert code == 1
    report = json.loads(out)
    assert report["masks"] == str(tmp_path / "out") and (report["done"], report["failed"]) == (2, 1)
    assert "error: " in err and "b.nii.gz" in err
    assert {p.name for p in (tmp_path / "out").glob("*.nii.gz")} == {"a.nii.gz", "c.nii.gz"}
    for folder in ("scores_1", "scores_2"):
        assert {p.name for p in (tmp_path / "out" / folder).iterdir()} == {"a.nii.gz", "c.nii.gz"}


@pytest.fixture
def studies(volume, bundle, tmp_path, capsys):
    """What segments a folder of two volumes and a broken one, once already; returns (code, report, stderr)."""
    for name in ("c", "d"):
        shutil.copy(volume, volume.with_name(f"{name}.nii.gz"))
    volume.with_name("c.nii.gz").write_bytes(volume.read_bytes()[:2000])

    def segment(*options):
        arguments = (volume.parent, "-o", tmp_path / "out", "--bundle", bundle, "--device", "cpu", *options)
        code, out, err = run(capsys, "segment", *arguments)
        return code, json.loads(out) if out else {}, err

    assert segment("--save-confidence")[0] == 1
    return segment


def test_a_manifest_says_what_was_done_to_each_case(studies, bundle, tmp_path):
    manifest = json.loads((tmp_path / "out" / FILE_NAME).read_text())
    assert manifest["about"]["device"] == "cpu" and manifest["about"]["versions"]["sdseg-monai"] == __version__
    weights = hashlib.sha256((bundle / "models" / "model.pt").read_bytes()).hexdigest()
    assert manifest["settings"]["weights_sha256"] == [weights] and manifest["settings"]["maps"] == ["confidence"]
    assert {name: case["status"] for name, case in manifest["cases"].items()} == {
        **{"a.nii.gz": "done", "c.nii.gz": "failed", "d.nii.gz": "done"}
    }
    assert "c.nii.gz" in manifest["cases"]["c.nii.gz"]["error"]
    case, mask = manifest["cases"]["a.nii.gz"], nib.load(tmp_path / "out" / "a.nii.gz").get_fdata()
    assert case["input_sha256"] == hashlib.sha256((tmp_path / "in" / "a.nii.gz").read_bytes()).hexdigest()
    volumes = [(mask == value).sum() / 1000 for value in range(1, len(case["volume_ml"]) + 1)]
    assert list(case["volume_ml"].values()) == pytest.approx(volumes)
    assert case["seconds"] > 0 and case["warnings"] == []


def test_a_warning_is_kept_with_its_case(studies, volume, tmp_path):
    large = nib.load(volume)
    nib.save(nib.Nifti1Image(large.get_fdata(), 4 * large.affine), volume.with_name("b.nii.gz"))
    assert studies()[0] == 1
    cases = json.loads((tmp_path / "out" / FILE_NAME).read_text())["cases"]
    assert [bool(cases[f"{name}.nii.gz"]["warnings"]) for name in "abd"] == [False, True, False]
    assert "mm" in cases["b.nii.gz"]["warnings"][0]


def test_a_run_is_resumed_where_it_stopped(studies, volume, tmp_path):
    """What is done and whole stays; what failed, was spoilt or has another input is done again."""
    out = tmp_path / "out"
    shutil.copy(volume, volume.with_name("c.nii.gz"))
    written = {path: path.stat().st_mtime_ns for path in out.rglob("*.nii.gz")}
    code, report, err = studies("--save-confidence", "--resume")
    assert code == 0 and (report["done"], report["failed"], report["skipped"]) == (3, 0, 2), err
    assert all(path.stat().st_mtime_ns == before for path, before in written.items())
    assert len(list(out.rglob("*.nii.gz"))) == 6
    spoilt = out / "confidence" / "a.nii.gz"
    whole = spoilt.read_bytes()
    spoilt.write_bytes(whole[:-100])
    write_phantom(volume.with_name("d.nii.gz"), tmp_path / "label.nii.gz", seed=1)
    (out / "c.nii.gz").unlink()
    assert studies("--save-confidence", "--resume")[1]["skipped"] == 0
    assert spoilt.read_bytes() == whole
    assert studies("--save-confidence", "--resume")[1]["skipped"] == 3


def test_a_run_with_other_settings_is_not_resumed(studies, volume, tmp_path, capsys):
    manifest = tmp_path / "out" / FILE_NAME
    before = manifest.read_bytes()
    for options, message in (((), "with maps"), (("--save-confidence", "--seed", 3), "with seed None, now it is 3")):
        code, report, err = studies("--resume", *options)
        assert (code, report) == (2, {}) and message in err and err.count("\n") == 1
    assert manifest.read_bytes() == before
    for wrong in ("{}", "[", "[]", '{"settings": 1, "cases": {"a": 2}}'):
        manifest.write_text(wrong)
        code, _, err = studies("--resume", "--save-confidence")
        assert code == 2 and "no manifest of a run" in err and err.count("\n") == 1
    code, _, err = run(capsys, "segment", volume, "-o", tmp_path / "m.nii.gz", "--resume")
    assert code == 2 and "--resume goes on with several images" in err


@pytest.mark.parametrize(
    ("output", "message"),
    [("label.nii.gz/x/mask.nii.gz", "cannot write here"), ("in/a.nii.gz", "is an input and would be replaced")],
)
def test_outputs_that_cannot_be(volume, tmp_path, capsys, output, message):
    code, _, err = run(capsys, "segment", volume, "-o", tmp_path / output)
    assert code == 2 and message in err


@pytest.mark.parametrize("arguments", [("in", "in"), ("in/scores_1", "in", "--save-score")])
def test_inputs_are_never_replaced(volume, tmp_path, capsys, arguments):
    (tmp_path / "in" / "scores_1").mkdir()
    (tmp_path / "in" / "scores_1" / "a.nii.gz").write_bytes(volume.read_bytes())
    before = volume.read_bytes()
    source, output, *options = arguments
    code, _, err = run(capsys, "segment", tmp_path / source, "-o", tmp_path / output, *options)
    assert code == 2 and "is an input and would be replaced" in err
    assert volume.read_bytes() == before and (tmp_path / "in" / "scores_1" / "a.nii.gz").read_bytes() == before


def test_a_score_never_replaces_the_input(volume, capsys):
    scan = volume.with_name("a_score_2.nii.gz")
    volume.rename(scan)
    code, _, err = run(capsys, "segment", scan, "-o", volume, "--save-score")
    assert code == 2 and "would be replaced" in err and not volume.exists()


def test_a_folder_in_which_every_case_fails_has_done_nothing(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.nii.gz").write_text("no volume")
    code, out, _ = run(capsys, "segment", tmp_path / "in", "-o", tmp_path / "out")
    assert code == 2 and json.loads(out)["done"] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--bundle", "nothing"), "no bundle of that name"),
        (("--device", "cuda:77"), "cannot be used"),
        (("--device", "meta"), "cannot be used"),
    ],
)
def test_bad_options(volume, tmp_path, capsys, options, message):
    code, _, err = run(capsys, "segment", volume, "-o", tmp_path / "mask.nii.gz", *options)
    assert code == 2 and message in err and not (tmp_path / "mask.nii.gz").exists()


@pytest.mark.parametrize("value", ["0", "-3", "many"])
def test_bad_batch_size_is_a_usage_error(volume, tmp_path, capsys, value):
    with pytest.raises(SystemExit) as caught:
        main(["segment", str(volume), "-o", str(tmp_path / "m.nii.gz"), "--batch-size", value])
    assert caught.value.code == 2
    assert "--batch-size" in capsys.readouterr().err


def test_another_field_of_view_or_modality_warns(tmp_path, caplog, capsys):
    rng = np.random.default_rng(0)
    ct = rng.normal(-300, 400, (40, 40, 40)).astype(np.float32)
    nib.save(nib.Nifti1Image(ct, np.diag([5.0, 5, 5, 1])), tmp_path / "ct.nii.gz")
    assert run(capsys, "segment", tmp_path / "ct.nii.gz", "-o", tmp_path / "mask.nii.gz")[0] == 0
    assert "field of view 200 x 200 x 200 mm" in caplog.text and "another modality" in caplog.text
    caplog.clear()
    write_phantom(tmp_path / "mr.nii.gz", tmp_path / "label.nii.gz")
    assert run(capsys, "segment", tmp_path / "mr.nii.gz", "-o", tmp_path / "mask.nii.gz")[0] == 0
    assert caplog.text == ""


def test_evaluate(tmp_path, capsys):
    for folder in ("pred", "label"):
        (tmp_path / folder).mkdir()
    mask = np.zeros((4, 4, 4), np.uint8)
    mask[:2] = 1
    half = mask.copy()
    half[0] = 0
    pairs = {
        "same": (mask, 2 * mask),
        "half": (half, mask),
        "both_empty": (0 * mask, 0 * mask),
        "missed": (0 * mask, mask),
    }
    for name, (pred, label) in pairs.items():
        nib.save(nib.Nifti1Image(pred, np.eye(4)), tmp_path / "pred" / f"{name}.nii.gz")
        nib.save(nib.Nifti1Image(label, np.eye(4)), tmp_path / "label" / f"{name}.nii.gz")
    nib.save(nib.Nifti1Image(mask, np.eye(4)), tmp_path / "label" / "not_predicted.nii.gz")
    arguments = ("--predictions", tmp_path / "pred", "--labels", tmp_path / "label", "-o", tmp_path / "m.csv")
    code, out, _ = run(capsys, "evaluate", *arguments)
    rows = dict(line.split(",", 1) for line in (tmp_path / "m.csv").read_text().splitlines())
    assert code == 0 and rows["case"].split(",")[:6] == [*METRICS, "dice_1"]
    values = {k: [float(x) for x in v.split(",")[:2]] for k, v in rows.items() if k != "case"}
    assert values["same"] == [1, 1] and values["both_empty"] == [1, 1] and values["missed"] == [0, 0]
    assert values["half"] == pytest.approx([2 / 3, 0.5])
    assert values["mean"] == pytest.approx([(2 + 2 / 3) / 4, 2.5 / 4])
    report = json.loads(out)
    assert report["cases"] == 4 and report["labels_without_prediction"] == 1
    assert report["dice"] == pytest.approx(values["mean"][0], abs=1e-6)
    assert report["hd95_cases"] == 2 and set(report["classes"]) == {"1", "2"}
    low, high = report["dice_interval"]
    assert 0 <= low < report["dice"] < high <= 1 and report["tolerance"] == NSD_TOLERANCE
    _, strict, _ = run(capsys, "evaluate", *arguments, "--tolerance", 0)
    assert json.loads(strict)["nsd"] < report["nsd"] and json.loads(strict)["hd95"] == report["hd95"]


def test_evaluate_never_replaces_a_volume(tmp_path, capsys, volume):
    before = volume.read_bytes()
    arguments = ("evaluate", "--predictions", volume.parent, "--labels", volume.parent, "-o", volume)
    code, _, err = run(capsys, *arguments)
    assert code == 2 and "would be replaced" in err and volume.read_bytes() == before


def test_a_link_to_itself_is_one_bad_case(volume, tmp_path, capsys):
    (volume.parent / "loop.nii.gz").symlink_to("loop.nii.gz")
    code, out, err = run(capsys, "segment", volume.parent, "-o", tmp_path / "out")
    assert code == 1 and json.loads(out)["done"] == 1 and "loop.nii.gz" in err


def test_a_name_that_is_too_long_is_one_line(tmp_path, capsys):
    code, _, err = run(capsys, "segment", tmp_path / ("x" * 300 + ".nii.gz"), "-o", tmp_path / "m.nii.gz")
    assert code == 2 and err.startswith("error: ") and len(err.strip().splitlines()) == 1


def test_an_interrupt_is_one_line(volume, tmp_path, capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("sdseg_monai.inference.segmenter.Segmenter.segment", interrupted)
    code, _, err = run(capsys, "segment", volume, "-o", tmp_path / "m.nii.gz")
    assert code == 130 and err == "interrupted; what was finished is kept\n"


def test_evaluate_errors(tmp_path, capsys, volume):
    (tmp_path / "labels").mkdir()
    nib.save(nib.Nifti1Image(np.zeros((3, 3, 3), np.uint8), np.eye(4)), tmp_path / "labels" / "a.nii.gz")
    arguments = ("evaluate", "--predictions", volume.parent, "-o", tmp_path / "m.csv", "--labels")
    code, _, err = run(capsys, *arguments, tmp_path / "labels")
    assert code == 2 and "shape" in err and not (tmp_path / "m.csv").exists()
    (tmp_path / "labels" / "a.nii.gz").rename(tmp_path / "labels" / "other.nii.gz")
    code, _, err = run(capsys, *arguments, tmp_path / "labels")
    assert code == 2 and "no label for it" in err
    for suffix in (".nii", ".nii.gz"):
        nib.save(nib.Nifti1Image(np.zeros((3, 3, 3), np.uint8), np.eye(4)), tmp_path / "labels" / f"twice{suffix}")
    code, _, err = run(capsys, *arguments, tmp_path / "labels")
    assert code == 2 and "has the same name" in err
    code, _, err = run(capsys, *arguments, tmp_path / "nowhere")
    assert code == 2 and "no folder" in err


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
    (subparsers,) = (action for action in cli.make_parser()._actions if hasattr(action, "choices") and action.choices)
    options = {action.dest for action in subparsers.choices[command]._actions} - {"help"}
    assert options > {"quiet", "verbose"}
    assert options <= read_options(cli.COMMANDS[command]) | read_options(cli)
    assert all(action.help for action in subparsers.choices[command]._actions), "every option has its line"
