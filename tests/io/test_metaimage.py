"""MetaImage: read strictly, by one parser; never another file's voxels, never garbage."""

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from sdseg_monai.errors import InputError
from sdseg_monai.io.formats.itk import itk_affine
from sdseg_monai.io.volumes import read_volume, write_volume
from tests.makers.headers import PLACE, mha_fields, ramp, write_mha


@pytest.mark.parametrize("size", [None, "true"])
@pytest.mark.parametrize("truth", ["True", "T", "true", "1"])
@pytest.mark.parametrize("dtype", ["<u2", ">u2", "<i8", ">f8", "|u1"])
def test_compressed_voxels_are_those_that_were_written(tmp_path, size, truth, dtype):
    array = ramp(dtype=dtype)
    fields = mha_fields(array)
    place = list(fields).index("CompressedData") + 1
    items = list((fields | {"CompressedData": truth}).items())
    if size is not None:
        items.insert(place, ("CompressedDataSize", "12"))
    volume = read_volume(write_mha(tmp_path / "image.mha", array, dict(items)))
    np.testing.assert_array_equal(volume.array, array)
    np.testing.assert_allclose(volume.affine, PLACE, atol=1e-6)
    assert volume.warnings == ()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("TransformMatrix", "Rotation"),
        ("TransformMatrix", "Orientation"),
        ("Offset", "Position"),
        ("Offset", "Origin"),
        ("BinaryDataByteOrderMSB", "ElementByteOrderMSB"),
        ("ElementSpacing", "ElementSize"),
    ],
)
def test_the_other_names_of_a_field_mean_the_same(tmp_path, old, new):
    array = ramp(dtype=">u2")
    fields = {new if name == old else name: value for name, value in mha_fields(array).items()}
    volume = read_volume(write_mha(tmp_path / "image.mha", array, fields, line_end="\r\n"))
    np.testing.assert_array_equal(volume.array, array)
    np.testing.assert_allclose(volume.affine, PLACE, atol=1e-6)


def test_the_distance_of_voxels_counts_and_not_their_size(tmp_path):
    volume = read_volume(write_mha(tmp_path / "image.mha", ramp(), {"ElementSize": "9 9 9"} | mha_fields(ramp())))
    np.testing.assert_allclose(volume.affine, PLACE, atol=1e-6)


def test_text_and_a_fourth_axis_of_one_are_read(tmp_path):
    text = mha_fields(ramp()) | {"BinaryData": "False"}
    np.testing.assert_array_equal(read_volume(write_mha(tmp_path / "text.mha", ramp(), text)).array, ramp())
    four = mha_fields(ramp()) | {"NDims": "4", "DimSize": "4 5 6 1", "ElementSpacing": "1 1.5 2 1"}
    four |= {"Offset": "-37.5 21.25 12.75 0", "TransformMatrix": "1 0 0 0 0 0 1 0 0 -1 0 0 0 0 0 1"}
    volume = read_volume(write_mha(tmp_path / "four.mha", ramp(), four))
    np.testing.assert_array_equal(volume.array, ramp())
    np.testing.assert_allclose(volume.affine, PLACE, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"TransformMatrix": None}, "orientation are a guess, left and right"),
        ({"Offset": None}, "position and orientation are a guess"),
        ({"AnatomicalOrientation": "LAS"}, "contradicts TransformMatrix"),
        ({"DistanceUnits": "um"}, "unit is not mm"),
    ],
)
def test_a_doubtful_place_is_warned_of(tmp_path, changes, message):
    path = write_mha(tmp_path / "image.mha", ramp(), changes | mha_fields(ramp()) | changes)
    # the voxels follow the last field, which stays the last
    volume = read_volume(path)
    assert message in volume.warnings[0].text
    np.testing.assert_array_equal(volume.array, ramp())
    write_volume(tmp_path / "mask.mha", ramp(dtype="u1"), path)
    np.testing.assert_allclose(
        itk_affine(sitk.ReadImage(str(tmp_path / "mask.mha"))), itk_affine(sitk.ReadImage(str(path))), atol=1e-5
    )


def test_the_unit_is_converted(tmp_path):
    fields = {"DistanceUnits": "um"} | mha_fields(ramp(), np.diag([1000, 1000, 1000, 1]) @ PLACE)
    np.testing.assert_allclose(read_volume(write_mha(tmp_path / "a.mha", ramp(), fields)).affine, PLACE, rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ElementDataFile": "other.raw"}, "in another file"),
        ({"ElementDataFile": "LIST"}, "in another file"),
        ({"ElementDataFile": "slice%03d.raw 1 6 1"}, "in another file"),
        ({"elementdatafile": "LOCAL"}, "spelt ElementDataFile"),
        ({"ElementDatafile": "other.raw"}, "spelt ElementDataFile"),
        ({"ElementNumberOfChannels": "3"}, "several values per voxel"),
        ({"HeaderSize": "-1"}, "bytes between header and voxels"),
        ({"HeaderSize": "100"}, "bytes between header and voxels"),
        ({"ElementToIntensityFunctionSlope": "2"}, "voxels that are scaled"),
        ({"ObjectType": "Mesh"}, "ObjectType = Mesh"),
        ({"CompressedData": "perhaps"}, "expected True or False"),
        ({"CompressedData": "True", "BinaryData": "False"}, "compressed text"),
        ({"ElementType": "MET_FLOAT_ARRAY"}, "ElementType"),
        ({"ElementSpacing": None}, "how large its voxels are"),
        ({"ElementSpacing": "1 0 1"}, "lengths above 0"),
        ({"ElementSpacing": "1 inf 1"}, "header is damaged"),
        ({"TransformMatrix": "1 0 0 0 1 0 0 0"}, "header is damaged"),
        ({"TransformMatrix": "2 0 0 0 2 0 0 0 2"}, "directions of length 1"),
        ({"TransformMatrix": "1 0 0 1 0 0 0 0 1"}, "singular"),
        ({"Position": "0 0 0"}, "Offset is given twice"),
        ({"DistanceUnits": "inch"}, "DistanceUnits"),
        ({"NDims": "4"}, "header is damaged"),
        ({"NDims": "2", "DimSize": "4 30"}, "2-D"),
        ({"DimSize": "4 5 7"}, "truncated or damaged"),
        ({"DimSize": "4 5 5"}, "truncated or damaged"),
        ({"Comment": "a\rElementDataFile = /etc/passwd"}, "control character"),
        ({"ElementDataFile : other.raw\nComment": "x"}, "expected NAME = VALUE"),
        ({"ElementDataFile: a": "LOCAL"}, "expected NAME = VALUE"),
    ],
)
def test_what_would_change_the_meaning_is_refused_by_name(tmp_path, changes, message):
    (tmp_path / "other.raw").write_bytes(ramp().tobytes())
    fields = mha_fields(ramp())
    last = fields.pop("ElementDataFile")
    path = write_mha(tmp_path / "image.mha", ramp(), fields | changes | {"ElementDataFile": last} | changes)
    with pytest.raises(InputError, match=message) as caught:
        read_volume(path)
    assert str(path) in str(caught.value) and len(str(caught.value)) < 700


@pytest.mark.parametrize("cut", [1, 20])
def test_compressed_voxels_that_are_cut_or_changed_are_refused(tmp_path, cut):
    path = write_mha(tmp_path / "image.mha", ramp(), mha_fields(ramp()) | {"CompressedData": "True"})
    content = path.read_bytes()
    for damaged in (content[:-cut], content[:-cut] + bytes([content[-cut] ^ 1]) + content[len(content) - cut + 1 :]):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="truncated or damaged"):
            read_volume(path)


junk = st.one_of(
    st.sampled_from(
        [
            *("ElementDataFile: other.raw", "ElementDataFile=other.raw", "elementdatafile = LOCAL", "Comment = x"),
            *("ElementDataFile = other.raw", "ElementDataFile other.raw", "HeaderSize = 4", "CompressedData = T"),
            *("ElementType = MET_UCHAR", "DimSize = 5 4 6", "TransformMatrix = 1 0 0 0 1 0 0 0 1", "NDims = 3"),
        ]
    ),
    st.text(st.characters(codec="utf-8"), max_size=30),
)


@settings(deadline=None, max_examples=150)
@given(lines=st.lists(junk, max_size=4), line=st.integers(0, 13), line_end=st.sampled_from(["\n", "\r\n", "\r"]))
def test_junk_in_a_header_never_gives_other_voxels(tmp_path_factory, lines, line, line_end):
    folder = tmp_path_factory.mktemp("junk")
    (folder / "other.raw").write_bytes((ramp() + 1000).tobytes())
    content = write_mha(folder / "good.mha", ramp(), mha_fields(ramp())).read_bytes()
    end = content.index(b"LOCAL\n") + 6
    head_lines = content[:end].decode().split("\n")
    head_lines[line:line] = [line_end.join(lines)]
    path = folder / "image.mha"
    path.write_bytes("\n".join(head_lines).encode() + content[end:])
    try:
        volume = read_volume(path)
    except InputError:
        return
    np.testing.assert_array_equal(volume.array, ramp())
    np.testing.assert_allclose(volume.affine, PLACE, atol=1e-6)
