"""Real MR volumes on other grids: each mask is on the grid of its volume, and all show the same."""

import json

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from sdseg_monai.bundle import Bundle
from sdseg_monai.evaluation import evaluate_folders, mean_metrics
from sdseg_monai.inference.pipeline import Pipeline
from tests.makers.volumes import load_nifti

pytestmark = pytest.mark.shared


@pytest.fixture(scope="module")
def pipeline():
    return Pipeline(device="cpu")


@pytest.fixture(scope="module")
def case(hippocampus):
    datalist = json.loads(Bundle.open("hippocampus_sdseg").config_file("datalist").read_text())
    return load_nifti(hippocampus / datalist["test"][0]["image"])


@pytest.fixture(scope="module")
def reference(pipeline, case, tmp_path_factory):
    path = tmp_path_factory.mktemp("reference") / "a.nii.gz"
    nib.save(case, path)
    return pipeline(path).labels


def dice(a, b):
    """Return the lowest Dice of the classes that ``b`` has."""
    pairs = [(a == value, b == value) for value in np.unique(b)[1:]]
    return min(2 * np.logical_and(x, y).sum() / (x.sum() + y.sum()) for x, y in pairs)


def segment(pipeline, image, folder):
    """Write ``image``, segment it, check the mask's grid, and return the mask."""
    nib.save(image, folder / "in.nii.gz")
    pipeline(folder / "in.nii.gz").save(folder / "out.nii.gz")
    source, mask = load_nifti(folder / "in.nii.gz"), load_nifti(folder / "out.nii.gz")
    assert mask.shape == source.shape and mask.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(mask.affine, source.affine)
    for name in ("sform_code", "qform_code"):
        assert mask.header[name] == source.header[name]
    return mask


def test_the_anterior_part_lies_in_front(case, reference):
    anterior, posterior = (
        nib.affines.apply_affine(case.affine, np.argwhere(reference == value)).mean(axis=0) for value in (1, 2)
    )
    assert anterior[1] > posterior[1] + 5, "the front is the back"  # mm


@pytest.mark.parametrize("codes", ["LAS", "RPI", "PIR", "SLA"])
def test_orientation(pipeline, case, reference, tmp_path, codes):
    turn = ornt_transform(io_orientation(case.affine), axcodes2ornt(codes))
    mask = segment(pipeline, case.as_reoriented(turn), tmp_path)
    assert nib.aff2axcodes(mask.affine) == tuple(codes)
    back = mask.as_reoriented(ornt_transform(axcodes2ornt(codes), io_orientation(case.affine)))
    assert dice(back.get_fdata(), reference) >= 0.98


@pytest.mark.parametrize(
    "affine",
    [
        pytest.param(
            [[0.97, 0.17, 0.1, 5], [-0.18, 0.97, 0.1, -7], [-0.08, -0.12, 0.99, 3], [0, 0, 0, 1]], id="oblique"
        ),
        pytest.param(np.diag([0.8, 1.2, 1.1, 1]), id="anisotropic"),
        pytest.param([[1, 0, 0, 812.5], [0, 1, 0, -333], [0, 0, 1, 91], [0, 0, 0, 1]], id="shifted"),
    ],
)
def test_affine(pipeline, case, reference, tmp_path, affine):
    image = nib.Nifti1Image(case.get_fdata(dtype=np.float32), np.array(affine, float))
    assert dice(segment(pipeline, image, tmp_path).get_fdata(), reference) >= 0.98


@pytest.mark.parametrize("zooms", [(0.5, 1.0, 1.0), (1.0, 0.5, 2.0)])
def test_resampled_spacing(pipeline, case, reference, tmp_path, zooms):
    from nibabel.processing import resample_from_to, resample_to_output

    image = resample_to_output(case, zooms, order=1)
    mask = segment(pipeline, nib.Nifti1Image(image.get_fdata(dtype=np.float32), image.affine), tmp_path)
    truth = resample_from_to(nib.Nifti1Image(reference, case.affine), image, order=0)
    # resampling changes the picture itself: the same structure must be found, not the same voxels
    assert dice(mask.get_fdata() > 0, truth.get_fdata() > 0) >= 0.85


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.float64])
def test_dtype(pipeline, case, reference, tmp_path, dtype):
    data = case.get_fdata()
    scaled = np.round((data - data.min()) / (data.max() - data.min()) * 30000).astype(dtype)
    assert dice(segment(pipeline, nib.Nifti1Image(scaled, case.affine), tmp_path).get_fdata(), reference) >= 0.98


@pytest.mark.slow
def test_the_reported_test_dice_is_reproduced(pipeline, hippocampus, tmp_path):
    root = Bundle.open("hippocampus_sdseg").root
    cases = json.loads((root / "configs" / "datalist.json").read_text())["test"]
    for item in cases:
        path = hippocampus / item["image"]
        pipeline(path).save(tmp_path / path.name)
    mean = mean_metrics(evaluate_folders(tmp_path, hippocampus / "labels", progress=False))
    reported = json.loads((root / "models" / "metrics.json").read_text())["test"]
    assert mean.dice == pytest.approx(reported["dice"], abs=1e-3)
    assert mean.foreground.dice == pytest.approx(reported["foreground"]["dice"], abs=1e-3)
    assert mean.iou == pytest.approx(reported["iou"], abs=1e-3)
    assert mean.hd95 == pytest.approx(reported["hd95"], abs=1e-2)
    for value, agreement in mean.classes.items():
        assert agreement.dice == pytest.approx(reported["classes"][str(value)]["dice"], abs=1e-3)
