"""Series of real scanners and programs are read, and get a SEG."""

from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from sdseg_monai.io.dicom import choose_series, read_series, write_seg
from sdseg_monai.io.formats.itk import LPS_TO_RAS, itk_affine
from sdseg_monai.io.segments import Segment
from sdseg_monai.io.volumes import Volume
from tests.io.dicom.comparing import assert_same_points, assert_same_volume, assert_valid, in_space, seg_in_space
from tests.io.dicom.series import LIVER, SEGMENTS
from tests.makers.dicom import write_mr_series
from tests.makers.places import SHARED


def shared_data(name: str) -> Path:
    folder = SHARED / "data" / name
    if not folder.is_dir():
        pytest.skip(f"no data at {folder}; set SDSEG_SHARED")
    return folder


def on_grid(path: Path, volume: Volume) -> np.ndarray:
    """Return a label file on the grid of a volume, by nearest neighbour, [X, Y, Z]."""
    reference = sitk.GetImageFromArray(np.ascontiguousarray(volume.array.T))
    matrix = LPS_TO_RAS @ volume.affine
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    reference.SetOrigin(matrix[:3, 3].tolist())
    reference.SetSpacing(spacing.tolist())
    reference.SetDirection((matrix[:3, :3] / spacing).ravel().tolist())
    label = sitk.ReadImage(str(path))
    return sitk.GetArrayFromImage(sitk.Resample(label, reference, sitk.Transform(), sitk.sitkNearestNeighbor)).T


@pytest.mark.shared
class TestRealData:
    @pytest.mark.slow
    def test_jpeg_2000(self, tmp_path):
        """A CT without UIDs; its labels' organs have the densities that were measured with another reader."""
        folder = shared_data("totalsegmentator-example")
        series = choose_series(folder / "ct_dicom")
        volume = read_series(series)
        heights = {float(pydicom.dcmread(file).ImagePositionPatient[2]): file for file in series.files}
        expected = sitk.ReadImage([str(heights[height]) for height in sorted(heights)])
        np.testing.assert_array_equal(volume.array.T, sitk.GetArrayFromImage(expected))
        np.testing.assert_allclose(volume.affine, itk_affine(expected))
        labels = on_grid(folder / "example_seg_dicom.nii.gz", volume)
        means = {value: volume.array[labels == value].mean() for value in (1, 5, 52)}  # spleen, liver, aorta
        assert means == pytest.approx({1: 80, 5: 89, 52: 177}, abs=1)
        write_seg(tmp_path / "seg.dcm", labels.astype(np.uint8), series, {5: Segment("Liver", (9, 9, 9), LIVER)})
        numbers = {value: number for number, value in enumerate(np.unique(labels)[1:], 1)}
        numbered = np.vectorize(lambda value: numbers.get(value, 0), otypes=[np.uint8])(labels)
        assert_same_points(seg_in_space(tmp_path / "seg.dcm"), in_space(numbered, volume.affine))
        assert_valid(tmp_path / "seg.dcm")

    def test_as_dcmqi_writes_it(self, tmp_path):
        folder = shared_data("dcmqi-ct-3slice")
        series = choose_series(folder)
        assert [file.name for file in series.files] == ["01.dcm", "02.dcm", "03.dcm"]
        volume = read_series(series)
        labels = (on_grid(folder / "liver_seg.nrrd", volume) > 0).astype(np.uint8)
        write_seg(tmp_path / "seg.dcm", labels, series, {1: Segment("Liver", (221, 130, 101), LIVER)})
        theirs, ours = (hd.seg.segread(path) for path in (folder / "liver.dcm", tmp_path / "seg.dcm"))
        assert_same_points(seg_in_space(tmp_path / "seg.dcm"), seg_in_space(folder / "liver.dcm"))
        their_volume, our_volume = (
            seg.get_volume(segment_numbers=[1], combine_segments=True) for seg in (theirs, ours)
        )
        np.testing.assert_array_equal(their_volume.array, our_volume.array)
        np.testing.assert_allclose(their_volume.affine, our_volume.affine, atol=1e-5)
        for keyword in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID"):
            assert ours[keyword].value == theirs[keyword].value
        assert_valid(tmp_path / "seg.dcm")

    def test_a_sagittal_mr(self, hippocampus, tmp_path):
        image = hippocampus / "images" / "hippocampus_001.nii.gz"
        write_mr_series(image, tmp_path / "in")
        series = choose_series(tmp_path / "in")
        volume = read_series(series)
        assert_same_volume(volume, image)
        labels = on_grid(hippocampus / "labels" / "hippocampus_001.nii.gz", volume).astype(np.uint8)
        write_seg(tmp_path / "seg.dcm", labels, series, SEGMENTS)
        assert_same_points(seg_in_space(tmp_path / "seg.dcm"), in_space(labels, volume.affine))
