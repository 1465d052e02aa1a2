"""NRRD: read strictly, by one parser; never another file's voxels, never mirrored."""

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from sdseg_monai.errors import InputError
from sdseg_monai.io.formats.itk import itk_affine
from sdseg_monai.io.volumes import read_volume, write_volume
from tests.makers.headers import PLACE, SPACES, nrrd_fields, ramp, write_nrrd

SLICER = 'measurement frame: (1,0,0) (0,1,0) (0,0,1)\nspace units: "mm" "mm" "mm"\n'
SLICER += "DICOM.Modality:=MR\nSegment0_Name:=a: b=c\n"


@pytest.mark.parametrize("space", SPACES)
def test_every_space_of_the_patient_is_read_and_none_is_mirrored(tmp_path, space):
    path = write_nrrd(tmp_path / "image.nrrd", ramp(), nrrd_fields(ramp(), space=space))
    volume = read_volume(path)
    np.testing.assert_allclose(volume.affine, PLACE, atol=1e-6)
    np.testing.assert_array_equal(volume.array, ramp())
    assert volume.warnings == ()
    np.testing.assert_allclose(itk_affine(sitk.ReadImage(str(path))), PLACE, atol=1e-6)


@pytest.mark.parametrize("encoding", ["raw", "gzip", "GZip", "bzip2", "ascii", "hex"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("dtype", ["<u2", ">u2", "<i8", ">f8", "|u1"])
def test_every_encoding_type_and_line_end_is_read(tmp_path, encoding, line_end, dtype):
    array = ramp(dtype=dtype)
    fields = nrrd_fields(array) | {"encoding": encoding}
    path = write_nrrd(tmp_path / "image.NRRD", array, fields, SLICER.replace("\n", line_end), line_end)
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.array, array)
    np.testing.assert_allclose(volume.affine, PLACE, atol=1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {"space": "scanner-xyz"},
        {"space": "3D-right-handed"},
        {"space": None},
        {"space": None, "space directions": None, "space origin": None, "spacings": "1 2 1.5"},
    ],
)
def test_a_space_that_says_nothing_of_left_and_right_is_warned_of(tmp_path, changes):
    dimension = {"space dimension": "3"} if changes == {"space": None} else {}
    path = write_nrrd(tmp_path / "image.nrrd", ramp(), dimension | nrrd_fields(ramp()) | changes)
    volume = read_volume(path)
    assert [warning.kind for warning in volume.warnings] == ["geometry"]
    assert "orientation is a guess" in volume.warnings[0].text and "left and right" in volume.warnings[0].text
    np.testing.assert_allclose(volume.affine, itk_affine(sitk.ReadImage(str(path))))  # masks lie where viewers show it


def test_a_position_that_is_not_said_is_warned_of(tmp_path):
    volume = read_volume(write_nrrd(tmp_path / "image.nrrd", ramp(), nrrd_fields(ramp()) | {"space origin": None}))
    assert ["position is a guess" in warning.text for warning in volume.warnings] == [True]
    np.testing.assert_allclose(volume.affine[:3], np.pad(PLACE[:3, :3], ((0, 0), (0, 1))), atol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "number"), [("|u1", "300"), ("|u1", "-1"), ("<i2", "1.5"), ("<i2", "40000"), ("<u2", "nan")]
)
def test_a_number_in_digits_that_its_type_cannot_have_is_refused(tmp_path, dtype, number):
    array = ramp(dtype=dtype)
    path = write_nrrd(tmp_path / "image.nrrd", array, nrrd_fields(array) | {"encoding": "ascii"})
    head, _, digits = path.read_bytes().partition(b"\n\n")
    path.write_bytes(head + b"\n\n" + b" ".join([number.encode(), *digits.split()[1:]]))
    with pytest.raises(InputError, match=f"the number {number}, expected voxels of type {np.dtype(dtype).name}"):
        read_volume(path)


@pytest.mark.parametrize(("unit", "scale"), [("um", 1000), ("\u00b5m", 1000), ("cm", 0.1), ("m", 0.001)])
def test_units_are_converted_and_the_mask_lies_where_viewers_show_the_image(tmp_path, unit, scale):
    fields = nrrd_fields(ramp(dtype="<f4"), np.diag([scale, scale, scale, 1]) @ PLACE)
    fields["space units"] = f'"{unit}" "{unit}" "{unit}"'
    path = write_nrrd(tmp_path / "image.nrrd", ramp(dtype="<f4"), fields)
    volume = read_volume(path)
    np.testing.assert_allclose(volume.affine, PLACE, rtol=1e-6)
    assert "unit is not mm" in volume.warnings[0].text
    write_volume(tmp_path / "mask.nrrd", ramp(dtype="u1"), path)
    np.testing.assert_allclose(
        itk_affine(sitk.ReadImage(str(tmp_path / "mask.nrrd"))), itk_affine(sitk.ReadImage(str(path))), rtol=1e-6
    )


def four_axes(layers):
    array = np.stack([ramp() + layer for layer in range(layers)])
    fields = nrrd_fields(ramp())
    fields |= {"dimension": "4", "sizes": f"{layers} 4 5 6", "kinds": "list domain domain domain"}
    return array, fields | {"space directions": f"none {fields['space directions']}"}


def test_one_layer_is_read_and_several_are_refused(tmp_path):
    volume = read_volume(write_nrrd(tmp_path / "one.nrrd", *four_axes(1)))
    np.testing.assert_array_equal(volume.array, ramp())
    np.testing.assert_allclose(volume.affine, PLACE, atol=1e-6)
    with pytest.raises(InputError, match="2 values per voxel along axis 0"):
        read_volume(write_nrrd(tmp_path / "two.nrrd", *four_axes(2)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data file": "other.raw"}, "in another file"),
        ({"DataFile": "other.raw"}, "in another file"),
        ({"datafile": "LIST"}, "in another file"),
        ({"byte skip": "4"}, "bytes between header and voxels"),
        ({"byteskip": "-1"}, "bytes between header and voxels"),
        ({"Line Skip": "1"}, "the field 'line skip'|bytes between header and voxels"),
        ({"type": "block"}, "voxels of type 'block'"),
        ({"type": "half"}, "voxels of type 'half'"),
        ({"encoding": "zrl"}, "the encoding 'zrl'"),
        ({"endian": None}, "'endian'"),
        ({"endian": "middle"}, "'endian' 'middle'"),
        ({"space": "3D-left-handed"}, "the space '3d-left-handed'"),
        ({"space": "left-posterior-inferior"}, "the space 'left-posterior-inferior'"),
        ({"space": "left-posterior-superior-time"}, "the space"),
        ({"space dimension": "3"}, "expected one of the two"),
        ({"spacings": "1 1 1"}, "expected one of the two"),
        ({"space directions": None}, "how large its voxels are"),
        ({"space directions": "(1,0,0) (0,1,0)"}, "2 vectors in 'space directions'"),
        ({"space directions": "(1,0,0) (0,1,0) (0,0,nan)"}, "header is damaged"),
        ({"space directions": "(1,0,0) (0,1,0) (0,0"}, "header is damaged"),
        ({"space directions": "(1,0,0) (2,0,0) (0,0,1)"}, "singular"),
        ({"space origin": "(0,0)"}, "header is damaged"),
        ({"space units": '"furlong" "mm" "mm"'}, "space units"),
        ({"kinds": "RGB-color domain domain"}, "4 values per voxel"),
        ({"sizes": "4 5"}, "header is damaged"),
        ({"sizes": "4 5 -6"}, "header is damaged"),
        ({"sizes": "4 5 7"}, "truncated or damaged"),
        ({"sizes": "4 5 5"}, "truncated or damaged"),
        ({"old min": "0"}, "voxels that stand for other values"),
        ({"axis mins": "0 0 0"}, "outside any space"),
        ({"spaec": "RAS"}, "the field 'spaec' is unknown"),
        ({"encoding": None}, "no 'encoding'"),
        ({"content": "a\rdata file: /etc/passwd"}, "control character"),
    ],
)
def test_what_would_change_the_meaning_is_refused_by_name(tmp_path, changes, message):
    (tmp_path / "other.raw").write_bytes(ramp().tobytes())
    path = write_nrrd(tmp_path / "image.nrrd", ramp(), nrrd_fields(ramp()) | changes)
    with pytest.raises(InputError, match=message) as caught:
        read_volume(path)
    assert str(path) in str(caught.value) and len(str(caught.value)) < 700


def test_a_field_given_twice_is_refused(tmp_path):
    path = write_nrrd(tmp_path / "image.nrrd", ramp(), nrrd_fields(ramp()), extra="Encoding: gzip\n")
    with pytest.raises(InputError, match="'encoding' is given twice"):
        read_volume(path)


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"])
@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
@pytest.mark.parametrize("compress", [True, False])
def test_what_itk_writes_is_read(tmp_path, dtype, suffix, compress):
    image = sitk.GetImageFromArray(np.ascontiguousarray(ramp(dtype=dtype).T))
    image.SetOrigin((-37.5, 21.25, 12.75))
    image.SetSpacing((1, 1.5, 2))
    image.SetDirection((1, 0, 0, 0, 0, -1, 0, 1, 0))
    image.SetMetaData("0008|0060", "MR")
    path = tmp_path / f"image{suffix}"
    sitk.WriteImage(image, str(path), compress)
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.array, ramp())
    np.testing.assert_allclose(volume.affine, PLACE, atol=1e-6)
    assert volume.warnings == ()


junk = st.one_of(
    st.sampled_from(
        ["data file: other.raw", "datafile: other.raw", "data file:other.raw", "DATA FILE : other.raw", "x:=y", "# x"]
    ),
    st.sampled_from(["byte skip: 2", "line skip: 1", "encoding: hex", "type: uchar", "space: RAS", "sizes: 5 4 6"]),
    st.text(st.characters(codec="utf-8"), max_size=30),
)


@settings(deadline=None, max_examples=150)
@given(lines=st.lists(junk, max_size=4), line=st.integers(0, 12), line_end=st.sampled_from(["\n", "\r\n", "\r"]))
def test_junk_in_a_header_never_gives_other_voxels(tmp_path_factory, lines, line, line_end):
    folder = tmp_path_factory.mktemp("junk")
    (folder / "other.raw").write_bytes((ramp() + 1000).tobytes())
    head, voxels = write_nrrd(folder / "good.nrrd", ramp(), nrrd_fields(ramp())).read_bytes().split(b"\n\n", 1)
    head_lines = head.decode().split("\n")
    head_lines[line:line] = [line_end.join(lines)]
    path = folder / "image.nrrd"
    path.write_bytes("\n".join(head_lines).encode() + b"\n\n" + voxels)
    try:
        volume = read_volume(path)
    except InputError:
        return
    np.testing.assert_array_equal(volume.array, ramp())
    assert nib.aff2axcodes(volume.affine) == nib.aff2axcodes(PLACE)
