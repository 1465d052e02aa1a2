"""NIfTI headers that programs place differently: what is warned of, and that each viewer lays the mask on the image."""

import logging
import os
import struct
import tempfile
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sdseg_monai.errors import InputError
from sdseg_monai.evaluation import evaluate_case
from sdseg_monai.inference.results import SegmentationResult
from sdseg_monai.io.formats.itk import itk_affine
from sdseg_monai.io.sources import open_source
from sdseg_monai.io.volumes import check_same_grid, read_volume, voxel_millilitres, write_volume
from sdseg_monai.transforms import LoadVolumed
from tests.makers.headers import PLACE, nifti_bytes, ramp
from tests.makers.volumes import OBLIQUE, load_nifti

MIRRORED = np.diag([-1.0, 1, 1, 1]) @ PLACE
MOVED = PLACE + np.array([[0, 0, 0, 11], [0, 0, 0, 0], [0, 0, 0, -6], [0, 0, 0, 0]])


def write_forms(path, sform, qform, **fields):
    """Write a volume of which sform and qform are these affines, or, where one is None, not there."""
    image = nib.Nifti1Image(ramp(), None)
    image.header.set_zooms((1, 1.5, 2))
    image.set_sform(sform, 0 if sform is None else 2)
    image.set_qform(qform, 0 if qform is None else 1)
    for name, value in fields.items():
        image.header[name] = value
    nib.save(image, path)
    return path


@contextmanager
def silent_stderr():
    """Send what C++ writes to stderr, past Python, to a file."""
    with tempfile.NamedTemporaryFile() as file:
        old = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield Path(file.name)
        finally:
            os.dup2(old, 2)
            os.close(old)


def itk_place(path):
    return itk_affine(sitk.ReadImage(str(path)))


@pytest.mark.parametrize(
    ("sform", "qform", "words"),
    [
        (PLACE, MOVED, ["sform", "qform", "orientation", "up to 11 mm"]),
        (PLACE, MIRRORED, ["sform", "qform", "orientation", "left and right", "mirror"]),
        (None, None, ["neither sform nor qform", "orientation is a guess", "left and right"]),
        (PLACE, PLACE, None),
        (PLACE, None, None),
        (None, PLACE, None),
    ],
)
def test_a_header_that_programs_place_differently_is_warned_of(tmp_path, sform, qform, words):
    path = write_forms(tmp_path / "image.nii.gz", sform, qform)
    volume = read_volume(path)
    np.testing.assert_allclose(volume.affine, load_nifti(path).affine)  # nibabel's: the standard's order
    assert [warning.kind for warning in volume.warnings] == ["geometry"] * (
        0 if words is None else 2 if sform is None else 1
    )
    text = "; ".join(warning.text for warning in volume.warnings)
    assert all(word in text for word in words or [])
    assert (volume.itk_affine is None) == (words is None)
    np.testing.assert_allclose(volume.geometry.viewer_affine, itk_place(path), atol=1e-4)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
@pytest.mark.parametrize(
    ("sform", "qform"), [(PLACE, MOVED), (PLACE, MIRRORED), (None, None), (None, MIRRORED), (OBLIQUE, PLACE)]
)
def test_a_mask_lies_where_each_program_reads_the_image(tmp_path, sform, qform, suffix):
    """By ITK in every format; by nibabel in its own. Every mask is on the image's grid for this package."""
    image = write_forms(tmp_path / "image.nii.gz", sform, qform)
    mask = tmp_path / f"mask{suffix}"
    labels = (ramp() % 3).astype(np.uint8)
    write_volume(mask, labels, image)
    is_refused = sform is OBLIQUE  # ITK does not read it: its axes are not at right angles
    if not is_refused:
        np.testing.assert_allclose(itk_place(mask), itk_place(image), atol=1e-4)
    if suffix.startswith(".nii"):
        source, result = load_nifti(image), load_nifti(mask)
        np.testing.assert_array_equal(result.affine, source.affine)
        for name in ("qform_code", "sform_code", "pixdim", "srow_x", "quatern_b", "qoffset_x", "xyzt_units"):
            np.testing.assert_array_equal(result.header[name], source.header[name])
    volume = read_volume(mask)
    np.testing.assert_array_equal(volume.array, labels)
    check_same_grid(image, read_volume(image), mask, volume)


@pytest.mark.parametrize("codes", [(1, 1), (0, 1), (0, 0)])
@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd"])
def test_a_negative_pixdim_is_kept_for_the_programs_that_heed_it(tmp_path, codes, suffix, capfd):
    image = tmp_path / "image.nii"
    sform_code, qform_code = codes
    pixdim = (1, -1, 1.5, 2, 0, 0, 0, 0)
    image.write_bytes(nifti_bytes(ramp(), pixdim=pixdim, sform_code=sform_code, qform_code=qform_code))
    volume = read_volume(image)
    text = "; ".join(warning.text for warning in volume.warnings)
    assert "pixdim" in text and "left and right" in text
    assert capfd.readouterr().err == ""
    write_volume(tmp_path / f"mask{suffix}", ramp(dtype="u1"), image)
    np.testing.assert_allclose(itk_place(tmp_path / f"mask{suffix}"), itk_place(image), atol=1e-4)
    np.testing.assert_array_equal(read_volume(tmp_path / f"mask{suffix}").array, ramp())
    if suffix != ".nrrd":
        np.testing.assert_allclose(read_volume(tmp_path / f"mask{suffix}").affine, volume.affine)


@pytest.mark.parametrize(("code", "scale"), [(3, 1000), (1, 0.001), (0, 1), (2, 1), (2 | 16, 1)])
def test_the_unit_is_converted_and_kept(tmp_path, code, scale):
    image = tmp_path / "image.nii"
    stored = np.diag([scale, scale, scale, 1]) @ PLACE
    image.write_bytes(nifti_bytes(ramp(), stored, xyzt_units=code))
    volume = read_volume(image)
    np.testing.assert_allclose(volume.affine, PLACE, rtol=1e-6)
    assert voxel_millilitres(volume.affine) == pytest.approx(0.003)  # 1 x 1.5 x 2 mm
    assert volume.warnings == ()  # ITK applies the unit too
    write_volume(tmp_path / "mask.nii.gz", ramp(dtype="u1"), image)
    mask = load_nifti(tmp_path / "mask.nii.gz")
    assert mask.header["xyzt_units"] == code
    np.testing.assert_allclose(mask.affine, load_nifti(image).affine)
    write_volume(tmp_path / "mask.nrrd", ramp(dtype="u1"), image)
    np.testing.assert_allclose(read_volume(tmp_path / "mask.nrrd").affine, PLACE, rtol=1e-6)


def test_an_image_in_memory_has_its_unit_and_its_warnings_too():
    image = nib.Nifti1Image.from_bytes(nifti_bytes(ramp(), np.diag([1000, 1000, 1000, 1]) @ PLACE, xyzt_units=3))
    np.testing.assert_allclose(open_source(image).affine, PLACE, rtol=1e-6)
    guess = nib.Nifti1Image.from_bytes(nifti_bytes(ramp(), sform_code=0, qform_code=0))
    assert "neither sform nor qform" in open_source(guess).warnings[0].text
    assert open_source(nib.Nifti1Image(ramp(), PLACE)).warnings == ()


def test_volumes_and_distances_are_in_millimetres_whatever_the_unit(tmp_path):
    label, mask = np.zeros((30, 8, 8), np.uint8), np.zeros((30, 8, 8), np.uint8)
    label[2:6, 2:6, 2:6] = mask[10:14, 2:6, 2:6] = 1  # 8 voxels of 1 mm apart
    for name, array in (("label", label), ("mask", mask)):
        (tmp_path / f"{name}.nii").write_bytes(nifti_bytes(array, np.diag([1000.0, 1000, 1000, 1]), xyzt_units=3))
    assert evaluate_case(tmp_path / "mask.nii", tmp_path / "label.nii").hd95 == pytest.approx(8)
    affine = read_volume(tmp_path / "mask.nii").affine
    result = SegmentationResult(mask, {}, affine, {}, 2, tmp_path / "mask.nii")
    assert result.volumes == {"class 1": pytest.approx(0.064)}
    np.testing.assert_allclose(result.to_nifti().affine, load_nifti(tmp_path / "mask.nii").affine)


def test_image_and_label_of_different_programs_share_the_affine_of_the_image(tmp_path, caplog):
    image = write_forms(tmp_path / "image.nii.gz", PLACE, MIRRORED)
    label = tmp_path / "label.nrrd"
    write_volume(label, ramp(dtype="u1"), image)  # where Slicer shows the image
    warnings: list = []
    item = LoadVolumed(keys=["image", "label"])({"image": image, "label": label, "warnings": warnings})
    np.testing.assert_array_equal(item["label"].affine, item["image"].affine)
    assert [warning.kind for warning in warnings] == ["geometry"]
    with caplog.at_level(logging.WARNING):
        LoadVolumed(keys="image")({"image": image})
    assert "left and right" in caplog.text and str(image) in caplog.text


def test_a_mask_takes_over_nothing_but_the_place(tmp_path):
    fields: dict = {"descrip": b"Doe^Jane", "db_name": b"Doe", "aux_file": b"doe.txt", "intent_name": b"z of Doe"}
    image = tmp_path / "image.nii"
    image.write_bytes(nifti_bytes(ramp(), intent_code=1005, intent_p1=3.5, **fields))
    write_volume(tmp_path / "mask.nii", ramp(dtype="u1"), image)
    header = load_nifti(tmp_path / "mask.nii").header
    assert header["intent_code"] == 0 and header["intent_p1"] == 0
    assert b"oe" not in (tmp_path / "mask.nii").read_bytes()[:352]


@pytest.mark.parametrize("shape", [(4, 5, 6, 1), (4, 5, 6, 1, 1)])
def test_axes_of_one_after_the_third_are_left_out(tmp_path, shape):
    path = tmp_path / "image.nii.gz"
    nib.save(nib.Nifti1Image(ramp().reshape(shape), PLACE), path)
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.array, ramp())
    write_volume(tmp_path / "mask.nii.gz", ramp(dtype="u1"), path)
    mask = load_nifti(tmp_path / "mask.nii.gz")
    assert mask.shape == (4, 5, 6)
    np.testing.assert_array_equal(mask.affine, load_nifti(path).affine)
    assert open_source(load_nifti(path)).array.shape == (4, 5, 6)


@pytest.mark.parametrize("shape", [(4, 5, 1), (1, 5, 6), (4, 1, 6), (1, 1, 1)])
def test_a_single_slice_lies_in_one_place_for_both(tmp_path, shape):
    path = tmp_path / "image.nii.gz"
    nib.save(nib.Nifti1Image(ramp(shape), PLACE), path)
    assert read_volume(path).warnings == ()


@pytest.mark.parametrize("image_class", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", ["i1", "u2", "i4", "i8", "f4", "f8"])
def test_voxels_are_those_that_nibabel_reads(tmp_path, image_class, order, dtype):
    header = image_class.header_class(endianness=order)
    header.set_data_dtype(order + dtype)
    image = image_class(ramp(dtype=order + dtype), PLACE, header)
    image.header.set_slope_inter(0.37, -3)
    nib.save(image, tmp_path / "image.nii.gz")
    stored = image_class.from_filename(tmp_path / "image.nii.gz")
    volume = read_volume(tmp_path / "image.nii.gz")
    np.testing.assert_array_equal(volume.array, np.asarray(stored.dataobj, dtype=np.float32))
    np.testing.assert_array_equal(volume.affine, stored.affine)
    assert volume.warnings == ()


odd = st.sampled_from([0.0, -1.0, 1.0, 2.0, np.nan, np.inf, 1e38, -1e38, 1e-38])


@example(numbers={76: 0.0, 80: 0.0, 84: 0.0, 88: 0.0, 284: -1.0, 304: 1e-38}, codes=(1, 0), unit=1)  # edges of 1e-38
@settings(deadline=None, max_examples=60)
@given(
    numbers=st.dictionaries(st.sampled_from([76, 80, 84, 88, *range(256, 328, 4)]), odd, max_size=8),
    codes=st.tuples(st.integers(-2, 5), st.integers(-2, 5)),
    unit=st.integers(0, 255),
)
def test_any_place_in_a_header_is_refused_or_kept_and_nothing_is_printed(tmp_path_factory, numbers, codes, unit):
    folder = tmp_path_factory.mktemp("place")
    content = bytearray(nifti_bytes(ramp(), sform_code=codes[0], qform_code=codes[1], xyzt_units=unit))
    for start, number in numbers.items():
        struct.pack_into("<f", content, start, number)
    image = folder / "image.nii"
    image.write_bytes(content)
    with silent_stderr() as stderr:
        try:
            volume = read_volume(image)
        except InputError:
            return
        for suffix in (".nii.gz", ".nrrd"):
            mask = folder / f"mask{suffix}"
            write_volume(mask, ramp(dtype="u1"), image)
            check_same_grid(image, volume, mask, read_volume(mask))
        assert stderr.read_text() == ""
