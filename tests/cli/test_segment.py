"""``sdseg segment`` of one file, with the embedded weights on volumes that the tests make."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from nibabel.orientations import axcodes2ornt, ornt_transform

from sdseg_monai.cli import main
from sdseg_monai.io.segments import UNSURE
from tests.cli.running import run
from tests.makers.volumes import bad_files, load_nifti, write_nifti, write_thick_phantom


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
    source, mask = load_nifti(volume), load_nifti(tmp_path / "mask.nii.gz")
    assert mask.shape == source.shape and mask.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(mask.affine, source.affine)
    for name in ("sform_code", "qform_code"):
        assert mask.header[name] == source.header[name]
    classes = np.asarray(mask.dataobj)
    assert set(np.unique(classes)) == {0, 1, 2}
    label = load_nifti(tmp_path / "label.nii.gz").get_fdata()
    for name, value in report["labels"].items():  # the front is in front
        inside, expected = classes == value, label == value
        assert volumes[name] == pytest.approx(3 * inside.sum() / 1000), "slices of 3 mm"
        assert 2 * (inside & expected).sum() / (inside.sum() + expected.sum()) > 0.75


def test_scores_and_confidence_say_what_the_mask_says(bundle, volume, tmp_path, capsys):
    names = ["score"] if "_2" in bundle.name else ["score_1", "score_2"]
    arguments = ("segment", volume, "--bundle", bundle, "--save-score", "--save-confidence", "-o")
    code, out, _ = run(capsys, *arguments, tmp_path / "out" / "m.nii.gz")
    assert code == 0
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {"m.json", "m.nii.gz", "m_confidence.nii.gz", *(f"m_{name}.nii.gz" for name in names)}
    mask = np.asarray(load_nifti(tmp_path / "out" / "m.nii.gz").dataobj)
    maps = [load_nifti(tmp_path / "out" / f"m_{name}.nii.gz") for name in (*names, "confidence")]
    assert all(image.get_data_dtype() == np.float32 for image in maps)
    *scores, confidence = (image.get_fdata() for image in maps)
    assert min(map(np.min, (*scores, confidence))) >= 0 and max(map(np.max, (*scores, confidence))) <= 1
    background = 1 - np.sum(scores, axis=0)
    sure = confidence > 1e-4
    np.testing.assert_array_equal(mask[sure], np.argmax([background, *scores], axis=0)[sure])
    assert sure.mean() > 0.9 and len(np.unique(mask)) > 1
    assert ("labels" in json.loads(out)) and bool(json.loads(out)["labels"]) == (len(names) == 2), (
        "of 2 classes no names"
    )

    limit = float(np.quantile(confidence, 0.3))
    code, out, _ = run(capsys, *arguments, tmp_path / "unsure", "--abstain-below", limit)
    abstained = np.asarray(load_nifti(tmp_path / "unsure" / volume.name).dataobj)
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
    own, chained = (np.asarray(load_nifti(tmp_path / f"{name}.nii.gz").dataobj) for name in ("own", "m"))
    np.testing.assert_array_equal(own, chained)


def test_bad_overlays_end_with_one_line(volume, tmp_path, capsys):
    files = {"list.json": "[1]", "text.json": "{", "text.yaml": "- a: [", "text.txt": "{}", "bytes.json": "\xff"}
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="latin-1")
    write_overlay(tmp_path / "elsewhere.json", **{"train#dataset#size": [1, 1]})
    write_overlay(tmp_path / "broken.json", network_def="$nonsense()")
    for name in (*files, "elsewhere.json", "missing.json", "broken.json"):
        overlay = tmp_path / name
        arguments = ("-o", tmp_path / "m.nii.gz", "--overlay", overlay, *(["--trust"] if name == "broken.json" else []))
        code, out, err = run(capsys, "segment", volume, *arguments)
        assert (code, out) == (2, "") and err.startswith("error: ") and err.count("\n") == 1, err
        assert (str(overlay) in err) == (name != "broken.json"), err
    assert not (tmp_path / "m.nii.gz").exists()


def test_everything_lies_on_the_grid_of_the_file(bundle, volume, tmp_path, capsys):
    turned = load_nifti(volume).as_reoriented(ornt_transform(axcodes2ornt("RAS"), axcodes2ornt("PIL")))
    (tmp_path / "turned").mkdir()
    nib.save(turned, tmp_path / "turned" / "a.nii.gz")
    for folder in ("in", "turned"):
        arguments = ("-o", tmp_path / f"{folder}_out", "--bundle", bundle, "--save-score", "--save-confidence")
        assert run(capsys, "segment", tmp_path / folder, *arguments)[0] == 0
    outputs = sorted(path.relative_to(tmp_path / "in_out") for path in (tmp_path / "in_out").rglob("*.nii.gz"))
    assert len(outputs) in (3, 4)
    for path in outputs:
        image = load_nifti(tmp_path / "turned_out" / path)
        assert image.shape == turned.shape and np.array_equal(image.affine, turned.affine)
        array, expected = (
            nib.as_closest_canonical(image).get_fdata(),
            load_nifti(tmp_path / "in_out" / path).get_fdata(),
        )
        np.testing.assert_allclose(array, expected, atol=1e-5)


def test_an_output_that_is_no_volume_is_not_made_a_folder(volume, tmp_path, capsys):
    for source, output in ((volume, "mask.png"), (volume.parent, "mask.nii.gz")):
        code, out, err = run(capsys, "segment", source, "-o", tmp_path / output)
        assert (code, out) == (2, "") and f"{output}: expected a f" in err and not (tmp_path / output).exists()


@pytest.mark.parametrize("value", ["-0.1", "1.1", "nan", "much"])
def test_a_confidence_lies_in_0_to_1(volume, tmp_path, capsys, value):
    with pytest.raises(SystemExit) as caught:
        main(["segment", str(volume), "-o", str(tmp_path / "m.nii.gz"), f"--abstain-below={value}"])
    assert caught.value.code == 2 and "--abstain-below" in capsys.readouterr().err


def test_segment_is_reproducible_whatever_the_batch(volume, tmp_path, capsys):
    for name, options in (("x", ()), ("y", ("--batch-size", 1)), ("z", ("--seed", 5))):
        assert run(capsys, "segment", volume, "-o", tmp_path / f"{name}.nii.gz", *options)[0] == 0
    masks = [load_nifti(tmp_path / f"{name}.nii.gz").get_fdata() for name in "xyz"]
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


def test_another_field_of_view_or_modality_is_refused(tmp_path, caplog, capsys):
    rng = np.random.default_rng(0)
    ct = rng.normal(-300, 400, (40, 40, 40)).astype(np.float32)
    write_nifti(tmp_path / "ct.nii.gz", ct, np.diag([5.0, 5, 5, 1]))
    code, _, err = run(capsys, "segment", tmp_path / "ct.nii.gz", "-o", tmp_path / "mask.nii.gz")
    assert code == 2 and "field of view 200 x 200 x 200 mm" in err and "another modality" in err and "--force" in err
    assert run(capsys, "segment", tmp_path / "ct.nii.gz", "-o", tmp_path / "mask.nii.gz", "--force")[0] == 0
    assert "NOT TRUSTED: field of view 200 x 200 x 200 mm" in caplog.text and "another modality" in caplog.text
    caplog.clear()
    write_thick_phantom(tmp_path / "mr.nii.gz", tmp_path / "label.nii.gz")
    assert run(capsys, "segment", tmp_path / "mr.nii.gz", "-o", tmp_path / "mask.nii.gz")[0] == 0
    assert caplog.text == ""


def test_a_name_that_is_too_long_is_one_line(tmp_path, capsys):
    code, _, err = run(capsys, "segment", tmp_path / ("x" * 300 + ".nii.gz"), "-o", tmp_path / "m.nii.gz")
    assert code == 2 and err.startswith("error: ") and len(err.strip().splitlines()) == 1


def test_an_interrupt_is_one_line(volume, tmp_path, capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("sdseg_monai.inference.segmenter.Segmenter.prepare", interrupted)
    code, _, err = run(capsys, "segment", volume, "-o", tmp_path / "m.nii.gz")
    assert code == 130 and err == "interrupted; what was finished is kept\n"
