"""The ejection fraction of two masks: what it is, what is refused, and real ventricles."""

import json

import numpy as np
import pytest
from PIL import Image

from sdseg_monai.cli import main
from sdseg_monai.errors import ArgumentError, InputError
from sdseg_monai.evaluation import measure_ejection
from tests.makers.places import SHARED
from tests.makers.volumes import write_nifti

AFFINE = np.diag([1.5, 1.5, 8.0, 1.0])


@pytest.fixture
def phases(tmp_path):
    """Masks of 400 and 160 voxels, of 18 mm³ each: 60 % are ejected; a second class beside them."""
    diastole, systole = np.zeros((2, 20, 20, 6), np.uint8)
    diastole[5:15, 5:15, 1:5], systole[6:14, 6:11, 1:5] = 1, 1
    folder = tmp_path / "phases"
    folder.mkdir()
    for name, mask in (("diastole", diastole), ("systole", systole)):
        write_nifti(folder / f"{name}.nii.gz", mask, AFFINE)
        with_wall = mask.copy()
        with_wall[0] = 2
        write_nifti(folder / f"{name}_with_wall.nii.gz", with_wall, AFFINE)
        write_nifti(folder / f"{name}_empty.nii.gz", 0 * mask, AFFINE)
        write_nifti(folder / f"{name}_one_slice.nii.gz", mask[..., 2:3], AFFINE)
    return folder


def test_volumes_and_fraction(phases):
    ejection = measure_ejection(phases / "diastole.nii.gz", phases / "systole.nii.gz")
    assert (ejection.end_diastole_ml, ejection.end_systole_ml) == (pytest.approx(7.2), pytest.approx(2.88))
    assert ejection.fraction == pytest.approx(60) and ejection.label == 1 and not ejection.warnings
    assert ejection.spacing == pytest.approx((1.5, 1.5, 8))


def test_the_size_of_a_voxel_cancels_in_the_fraction_alone(phases):
    paths = [phases / f"{name}.nii.gz" for name in ("diastole", "systole")]
    expected = measure_ejection(*paths)
    for path, voxels in zip(paths, (400, 160), strict=True):
        mask = np.zeros((20, 20, 6), np.uint8)
        mask.ravel()[:voxels] = 1
        write_nifti(path, mask, np.diag([1.0, 1.0, 1.0, 1.0]))
    ejection = measure_ejection(*paths)
    assert ejection.fraction == pytest.approx(expected.fraction)
    assert ejection.end_diastole_ml == pytest.approx(expected.end_diastole_ml / 18)


def test_one_of_several_values(phases):
    paths = (phases / "diastole_with_wall.nii.gz", phases / "systole_with_wall.nii.gz")
    with pytest.raises(ArgumentError, match=r"have the values 1, 2: choose the cavity's with label=1"):
        measure_ejection(*paths)
    with pytest.raises(ArgumentError, match=r"label=3: no voxel of .* has this value, expected one of 1, 2"):
        measure_ejection(*paths, label=3)
    assert measure_ejection(*paths, label=1).fraction == pytest.approx(60)
    with pytest.raises(InputError, match=r"the same cavity as in .*, expected the mask of another phase"):
        measure_ejection(*paths, label=2)


def test_slices_that_only_one_phase_has_are_a_warning(phases, caplog):
    mask = np.zeros((20, 20, 5), np.uint8)
    mask[6:14, 6:11, 1:5] = 1
    write_nifti(phases / "shorter.nii.gz", mask, AFFINE)
    ejection = measure_ejection(phases / "diastole.nii.gz", phases / "shorter.nii.gz")
    assert ejection.fraction == pytest.approx(60)
    (warning,) = ejection.warnings
    assert warning.kind == "geometry" and warning.text in caplog.text
    assert "lie on different grids (20 x 20 x 6 and 20 x 20 x 5 voxels): the fraction is right only if" in warning.text


def test_another_order_of_the_voxels_is_the_same_grid(phases):
    mask = np.zeros((20, 20, 6), np.uint8)
    mask[6:14, 6:11, 1:5] = 1
    flipped = AFFINE @ np.array([[-1, 0, 0, 19], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    write_nifti(phases / "flipped.nii.gz", mask[::-1], flipped)
    ejection = measure_ejection(phases / "diastole.nii.gz", phases / "flipped.nii.gz")
    assert ejection.fraction == pytest.approx(60) and not ejection.warnings


@pytest.mark.parametrize(
    ("diastole", "systole", "message"),
    [
        (
            "systole",
            "diastole",
            r"7\.2 ml at end-systole, but 2\.88 ml at .*: are the two phases exchanged",
        ),
        ("diastole_empty", "systole", r"diastole_empty.nii.gz: no voxel has the value 1: the cavity is empty"),
        ("diastole", "systole_empty", r"systole_empty.nii.gz: no voxel has the value 1: the cavity is empty"),
        ("diastole_empty", "systole_empty", r"diastole_empty.nii.gz: empty, as is .*systole_empty.nii.gz"),
        ("diastole_one_slice", "systole_one_slice", r"a single slice, expected all slices of the cavity"),
        ("diastole", "systole_one_slice", r"systole_one_slice.nii.gz: a single slice"),
    ],
)
def test_masks_that_are_refused(phases, diastole, systole, message):
    with pytest.raises(InputError, match=message):
        measure_ejection(phases / f"{diastole}.nii.gz", phases / f"{systole}.nii.gz")


def test_files_that_are_refused(phases, tmp_path):
    diastole = phases / "diastole.nii.gz"
    write_nifti(tmp_path / "spacing.nii.gz", np.ones((20, 20, 6), np.uint8), np.diag([1.5, 1.5, 9.0, 1.0]))
    with pytest.raises(InputError, match=r"voxels of 1.5 x 1.5 x 9 mm, expected 1.5 x 1.5 x 8 mm as in"):
        measure_ejection(diastole, tmp_path / "spacing.nii.gz")
    values = np.random.default_rng(0).integers(0, 4000, (20, 20, 6)).astype(np.int16)
    write_nifti(tmp_path / "image.nii.gz", values, AFFINE)
    with pytest.raises(InputError, match="is it an image"):
        measure_ejection(diastole, tmp_path / "image.nii.gz")
    write_nifti(tmp_path / "unsure.nii.gz", np.full((20, 20, 6), 255, np.uint8), AFFINE)
    with pytest.raises(InputError, match="unsure"):
        measure_ejection(diastole, tmp_path / "unsure.nii.gz")
    Image.fromarray(np.full((20, 20), 255, np.uint8)).save(tmp_path / "mask.png")
    with pytest.raises(InputError, match="a picture has no volume"):
        measure_ejection(diastole, tmp_path / "mask.png")


def test_the_command(phases, capsys):
    paths = [str(phases / f"{name}_with_wall.nii.gz") for name in ("diastole", "systole")]
    assert main(["ejection", *paths, "--label", "1"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == {
        "ejection_fraction_percent": 60.0,
        "end_diastole_ml": 7.2,
        "end_systole_ml": 2.88,
        "label": 1,
        "spacing_mm": [1.5, 1.5, 8.0],
    }
    assert "hold for voxels of 1.5 x 1.5 x 8 mm; the fraction does not depend on this size" in err
    assert main(["ejection", *paths]) == 2
    assert "choose the cavity's with --label 1" in capsys.readouterr().err
    assert main(["ejection", paths[0], "nowhere.nii.gz"]) == 2
    assert capsys.readouterr().err == "error: nowhere.nii.gz: no such file or folder\n"


@pytest.mark.shared
def test_the_ventricles_of_sunnybrook():
    """In the names HF is heart failure, HYP a thick wall, and N a healthy heart, in the dataset's groups."""
    folder = SHARED / "data" / "sunnybrook-lv" / "labels"
    if not folder.is_dir():
        pytest.skip(f"no data at {folder}; set SDSEG_SHARED")
    fractions: dict[str, list[float]] = {}
    patients = sorted({path.name.partition("_phase")[0] for path in folder.iterdir()})
    for patient in patients:
        first, second = sorted(folder.glob(f"{patient}_phase*"))
        try:
            ejection = measure_ejection(first, second)
        except InputError as error:
            assert "are the two phases exchanged" in str(error)
            ejection = measure_ejection(second, first)
        fractions.setdefault(patient.split("-")[1], []).append(ejection.fraction)
    assert len(patients) == 30 and all(5 < fraction < 85 for values in fractions.values() for fraction in values)
    assert np.mean(fractions["HF"]) < 40 < 55 < np.mean(fractions["N"])
