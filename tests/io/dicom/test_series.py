"""DICOM series: which files belong to one, and the positions of its voxels."""

import random
import shutil

import numpy as np
import pydicom
import pytest
from pydicom.uid import BasicTextSRStorage, CTImageStorage, MediaStorageDirectoryStorage, generate_uid

from sdseg_monai.errors import InputError
from sdseg_monai.io.dicom import choose_series, find_series, has_dicom, read_series, write_seg
from tests.io.dicom.comparing import assert_same_volume, assert_valid
from tests.io.dicom.series import SEGMENTS, SHAPE, edit, make_enhanced, make_labels, make_series


class TestFinding:
    def test_series_by_study_and_number(self, tmp_path):
        study = generate_uid()
        for seed, number in enumerate((12, 3, None)):
            make_series(tmp_path / f"in/{seed}", seed=seed, SeriesNumber=number, StudyInstanceUID=study)
        assert [series.number for series in find_series(tmp_path / "in")] == [3, 12, None]
        assert {series.study_uid for series in find_series(tmp_path / "in")} == {study}
        assert [(entry.modality, entry.description, entry.frames) for entry in find_series(tmp_path / "in")] == [
            ("MR", "T1", SHAPE[2])
        ] * 3

    def test_files_by_content_wherever_they_lie(self, tmp_path):
        files = make_series(tmp_path / "in")
        for index, file in enumerate(files):
            (tmp_path / f"in/{index % 2}/deep").mkdir(parents=True, exist_ok=True)
            file.rename(tmp_path / f"in/{index % 2}/deep/IM{index}")
        shutil.copy(tmp_path / "in/0/deep/IM0", tmp_path / "in/copy.dcm")
        (tmp_path / "in/.hidden").mkdir()
        make_series(tmp_path / "in/.hidden/series", seed=1)
        (tmp_path / "in/notes.txt").write_text("DICM" * 9)
        series = choose_series(tmp_path / "in")
        assert len(series.files) == SHAPE[2]
        assert_same_volume(read_series(series), tmp_path / "volumes/volume_0.nii")

    def test_what_is_no_image_is_left_out(self, tmp_path, caplog):
        files = make_series(tmp_path / "in")
        series = choose_series(tmp_path / "in")
        write_seg(tmp_path / "in/seg.dcm", make_labels(read_series(series)), series, SEGMENTS)
        shutil.copy(files[0], tmp_path / "in/report.dcm")
        report = pydicom.dcmread(tmp_path / "in/report.dcm")
        report.SOPClassUID = report.file_meta.MediaStorageSOPClassUID = BasicTextSRStorage
        report.Modality, report.SeriesInstanceUID = "SR", generate_uid()
        report.save_as(tmp_path / "in/report.dcm")
        directory = pydicom.dcmread(files[0], stop_before_pixels=True)
        directory.SOPClassUID = directory.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
        directory.SOPInstanceUID = generate_uid()
        del directory.Rows
        directory.save_as(tmp_path / "in/DICOMDIR")
        assert choose_series(tmp_path / "in") == series
        assert not series.warnings and not caplog.messages

    def test_a_file_is_its_own_series(self, tmp_path):
        file = make_series(tmp_path / "in")[2]
        series = choose_series(file)
        assert series.files == (file,) and series.frames == 1
        assert read_series(series).array.shape == (*SHAPE[:2], 1)

    def test_has_dicom(self, tmp_path):
        (tmp_path / "in").mkdir()
        (tmp_path / "in/a.dcm").write_text("text")
        assert not has_dicom(tmp_path / "in")
        make_series(tmp_path / "in/deep/er")
        assert has_dicom(tmp_path / "in")

    def test_several_are_listed(self, tmp_path):
        for seed in range(2):
            make_series(tmp_path / f"in/{seed}", seed=seed, SeriesDescription=f"T{seed} \x1b[31m")
        first, second = find_series(tmp_path / "in")
        for uid in (None, "1.2.3"):
            with pytest.raises(InputError, match="series=UID") as caught:
                choose_series(tmp_path / "in", uid)
            for series in (first, second):
                assert f"{series.uid} (MR, 'T{series.description[1]} [31m', 6 slices)" in str(caught.value)
            assert str(caught.value).isprintable()
        assert choose_series(tmp_path / "in", second.uid) == second

    def test_emptied_uids(self, tmp_path):
        """Files of a folder are a series, whose made-up UID is its own, wherever the folder lies."""
        for seed in range(2):
            files = make_series(tmp_path / f"in/{seed}", seed=seed)
            for file in files:
                edit(file, StudyInstanceUID="", SeriesInstanceUID="", SOPInstanceUID="", SOPClassUID="")
        series_list = find_series(tmp_path / "in")
        assert [series.frames for series in series_list] == [SHAPE[2]] * 2
        assert len({uid for series in series_list for uid in (series.uid, series.study_uid)}) == 4
        (tmp_path / "in/0").rename(tmp_path / "moved")
        (moved,) = find_series(tmp_path / "moved")
        assert moved.uid in {series.uid for series in series_list}
        write_seg(tmp_path / "seg.dcm", make_labels(read_series(moved)), moved, SEGMENTS)
        seg = pydicom.dcmread(tmp_path / "seg.dcm")
        assert (seg.StudyInstanceUID, seg.ReferencedSeriesSequence[0].SeriesInstanceUID) == (moved.study_uid, moved.uid)
        referenced = {
            item.ReferencedSOPInstanceUID for item in seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence
        }
        assert referenced == {pydicom.dcmread(file).file_meta.MediaStorageSOPInstanceUID for file in moved.files}
        assert_valid(tmp_path / "seg.dcm")

    def test_a_uid_is_safe_as_a_name(self, tmp_path):
        make_series(tmp_path / "in", SeriesInstanceUID="../../etc/passwd")
        assert set(choose_series(tmp_path / "in").uid) <= set("0123456789.")


class TestReading:
    def test_lies_where_the_volume_lies(self, grid, tmp_path):
        files = make_series(tmp_path / "in", grid)
        names = random.Random(0).sample([f"{index}.dcm" for index in range(100, 200)], len(files))
        for file, name in zip(files, names, strict=True):
            file.rename(file.with_name(name))
        volume = read_series(choose_series(tmp_path / "in"))
        assert volume.array.dtype == np.float32
        assert_same_volume(volume, tmp_path / "volumes/volume_0.nii")

    @pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0], [3, 0, 5, 1, 4, 2]])
    def test_multi_frame(self, grid, order, tmp_path):
        make_enhanced(make_series(tmp_path / "slices", grid), tmp_path / "in/enhanced.dcm", order)
        series = choose_series(tmp_path / "in")
        assert (series.frames, len(series.files)) == (SHAPE[2], 1)
        assert_same_volume(read_series(series), tmp_path / "volumes/volume_0.nii")

    def test_each_slice_has_a_slope_of_its_own(self, tmp_path):
        files = make_series(tmp_path / "in", Modality="CT", SOPClassUID=CTImageStorage)
        expected = []
        for index, file in enumerate(files):
            dataset = pydicom.dcmread(file)
            dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
            dataset.RescaleSlope, dataset.RescaleIntercept = ("1", "-1024") if index == 0 else (f"{index / 4}", "0.5")
            dataset.save_as(file)
            expected.append(dataset.pixel_array.T * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept))
        volume = read_series(choose_series(tmp_path / "in"))
        np.testing.assert_allclose(volume.array, np.stack(expected, -1), rtol=1e-6)

    def test_a_single_slice(self, tmp_path):
        make_series(tmp_path / "in", shape=(14, 10, 1))
        assert_same_volume(read_series(choose_series(tmp_path / "in")), tmp_path / "volumes/volume_0.nii")
