"""The datastore of a folder of DICOM files: what it lists, and labels as SEGs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
import pytest

from tests.label.datastore_process import Refused
from tests.label.stores.labels import (
    ONE_BOX,
    SHAPE,
    TWO_BOXES,
    UPPER_BOX,
    check_seg,
    find_segs,
    make_dicom,
    make_seg,
    points,
    read_seg,
    voxels,
    write_label,
)
from tests.makers.dicom import OBLIQUE, REVERSED
from tests.makers.label_server import needs_label_env
from tests.makers.volumes import load_nifti

pytestmark = needs_label_env


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


class TestDicomFolder:
    @pytest.mark.parametrize("name", ["oblique", "reversed"])
    def test_series_become_volumes_in_place(self, dicom, store, tmp_path, name):
        uid, _, volume = dicom[name]
        assert set(store("list_images")) == {dicom["oblique"][0], dicom["reversed"][0]}
        before = sorted((tmp_path / "dicom").rglob("*"))
        image, source = load_nifti(store("get_image_uri", uid)), load_nifti(volume)
        assert sorted((tmp_path / "dicom").rglob("*")) == before
        indices = np.argwhere(np.ones(source.shape))
        positions = nib.affines.apply_affine(np.linalg.inv(image.affine) @ source.affine, indices)
        assert np.abs(positions - np.rint(positions)).max() < 1e-4
        assert np.array_equal(
            np.asarray(image.dataobj)[tuple(np.rint(positions).astype(int).T)],
            np.asarray(source.dataobj)[tuple(indices.T)],
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
        assert np.allclose(load_nifti(case["label"]).affine, load_nifti(case["image"]).affine, atol=1e-4)
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
        calls: dict[str, tuple[Any, ...]] = {
            "add_image": ("x", volume, {}),
            "remove_image": (uid,),
            "remove_label": (uid, "final"),
        }
        for method, arguments in calls.items():
            with pytest.raises(Refused, match="DICOM"):
                store(method, *arguments)

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
