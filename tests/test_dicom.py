"""DICOM series in, DICOM SEG out, checked by other readers of DICOM: pydicom, highdicom, ITK, dcmqi, dciodvfy."""

import random
import shutil
import subprocess
import sys
from pathlib import Path

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, MediaStorageDirectoryStorage, generate_uid
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from sdseg_monai.errors import InputError
from sdseg_monai.io.dicom import choose_series, find_series, has_dicom, is_whole_seg, read_seg, read_series, write_seg
from sdseg_monai.io.itk import LPS_TO_RAS, itk_affine
from sdseg_monai.io.segments import UNSURE, Segment
from sdseg_monai.io.volumes import Volume
from tests.conftest import SHARED, run_process
from tests.dicom import write_mr_series

SHAPE = (14, 10, 6)
LIVER = ("10200004", "SCT", "Liver")
SEGMENTS = {1: Segment("Anterior", (230, 40, 10), None), 2: Segment("Posterior", (20, 60, 220), LIVER)}
DCIODVFY = shutil.which("dciodvfy")
SEGIMAGE2ITKIMAGE = shutil.which("segimage2itkimage", path=str(Path(sys.executable).parent))


def affine(directions: np.ndarray) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = directions * [0.9, 1.2, 2.5]
    matrix[:3, 3] = -31.5, 12.25, 7.125
    return matrix


OBLIQUE = affine(Rotation.from_euler("xyz", [25, -15, 40], degrees=True).as_matrix())
REVERSED = affine(Rotation.from_euler("xyz", [5, 12, -8], degrees=True).as_matrix() @ np.diag([-1, -1, -1]))
SAGITTAL = affine(np.array([[0.0, 0, 1], [1, 0, 0], [0, -1, 0]]))
GRIDS = {"oblique": OBLIQUE, "reversed": REVERSED, "sagittal": SAGITTAL}


@pytest.fixture(params=GRIDS)
def grid(request) -> np.ndarray:
    return GRIDS[request.param]


def make_volume(folder: Path, matrix: np.ndarray = OBLIQUE, shape=SHAPE, seed=0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    array = np.random.default_rng(seed).integers(0, 4000, shape).astype(np.int16)
    nib.save(nib.Nifti1Image(array, matrix), folder / f"volume_{seed}.nii")
    return folder / f"volume_{seed}.nii"


def uids(file: Path) -> dict[str, str]:
    dataset = pydicom.dcmread(file)
    return {keyword: str(dataset[keyword].value) for keyword in ("StudyInstanceUID", "SeriesInstanceUID")}


def make_series(folder: Path, matrix: np.ndarray = OBLIQUE, shape=SHAPE, seed=0, **attributes: str) -> list[Path]:
    return write_mr_series(make_volume(folder.parent / "volumes", matrix, shape, seed), folder, **attributes)


def make_labels(volume: Volume) -> np.ndarray:
    """Return a mask in which no axis can be turned or swapped unseen; the second segment lies in a few slices."""
    labels = np.zeros(volume.array.shape, np.uint8)
    labels[volume.array > 3000] = 1
    labels[1:4, 2:9, -3:-1] = 2
    return labels


def edit(path: Path, **values: object) -> None:
    dataset = pydicom.dcmread(path)
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    dataset.save_as(path)


def make_enhanced(files: list[Path], path: Path, order: list[int]) -> None:
    """Write slices as one multi-frame file, its frames in that order."""
    slices = [pydicom.dcmread(file) for file in files]
    enhanced = hd.legacy.LegacyConvertedEnhancedMRImage(slices, hd.UID(), 7, hd.UID(), 1)
    frames = enhanced.pixel_array[order]
    enhanced.PixelData = frames.tobytes()
    groups = enhanced.PerFrameFunctionalGroupsSequence
    enhanced.PerFrameFunctionalGroupsSequence = [groups[index] for index in order]
    path.parent.mkdir(parents=True)
    enhanced.save_as(path)


def in_space(voxels: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Return where voxels [X, Y, Z] that are not 0 lie in RAS millimetres and their values, [N, 4]."""
    indices = np.argwhere(voxels)
    return np.column_stack([nib.affines.apply_affine(matrix, indices), voxels[tuple(indices.T)]])


def seg_in_space(path: Path) -> np.ndarray:
    """Return the same of a SEG with its segments' numbers, by what each frame says of its own place."""
    seg = pydicom.dcmread(path)
    frames = seg.pixel_array.reshape(-1, seg.Rows, seg.Columns)
    shared = seg.SharedFunctionalGroupsSequence[0]
    row, column = np.reshape(shared.PlaneOrientationSequence[0].ImageOrientationPatient, (2, 3)).astype(float)
    height, width = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
    points = []
    for frame, groups in zip(frames, seg.PerFrameFunctionalGroupsSequence, strict=True):
        matrix = np.eye(4)
        matrix[:3, :2] = np.column_stack([row * width, column * height])
        matrix[:3, 3] = groups.PlanePositionSequence[0].ImagePositionPatient
        identified = groups if "SegmentIdentificationSequence" in groups else shared
        number = identified.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        points.append(in_space(frame.T[..., None] * np.uint8(number), LPS_TO_RAS @ matrix))
    return np.concatenate(points)


def assert_same_points(one: np.ndarray, other: np.ndarray) -> None:
    """Have two sets of places and values be the same to a hundredth of a millimetre."""
    assert len(one) == len(other)
    if len(one):
        distances, nearest = cKDTree(other).query(one)
        assert distances.max() < 0.01
        assert len(set(nearest)) == len(one)


def assert_same_volume(volume: Volume, path: Path) -> None:
    ours = nib.as_closest_canonical(nib.Nifti1Image(volume.array, volume.affine))
    theirs = nib.as_closest_canonical(nib.load(path))
    np.testing.assert_array_equal(ours.get_fdata(), theirs.get_fdata())
    np.testing.assert_allclose(ours.affine, theirs.affine, atol=1e-5)


def assert_valid(path: Path) -> None:
    """Have dciodvfy check a SEG against the standard."""
    if DCIODVFY is None:
        pytest.skip("no dciodvfy here; Debian has it: apt install dicom3tools")
    result = subprocess.run([DCIODVFY, str(path)], capture_output=True, text=True)
    assert "Segmentation" in result.stderr.splitlines(), result.stderr
    assert "Error" not in result.stdout + result.stderr, result.stderr


class TestFinding:
    def test_series_by_study_and_number(self, tmp_path):
        study = generate_uid()
        for seed, number in enumerate((12, 3, None)):
            make_series(tmp_path / f"in/{seed}", seed=seed, SeriesNumber=number, StudyInstanceUID=study)
        assert [series.number for series in find_series(tmp_path / "in")] == [3, 12, None]
        assert {series.study_uid for series in find_series(tmp_path / "in")} == {study}
        assert [(one.modality, one.description, one.frames) for one in find_series(tmp_path / "in")] == [
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
        edit(tmp_path / "in/report.dcm", Modality="SR", SeriesInstanceUID=generate_uid())
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
        one, other = find_series(tmp_path / "in")
        for uid in (None, "1.2.3"):
            with pytest.raises(InputError, match="--series UID") as caught:
                choose_series(tmp_path / "in", uid)
            for series in (one, other):
                assert f"{series.uid} (MR, 'T{series.description[1]} [31m', 6 slices)" in str(caught.value)
            assert str(caught.value).isprintable()
        assert choose_series(tmp_path / "in", other.uid) == other

    def test_emptied_uids(self, tmp_path):
        """Files of a folder are a series, whose made-up UID is its own, wherever the folder lies."""
        for seed in range(2):
            files = make_series(tmp_path / f"in/{seed}", seed=seed)
            for file in files:
                edit(file, StudyInstanceUID="", SeriesInstanceUID="", SOPInstanceUID="", SOPClassUID="")
        found = find_series(tmp_path / "in")
        assert [series.frames for series in found] == [SHAPE[2]] * 2
        assert len({uid for series in found for uid in (series.uid, series.study_uid)}) == 4
        (tmp_path / "in/0").rename(tmp_path / "moved")
        (moved,) = find_series(tmp_path / "moved")
        assert moved.uid in {series.uid for series in found}
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
        read = seg.get_volume(combine_segments=True, allow_missing_positions=True)
        read_affine = LPS_TO_RAS @ read.affine[:, [2, 1, 0, 3]]
        assert_same_points(in_space(read.array.T, read_affine), in_space(labels, volume.affine))
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
        named = {2: Segment("Größe \\ " + "x" * 99, (0, 128, 255), LIVER), 4: Segment("日本", (1, 2, 3), None)}
        write_seg(tmp_path / "seg.dcm", labels, series, named)
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
        read = seg.get_volume(combine_segments=True)
        assert sorted(read.array[read.array > 0]) == [1, 3, 4], "numbers follow the values"

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
        read = in_space(sitk.GetArrayFromImage(image).T, itk_affine(image))
        assert_same_points(read, in_space(labels, volume.affine))

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
        said = "".join(capfd.readouterr()) + caplog.text + "".join(str(warning.message) for warning in recwarn)
        assert not any(secret in said for secret in ("Yamada", "山田", "Secret"))
        seg = pydicom.dcmread(tmp_path / "seg.dcm")
        assert seg.PatientName == name
        assert seg.StudyDescription == seg.ProcedureCodeSequence[0].CodeMeaning == "検査"
        measures = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        assert measures.SpacingBetweenSlices == pytest.approx(2.5)
        assert_same_points(seg_in_space(tmp_path / "seg.dcm"), in_space(labels, volume.affine))


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
            ({"RescaleSlope": 0, "RescaleIntercept": 0}, "RescaleSlope"),
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
        self.refuse(tmp_path / "enhanced", "form no box")
        (tmp_path / "enhanced/e.dcm").unlink()
        make_enhanced(files, tmp_path / "tilted/e.dcm", [0, 1, 2, 3, 4, 5])
        dataset = pydicom.dcmread(tmp_path / "tilted/e.dcm")
        for index, groups in enumerate(dataset.PerFrameFunctionalGroupsSequence):
            groups.PlanePositionSequence[0].ImagePositionPatient[0] += 0.02 * index
        dataset.save_as(tmp_path / "tilted/e.dcm")
        self.refuse(tmp_path / "tilted", "form no box")

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
        one, other = (seg.get_volume(segment_numbers=[1], combine_segments=True) for seg in (theirs, ours))
        np.testing.assert_array_equal(one.array, other.array)
        np.testing.assert_allclose(one.affine, other.affine, atol=1e-5)
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
    for cut in (0, 100, len(whole) // 2, len(whole) - 60):
        (tmp_path / "seg.dcm").write_bytes(whole[:cut])
        assert not is_whole_seg(tmp_path / "seg.dcm")
