"""Names of classes in masks of each kind, and segmentations of 3D Slicer."""

import json

import nibabel as nib
import numpy as np
import pytest

from sdseg_monai.errors import InputError
from sdseg_monai.io.class_names import names_by_value, read_class_names
from sdseg_monai.io.formats.nifti_labels import label_extension
from sdseg_monai.io.label_maps import read_mask
from sdseg_monai.io.segments import Segment
from sdseg_monai.io.volumes import volume_stem, volume_suffix
from tests.makers.volumes import OBLIQUE, write_nifti, write_seg_nrrd

MASK = np.arange(24, dtype=np.uint8).reshape(2, 3, 4) % 3


def write_named(path, names):
    image = nib.Nifti1Image(MASK, OBLIQUE)
    segments = {value: Segment(name, (1, 2, 3), None) for value, name in names.items()}
    image.header.extensions.append(label_extension(segments))
    nib.save(image, path)
    return path


def test_names_are_in_the_header_of_nifti_and_of_slicer_s_nrrd(tmp_path):
    assert read_class_names(write_named(tmp_path / "a.nii.gz", {0: "air", 1: "Head", 2: "Tail"})) == {
        1: "Head",
        2: "Tail",
    }
    path = write_seg_nrrd(tmp_path / "b.seg.nrrd", MASK, OBLIQUE, {2: "Schwanz é", 1: "Kopf"})
    assert read_class_names(path) == {2: "Schwanz é", 1: "Kopf"}, "by their values, not by their order"
    volume = read_mask(path)
    assert np.array_equal(volume.array, MASK)
    np.testing.assert_allclose(volume.affine, OBLIQUE, atol=1e-6)
    assert (volume_stem(path), volume_suffix(path)) == ("b", ".seg.nrrd")


def test_names_are_in_the_json_beside_a_mask_that_has_none(tmp_path):
    path = write_nifti(tmp_path / "a.nii.gz", MASK)
    assert read_class_names(path) == {}
    (tmp_path / "a.json").write_text(json.dumps({"labels": {"1": {"name": "Head"}, "2": {"name": "Tail"}}}))
    assert read_class_names(path) == {1: "Head", 2: "Tail"}
    write_named(path, {1: "Kopf"})
    assert read_class_names(path) == {1: "Kopf"}, "the mask itself says more"


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"labels": 3}', '{"labels": {"x": {"name": "a"}}}', '{"labels": [1]}']
)
def test_json_of_others_names_nothing(text, tmp_path):
    path = write_nifti(tmp_path / "a.nii.gz", MASK)
    (tmp_path / "a.json").write_text(text)
    assert read_class_names(path) == {}


def test_masks_that_disagree_give_several_names(tmp_path):
    masks = [
        write_named(tmp_path / f"{i}.nii.gz", {1: "Head", 2: name}) for i, name in enumerate(("Tail", "End", "End"))
    ]
    assert names_by_value(masks) == {1: ["Head"], 2: ["Tail", "End"]}


def test_segments_that_overlap_are_refused(tmp_path):
    path = write_seg_nrrd(tmp_path / "a.seg.nrrd", MASK, OBLIQUE, {1: "Head", 2: "Tail"}, layers={2: 1})
    with pytest.raises(InputError, match=r"a\.seg\.nrrd: its segments \(Head, Tail\) lie in 2 layers .* to a labelmap"):
        read_mask(path)
