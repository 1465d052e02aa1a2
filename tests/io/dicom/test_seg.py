"""DICOM SEG files, checked by other readers of DICOM: pydicom, highdicom, ITK, dcmqi, dciodvfy."""

import random
import shutil
import subprocess
import sys
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset

from sdseg_monai.errors import InputError
from sdseg_monai.io.dicom import choose_series, is_whole_seg, read_seg, read_series, write_seg
from sdseg_monai.io.formats.itk import LPS_TO_RAS, itk_affine
from sdseg_monai.io.segments import UNSURE, Segment
from sdseg_monai.io.volumes import Volume
from tests.io.dicom.comparing import assert_same_points, assert_valid, in_space, seg_in_space
from tests.io.dicom.series import GRIDS, LIVER, SEGMENTS, SHAPE, make_enhanced, make_labels, make_series

SEGIMAGE2ITKIMAGE = shutil.which("segimage2itkimage", path=str(Path(sys.executable).parent))


class TestSegs:
    def test_lies_on_the_slices(self, grid, tmp_path):
        files = make_series(tmp_path / "in", grid)
        random.Random(0).shuffle(files)
        for index, file in enumerate(files):
            file.rename(file.with_name(f"shuffled_{index}.dcm"))
        series = choose_series(tmp_path / "in")
        volume = read_series(series)
        labels = make_labels(volume)
        write_seg(tmp_path / "seg.dcm", labels, series, SEGMENTS)
        assert_same_points(seg_in_space(tmp_path / "seg.dcm"), in_space(labels, volume.affine))
        seg = hd.seg.segread(tmp_path / "seg.dcm")
        seg_volume = seg.get_volume(combine_segments=True, allow_missing_positions=True)
        read_affine = LPS_TO_RAS @ seg_volume.affine[:, [2, 1, 0, 3]]
        assert_same_points(in_space(seg_volume.array.T, read_affine), in_space(labels, volume.affine))
        assert_valid(tmp_path / "seg.dcm")

    @pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5], [3, 0, 5, 1, 4, 2]])
    @pytest.mark.parametrize("empty", [False, True])
    def test_lies_on_the_frames(self, grid, order, empty, tmp_path):
        make_enhanced(make_series(tmp_path / "slices", grid), tmp_path / "in/enhanced.dcm", order)
        series = choose_series(tmp_path / "in")
        volume = read_series(series)
        labels = make_labels(volume) * np.uint8(not empty)
        write_seg(tmp_path / "seg.dcm", labels, series, SEGMENTS)
        assert_same_points(seg_in_space(tmp_path / "seg.dcm"), in_space(labels, volume.affine))
        frames = pydicom.dcmread(series.files[0]).PerFrameFunctionalGroupsSequence
        for groups in pydicom.dcmread(tmp_path / "seg.dcm").PerFrameFunctionalGroupsSequence:
            number = groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber
            assert groups.PlanePositionSequence == frames[number - 1].PlanePositionSequence
        assert_valid(tmp_path / "seg.dcm")

    def test_refers_to_the_slices(self, grid, tmp_path):
        files = make_series(tmp_path / "in", grid)
        series = choose_series(tmp_path / "in")
        write_seg(tmp_path / "seg.dcm", make_labels(read_series(series)), series, SEGMENTS)
        sources = {source.SOPInstanceUID: source for source in map(pydicom.dcmread, files)}
        seg = pydicom.dcmread(tmp_path / "seg.dcm")
        source = next(iter(sources.values()))
        for keyword in ("PatientName", "PatientID", "StudyInstanceUID", "FrameOfReferenceUID"):
            assert seg[keyword].value == source[keyword].value
        (referenced,) = seg.ReferencedSeriesSequence
        assert referenced.SeriesInstanceUID == source.SeriesInstanceUID != seg.SeriesInstanceUID
        assert {item.ReferencedSOPInstanceUID for item in referenced.ReferencedInstanceSequence} == set(sources)
        for groups in seg.PerFrameFunctionalGroupsSequence:
            (item,) = groups.DerivationImageSequence[0].SourceImageSequence
            assert item.ReferencedSOPClassUID == source.SOPClassUID
            place = sources[item.ReferencedSOPInstanceUID].ImagePositionPatient
            assert groups.PlanePositionSequence[0].ImagePositionPatient == place

    def test_says_what_the_segments_are(self, tmp_path):
        make_series(tmp_path / "in")
        series = choose_series(tmp_path / "in")
        labels = np.zeros(SHAPE, np.uint8)
        labels[0, 0, 0], labels[1, 1, 1], labels[2, 2, 2] = 2, 7, UNSURE
        odd_segments = {2: Segment("Größe \\ " + "x" * 99, (0, 128, 255), LIVER), 4: Segment("日本", (1, 2, 3), None)}
        write_seg(tmp_path / "seg.dcm", labels, series, odd_segments)
        seg = hd.seg.segread(tmp_path / "seg.dcm")
        assert_valid(tmp_path / "seg.dcm")
        assert (seg.Modality, seg.SegmentationType, seg.file_meta.TransferSyntaxUID.name) == (
            "SEG",
            "BINARY",
            "Explicit VR Little Endian",
        )
        segments = [seg.get_segment_description(number) for number in seg.segment_numbers]
        assert [segment.segment_label for segment in segments] == [
            ("Groe / " + "x" * 99)[:64],
            "Label 4",
            "Label 7",
            "unsure",
        ]
        liver = segments[0].segmented_property_type
        assert (liver.value, liver.scheme_designator, liver.meaning) == LIVER
        for segment in segments:
            assert segment.segmented_property_category.meaning == "Anatomical Structure"
            (algorithm,) = segment.SegmentationAlgorithmIdentificationSequence
            assert algorithm.AlgorithmName == "sdseg-monai"
            assert algorithm.AlgorithmFamilyCodeSequence[0].CodeMeaning == "Artificial Intelligence"
        colour = hd.color.CIELabColor.from_dicom_value(segments[0].RecommendedDisplayCIELabValue)
        np.testing.assert_allclose(colour.to_rgb(), (0, 128, 255), atol=2)
        for description in (seg.SeriesDescription, seg.ContentDescription):
            assert "research use only" in description and len(description) <= 64
        seg_volume = seg.get_volume(combine_segments=True)
        assert sorted(seg_volume.array[seg_volume.array > 0]) == [1, 3, 4], "numbers follow the values"

    @pytest.mark.parametrize("shape", [SHAPE, (14, 10, 1)])
    def test_an_empty_mask_is_said_to_be_empty(self, shape, tmp_path, caplog):
        make_series(tmp_path / "in", shape=shape)
        series = choose_series(tmp_path / "in")
        write_seg(tmp_path / "seg.dcm", np.zeros(shape, np.uint8), series, SEGMENTS)
        seg = hd.seg.segread(tmp_path / "seg.dcm")
        assert (seg.number_of_segments, seg.NumberOfFrames) == (2, 2)
        assert not caplog.messages
        assert not seg.pixel_array.any()
        assert len(seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == shape[2]
        assert_valid(tmp_path / "seg.dcm")
        with pytest.raises(InputError, match="no segment is known"):
            write_seg(tmp_path / "none.dcm", np.zeros(shape, np.uint8), series, {})

    @pytest.mark.parametrize("matrix", GRIDS.values(), ids=GRIDS)
    def test_dcmqi_reads_it(self, matrix, tmp_path):
        if SEGIMAGE2ITKIMAGE is None:
            pytest.skip("no segimage2itkimage in this environment: pip install dcmqi")
        make_series(tmp_path / "in", matrix)
        series = choose_series(tmp_path / "in")
        volume = read_series(series)
        labels = make_labels(volume)
        write_seg(tmp_path / "seg.dcm", labels, series, {**SEGMENTS, 3: Segment("absent", (0, 0, 0), None)})
        options = ["--inputDICOM", tmp_path / "seg.dcm", "--outputDirectory", tmp_path, "-t", "nrrd", "--mergeSegments"]
        subprocess.run([SEGIMAGE2ITKIMAGE, *map(str, options)], check=True, capture_output=True)
        image = sitk.ReadImage(str(tmp_path / "1.nrrd"))
        points = in_space(sitk.GetArrayFromImage(image).T, itk_affine(image))
        assert_same_points(points, in_space(labels, volume.affine))

    def test_odd_headers(self, tmp_path, capfd, recwarn, caplog):
        """What a slice says of spacing and thickness may be wrong or missing, and its names in any alphabet."""
        name = "Yamada^Tarou=山田^太郎=やまだ^たろう"
        for index, file in enumerate(make_series(tmp_path / "in")):
            dataset = pydicom.dcmread(file)
            dataset.SpecificCharacterSet, dataset.PatientName = ["", "ISO 2022 IR 87"], name
            dataset.StudyDescription, code = "検査", Dataset()
            code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "1", "99TEST", "検査"
            dataset.ProcedureCodeSequence = [code]
            dataset.SpacingBetweenSlices = "0.1"
            dataset.ImageOrientationPatient[0] = float(dataset.ImageOrientationPatient[0]) + 1e-6 * index
            del dataset.SliceThickness, dataset.PatientID, dataset.StudyDate, dataset.FrameOfReferenceUID
            dataset["PatientBirthDate"]._value = "Secret19700101"
            dataset.save_as(file)
        recwarn.clear()
        series = choose_series(tmp_path / "in")
        volume = read_series(series)
        labels = make_labels(volume)
        write_seg(tmp_path / "seg.dcm", labels, series, SEGMENTS)
        messages = "".join(capfd.readouterr()) + caplog.text + "".join(str(warning.message) for warning in recwarn)
        assert not any(secret in messages for secret in ("Yamada", "山田", "Secret"))
        seg = pydicom.dcmread(tmp_path / "seg.dcm")
        assert seg.PatientName == name
        assert seg.StudyDescription == seg.ProcedureCodeSequence[0].CodeMeaning == "検査"
        measures = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        assert measures.SpacingBetweenSlices == pytest.approx(2.5)
        assert_same_points(seg_in_space(tmp_path / "seg.dcm"), in_space(labels, volume.affine))


def test_what_is_written_is_read_back(grid, tmp_path):
    series = choose_series(make_series(tmp_path / "series", grid)[0].parent)
    volume = read_series(series)
    labels = np.random.default_rng(0).choice([0, 1, 2, 7, UNSURE], SHAPE).astype(np.uint8)
    labels[:, :, :2] = 0
    write_seg(tmp_path / "seg.dcm", labels, series, SEGMENTS)
    np.testing.assert_array_equal(read_seg(tmp_path / "seg.dcm", volume, SEGMENTS), labels)
    for wrong in (
        Volume(volume.array[:4], volume.affine),
        Volume(volume.array, np.array([[1, 0, 0, 300], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]) @ volume.affine),
    ):
        with pytest.raises(InputError, match="not a DICOM SEG on the grid of"):
            read_seg(tmp_path / "seg.dcm", wrong, SEGMENTS)
    with pytest.raises(InputError, match="not a DICOM SEG"):
        read_seg(series.files[0], volume, SEGMENTS)


def test_a_seg_that_was_cut_is_not_whole(tmp_path):
    series = choose_series(make_series(tmp_path / "series")[0].parent)
    labels = np.random.default_rng(0).integers(0, 3, SHAPE).astype(np.uint8)
    write_seg(tmp_path / "seg.dcm", labels, series, SEGMENTS)
    assert is_whole_seg(tmp_path / "seg.dcm")
    whole = (tmp_path / "seg.dcm").read_bytes()
    for length in (0, 100, len(whole) // 2, len(whole) - 60):
        (tmp_path / "seg.dcm").write_bytes(whole[:length])
        assert not is_whole_seg(tmp_path / "seg.dcm")
