"""The datastore of a real Orthanc, over DICOMweb."""

from __future__ import annotations

from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from tests.label.datastore_process import Refused
from tests.label.stores.labels import (
    ONE_BOX,
    TWO_BOXES,
    UPPER_BOX,
    check_seg,
    make_dicom,
    make_seg,
    ordered,
    voxels,
    write_label,
)
from tests.makers.dicom import OBLIQUE, REVERSED
from tests.makers.label_server import needs_label_env
from tests.makers.orthanc import HAS_ORTHANC, NO_ORTHANC, OrthancServer
from tests.makers.places import SHARED

pytestmark = needs_label_env
needs_orthanc = pytest.mark.skipif(not HAS_ORTHANC, reason=NO_ORTHANC)


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

        other_seg = make_seg(tmp_path / "other.dcm", write_label(label, image, TWO_BOXES), ordered(files), ["x", "y"])
        orthanc.upload([other_seg])  # newer
        labels = {case["image"]: case["label"] for case in store("datalist")}
        assert np.array_equal(voxels(labels[str(image)]), voxels(label))
        assert store("get_label_uri", uid, "final") == labels[str(image)]

        for instance in (seg, pydicom.dcmread(other_seg)):
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
