"""The datastores behind MONAI Label: folders of volumes and of DICOM, and an Orthanc."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.sr.codedict import codes

from tests.conftest import SHARED
from tests.datastore_process import DatastoreProcess, Refused
from tests.dicom import HAS_ORTHANC, NO_ORTHANC, OrthancServer, free_port, write_mr_series
from tests.label_server import needs_label_env

pytestmark = needs_label_env
needs_orthanc = pytest.mark.skipif(not HAS_ORTHANC, reason=NO_ORTHANC)

SHAPE = (12, 10, 6)
SOON = 5  # seconds


def rotation(*degrees: float) -> np.ndarray:
    """Return a rotation about the three axes, one after the other."""
    matrix = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(degrees)):
        i, j = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(3)
        turn[[i, i, j, j], [i, j, i, j]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        matrix = turn @ matrix
    return matrix


def affine(directions: np.ndarray) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = directions * [0.9, 1.2, 2.5]
    matrix[:3, 3] = -31.5, 12.25, 7.125
    return matrix


OBLIQUE = affine(rotation(25, -15, 40))
REVERSED = affine(rotation(5, 12, -8) @ np.diag([-1, -1, -1]))  # slices run against their normal


def write_image(path: Path, matrix: np.ndarray, shape=SHAPE, seed=0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.random.default_rng(seed).integers(0, 4000, shape).astype(np.int16)
    nib.save(nib.Nifti1Image(array, matrix), path)
    return path


def write_label(path: Path, image: Path, boxes: dict[int, tuple[slice, ...]], dtype=np.uint8) -> Path:
    """Write a label on the grid of ``image`` with boxes by value."""
    source = nib.load(image)
    array = np.zeros(source.shape, dtype)
    for value, box in boxes.items():
        array[box] = value
    nib.save(nib.Nifti1Image(array, source.affine), path)
    return path


ONE_BOX = {1: np.s_[2:5, 3:7, 1:4]}
UPPER_BOX = {2: np.s_[2:5, 3:7, 1:4]}
TWO_BOXES = {1: np.s_[2:5, 3:7, 1:4], 2: np.s_[6:9, 1:5, 3:5]}


def voxels(path: str | Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def points(path: str | Path, value: int) -> np.ndarray:
    """Return where the voxels of a value lie: RAS millimetres, sorted."""
    image = nib.load(path)
    indices = np.argwhere(np.asarray(image.dataobj) == value)
    return sort_points(nib.affines.apply_affine(image.affine, indices))


def sort_points(positions: np.ndarray) -> np.ndarray:
    return positions[np.lexsort(np.round(positions, 2).T)]


@pytest.fixture(scope="module")
def store():
    process = DatastoreProcess()
    yield process
    process.close()


@pytest.fixture
def studies(tmp_path, store) -> Path:
    """A folder of three volumes, opened."""
    folder = tmp_path / "studies"
    image = write_image(folder / "a.nii.gz", OBLIQUE)
    write_label(tmp_path / "a_label.nii.gz", image, TWO_BOXES)
    sitk.WriteImage(sitk.ReadImage(str(folder / "a.nii.gz")), str(folder / "b.nrrd"))
    sitk.WriteImage(sitk.ReadImage(str(folder / "a.nii.gz")), str(folder / "c.mha"))
    assert store("open", folder, tmp_path / "cache") == "VolumeDatastore"
    return folder


class TestVolumes:
    def test_lists_what_the_reader_reads(self, studies, store, tmp_path):
        for name in ("D.NII.GZ", "._a.nii.gz", ".writing.x.nii.gz"):
            shutil.copy(studies / "a.nii.gz", studies / name)
        (studies / "notes.txt").write_text("not an image")
        store("open", studies, tmp_path / "cache")
        assert sorted(store("list_images")) == ["D", "a", "b", "c"]
        assert store("get_image_uri", "c") == str(studies / "c.mha")

    @pytest.mark.parametrize("image", ["a", "b", "c"])
    def test_a_label_becomes_a_case(self, studies, store, tmp_path, image):
        store("save_label", image, tmp_path / "a_label.nii.gz", "final", {"label_info": []})
        (case,) = store("datalist")
        assert case["image"] == store("get_image_uri", image)
        assert Path(case["label"]).read_bytes() == (tmp_path / "a_label.nii.gz").read_bytes()
        assert store("get_labeled_images") == [image]
        assert store("get_label_info", image, "final")["name"] == f"{image}.nii.gz"

    def test_one_label_stays_whatever_its_suffix(self, studies, store, tmp_path):
        store("save_label", "a", tmp_path / "a_label.nii.gz", "final", {})
        sitk.WriteImage(sitk.ReadImage(str(tmp_path / "a_label.nii.gz")), str(tmp_path / "later.nrrd"))
        store("save_label", "a", tmp_path / "later.nrrd", "final", {})
        assert [p.name for p in (studies / "labels" / "final").iterdir()] == ["a.nrrd"]
        assert [case["label"] for case in store("datalist")] == [str(studies / "labels" / "final" / "a.nrrd")]
        store("remove_label", "a", "final")
        assert store("datalist") == []

    def test_refuses_labels_that_do_not_fit(self, studies, store, tmp_path):
        good = nib.load(tmp_path / "a_label.nii.gz")
        array = np.asarray(good.dataobj)
        shifted = good.affine.copy()
        shifted[0, 3] += 0.1
        wrong = {
            "smaller": nib.Nifti1Image(array[1:], good.affine),
            "shifted": nib.Nifti1Image(array, shifted),
            "halves": nib.Nifti1Image(array.astype(np.float32) / 2, good.affine),
            "negative": nib.Nifti1Image(-array.astype(np.int16), good.affine),
        }
        for name, image in wrong.items():
            nib.save(image, tmp_path / f"{name}.nii.gz")
        (tmp_path / "junk.nii.gz").write_bytes(b"junk")
        (tmp_path / "picture.png").write_bytes(b"junk")
        store("save_label", "a", tmp_path / "a_label.nii.gz", "final", {})
        before = sorted((p, p.stat().st_mtime_ns) for p in studies.rglob("*.*"))
        expected = {
            "smaller.nii.gz": "label of a: shape",
            "shifted.nii.gz": "label of a: its affine",
            "halves.nii.gz": "whole numbers",
            "negative.nii.gz": "whole numbers",
            "junk.nii.gz": "label of a: not a readable",
            "picture.png": "unknown kind",
            "missing.nii.gz": "no such file",
        }
        for name, message in expected.items():
            with pytest.raises(Refused, match=message):
                store("save_label", "a", tmp_path / name, "final", {})
        for tag in ("../final", "a/b", "", ".", "..", ".hidden", "a b", "x\n"):
            with pytest.raises(Refused, match="plain name"):
                store("save_label", "a", tmp_path / "a_label.nii.gz", tag, {})
        for image in ("nobody", "../a", ""):
            with pytest.raises(Refused, match="no such image"):
                store("save_label", image, tmp_path / "a_label.nii.gz", "final", {})
        with pytest.raises(Refused, match="params"):
            store("save_label", "a", tmp_path / "a_label.nii.gz", "final", ["no", "object"])
        assert sorted((p, p.stat().st_mtime_ns) for p in studies.rglob("*.*")) == before

    @pytest.mark.parametrize("image", ["a", "b"])
    def test_takes_bare_voxels_as_ohif_sends_them(self, studies, store, tmp_path, image):
        array = voxels(tmp_path / "a_label.nii.gz")
        (tmp_path / "label.bin").write_bytes(array.tobytes(order="F"))
        store("save_label", image, tmp_path / "label.bin", "final", {})
        (case,) = store("datalist")
        assert np.array_equal(voxels(case["label"]), array)
        (tmp_path / "label.bin").write_bytes(array.tobytes()[1:])
        with pytest.raises(Refused, match=r"719 bytes, expected 720, one for each of its 12 x 10 x 6 voxels"):
            store("save_label", image, tmp_path / "label.bin", "final", {})
        assert np.array_equal(voxels(case["label"]), array)

    def test_a_training_takes_labels_for_what_the_model_calls_them(self, studies, store, tmp_path):
        """Slicer numbers the segments that it has; a name tells whether these are the model's numbers."""
        for said in (["Anterior", "posterior"], ["", "posterior"], []):
            label_info = [{"name": name} for name in said]
            store("save_label", "a", tmp_path / "a_label.nii.gz", "final", {"label_info": label_info})
            store("check_labels", 2)
        for said, reason in (
            (["posterior", "anterior"], "label of a: 1 is called 'posterior', expected 1 anterior, 2 posterior"),
            (["anterior", "cyst"], "label of a: 2 is called 'cyst', expected 1 anterior, 2 posterior"),
        ):
            label_info = [{"name": name} for name in said]
            store("save_label", "a", tmp_path / "a_label.nii.gz", "final", {"label_info": label_info})
            with pytest.raises(Refused, match=f"^{reason}$"):
                store("check_labels", 2)
            store("check_labels", 1)  # of a single class any label is foreground
        three = write_label(tmp_path / "three.nii.gz", studies / "a.nii.gz", {**ONE_BOX, 3: np.s_[:1, :1, :1]})
        store("save_label", "a", three, "final", {})
        with pytest.raises(Refused, match=r"^label of a: a value of 3, expected 1 anterior, 2 posterior$"):
            store("check_labels", 2)

    def test_a_full_disk_leaves_the_label_before(self, studies, store, tmp_path):
        store("save_label", "a", tmp_path / "a_label.nii.gz", "final", {})
        array = np.random.default_rng(0).integers(0, 2, SHAPE, dtype=np.uint8)
        nib.save(nib.Nifti1Image(array, nib.load(studies / "a.nii.gz").affine), tmp_path / "large.nii")
        store("limit", 500)  # bytes a file
        try:
            with pytest.raises(Refused, match="cannot be written"):
                store("save_label", "a", tmp_path / "large.nii", "final", {})
        finally:
            store("limit", -1)
        assert [p.name for p in (studies / "labels" / "final").iterdir()] == ["a.nii.gz"]
        (case,) = store("datalist")
        assert Path(case["label"]).read_bytes() == (tmp_path / "a_label.nii.gz").read_bytes()

    def test_images_come_in_whole_and_by_plain_names(self, studies, store, tmp_path):
        source = studies / "a.nii.gz"
        assert store("add_image", "new-1", source, {"client_id": "x"}) == "new-1"
        assert store("add_image", None, source, None) == "a"
        assert (studies / "new-1.nii.gz").read_bytes() == source.read_bytes()
        assert store("get_image_info", "new-1")["client_id"] == "x"
        (tmp_path / "junk.nii.gz").write_bytes(b"junk")
        for name in ("../up", "a/b", ".hidden", "a b"):
            with pytest.raises(Refused, match="plain name"):
                store("add_image", name, source, {})
        with pytest.raises(Refused, match="image new-2: not a readable"):
            store("add_image", "new-2", tmp_path / "junk.nii.gz", {})
        assert store("list_images") == ["a", "b", "c", "new-1"]

    def test_another_image_of_a_name_is_refused(self, studies, store, tmp_path):
        before = (studies / "a.nii.gz").read_bytes()
        write_image(tmp_path / "other.nii.gz", REVERSED)
        for other in (tmp_path / "other.nii.gz", studies / "b.nrrd"):
            with pytest.raises(Refused, match="another image has that name"):
                store("add_image", "a", other, {})
        shutil.copyfile(studies / "a.nii.gz", tmp_path / "same.nii.gz")
        assert store("add_image", "a", tmp_path / "same.nii.gz", {}) == "a"
        assert [p.name for p in studies.glob("a.*")] == ["a.nii.gz"]
        assert (studies / "a.nii.gz").read_bytes() == before

    def test_sees_what_others_bring(self, studies, store, tmp_path):
        shutil.copy(studies / "a.nii.gz", studies / ".incoming")
        (studies / ".incoming").replace(studies / "late.nii.gz")
        end = time.monotonic() + SOON
        while "late" not in store("list_images") and time.monotonic() < end:
            time.sleep(0.05)
        assert store("list_images") == ["a", "b", "c", "late"]

    def test_removes_at_once(self, studies, store, tmp_path):
        store("save_label", "a", tmp_path / "a_label.nii.gz", "final", {})
        store("remove_image", "a")
        assert store("list_images") == ["b", "c"]
        assert not list(studies.rglob("a.nii.gz"))

    def test_an_archive_needs_labels(self, studies, store):
        with pytest.raises(Refused, match="no image has a final label"):
            store("get_dataset_archive", None)


class TestOpening:
    def test_folders(self, store, tmp_path):
        with pytest.raises(Refused, match="no folder at"):
            store("open", tmp_path / "missing", tmp_path / "cache")
        (tmp_path / "empty").mkdir()
        assert store("open", tmp_path / "empty", tmp_path / "cache") == "VolumeDatastore"
        assert store("list_images") == []
        image = write_image(tmp_path / "image.nii.gz", OBLIQUE)
        store("add_image", "first", image, {})
        assert store("list_images") == ["first"]

    def test_volumes_before_dicom(self, store, tmp_path):
        image = write_image(tmp_path / "both" / "image.nii.gz", OBLIQUE)
        write_mr_series(image, tmp_path / "both" / "dicom")
        assert store("open", tmp_path / "both", tmp_path / "cache") == "VolumeDatastore"
        assert any("the volumes are served" in warning for warning in store.warnings)
        assert store("list_images") == ["image"]

    def test_a_damaged_index(self, studies, store, tmp_path):
        (studies / "datastore_v2.json").write_text('{"name": "x", "objects":')
        with pytest.raises(Refused, match="cannot be used as a datastore"):
            store("open", studies, tmp_path / "cache")

    def test_a_server_that_is_none(self, store, tmp_path):
        url = f"http://127.0.0.1:{free_port()}/dicom-web"
        with pytest.raises(Refused, match=f"{url}: no usable answer .*refused"):
            store("open", url, tmp_path / "cache")


def make_dicom(folder: Path, matrix: np.ndarray, name: str, **attributes: str) -> tuple[str, list[Path], Path]:
    """Write a series, files without suffix; return its UID, its files and the volume they were made of."""
    volume = write_image(folder.parent / "volumes" / f"{name}.nii.gz", matrix)
    files = [file.rename(file.with_suffix("")) for file in write_mr_series(volume, folder / name, **attributes)]
    return str(pydicom.dcmread(files[0]).SeriesInstanceUID), files, volume


@pytest.fixture
def dicom(tmp_path, store) -> dict[str, tuple[str, list[Path], Path]]:
    """A folder of DICOM files, opened: two series of MR, one of CT, other files."""
    folder = tmp_path / "dicom"
    series = {
        "oblique": make_dicom(folder, OBLIQUE, "oblique"),
        "reversed": make_dicom(folder / "deep" / "deeper", REVERSED, "reversed"),
        "ct": make_dicom(folder, OBLIQUE, "ct", Modality="CT"),
    }
    (folder / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM" + b"\0" * 20)
    (folder / "readme.txt").write_text("x" * 200)
    assert store("open", folder, tmp_path / "cache") == "DicomDatastore"
    return series


def read_seg(path: Path) -> hd.seg.Segmentation:
    return hd.seg.segread(path)


def check_seg(seg: hd.seg.Segmentation, label: Path, files: list[Path], numbers: dict[int, int]) -> None:
    """Check that segments (number by value) lie where the label's voxels do, and refer to the slices of ``files``."""
    volume = seg.get_volume(combine_segments=False)
    positions = np.argwhere(volume.array)
    for value, number in numbers.items():
        indices = positions[positions[:, 3] == number - 1][:, :3]
        found = sort_points(volume.map_indices_to_reference(indices) * [-1, -1, 1])  # LPS to RAS
        assert np.allclose(found, points(label, value), atol=1e-3)
    slices = {slice_.SOPInstanceUID: slice_ for slice_ in map(pydicom.dcmread, files)}
    for frame in seg.PerFrameFunctionalGroupsSequence:
        (source,) = frame.DerivationImageSequence[0].SourceImageSequence
        position = slices[source.ReferencedSOPInstanceUID].ImagePositionPatient
        assert np.allclose(frame.PlanePositionSequence[0].ImagePositionPatient, position, atol=1e-3)
    (reference,) = seg.ReferencedSeriesSequence
    first = pydicom.dcmread(files[0])
    assert reference.SeriesInstanceUID == first.SeriesInstanceUID
    for keyword in ("StudyInstanceUID", "PatientID", "PatientName", "FrameOfReferenceUID"):
        assert seg[keyword].value == first[keyword].value


def make_seg(path: Path, label: Path, files: list[Path], names: list[str], stacked: np.ndarray | None = None) -> Path:
    """Write a SEG as another program does: frames only where something is."""
    sources = [pydicom.dcmread(file) for file in files]
    mask = voxels(label).transpose(2, 1, 0) if stacked is None else stacked  # frames, rows, columns
    descriptions = [
        hd.seg.SegmentDescription(
            number,
            name,
            codes.SCT.Organ,
            codes.SCT.Liver,
            hd.seg.SegmentAlgorithmTypeValues.MANUAL,
        )
        for number, name in enumerate(names, 1)
    ]
    seg = hd.seg.Segmentation(
        sources,
        mask,
        hd.seg.SegmentationTypeValues.BINARY,
        descriptions,
        hd.UID(),
        series_number=7,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="others",
        manufacturer_model_name="x",
        software_versions="1",
        device_serial_number="1",
        omit_empty_frames=True,
    )
    seg.save_as(path)
    return path


class TestNames:
    @pytest.mark.parametrize(
        ("models", "names"),
        [
            ([{1: "liver", 2: "spleen"}], ["spleen", "Label 3"]),
            ([{2: "spleen"}, {2: "spleen", 3: "aorta"}], ["spleen", "aorta"]),
            ([{2: "spleen"}, {2: "kidney"}], ["Label 2", "Label 3"]),
        ],
        ids=["one model", "models that agree", "models that do not"],
    )
    def test_of_segments_that_the_viewer_does_not_name(self, store, models, names):
        entries = store("describe", [2, 3], [], models)
        assert [entry["segmentAttribute"]["SegmentLabel"] for entry in entries] == names
        assert [entry["segmentAttribute"]["labelID"] for entry in entries] == [2, 3]

    def test_what_the_viewer_says_stays(self, store):
        attribute = {"SegmentLabel": "own", "labelID": 9}
        (entry,) = store("describe", [2], [{"name": "SPLEEN", "segmentAttribute": attribute}], [{1: "x", 5: "spleen"}])
        assert entry["segmentAttribute"]["SegmentLabel"] == "own"
        assert entry["segmentAttribute"]["labelID"] == 2  # the mask's value
        assert entry["segmentAttribute"]["recommendedDisplayRGBValue"] == [1, 2, 3]  # the model's, by its name


def find_segs(folder: Path) -> list[Path]:
    return sorted((folder / "labels" / "final").glob("*.dcm"))


class TestDicomFolder:
    @pytest.mark.parametrize("name", ["oblique", "reversed"])
    def test_series_become_volumes_in_place(self, dicom, store, tmp_path, name):
        uid, _, volume = dicom[name]
        assert set(store("list_images")) == {dicom["oblique"][0], dicom["reversed"][0]}
        before = sorted((tmp_path / "dicom").rglob("*"))
        image, source = nib.load(store("get_image_uri", uid)), nib.load(volume)
        assert sorted((tmp_path / "dicom").rglob("*")) == before
        indices = np.argwhere(np.ones(source.shape))
        there = nib.affines.apply_affine(np.linalg.inv(image.affine) @ source.affine, indices)
        assert np.abs(there - np.rint(there)).max() < 1e-4
        assert np.array_equal(
            np.asarray(image.dataobj)[tuple(np.rint(there).astype(int).T)], np.asarray(source.dataobj)[tuple(indices.T)]
        )

    def test_unknown_images_have_no_file(self, dicom, store):
        for name in ("1.2.3", "*", "../x", "", dicom["ct"][0]):
            assert store("get_image_uri", name) == ""
            with pytest.raises(Refused, match="no such image"):
                store("save_label", name, "label.nii.gz", "final", {})

    @pytest.mark.parametrize("name", ["oblique", "reversed"])
    @pytest.mark.parametrize("boxes", [ONE_BOX, UPPER_BOX, TWO_BOXES], ids=["lower", "upper", "both"])
    def test_a_label_becomes_a_seg(self, dicom, store, tmp_path, name, boxes):
        uid, files, _ = dicom[name]
        label = write_label(tmp_path / "label.nii.gz", Path(store("get_image_uri", uid)), boxes)
        store("save_label", uid, label, "final", {})
        (path,) = find_segs(tmp_path / "dicom")
        seg = read_seg(path)
        check_seg(seg, label, files, {value: number for number, value in enumerate(boxes, 1)})
        names = {1: "anterior", 2: "posterior"}
        assert [s.SegmentLabel for s in seg.SegmentSequence] == [names[value] for value in boxes]
        colours = {1: [0, 255, 0], 2: [0, 0, 255]}
        for segment, value in zip(seg.SegmentSequence, boxes, strict=True):
            lab = hd.color.CIELabColor.from_rgb(*colours[value]).value
            assert np.abs(np.subtract(segment.RecommendedDisplayCIELabValue, lab)).max() < 300
            code = segment.SegmentedPropertyTypeCodeSequence[0]
            assert code.CodeValue == {1: "10200004", 2: "91723000"}[value]
        assert store("get_labeled_images") == [uid]
        (case,) = store("datalist")
        assert np.array_equal(voxels(case["label"]), voxels(label))
        assert store("get_label_info", uid, "final")["SeriesInstanceUID"] == seg.SeriesInstanceUID

    def test_a_new_cache_reads_the_seg_back(self, dicom, store, tmp_path):
        uid, _, _ = dicom["reversed"]
        label = write_label(tmp_path / "label.nii.gz", Path(store("get_image_uri", uid)), UPPER_BOX)
        store("save_label", uid, label, "final", {})
        store("open", tmp_path / "dicom", tmp_path / "another_cache")
        (case,) = store("datalist")
        assert np.array_equal(voxels(case["label"]), voxels(label))  # value 2 again, though it is segment 1 there

    def test_viewers_name_segments(self, dicom, store, tmp_path):
        uid, _, _ = dicom["oblique"]
        label = write_label(tmp_path / "label.nii.gz", Path(store("get_image_uri", uid)), UPPER_BOX)
        slicer = [{"name": "anterior", "idx": 1}, {"name": "Lesion", "idx": 2}]  # all it has, by value
        monai = [{"name": "Cyst", "color": [1, 2, 3], "description": "a cyst"}]  # what is present, by position
        for info in (slicer, monai):
            store("save_label", uid, label, "final", {"label_info": info})
        segs = sorted(map(read_seg, find_segs(tmp_path / "dicom")), key=lambda seg: seg.SegmentSequence[0].SegmentLabel)
        assert [[s.SegmentLabel for s in seg.SegmentSequence] for seg in segs] == [["Cyst"], ["Lesion"]]
        assert segs[0].SegmentSequence[0].SegmentDescription == "a cyst"

    def test_names_come_as_dicom_can_hold_them(self, dicom, store, tmp_path):
        uid, _, _ = dicom["oblique"]
        label = write_label(tmp_path / "label.nii.gz", Path(store("get_image_uri", uid)), TWO_BOXES)
        store(
            "save_label",
            uid,
            label,
            "final",
            {"label_info": [{"name": "L\u00e4sion\\" + "x" * 99}, {"name": "\u809d"}]},
        )
        (path,) = find_segs(tmp_path / "dicom")
        assert [s.SegmentLabel for s in read_seg(path).SegmentSequence] == ["Lasion/" + "x" * 57, "Label 2"]

    def test_of_two_labels_in_a_second_the_later_counts(self, dicom, store, tmp_path):
        uid, _, _ = dicom["oblique"]
        label = tmp_path / "label.nii.gz"
        for boxes in (ONE_BOX, TWO_BOXES, UPPER_BOX, TWO_BOXES, ONE_BOX):
            write_label(label, Path(store("get_image_uri", uid)), boxes)
            store("save_label", uid, label, "final", {})
            (case,) = store("datalist")
            assert np.array_equal(voxels(case["label"]), voxels(label))
        assert len(find_segs(tmp_path / "dicom")) == 5

    def test_a_cache_in_the_folder_is_not_part_of_it(self, dicom, store, tmp_path):
        folder = tmp_path / "dicom"
        store("open", folder, folder / "sdseg_label")
        uid, files, _ = dicom["oblique"]
        store("get_image_uri", uid)
        for file in files:
            file.unlink()
        store("open", folder, folder / "sdseg_label")
        assert store("list_images") == [dicom["reversed"][0]]

    def test_refuses_what_cannot_be_a_seg(self, dicom, store, tmp_path):
        uid, _, _ = dicom["oblique"]
        image = Path(store("get_image_uri", uid))
        empty = write_label(tmp_path / "empty.nii.gz", image, {})
        with pytest.raises(Refused, match="empty"):
            store("save_label", uid, empty, "final", {})
        label = write_label(tmp_path / "label.nii.gz", image, ONE_BOX)
        for info in ("text", [1], [{"color": "red"}], [{"segmentAttribute": 5}]):
            with pytest.raises(Refused, match="label_info"):
                store("save_label", uid, label, "final", {"label_info": info})
        store("save_label", uid, empty, "original", {})  # what a model found stays in the cache
        assert not find_segs(tmp_path / "dicom")
        assert store("datalist") == []

    def test_bare_voxels(self, dicom, store, tmp_path):
        uid, files, _ = dicom["reversed"]
        label = write_label(tmp_path / "label.nii.gz", Path(store("get_image_uri", uid)), TWO_BOXES)
        (tmp_path / "label.bin").write_bytes(voxels(label).tobytes(order="F"))
        store("save_label", uid, tmp_path / "label.bin", "final", {})
        (path,) = find_segs(tmp_path / "dicom")
        check_seg(read_seg(path), label, files, {1: 1, 2: 2})

    @pytest.mark.parametrize("says_spacing", [True, False])
    def test_segs_of_others_come_on_the_images_grid(self, dicom, store, tmp_path, says_spacing):
        _, files, volume = dicom["reversed"]
        label = write_label(tmp_path / "label.nii.gz", volume, ONE_BOX)
        path = make_seg(tmp_path / "dicom" / "others", label, files, ["Posterior"])
        if not says_spacing:
            seg = pydicom.dcmread(path)
            (measures,) = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
            measures.SliceThickness = 7
            del measures.SpacingBetweenSlices
            seg.save_as(path)
        (case,) = store("datalist")
        assert voxels(case["label"]).shape == voxels(case["image"]).shape
        assert np.allclose(nib.load(case["label"]).affine, nib.load(case["image"]).affine, atol=1e-4)
        assert np.allclose(points(case["label"], 2), points(label, 1), atol=1e-3)  # its name makes it 2
        assert voxels(case["label"]).max() == 2

    @pytest.mark.parametrize("names", [["Posterior"], ["tumour"]])
    def test_names_of_segs_of_others_count_in_a_training(self, dicom, store, tmp_path, names):
        uid, files, volume = dicom["oblique"]
        label = write_label(tmp_path / "label.nii.gz", volume, ONE_BOX)
        make_seg(tmp_path / "dicom" / "others", label, files, names)
        if names == ["Posterior"]:
            store("check_labels", 2)
            (case,) = store("datalist")
            assert set(np.unique(voxels(case["label"]))) == {0, 2}, "the model's value, not the segment's number"
        else:
            with pytest.raises(Refused, match=f"label of {uid}: 1 is called 'tumour', expected 1 anterior"):
                store("check_labels", 2)

    def test_segs_that_cannot_be_read_are_left_out(self, dicom, store, tmp_path):
        uid, files, volume = dicom["oblique"]
        label = write_label(tmp_path / "label.nii.gz", volume, ONE_BOX)
        frames = voxels(label).transpose(2, 1, 0)
        overlapping = np.stack([frames, frames], -1)
        make_seg(tmp_path / "dicom" / "overlapping", label, files, ["a", "b"], overlapping)
        assert store("datalist") == []
        assert any("left out" in warning for warning in store.warnings)
        assert store("get_labeled_images") == [uid]

    def test_sees_files_come_and_go(self, dicom, store, tmp_path):
        uid, files, _ = make_dicom(tmp_path / "dicom", OBLIQUE, "late")
        assert uid in store("list_images")
        store("get_image_uri", uid)
        files[-1].unlink()
        assert voxels(store("get_image_uri", uid)).shape == (*SHAPE[:2], SHAPE[2] - 1)
        files[2].unlink()
        with pytest.raises(Refused, match="not evenly spaced"):
            store("get_image_uri", uid)

    def test_studies_are_not_changed_from_here(self, dicom, store, tmp_path):
        uid, _, volume = dicom["oblique"]
        for call in (("add_image", "x", volume, {}), ("remove_image", uid), ("remove_label", uid, "final")):
            with pytest.raises(Refused, match="DICOM"):
                store(*call)

    def test_settings(self, dicom, store, tmp_path):
        store("set", "MONAI_LABEL_DICOMWEB_CONVERT_TO_NIFTI", False)
        try:
            with pytest.raises(Refused, match="CONVERT_TO_NIFTI"):
                store("open", tmp_path / "dicom", tmp_path / "cache")
        finally:
            store("set", "MONAI_LABEL_DICOMWEB_CONVERT_TO_NIFTI", True)
        store("set", "MONAI_LABEL_DICOMWEB_CACHE_PATH", str(tmp_path / "elsewhere"))
        try:
            store("open", tmp_path / "dicom", tmp_path / "cache")
            assert store("get_image_uri", dicom["oblique"][0]).startswith(str(tmp_path / "elsewhere"))
        finally:
            store("set", "MONAI_LABEL_DICOMWEB_CACHE_PATH", "")

    def test_highdicom_must_be_there(self, dicom, store, tmp_path):
        store("hide", "highdicom")
        try:
            with pytest.raises(Refused, match="DICOM needs highdicom, which is not installed: pip install"):
                store("open", tmp_path / "dicom", tmp_path / "cache")
        finally:
            store("show", "highdicom")

    def test_a_modality_without_series_is_told(self, dicom, store, tmp_path):
        store("open", tmp_path / "dicom", tmp_path / "cache", "PT")
        assert any("no series of images" in warning for warning in store.warnings)

    def test_any_modality_leaves_segmentations_out(self, dicom, store, tmp_path):
        _, files, volume = dicom["oblique"]
        make_seg(tmp_path / "dicom" / "seg", write_label(tmp_path / "l.nii.gz", volume, ONE_BOX), files, ["anterior"])
        store("open", tmp_path / "dicom", tmp_path / "cache", "")
        assert set(store("list_images")) == {series[0] for series in dicom.values()}


def ordered(files: list[Path]) -> list[Path]:
    """Return slices in the order of the volume made of them: along their normal."""

    def height(file: Path) -> float:
        header = pydicom.dcmread(file, stop_before_pixels=True)
        axes = np.reshape(header.ImageOrientationPatient, (2, 3))
        return float(np.cross(*axes) @ np.array(header.ImagePositionPatient, dtype=float))

    return sorted(files, key=height)


@pytest.mark.shared
class TestRealDicom:
    @pytest.mark.parametrize("name", ["totalsegmentator-example/ct_dicom", "dcmqi-ct-3slice"])
    def test_ct_decodes_as_simpleitk_reads_it(self, store, tmp_path, name):
        """JPEG 2000, and Implicit VR Little Endian."""
        folder = SHARED / "data" / name
        if not folder.is_dir():
            pytest.skip(f"no data at {folder}; set SDSEG_SHARED")
        shutil.copytree(folder, tmp_path / "dicom", ignore=shutil.ignore_patterns("*.nrrd"))
        store("open", tmp_path / "dicom", tmp_path / "cache", "CT")
        (uid,) = store("list_images")
        image = sitk.ReadImage(store("get_image_uri", uid))
        images = folder.glob("*.dcm") if "totalseg" in name else folder.glob("0?.dcm")
        expected = sitk.ReadImage(ordered(list(images)))
        assert np.array_equal(sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(expected))
        for one, other in zip(
            (image.GetOrigin(), image.GetSpacing(), image.GetDirection()),
            (expected.GetOrigin(), expected.GetSpacing(), expected.GetDirection()),
            strict=True,
        ):
            assert np.allclose(one, other, atol=1e-4)

    def test_a_hippocampus_goes_out_and_comes_back(self, hippocampus, store, tmp_path):
        volume = hippocampus / "images" / "hippocampus_001.nii.gz"
        files = write_mr_series(volume, tmp_path / "dicom")
        store("open", tmp_path / "dicom", tmp_path / "cache")
        (uid,) = store("list_images")
        image = nib.load(store("get_image_uri", uid))
        canonical = nib.as_closest_canonical(nib.load(volume))
        assert np.array_equal(nib.as_closest_canonical(image).get_fdata(), canonical.get_fdata())
        assert np.allclose(nib.as_closest_canonical(image).affine, canonical.affine, atol=1e-5)
        source = nib.load(hippocampus / "labels" / "hippocampus_001.nii.gz")
        turn = nib.orientations.ornt_transform(
            nib.orientations.io_orientation(source.affine), nib.orientations.io_orientation(image.affine)
        )
        nib.save(source.as_reoriented(turn), tmp_path / "label.nii.gz")
        store("save_label", uid, tmp_path / "label.nii.gz", "final", {})
        (path,) = find_segs(tmp_path / "dicom")
        check_seg(read_seg(path), tmp_path / "label.nii.gz", files, {1: 1, 2: 2})
        store("open", tmp_path / "dicom", tmp_path / "another_cache")
        (case,) = store("datalist")
        assert np.array_equal(voxels(case["label"]), voxels(tmp_path / "label.nii.gz"))

    def test_a_seg_of_dcmqi_comes_back(self, store, tmp_path):
        folder = SHARED / "data" / "dcmqi-ct-3slice"
        if not folder.is_dir():
            pytest.skip(f"no data at {folder}; set SDSEG_SHARED")
        (tmp_path / "dicom").mkdir()
        for name in ("01.dcm", "02.dcm", "03.dcm", "liver.dcm"):
            shutil.copy(folder / name, tmp_path / "dicom")
        store("open", tmp_path / "dicom", tmp_path / "cache", "CT")
        (case,) = store("datalist")
        liver = sitk.Resample(
            sitk.ReadImage(str(folder / "liver_seg.nrrd")),
            sitk.ReadImage(case["label"]),
            sitk.Transform(),
            sitk.sitkNearestNeighbor,
        )
        assert np.array_equal(
            sitk.GetArrayFromImage(sitk.ReadImage(case["label"])) > 0, sitk.GetArrayFromImage(liver) > 0
        )


@pytest.fixture(scope="module")
def orthanc():
    with OrthancServer() as server:
        yield server


@needs_orthanc
class TestOrthanc:
    def test_arrivals_are_seen_at_once(self, orthanc, store, tmp_path):
        store("open", orthanc.dicomweb_url, tmp_path / "cache")
        uid, files, _ = make_dicom(tmp_path / "dicom", OBLIQUE, "first")
        assert uid not in store("list_images")
        orthanc.upload(files[:3])
        assert uid in store("list_images")
        assert voxels(store("get_image_uri", uid)).shape[2] == 3
        orthanc.upload(files[3:])
        assert voxels(store("get_image_uri", uid)).shape[2] == len(files)
        ct, files, _ = make_dicom(tmp_path / "dicom", OBLIQUE, "ct", Modality="CT")
        orthanc.upload(files)
        assert ct not in store("list_images")

    @pytest.mark.parametrize("matrix", [OBLIQUE, REVERSED], ids=["oblique", "reversed"])
    def test_labels_go_out_and_come_back(self, orthanc, store, tmp_path, matrix):
        store("open", orthanc.dicomweb_url, tmp_path / "cache")
        uid, files, _ = make_dicom(tmp_path / "dicom", matrix, "series")
        orthanc.upload(files)
        assert uid in store("get_unlabeled_images")
        image = Path(store("get_image_uri", uid))
        label = write_label(tmp_path / "label.nii.gz", image, UPPER_BOX)
        store("save_label", uid, label, "final", {})
        assert uid in store("get_labeled_images")
        assert uid not in store("get_unlabeled_images")
        study = str(pydicom.dcmread(files[0]).StudyInstanceUID)
        (seg,) = orthanc.instances(StudyInstanceUID=study, Modality="SEG")
        check_seg(hd.seg.Segmentation.from_dataset(seg), label, files, {2: 1})
        labels = {case["image"]: case["label"] for case in store("datalist")}
        assert np.array_equal(voxels(labels[str(image)]), voxels(label))

        other = make_seg(tmp_path / "other.dcm", write_label(label, image, TWO_BOXES), ordered(files), ["x", "y"])
        orthanc.upload([other])  # newer
        labels = {case["image"]: case["label"] for case in store("datalist")}
        assert np.array_equal(voxels(labels[str(image)]), voxels(label))
        assert store("get_label_uri", uid, "final") == labels[str(image)]

        for instance in (seg, pydicom.dcmread(other)):
            orthanc.delete(instance.SeriesInstanceUID)
        assert uid not in store("get_labeled_images")
        assert str(image) not in {case["image"] for case in store("datalist")}
        assert store("get_label_uri", uid, "final") == ""

    def test_one_bad_series_does_not_stop_a_training(self, orthanc, store, tmp_path):
        store("open", orthanc.dicomweb_url, tmp_path / "cache")
        uid, files, volume = make_dicom(tmp_path / "dicom", OBLIQUE, "gap")
        label = write_label(tmp_path / "label.nii.gz", volume, ONE_BOX)
        orthanc.upload([*files[:2], *files[3:], make_seg(tmp_path / "seg.dcm", label, files, ["anterior"])])
        assert uid in store("get_labeled_images")
        assert all(uid not in case["image"] for case in store("datalist"))
        assert any("not evenly spaced" in warning for warning in store.warnings)

    def test_the_root_of_orthanc_is_no_dicomweb_server(self, orthanc, store, tmp_path):
        _, files, _ = make_dicom(tmp_path / "dicom", OBLIQUE, "any")
        orthanc.upload(files)
        with pytest.raises(Refused, match="no usable answer"):
            store("open", orthanc.url, tmp_path / "cache")

    def test_credentials(self, store, tmp_path):
        with OrthancServer({"user": "secret"}) as server:
            with pytest.raises(Refused, match="401"):
                store("open", server.dicomweb_url, tmp_path / "cache")
            store("set", "MONAI_LABEL_DICOMWEB_USERNAME", "user")
            store("set", "MONAI_LABEL_DICOMWEB_PASSWORD", "secret")
            try:
                store("open", server.dicomweb_url, tmp_path / "cache")
                assert store("list_images") == []
            finally:
                store("set", "MONAI_LABEL_DICOMWEB_USERNAME", "")
                store("set", "MONAI_LABEL_DICOMWEB_PASSWORD", "")
        with pytest.raises(Refused, match="no usable answer"):
            store("list_images")  # it is gone

    @pytest.mark.shared
    def test_jpeg_2000(self, orthanc, store, tmp_path):
        folder = SHARED / "data" / "totalsegmentator-example" / "ct_dicom"
        if not folder.is_dir():
            pytest.skip(f"no data at {folder}; set SDSEG_SHARED")
        files = sorted(folder.glob("*.dcm"))
        (tmp_path / "dicom").mkdir()
        uid = hd.UID()
        for file in files:  # these have none
            dataset = pydicom.dcmread(file)
            dataset.StudyInstanceUID = dataset.SeriesInstanceUID = uid
            dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID
            dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID
            dataset.save_as(tmp_path / "dicom" / file.name)
        orthanc.upload(sorted((tmp_path / "dicom").iterdir()))
        store("open", orthanc.dicomweb_url, tmp_path / "cache", "CT")
        image = sitk.ReadImage(store("get_image_uri", uid))
        expected = sitk.ReadImage(ordered(files))
        assert np.array_equal(sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(expected))
        assert np.allclose(image.GetOrigin(), expected.GetOrigin(), atol=1e-4)
