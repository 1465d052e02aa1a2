"""``sdseg segment --uncertainty``."""

import json
import shutil

import numpy as np
import pytest

from sdseg_monai import cli
from sdseg_monai.inference.segmenter import Segmenter
from sdseg_monai.inference.strategies import Ensemble, Once, Seeds
from sdseg_monai.io.volumes import read_volume
from tests.inference.uncertainty.segmenting import segment_with
from tests.makers.volumes import load_nifti

# of the command


def report(capsys, *arguments):
    code = cli.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, json.loads(captured.out) if captured.out else {}, captured.err


def test_the_command_writes_the_mean_its_entropy_and_reports_the_volumes(
    bundle, deterministic, other_weights, tmp_path, volume, capsys
):
    mask, own = tmp_path / "out" / "mask.nii.gz", bundle / "models" / "model.pt"
    options = ["--bundle", bundle, "--device", "cpu", "--uncertainty", "ensemble", "--save-confidence"]
    options += ["--weights", own, "--weights", other_weights]
    code, reported, _ = report(capsys, "segment", volume, "-o", mask, *options)
    assert code == 0 and reported["samples"] == 2
    members = [deterministic, Segmenter(bundle, device="cpu", weights=other_weights)]
    expected = segment_with(Ensemble(members), volume)
    for path, array in (
        (mask, expected.labels),
        *((mask.with_name(f"mask_{name}.nii.gz"), expected.maps[name]) for name in ("entropy", "confidence")),
    ):
        np.testing.assert_allclose(read_volume(path).array, array, atol=1e-6)
    assert sorted(path.name for path in mask.parent.iterdir()) == [
        "mask.json",
        "mask.nii.gz",
        "mask_confidence.nii.gz",
        "mask_entropy.nii.gz",
    ]
    assert reported["disagreement"] == pytest.approx(expected.disagreement, abs=1e-4)
    ranges = [[of["smallest"], of["largest"]] for of in reported["volume_ml"].values()]
    np.testing.assert_allclose(np.transpose(ranges), expected.volume_range, atol=1e-4)
    counts = np.bincount(read_volume(mask).array.astype(int).ravel(), minlength=len(expected.scores) + 1)[1:]
    voxel_ml = abs(np.linalg.det(load_nifti(mask).affine[:3, :3])) / 1000
    of_mask = [of["mask"] for of in reported["volume_ml"].values()]
    np.testing.assert_allclose(of_mask, counts * voxel_ml, atol=1e-4)


def test_the_command_takes_the_mean_of_seeds_and_may_abstain(noisy_bundle, tmp_path, volume, capsys):
    mask = tmp_path / "mask.nii.gz"
    options = ["--bundle", noisy_bundle, "--device", "cpu", "--uncertainty", "seeds", "--num-samples", 3, "--seed", 7]
    code, reported, _ = report(capsys, "segment", volume, "-o", mask, *options, "--abstain-below", 0.3)
    assert code == 0 and reported["samples"] == 3
    expected = segment_with(Seeds(Segmenter(noisy_bundle, device="cpu", seed=7), 3), volume)
    labels = read_volume(mask).array
    np.testing.assert_array_equal(labels, expected.abstain(0.3).labels)
    assert 0 < (labels == reported["labels"]["unsure"]).mean() < 1
    low, high = expected.volume_range  # of whole masks: no volume is lost by abstaining
    np.testing.assert_allclose([of["smallest"] for of in reported["volume_ml"].values()], low, atol=1e-4)
    np.testing.assert_allclose([of["largest"] for of in reported["volume_ml"].values()], high, atol=1e-4)


def test_the_command_measures_a_folder_and_a_bad_case_does_not_stop_it(bundle, deterministic, tmp_path, volume, capsys):
    studies = tmp_path / "studies"
    studies.mkdir()
    for name in ("a", "b"):
        shutil.copy(volume, studies / f"{name}.nii.gz")
    (studies / "c.nii.gz").write_bytes(b"no volume")
    options = ["--bundle", bundle, "--device", "cpu", "--uncertainty", "flips"]
    code, reported, errors = report(capsys, "segment", studies, "-o", tmp_path / "out", *options)
    assert code == 1 and "c.nii.gz" in errors and reported["failed"] == 1
    assert sorted(reported["cases"]) == ["a.nii.gz", "b.nii.gz"]
    assert reported["cases"]["a.nii.gz"] == reported["cases"]["b.nii.gz"]
    np.testing.assert_array_equal(
        read_volume(tmp_path / "out" / "a.nii.gz").array,
        segment_with(Once(deterministic), volume).labels,
        "flips change no mask",
    )
    outputs = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.nii.gz"))
    assert outputs == ["a.nii.gz", "b.nii.gz", "entropy/a.nii.gz", "entropy/b.nii.gz"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--uncertainty", "seeds"], "without start noise"),
        (["--uncertainty", "ensemble"], "at least two"),
        (["--uncertainty", "flips", "--num-samples", "3"], "--uncertainty seeds"),
        (["--weights", "OWN", "--weights", "OWN"], "--uncertainty ensemble"),
        (["--uncertainty", "ensemble", "--weights", "OWN", "--weights", "OWN"], "given twice"),
        (["--weights", "nothing.pt"], "nothing.pt"),
    ],
)
def test_the_command_refuses_what_cannot_be_compared(bundle, tmp_path, volume, capsys, options, message):
    own = str(bundle / "models" / "model.pt")
    options = [own if option == "OWN" else option for option in options]
    code, reported, errors = report(
        capsys, "segment", volume, "-o", tmp_path / "mask.nii.gz", "--bundle", bundle, "--device", "cpu", *options
    )
    assert code == 2 and not reported and message in errors and errors.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_the_entropy_replaces_no_input(bundle, tmp_path, volume, capsys):
    image = tmp_path / "a_entropy.nii.gz"
    shutil.copy(volume, image)
    before = image.read_bytes()
    options = ["--bundle", bundle, "--device", "cpu", "--uncertainty", "flips"]
    code, _, errors = report(capsys, "segment", image, "-o", tmp_path / "a.nii.gz", *options)
    assert code == 2 and "would be replaced" in errors
    assert image.read_bytes() == before and list(tmp_path.iterdir()) == [image]
