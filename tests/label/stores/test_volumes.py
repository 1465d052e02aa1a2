"""The datastore of a folder of volumes, and which folders and addresses are refused."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from tests.label.datastore_process import Refused
from tests.label.stores.labels import ONE_BOX, SHAPE, SOON, TWO_BOXES, voxels, write_label
from tests.makers.dicom import OBLIQUE, REVERSED, write_mr_series, write_noise
from tests.makers.label_server import needs_label_env
from tests.makers.orthanc import free_port
from tests.makers.volumes import load_nifti, write_nifti

pytestmark = needs_label_env


@pytest.fixture
def studies(tmp_path, store) -> Path:
    """A folder of three volumes, opened."""
    folder = tmp_path / "studies"
    image = write_noise(folder / "a.nii.gz", OBLIQUE, SHAPE)
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
        good = load_nifti(tmp_path / "a_label.nii.gz")
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
        for name in ("nobody", "../a", ""):
            with pytest.raises(Refused, match="no such image"):
                store("save_label", name, tmp_path / "a_label.nii.gz", "final", {})
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
        for names in (["Anterior", "posterior"], ["", "posterior"], []):
            label_info = [{"name": name} for name in names]
            store("save_label", "a", tmp_path / "a_label.nii.gz", "final", {"label_info": label_info})
            store("check_labels", 2)
        for names, reason in (
            (["posterior", "anterior"], "label of a: 1 is called 'posterior', expected 1 anterior, 2 posterior"),
            (["anterior", "cyst"], "label of a: 2 is called 'cyst', expected 1 anterior, 2 posterior"),
        ):
            label_info = [{"name": name} for name in names]
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
        write_nifti(tmp_path / "large.nii", array, load_nifti(studies / "a.nii.gz").affine)
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
        write_noise(tmp_path / "other.nii.gz", REVERSED, SHAPE)
        for image in (tmp_path / "other.nii.gz", studies / "b.nrrd"):
            with pytest.raises(Refused, match="another image has that name"):
                store("add_image", "a", image, {})
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
        image = write_noise(tmp_path / "image.nii.gz", OBLIQUE, SHAPE)
        store("add_image", "first", image, {})
        assert store("list_images") == ["first"]

    def test_volumes_before_dicom(self, store, tmp_path):
        image = write_noise(tmp_path / "both" / "image.nii.gz", OBLIQUE, SHAPE)
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
