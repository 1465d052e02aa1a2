"""An image that contradicts the network's training is refused; with ``force`` its mask is made and says NOT TRUSTED."""

import json
import logging

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from scipy.ndimage import zoom

from sdseg_monai import Pipeline, segment
from sdseg_monai.cli import main
from sdseg_monai.demo.phantom import make_phantom
from sdseg_monai.errors import ArgumentError, InputError
from sdseg_monai.inference.segmenter import Segmenter
from sdseg_monai.io.dicom import choose_series, read_seg, read_series
from sdseg_monai.io.volumes import Volume
from sdseg_monai.io.warnings import ImageWarning, LoggedWarnings, not_trusted
from sdseg_monai.transforms import LoadVolumed, WarnFieldOfViewd
from tests.makers.dicom import write_mr_series
from tests.makers.volumes import load_nifti, write_nifti, write_thick_phantom

PT = "PT, but the network knows MR"


@pytest.fixture(scope="module")
def pipeline():
    return Pipeline(device="cpu")


@pytest.fixture(scope="module")
def forced():
    return Pipeline(device="cpu", force=True)


@pytest.fixture(scope="module")
def series(volume, tmp_path_factory):
    """The phantom as a PET series, each slice with a slope of its own, far below 1."""
    folder = tmp_path_factory.mktemp("pet") / "study"
    for index, path in enumerate(write_mr_series(volume, folder, Modality="PT")):
        dataset, factor = pydicom.dcmread(path), 2 ** (index % 3)
        dataset.RescaleSlope, dataset.RescaleIntercept = f"{factor * 1e-8:.1e}", "0"
        dataset.PixelData = (dataset.pixel_array // 4 * 4 // factor).astype(np.uint16).tobytes()
        dataset.save_as(path)
    return folder


def crop(shape=(36, 50, 36), spacing=1.0, lowest=0):
    """Return what resembles a hippocampus, in a volume of this shape, with its affine; one edge of 1 is the middle."""
    image = make_phantom()[0]
    for axis, edge in enumerate(shape):
        if edge == 1:
            image = image.take([image.shape[axis] // 2], axis)
    array = zoom(image, np.divide(shape, image.shape), order=1)
    array[0, 0, 0] = lowest
    return array.astype(np.float32), np.diag([spacing, spacing, spacing, 1])


@pytest.mark.parametrize(
    ("image", "reasons"),
    [
        (crop(lowest=-1000), "lowest intensity -1000, expected at least -100"),
        (crop((18, 25, 18), spacing=5), "field of view 90 x 125 x 90 mm, but the network was trained on 31 x 40 x 24"),
        (crop((36, 50, 6), spacing=16), "field of view 576 x 800 x 96 mm"),
    ],
)
def test_what_the_training_excludes_is_refused_with_the_remedy(pipeline, forced, image, reasons):
    with pytest.raises(ArgumentError, match="choose a bundle for such images, or force=True") as caught:
        pipeline(image)
    assert reasons in str(caught.value) and "\n" not in str(caught.value)
    assert sum(warning.contradiction for warning in caught.value.warnings) == 1
    result = forced(image)
    assert not result.trusted and result.not_trusted.startswith(f"NOT TRUSTED: {reasons}")
    assert repr(result).startswith("SegmentationResult(NOT TRUSTED, ")
    case = result.manifest["case"]
    assert (case["trusted"], case["not_trusted"]) == (False, result.not_trusted)
    assert result.manifest["settings"]["force"] is True


@pytest.mark.parametrize(
    "image",
    [
        crop((18, 25, 18), spacing=3.2),  # larger than all of the training, but not twice as large
        crop((36, 1, 36)),
        crop((36, 50, 1)),  # a slice across another axis than the network's
        crop((36, 1, 36), lowest=-300),
        crop((18, 25, 18)),
    ],
)
def test_a_slice_a_crop_or_a_little_more_is_a_warning(pipeline, image):
    result = pipeline(image)
    assert result.trusted and "NOT TRUSTED" not in repr(result)
    warning = next(warning for warning in result.warnings if warning.kind == "field_of_view")
    assert not warning.contradiction and warning.text.endswith("the mask is not to be trusted")
    assert result.manifest["case"]["trusted"] is True and "not_trusted" not in result.manifest["case"]


@pytest.mark.parametrize(("lowest", "is_refused"), [(-99, None), (-101, False), (-750, False), (-1000, True)])
def test_only_the_air_of_a_ct_is_a_contradiction(lowest, is_refused):
    """An MR may be stored with an offset, as by a slope of 0.5 and an intercept of -300."""
    warnings: list[ImageWarning] = []
    item = {**LoadVolumed("image")({"image": Volume(*crop(lowest=lowest))}), "warnings": warnings}
    WarnFieldOfViewd("image", [[31, 43], [40, 59], [24, 47]], lowest=-100)(item)
    assert [warning.contradiction for warning in warnings] == ([] if is_refused is None else [is_refused])


def test_an_image_like_the_trainings_is_not_changed_by_force(pipeline, forced, volume):
    result = forced(volume)
    assert result.trusted and not result.warnings and "NOT TRUSTED" not in repr(result)
    np.testing.assert_array_equal(result.labels, pipeline(volume).labels)


def test_a_constant_volume_and_noise_look_like_nothing_that_was_trained_on(pipeline, forced):
    noise = np.random.default_rng(0).normal(100, 20, (36, 50, 36))
    for array, kinds in ((np.zeros((36, 50, 36)), ["unlike", "constant", "empty"]), (noise, ["unlike"])):
        image = array.astype(np.float32), np.eye(4)
        with pytest.raises(ArgumentError, match="is this a T1-weighted MR cropped to the hippocampus"):
            pipeline(image)
        assert [warning.kind for warning in forced(image).warnings] == kinds


def test_a_modality_that_only_the_caller_knows_counts(pipeline, forced, volume):
    assert pipeline(volume, modality="MR").trusted
    with pytest.raises(ArgumentError, match="CT, but the network knows MR"):
        pipeline(volume, modality="CT")
    assert forced(volume, modality="CT").not_trusted == "NOT TRUSTED: CT, but the network knows MR"


@pytest.mark.parametrize(
    ("overlay", "modality"),
    [
        ({"mask_cleaning": [], "batch_size": 2}, "MR"),
        ({"preprocessing#transforms#1#lowest": -2000}, ""),
        ({"size": [64, 64]}, "MR"),
    ],
)
def test_an_overlay_keeps_the_modality_unless_it_changes_the_images(tmp_path, overlay, modality):
    (tmp_path / "o.json").write_text(json.dumps(overlay))
    assert Segmenter(device="cpu", overlays=[tmp_path / "o.json"]).modality == modality


def test_headers_without_a_modality_are_a_warning(pipeline, volume, tmp_path):
    write_mr_series(volume, tmp_path / "study", Modality="")
    result = pipeline(tmp_path / "study")
    assert result.trusted and [warning.kind for warning in result.warnings] == ["modality"]


def test_every_strategy_refuses_and_marks(series):
    with pytest.raises(ArgumentError, match=PT):
        segment(series, device="cpu", uncertainty="flips")
    result = segment(series, device="cpu", uncertainty="flips", force=True)
    assert not result.trusted and repr(result).startswith("SampledSegmentation(NOT TRUSTED, ")


def test_a_result_of_one_call_does_not_mark_the_next(volume):
    pipeline = Pipeline(device="cpu")
    pipeline.configure(force=True)
    assert not pipeline(volume, modality="CT").trusted and pipeline(volume).trusted
    assert pipeline.settings["force"] is True
    pipeline.configure()
    assert pipeline.settings["force"] is None
    with pytest.raises(ArgumentError):
        pipeline(volume, modality="CT")


@pytest.mark.parametrize("force", [1, "yes", None])
def test_force_is_true_or_false(force):
    with pytest.raises(ArgumentError, match="expected True or False"):
        Pipeline(device="cpu", force=force)


def test_the_command_refuses_a_series_and_writes_nothing(series, tmp_path, capsys):
    assert main(["segment", str(series), "-o", str(tmp_path / "m.dcm"), "--device", "cpu"]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and len(captured.err.strip().splitlines()) == 1
    assert (
        captured.err.startswith("error: T1 (series 1): ") and PT in captured.err and "or --force for a" in captured.err
    )
    assert not list(tmp_path.iterdir())


def test_a_forced_seg_says_so_where_viewers_look(series, volume, pipeline, tmp_path, capsys):
    options = ("--force", "--device", "cpu", "--report", str(tmp_path / "r.html"))
    assert main(["segment", str(series), "-o", str(tmp_path / "m.dcm"), *options]) == 0
    captured = capsys.readouterr()
    summary = json.loads(captured.out)
    assert (summary["trusted"], summary["not_trusted"]) == (False, f"NOT TRUSTED: {PT}")
    seg = pydicom.dcmread(tmp_path / "m.dcm")
    assert seg.SeriesDescription == f"NOT TRUSTED: {PT}"
    assert seg.ContentDescription == "NOT TRUSTED; SDSeg segmentation, research use only"
    descriptions = [segment.SegmentDescription for segment in seg.SegmentSequence]
    assert len(descriptions) == 2 and set(descriptions) == {f"NOT TRUSTED: {PT}"}
    content = json.loads((tmp_path / "m.json").read_text())
    assert content["case"]["trusted"] is False and content["case"]["not_trusted"] == f"NOT TRUSTED: {PT}"
    assert f'<p class="not-trusted">NOT TRUSTED: {PT}</p>' in (tmp_path / "r.html").read_text()
    # each slice by its own slope: the mask is that of the same volume as MR
    labels = read_seg(tmp_path / "m.dcm", read_series(choose_series(series)), pipeline.segments)
    pet, mr = (np.sort(np.unique(array, return_counts=True)[1]) for array in (labels, pipeline(volume).labels))
    np.testing.assert_allclose(pet, mr, rtol=0.02)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_a_forced_volume_file_says_so(forced, tmp_path, suffix):
    """In its JSON and in its header."""
    result = forced(crop(lowest=-1000))
    result.save(tmp_path / f"m{suffix}", maps={"confidence": tmp_path / f"c{suffix}"})
    assert json.loads((tmp_path / "m.json").read_text())["case"]["not_trusted"] == result.not_trusted
    for name in ("m", "c"):
        path = tmp_path / f"{name}{suffix}"
        if suffix.startswith(".nii"):
            text = load_nifti(path).header["descrip"].item().decode()
            assert text == result.not_trusted[:79]
        elif suffix == ".nrrd":
            assert sitk.ReadImage(str(path)).GetMetaData("NRRD_content") == result.not_trusted
        else:
            assert f"\nComment = {result.not_trusted}\n".encode() in path.read_bytes()
    if suffix == ".nii":
        assert result.to_nifti().header["descrip"].item().decode() == result.not_trusted[:79]


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """A folder with a phantom and a volume that has the air of a CT."""
    folder = tmp_path_factory.mktemp("scans")
    write_thick_phantom(folder / "mr.nii.gz", folder.parent / "label.nii.gz")
    write_nifti(folder / "ct.nii.gz", *crop(lowest=-1000))
    return folder


def run(capsys, *arguments):
    code = main([*map(str, arguments), "--device", "cpu"])
    captured = capsys.readouterr()
    return code, json.loads(captured.out), captured.err


def cases_of(folder):
    return json.loads((folder / "sdseg_manifest.json").read_text())["cases"]


def test_a_folder_goes_on_without_the_refused_case(scans, tmp_path, capsys):
    out = tmp_path / "out"
    code, summary, err = run(capsys, "segment", scans, "-o", out)
    assert code == 1 and (summary["done"], summary["failed"], summary["flagged"]) == (1, 1, 0)
    case = cases_of(out)["ct.nii.gz"]
    assert case["status"] == "failed" and "or --force for a mask" in case["error"] and "force=True" not in err
    assert [warning["kind"] for warning in case["warnings"]] == ["intensity"]
    assert not (out / "ct.nii.gz").exists() and (out / "mr.nii.gz").exists()

    code, _, err = run_refused(capsys, "segment", scans, "-o", out, "--resume", "--force")
    assert code == 2 and "is of a run with force None, now it is True" in err


def run_refused(capsys, *arguments):
    code = main([*map(str, arguments), "--device", "cpu"])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_forced_folder_counts_what_it_flags(scans, tmp_path, capsys):
    out, page = tmp_path / "out", tmp_path / "r.html"
    code, summary, err = run(capsys, "segment", scans, "-o", out, "--force", "--report", page)
    assert code == 0 and (summary["done"], summary["failed"], summary["flagged"]) == (2, 0, 1)
    lines = err.splitlines()
    assert "NOT TRUSTED: 1 of 2 masks" in lines
    assert any(line.startswith("ct.nii.gz  done") and "NOT TRUSTED: lowest intensity -1000" in line for line in lines)
    assert not any(line.startswith("mr.nii.gz") and "NOT TRUSTED" in line for line in lines)
    cases = cases_of(out)
    assert cases["ct.nii.gz"]["trusted"] is False and cases["mr.nii.gz"]["trusted"] is True
    html = page.read_text()
    assert html.count('class="not-trusted">NOT TRUSTED: lowest intensity') == 1 and "<b>1</b> NOT TRUSTED" in html

    _, summary, _ = run(capsys, "segment", scans, "-o", out, "--force", "--resume")
    assert (summary["skipped"], summary["flagged"]) == (2, 1), "a mark lasts"
    code, _, err = run_refused(capsys, "segment", scans, "-o", out, "--resume")
    assert code == 2 and "is of a run with force True, now it is None" in err


def test_a_mask_of_an_earlier_version_is_made_again(scans, tmp_path, capsys):
    """Its warnings do not say whether they are contradictions."""
    out = tmp_path / "out"
    run(capsys, "segment", scans, "-o", out)
    manifest = out / "sdseg_manifest.json"
    content = json.loads(manifest.read_text())
    case = content["cases"]["mr.nii.gz"]
    case["warnings"] = [{"kind": "intensity", "text": "lowest intensity -1000"}]
    manifest.write_text(json.dumps(content))
    _, summary, _ = run(capsys, "segment", scans, "-o", out, "--resume")
    assert summary["skipped"] == 0 and cases_of(out)["mr.nii.gz"]["warnings"] == []


def make_item(tmp_path, **options):
    path = write_nifti(tmp_path / "ct.nii.gz", *crop(**options))
    return LoadVolumed("image")({"image": str(path)})


def test_a_bundle_run_without_a_list_refuses_too(tmp_path, caplog):
    """As ``monai.bundle run`` uses the transform."""
    extents = [[31, 43], [40, 59], [24, 47]]
    item = make_item(tmp_path, lowest=-1000)
    with pytest.raises(InputError, match=r"ct\.nii\.gz: lowest intensity -1000.*force=True"):
        WarnFieldOfViewd("image", extents, lowest=-100)(item)
    with caplog.at_level(logging.WARNING):
        WarnFieldOfViewd("image", extents, lowest=-100, force=True)(item)
    assert "ct.nii.gz: NOT TRUSTED: lowest intensity -1000" in caplog.messages[0]
    item = make_item(tmp_path, spacing=3)
    with pytest.raises(InputError, match="field of view 108 x 150 x 108 mm"):
        WarnFieldOfViewd("image", extents, lowest=-100)(item)
    WarnFieldOfViewd("image", extents, lowest=-100, limit=4)(item)


def test_whoever_keeps_the_list_decides(tmp_path):
    warnings = LoggedWarnings("ct", force=False)
    item = {**make_item(tmp_path, lowest=-1000), "warnings": warnings}
    WarnFieldOfViewd("image", [[31, 43], [40, 59], [24, 47]], lowest=-100)(item)
    with pytest.raises(ArgumentError, match="ct: lowest intensity -1000"):
        warnings.check()


def test_the_mark_names_all_contradictions_and_nothing_else():
    warnings = [
        ImageWarning("modality", "CT", contradiction=True),
        ImageWarning("left_out", "a file"),
        ImageWarning("intensity", "air", contradiction=True),
    ]
    assert not_trusted(warnings) == "NOT TRUSTED: CT; air" and not_trusted(warnings[1:2]) == ""


def test_the_modality_is_refused_before_the_transforms(series, monkeypatch):
    """What is wrong with a series is said first; a photograph is refused before a transform fails on its colours."""
    segmenter = Segmenter(device="cpu")
    for name in ("_prepare", "_stream"):
        monkeypatch.setattr(segmenter, name, lambda *args: pytest.fail("prepared"))
    with pytest.raises(ArgumentError, match=PT):
        segmenter.prepare(choose_series(series))


def test_a_long_reason_is_cut_to_what_dicom_allows(volume, tmp_path):
    large = nib.Nifti1Image(load_nifti(volume).get_fdata().astype(np.int16), 4 * load_nifti(volume).affine)
    nib.save(large, tmp_path / "large.nii.gz")
    write_mr_series(tmp_path / "large.nii.gz", tmp_path / "study")
    result = segment(tmp_path / "study", device="cpu", force=True)
    result.save(tmp_path / "m.dcm")
    seg = pydicom.dcmread(tmp_path / "m.dcm")
    assert seg.SeriesDescription.startswith("NOT TRUSTED: field of view ") and len(seg.SeriesDescription) <= 64
    assert {segment.SegmentDescription for segment in seg.SegmentSequence} == {result.not_trusted}
