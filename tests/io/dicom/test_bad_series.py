"""Series and masks that are refused: the message says what is wrong, and no file is left behind."""

import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest

from sdseg_monai.errors import InputError
from sdseg_monai.io.dicom import choose_series, read_series, write_seg
from tests.io.dicom.series import SEGMENTS, SHAPE, edit, make_enhanced, make_series, uids
from tests.makers.dicom import OBLIQUE, SAGITTAL
from tests.makers.processes import run_process


class TestBadInput:
    @pytest.fixture
    def files(self, tmp_path):
        return make_series(tmp_path / "in")

    def test_one_series_uid_in_two_studies(self, files):
        for file in make_series(files[0].parent / "again", seed=1):
            edit(file, SeriesInstanceUID=uids(files[0])["SeriesInstanceUID"])
        self.refuse(files[0].parent, "2 image series")
        with pytest.raises(InputError, match="several patients or studies"):
            choose_series(files[0].parent, uids(files[0])["SeriesInstanceUID"])

    def test_one_instance_uid_for_all(self, files):
        """Careless anonymisers do it; copies of a file are no other slices."""
        whole = read_series(choose_series(files[0].parent))
        shutil.copy(files[0], files[0].with_name("copy.dcm"))
        for file in files:
            edit(file, SOPInstanceUID=pydicom.dcmread(files[0]).SOPInstanceUID)
        shutil.copy(files[0], files[0].with_name("copy.dcm"))
        series = choose_series(files[0].parent)
        np.testing.assert_array_equal(read_series(series).array, whole.array)
        assert [warning.kind for warning in series.warnings] == ["same_uid"] * (SHAPE[2] - 1)
        assert all("is another slice" in warning.text for warning in series.warnings)

    @pytest.mark.parametrize(
        ("attributes", "reason"),
        [
            ({"PixelSpacing": None}, "PixelSpacing"),
            ({"PixelSpacing": [0, 0]}, "PixelSpacing"),
            ({"ImageOrientationPatient": [0, 0, 0, 0, 0, 0]}, "ImageOrientationPatient"),
            ({"ImageOrientationPatient": [1, 0, 0, 0.6, 0.8, 0]}, "ImageOrientationPatient"),
            ({"ImageOrientationPatient": None}, "ImageOrientationPatient"),
            ({"ImageOrientationPatient": [1, 0, 0, 0, 1]}, "ImageOrientationPatient"),
            ({"RescaleSlope": 0, "RescaleIntercept": 0}, "RescaleSlope"),
            ({"RescaleSlope": [1, 2], "RescaleIntercept": 0}, "RescaleSlope is not a number"),
            ({"Rows": SHAPE[1] - 1}, "pixel data of"),
            ({"Columns": SHAPE[0] - 1}, "pixel data of"),
        ],
    )
    @pytest.mark.parametrize("count", [1, 6])
    def test_slices_that_do_not_say_where_they_lie(self, files, attributes, reason, count):
        for file in files[count:]:
            file.unlink()
        for file in files[:count]:
            dataset = pydicom.dcmread(file)
            for keyword, value in attributes.items():
                setattr(dataset, keyword, value)
                if value is None:
                    delattr(dataset, keyword)
            dataset.save_as(file)
        self.refuse(files[0].parent, reason)

    def refuse(self, folder: Path, reason: str) -> None:
        with pytest.raises(InputError, match=reason) as caught:
            read_series(choose_series(folder))
        assert "Hippocampus" not in str(caught.value), "the patient's name"

    def test_nothing_there(self, tmp_path):
        self.refuse(tmp_path / "none", "no such file or folder")
        (tmp_path / "empty").mkdir()
        self.refuse(tmp_path / "empty", "no DICOM images there")

    def test_text_called_dicom(self, tmp_path):
        (tmp_path / "in").mkdir()
        (tmp_path / "in/a.dcm").write_text("x" * 1000)
        (tmp_path / "in/b.dcm").write_bytes(b"")
        (tmp_path / "in/c.dcm").write_bytes(bytes(128) + b"DICM" + b"junk" * 99)
        self.refuse(
            tmp_path / "in", r"no DICOM images there.*; 3 files were left out, the first: .*/a.dcm: not DICOM by"
        )

    def test_truncated(self, files):
        whole = files[2].read_bytes()
        for size in range(0, len(whole), 50):
            files[2].write_bytes(whole[:size])
            self.refuse(files[2].parent, "truncated, damaged|not evenly spaced")
        files[2].write_bytes(whole)
        files[-1].write_bytes(whole[:400])  # at the end nothing else tells that a slice is missing
        series = choose_series(files[0].parent)
        assert series.frames == SHAPE[2] - 1
        (warning,) = series.warnings
        assert warning.kind == "left_out" and "left out" in warning.text

    def test_a_slice_is_missing(self, files):
        files[2].unlink()
        self.refuse(files[0].parent, "not evenly spaced")

    def test_two_stacks(self, files):
        for file in make_series(files[0].parent / "again", seed=1):
            edit(file, **uids(files[0]))
        self.refuse(files[0].parent, "not evenly spaced")

    @pytest.mark.parametrize(
        ("matrix", "shape", "reason"),
        [(SAGITTAL, SHAPE, "several directions"), (OBLIQUE, (8, 8, 1), "several sizes")],
    )
    def test_another_stack(self, files, matrix, shape, reason):
        for file in make_series(files[0].parent / "again", matrix, shape, seed=1):
            edit(file, **uids(files[0]))
        self.refuse(files[0].parent, reason)

    def test_a_tilted_gantry(self, files):
        for index, file in enumerate(files):
            x, y, z = pydicom.dcmread(file).ImagePositionPatient
            edit(file, ImagePositionPatient=[x + 0.2 * index, y, z])
        self.refuse(files[0].parent, "tilted gantry")

    def test_no_position(self, files):
        for file in files:
            dataset = pydicom.dcmread(file)
            del dataset.ImagePositionPatient
            dataset.save_as(file)
        self.refuse(files[0].parent, "does not say how it lies")
        series = choose_series(files[0].parent)
        with pytest.raises(InputError, match="do not say where they lie"):
            write_seg(files[0].with_name("seg"), np.zeros(SHAPE, np.uint8), series, SEGMENTS)

    def test_frames_that_form_no_box(self, files, tmp_path):
        make_enhanced(files, tmp_path / "enhanced/e.dcm", [0, 1, 2, 3, 4, 4])
        self.refuse(tmp_path / "enhanced", "do not form a regular grid")
        (tmp_path / "enhanced/e.dcm").unlink()
        make_enhanced(files, tmp_path / "tilted/e.dcm", [0, 1, 2, 3, 4, 5])
        dataset = pydicom.dcmread(tmp_path / "tilted/e.dcm")
        for index, groups in enumerate(dataset.PerFrameFunctionalGroupsSequence):
            groups.PlanePositionSequence[0].ImagePositionPatient[0] += 0.02 * index
        dataset.save_as(tmp_path / "tilted/e.dcm")
        self.refuse(tmp_path / "tilted", "do not form a regular grid")

    def test_colours(self, tmp_path):
        for file in make_series(tmp_path / "in", shape=(8, 8, 2)):
            rgb = np.zeros((8, 8, 3), np.uint8).tobytes()
            values = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "PlanarConfiguration": 0, "PixelData": rgb}
            edit(file, SamplesPerPixel=3, PhotometricInterpretation="RGB", **values)
        self.refuse(tmp_path / "in", "3 values per voxel")

    def test_a_header_that_claims_too_much(self, files):
        for file in files:
            edit(file, Rows=65535, Columns=65535)
        self.refuse(files[0].parent, "memory|truncated, damaged")

    def test_masks_that_do_not_fit(self, files, tmp_path):
        series = choose_series(files[0].parent)
        with pytest.raises(InputError, match=r"shape \(10, 14, 6\), expected \(14, 10, 6\)"):
            write_seg(tmp_path / "seg.dcm", np.ones((10, 14, 6), np.uint8), series, SEGMENTS)
        with pytest.raises(InputError, match="expected uint8"):
            write_seg(tmp_path / "seg.dcm", np.ones(SHAPE, np.float32), series, SEGMENTS)
        (tmp_path / "file").write_text("")
        with pytest.raises(InputError, match="cannot write here"):
            write_seg(tmp_path / "file/seg.dcm", np.ones(SHAPE, np.uint8), series, SEGMENTS)
        files[0].unlink()
        with pytest.raises(InputError, match="not a readable DICOM file"):
            write_seg(tmp_path / "seg.dcm", np.ones(SHAPE, np.uint8), series, SEGMENTS)
        assert not list(tmp_path.glob("*seg*"))

    @pytest.mark.parametrize("missing", ["pydicom", "highdicom"])
    def test_the_extra_is_missing(self, files, tmp_path, missing):
        call = "find_series(path)" if missing == "pydicom" else "write_seg(path, mask, choose_series(path), {})"
        code = f"""
import sys
sys.modules[{missing!r}] = None
import numpy as np
from pathlib import Path
from sdseg_monai.io.dicom import choose_series, find_series, has_dicom, write_seg
path, mask = Path({str(files[0].parent)!r}), np.ones({SHAPE}, np.uint8)
assert has_dicom(path)
{call}
"""
        result = run_process("python", "-c", code)
        assert result.returncode != 0
        assert f"InputError: DICOM needs {missing}" in result.stderr
        assert "pip install sdseg-monai[dicom]" in result.stderr
