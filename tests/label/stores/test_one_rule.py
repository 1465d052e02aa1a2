"""The label server and the command see the same series, voxels and segments in one DICOM folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
import pytest

from sdseg_monai.io.dicom import choose_series, find_series, read_series, write_seg
from sdseg_monai.io.segments import Segment
from tests.io.dicom.comparing import assert_same_points, seg_in_space
from tests.io.dicom.series import OBLIQUE, REVERSED, edit, make_enhanced, make_series
from tests.label.datastore_process import DatastoreProcess, Refused
from tests.makers.label_server import needs_label_env
from tests.makers.volumes import load_nifti

pytestmark = needs_label_env
SEGMENTS = {  # as tests.datastore_process has them
    1: Segment("anterior", (0, 255, 0), ("10200004", "SCT", "Liver")),
    2: Segment("posterior", (0, 0, 255), None),
}


def empty_uids(files: list[Path]) -> None:
    for file in files:
        edit(file, StudyInstanceUID="", SeriesInstanceUID="", SOPInstanceUID="", SOPClassUID="")


def spoil_uids(files: list[Path]) -> None:
    for file in files:
        edit(file, StudyInstanceUID="none", SeriesInstanceUID="../../etc/passwd")


def share_uid(files: list[Path]) -> None:
    shutil.copy(files[0], files[0].with_name("copy.dcm"))
    uid = pydicom.dcmread(files[0]).SOPInstanceUID
    for file in [*files, files[0].with_name("copy.dcm")]:
        edit(file, SOPInstanceUID=uid)


@pytest.mark.parametrize("change", [empty_uids, spoil_uids, share_uid])
def test_one_series_of_one_name(store, tmp_path, change):
    change(make_series(tmp_path / "dicom/deep/series"))
    (series,) = find_series(tmp_path / "dicom")
    store("open", tmp_path / "dicom", tmp_path / "cache")
    assert store("list_images") == [series.uid]
    image = load_nifti(store("get_image_uri", series.uid))
    volume = read_series(series)
    np.testing.assert_array_equal(np.asarray(image.dataobj), volume.array)
    np.testing.assert_allclose(image.affine, volume.affine, atol=1e-5)
    (moved,) = find_series((tmp_path / "dicom").rename(tmp_path / "moved"))
    assert moved.uid == series.uid


def test_what_is_left_out_is_logged(store, tmp_path):
    files = make_series(tmp_path / "dicom")
    files[-1].write_bytes(files[-1].read_bytes()[:400])
    store("open", tmp_path / "dicom", tmp_path / "cache")
    (warning,) = choose_series(tmp_path / "dicom").warnings
    assert warning.text in store.warnings
    store("list_images")
    assert not store.warnings, "once"


@pytest.mark.parametrize("matrix", [OBLIQUE, REVERSED], ids=["oblique", "reversed"])
def test_one_seg_of_one_mask(store, tmp_path, matrix):
    files = make_series(tmp_path / "dicom", matrix)
    series = choose_series(files[0].parent)
    store("open", tmp_path / "dicom", tmp_path / "cache")
    assert_same_segs(store, series, tmp_path)


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5], [3, 0, 5, 1, 4, 2]])
def test_a_multi_frame_file(store, tmp_path, order):
    make_enhanced(make_series(tmp_path / "slices"), tmp_path / "dicom/enhanced.dcm", order)
    series = choose_series(tmp_path / "dicom")
    store("open", tmp_path / "dicom", tmp_path / "cache")
    image = load_nifti(store("get_image_uri", series.uid))
    np.testing.assert_array_equal(np.asarray(image.dataobj), read_series(series).array)
    assert_same_segs(store, series, tmp_path)


def test_frames_that_form_no_box_are_refused(store, tmp_path):
    make_enhanced(make_series(tmp_path / "slices"), tmp_path / "dicom/enhanced.dcm", [0, 1, 2, 3, 4, 4])
    store("open", tmp_path / "dicom", tmp_path / "cache")
    with pytest.raises(Refused, match="do not form a regular grid"):
        store("get_image_uri", choose_series(tmp_path / "dicom").uid)


def assert_same_segs(store: DatastoreProcess, series, folder: Path) -> None:
    """Have the server and the command write one mask alike, but for who made it."""
    image = load_nifti(store("get_image_uri", series.uid))
    labels = np.zeros(image.shape, np.uint8)
    labels[2:5, 3:7, 1:4], labels[6:9, 1:5, 3:5] = 1, 2
    nib.save(nib.Nifti1Image(labels, image.affine), folder / "label.nii.gz")
    store("save_label", series.uid, folder / "label.nii.gz", "final", {})
    (path,) = (folder / "dicom/labels/final").glob("*.dcm")
    write_seg(folder / "command.dcm", labels, series, SEGMENTS)
    assert_same_points(seg_in_space(path), seg_in_space(folder / "command.dcm"))
    server, command = hd.seg.segread(path), hd.seg.segread(folder / "command.dcm")
    for keyword in ("SeriesDescription", "Manufacturer", "StudyInstanceUID", "PatientName", "ReferencedSeriesSequence"):
        assert server[keyword].value == command[keyword].value
    for ours, theirs in zip(server.SegmentSequence, command.SegmentSequence, strict=True):
        for keyword in ("SegmentLabel", "RecommendedDisplayCIELabValue", "SegmentedPropertyTypeCodeSequence"):
            assert ours[keyword].value == theirs[keyword].value
        assert (ours.SegmentAlgorithmType, theirs.SegmentAlgorithmType) == ("SEMIAUTOMATIC", "AUTOMATIC")
    (case,) = store("datalist")
    np.testing.assert_array_equal(np.asarray(load_nifti(case["label"]).dataobj), labels)
