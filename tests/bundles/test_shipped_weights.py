"""The shipped weights on a few images of their kind that the training did not see, and on images of other kinds."""

import json
from pathlib import Path

import numpy as np
import pydicom
import pytest
from skimage.draw import polygon2mask

from sdseg_monai import Pipeline, segment
from sdseg_monai.bundle import Bundle
from sdseg_monai.errors import ArgumentError, InputError
from sdseg_monai.evaluation import evaluate_case, measure_ejection
from tests.makers.places import SHARED
from tests.makers.volumes import write_nifti

DATA = {
    "skin_lesion_sdseg": ("isic2017-256", 0.75),
    "fetal_head_sdseg": ("hc18-400", 0.95),
    "left_ventricle_sdseg": ("sunnybrook-lv", 0.75),
}
CINE = SHARED / "data" / "sunnybrook-cine-dicom"
PHASES = {"diastole": 20, "systole": 7}  # of 20, those with contours by hand


def data_of(bundle: str) -> Path:
    """Return the folder of a bundle's data; skip the test where it is missing."""
    folder = SHARED / "data" / DATA[bundle][0]
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here")
    return folder


def cases_of(bundle: str) -> list[dict[str, Path]]:
    items = json.loads(Bundle.open(bundle).config_file("datalist").read_text())["test"]
    return [{key: data_of(bundle) / path for key, path in item.items()} for item in items]


@pytest.mark.parametrize("bundle", DATA)
def test_masks_of_images_that_were_kept_aside(bundle, tmp_path):
    cases, pipeline = cases_of(bundle)[::30][:5], Pipeline(bundle, device="cpu", force=True)
    dice = []
    for case in cases:
        result = pipeline(case["image"])
        path = tmp_path / (f"{case['image'].stem}.png" if case["image"].suffix == ".jpg" else case["image"].name)
        result.save(path)
        dice.append(evaluate_case(path, case["label"]).dice)
    assert np.mean(dice) > DATA[bundle][1]


@pytest.mark.parametrize(("bundle", "other"), [("skin_lesion_sdseg", "hc18-400"), ("fetal_head_sdseg", "isic2017-256")])
def test_pictures_of_another_kind_are_refused(bundle, other):
    data_of(bundle)
    images = sorted((SHARED / "data" / other / "images").iterdir())[::100]
    pipeline, refused = Pipeline(bundle, device="cpu"), 0
    for image in images:
        try:
            warnings = pipeline(image).warnings
            assert [warning.kind for warning in warnings] == ["unlike"]
        except ArgumentError as error:
            assert "looks unlike the images of the training" in str(error)
            refused += 1
    assert refused >= 0.8 * len(images)


def test_a_crop_of_the_head_is_no_heart():
    volume = SHARED / "data" / "msd-hippocampus" / "images" / "hippocampus_001.nii.gz"
    if not volume.is_file():
        pytest.skip(f"{volume} is not here")
    with pytest.raises(ArgumentError, match="looks unlike the images of the training"):
        segment(volume, bundle="left_ventricle_sdseg", device="cpu")


@pytest.fixture(scope="module")
def cine(tmp_path_factory):
    """Two phases of a real cine series with their true spacing, and the contours by hand as label maps."""
    if not CINE.is_dir():
        pytest.skip(f"{CINE} is not here")
    folder = tmp_path_factory.mktemp("cine")
    files = {int(path.stem.rpartition("-")[2]): path for path in CINE.rglob("*.dcm")}
    for name, phase in PHASES.items():
        slices = [pydicom.dcmread(files[number]) for number in sorted(files) if number % 20 == phase % 20]
        affine = np.diag([*map(float, slices[0].PixelSpacing), 8.0, 1.0])
        labels = []
        for s in slices:
            contour = CINE / "contours" / f"IM-0001-{int(s.InstanceNumber):04}-icontour-manual.txt"
            outline = np.loadtxt(contour) - 1 if contour.is_file() else np.zeros((0, 2))
            labels.append(polygon2mask((s.Columns, s.Rows), outline))
        for kind, arrays in (("image", [s.pixel_array.T for s in slices]), ("label", labels)):
            write_nifti(folder / f"{name}_{kind}.nii.gz", np.stack(arrays, axis=2).astype(np.float32), affine)
    return folder


def test_the_ejection_fraction_of_a_real_cine(cine, tmp_path):
    pipeline = Pipeline("left_ventricle_sdseg", device="cpu")
    masks = {}
    for name in PHASES:
        masks[name] = tmp_path / f"{name}.nii.gz"
        result = pipeline(cine / f"{name}_image.nii.gz")
        assert result.trusted
        result.save(masks[name])
        assert evaluate_case(masks[name], cine / f"{name}_label.nii.gz").dice > 0.85
    true = measure_ejection(cine / "diastole_label.nii.gz", cine / "systole_label.nii.gz").fraction
    assert measure_ejection(masks["diastole"], masks["systole"]).fraction == pytest.approx(true, abs=6)


def test_the_series_itself_is_refused_because_its_slices_are_in_many_frames_of_reference():
    if not CINE.is_dir():
        pytest.skip(f"{CINE} is not here")
    with pytest.raises(InputError):
        segment(CINE / "SC-HF-I-4", bundle="left_ventricle_sdseg", device="cpu")
