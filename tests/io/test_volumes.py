import resource
import signal

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdseg_monai.errors import InputError, find_input_error
from sdseg_monai.io.files import check_folder, write_atomically
from sdseg_monai.io.volumes import check_same_grid, list_volumes, read_volume, write_volume
from tests.makers.volumes import OBLIQUE, bad_files, load_nifti, write_case, write_nifti


def test_every_bad_file_is_refused_with_its_name_and_what_was_found(tmp_path):
    count = 0
    for path, message in bad_files(tmp_path):
        with pytest.raises(InputError, match=message) as caught:
            read_volume(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
        count += 1
    assert count == 24


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
    write_nifti(reference, array, affine)
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
    source, result = load_nifti(tmp_path / "in.nii.gz"), load_nifti(tmp_path / "out.nii.gz")
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
