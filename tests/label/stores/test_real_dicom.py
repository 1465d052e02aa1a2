"""A folder of real series: the images that are offered, and SEGs that other programs can read."""

from __future__ import annotations

import shutil

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from tests.label.stores.labels import check_seg, find_segs, ordered, read_seg, voxels
from tests.makers.dicom import write_mr_series
from tests.makers.label_server import needs_label_env
from tests.makers.places import SHARED
from tests.makers.volumes import load_nifti

pytestmark = needs_label_env


@pytest.mark.shared
class TestRealDicom:
    @pytest.mark.parametrize(
        "name", [pytest.param("totalsegmentator-example/ct_dicom", marks=pytest.mark.slow), "dcmqi-ct-3slice"]
    )
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
        for decoded, reference in zip(
            (image.GetOrigin(), image.GetSpacing(), image.GetDirection()),
            (expected.GetOrigin(), expected.GetSpacing(), expected.GetDirection()),
            strict=True,
        ):
            assert np.allclose(decoded, reference, atol=1e-4)

    def test_a_hippocampus_goes_out_and_comes_back(self, hippocampus, store, tmp_path):
        volume = hippocampus / "images" / "hippocampus_001.nii.gz"
        files = write_mr_series(volume, tmp_path / "dicom")
        store("open", tmp_path / "dicom", tmp_path / "cache")
        (uid,) = store("list_images")
        image = load_nifti(store("get_image_uri", uid))
        canonical = nib.as_closest_canonical(load_nifti(volume))
        assert np.array_equal(nib.as_closest_canonical(image).get_fdata(), canonical.get_fdata())
        assert np.allclose(nib.as_closest_canonical(image).affine, canonical.affine, atol=1e-5)
        source = load_nifti(hippocampus / "labels" / "hippocampus_001.nii.gz")
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
