import gzip
import os
import resource
import signal
import struct

import nibabel as nib
import numpy as np
import psutil
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from sdseg_monai.errors import InputError, find_input_error
from sdseg_monai.io.files import check_folder, write_atomically
from sdseg_monai.io.volumes import PEAK_BYTES, check_same_grid, list_volumes, read_volume, write_volume
from tests.makers.volumes import OBLIQUE, write_case


def bad_files(folder):
    """Write one file of each kind that must be refused; yields (path, what the message must say)."""

    def save(name, array, affine=OBLIQUE):
        nib.save(nib.Nifti1Image(array, affine), folder / name)
        return folder / name

    good = save("good.nii.gz", np.random.default_rng(0).normal(0, 100, (20, 20, 20)).astype(np.float32))
    yield folder / "missing.nii.gz", "no such file"
    (folder / "truncated.nii.gz").write_bytes(good.read_bytes()[:9000])
    yield folder / "truncated.nii.gz", "truncated or damaged"
    (folder / "text.nii.gz").write_text("this is no volume\n" * 50)
    yield folder / "text.nii.gz", "not a readable NIfTI"
    (folder / "empty.nii.gz").write_bytes(b"")
    yield folder / "empty.nii.gz", "empty"
    yield save("flat.nii.gz", np.zeros((8, 8), np.float32)), "2-D"
    yield save("time.nii.gz", np.zeros((8, 8, 8, 2), np.float32)), "4-D"
    yield save("zero.nii.gz", np.zeros((8, 0, 8), np.float32)), "empty axis"
    header = bytearray(gzip.decompress(good.read_bytes()))
    struct.pack_into("<4h", header, 40, 3, 30000, 30000, 30000)
    (folder / "huge.nii.gz").write_bytes(gzip.compress(bytes(header)))
    yield folder / "huge.nii.gz", "30000 x 30000 x 30000"
    (folder / "huge.nii").write_bytes(bytes(header))
    yield folder / "huge.nii", "30000 x 30000 x 30000"
    edge = int((psutil.virtual_memory().total / PEAK_BYTES) ** (1 / 3)) + 1  # as many zeros would pack well enough
    struct.pack_into("<4h", header, 40, 3, edge, edge, edge)
    (folder / "bomb.nii.gz").write_bytes(gzip.compress(bytes(header) + os.urandom(edge**3 // 100)))
    yield folder / "bomb.nii.gz", f"{edge} x {edge} x {edge} voxels"
    nan = np.zeros((4, 4, 4), np.float32)
    nan[0, 0, 0], nan[1, 1, 1] = np.nan, np.inf
    yield save("nan.nii.gz", nan), "2 of 64 voxels are NaN"
    singular = OBLIQUE.copy()
    singular[:, 2] = singular[:, 1]
    yield save("singular.nii.gz", np.zeros((4, 4, 4), np.float32), singular), "singular"
    yield save("colour.nii.gz", np.zeros((4, 4, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")])), "one real number"
    flipped = bytearray(good.read_bytes())
    flipped[len(flipped) // 2] ^= 4
    (folder / "flipped.nii.gz").write_bytes(flipped)
    yield folder / "flipped.nii.gz", "truncated or damaged"
    plain = bytearray(gzip.decompress(good.read_bytes()))
    struct.pack_into("<f", plain, 108, 0)
    (folder / "offset.nii").write_bytes(plain)
    yield folder / "offset.nii", "within the header"
    yield save("extreme.nii.gz", np.array([[[-3e38, 3e38]]], np.float32)), "3e\\+38"
    image = sitk.GetImageFromArray(np.random.default_rng(0).normal(size=(9, 9, 9)).astype(np.float32))
    for name in ("flipped.mha", "flipped.nrrd"):
        sitk.WriteImage(image, str(folder / name), True)
        data = bytearray((folder / name).read_bytes())
        data[-len(data) // 4] ^= 4
        (folder / name).write_bytes(data)
        yield folder / name, "truncated or damaged"
    for name, value in (("elsewhere.mha", "other.raw"), ("dimensions.mha", "LOCAL")):
        dimensions = -3 if name == "dimensions.mha" else 3
        text = f"ObjectType = Image\nNDims = {dimensions}\nDimSize = 2 2 2\nElementType = MET_FLOAT\n"
        (folder / name).write_bytes(f"{text}ElementDataFile = {value}\n".encode() + bytes(32))
        yield folder / name, "in another file" if dimensions == 3 else "header is damaged"
    header = "NRRD0004\ntype: float\ndimension: 3\nspace: left-posterior-superior\nsizes: 2 2 2\nencoding: raw\n"
    header += "space directions: (1,0,0) (2,0,0) (0,0,1)\nspace origin: (0,0,0)\nendian: little\n\n"
    (folder / "singular.nrrd").write_bytes(header.encode() + bytes(32))
    yield folder / "singular.nrrd", "singular"
    (folder / "text.nrrd").write_text("no nrrd")
    yield folder / "text.nrrd", r"not a readable \.nrrd"
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 4, 4), np.float32)), str(folder / "good.mha"))
    (folder / "truncated.mha").write_bytes((folder / "good.mha").read_bytes()[:-100])
    yield folder / "truncated.mha", "truncated or damaged"
    yield folder / "image.png", "unknown kind of file"


def test_every_bad_file_is_refused_with_its_name_and_what_was_found(tmp_path):
    seen = 0
    for path, message in bad_files(tmp_path):
        with pytest.raises(InputError, match=message) as caught:
            read_volume(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
        seen += 1
    assert seen == 24


@settings(deadline=None, max_examples=20)
@given(
    axes=st.permutations([0, 1, 2]),
    flips=st.tuples(*[st.sampled_from([-1, 1])] * 3),
    origin=st.tuples(*[st.floats(-500, 500, width=16)] * 3),
    spacing=st.tuples(*[st.floats(0.25, 5, width=16)] * 3),
    suffix=st.sampled_from([".nii.gz", ".nii", ".nrrd", ".mha"]),
    target=st.sampled_from([".nii.gz", ".nrrd", ".mha"]),
)
def test_geometry_survives_every_pair_of_formats(tmp_path_factory, axes, flips, origin, spacing, suffix, target):
    folder = tmp_path_factory.mktemp("io")
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[list(axes)] * flips * np.array(spacing)
    affine[:3, 3] = origin
    array = np.random.default_rng(0).normal(size=(4, 5, 6)).astype(np.float32)
    reference = folder / "first.nii.gz"
    nib.save(nib.Nifti1Image(array, affine), reference)
    first, second = folder / f"image{suffix}", folder / f"copy{target}"
    write_volume(first, array, reference)
    write_volume(second, array, first)
    for path in (first, second):
        volume = read_volume(path)
        np.testing.assert_array_equal(volume.array, array)
        np.testing.assert_allclose(volume.affine, affine, atol=1e-3)


@pytest.mark.parametrize("codes", [(0, 1), (1, 0), (2, 4), (0, 0)])
def test_nifti_header_geometry_is_kept(tmp_path, codes):
    image = nib.Nifti1Image(np.zeros((4, 5, 6), np.int16), np.diag([1.5, 2, 3, 1]))
    image.set_sform(image.affine if codes[0] else None, code=codes[0])
    image.set_qform(image.affine if codes[1] else None, code=codes[1])
    image.header.set_slope_inter(2, 5)
    image.header["descrip"] = b"scan"
    nib.save(image, tmp_path / "in.nii.gz")
    mask = np.zeros((4, 5, 6), np.uint8)
    mask[1] = 1
    write_volume(tmp_path / "out.nii.gz", mask, tmp_path / "in.nii.gz")
    source, result = nib.load(tmp_path / "in.nii.gz"), nib.load(tmp_path / "out.nii.gz")
    for name in ("sform_code", "qform_code"):
        assert result.header[name] == source.header[name]
    np.testing.assert_array_equal(result.affine, source.affine)
    np.testing.assert_array_equal(result.header.get_zooms(), source.header.get_zooms())
    assert result.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(result.dataobj), mask)


def test_a_failed_write_leaves_nothing_and_keeps_what_was_there(tmp_path):
    path = tmp_path / "result.txt"
    path.write_text("old")

    def fail(temporary):
        temporary.write_text("half")
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        write_atomically(path, fail)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_a_full_disk_leaves_no_half_written_result(tmp_path, suffix):
    write_case(tmp_path, "a")
    array = np.random.default_rng(0).normal(size=(18, 20, 6)).astype(np.float32)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limit[1]))
    try:
        with pytest.raises(InputError, match="cannot be written"):
            write_volume(tmp_path / f"out{suffix}", array, tmp_path / "images" / "a.nii.gz")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    assert {p.name for p in tmp_path.iterdir()} == {"images", "labels"}


def test_a_folder_that_cannot_be_written_is_an_input_error(tmp_path):
    (tmp_path / "file").write_text("")
    for call in (
        lambda: check_folder(tmp_path / "file" / "folder"),
        lambda: write_atomically(tmp_path / "file" / "x", lambda t: None),
    ):
        with pytest.raises(InputError, match="cannot write here"):
            call()
    check_folder(tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []


def test_grids_that_differ(tmp_path):
    write_case(tmp_path, "a")
    write_case(tmp_path, "b", shape=(18, 20, 7))
    shifted = OBLIQUE.copy()
    shifted[0, 3] += 0.5
    write_case(tmp_path, "c", affine=shifted)
    a, b, c = (tmp_path / "images" / f"{name}.nii.gz" for name in "abc")
    check_same_grid(a, read_volume(a), a, read_volume(a))
    with pytest.raises(InputError, match=r"shape \(18, 20, 7\), expected \(18, 20, 6\)"):
        check_same_grid(a, read_volume(a), b, read_volume(b))
    with pytest.raises(InputError, match=r"up to 0\.5 mm"):
        check_same_grid(a, read_volume(a), c, read_volume(c))


def test_list_volumes(tmp_path):
    with pytest.raises(InputError, match="no volumes"):
        list_volumes(tmp_path)
    for name in ("b.nii.gz", "a.mha", ".hidden.nii.gz", "notes.txt"):
        (tmp_path / name).write_text("")
    assert [p.rsplit("/", 1)[1] for p in list_volumes(tmp_path)] == ["a.mha", "b.nii.gz"]
    with pytest.raises(InputError, match="no folder"):
        list_volumes(tmp_path / "nowhere")


def test_input_error_is_found_under_what_was_raised_from_it():
    try:
        try:
            raise InputError("the file")
        except InputError as error:
            raise RuntimeError("applying transform") from error
    except RuntimeError as error:
        assert str(find_input_error(error)) == "the file"
    assert find_input_error(RuntimeError()) is None
