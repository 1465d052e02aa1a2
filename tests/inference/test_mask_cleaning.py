"""A bundle's ``mask_cleaning`` on the grid of the file."""

import json

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from sdseg_monai.bundle import Bundle, bundles_dir
from sdseg_monai.inference.pipeline import Pipeline
from tests.makers.volumes import load_nifti, write_thick_phantom

CLEAN = bundles_dir() / "sdseg" / "configs" / "clean_mask.json"
SPACING = np.diag([2.0, 1.0, 1.5, 1.0])


def clean(labels, **knobs):
    """Return ``labels`` [X, Y, Z] after the shipped overlay's steps."""
    parser = Bundle.open("hippocampus_sdseg").config("inference", [CLEAN])
    parser.update(knobs)
    steps = parser.get_parsed_content("mask_cleaning", instantiate=True)
    item = {"pred": MetaTensor(torch.from_numpy(labels)[None].float(), affine=torch.from_numpy(SPACING))}
    for step in steps:
        item = step(item)
    return item["pred"][0].numpy().astype(np.uint8)


def boxes(*corners_and_sizes):
    labels = np.zeros((20, 20, 12), np.uint8)
    for value, corner, size in corners_and_sizes:
        labels[tuple(slice(c, c + n) for c, n in zip(corner, size, strict=True))] = value
    return labels


def test_each_class_keeps_its_largest_part():
    large = [(1, (0, 0, 0), (5, 5, 5)), (2, (10, 10, 0), (4, 4, 4))]
    expected = boxes(*large)
    cleaned = clean(boxes(*large, (1, (15, 0, 0), (2, 2, 2)), (2, (0, 15, 9), (3, 2, 2))))
    np.testing.assert_array_equal(cleaned, expected)
    np.testing.assert_array_equal(clean(expected), expected)
    assert not clean(np.zeros_like(expected)).any()


def test_holes_are_filled_and_other_classes_within_are_kept():
    labels = boxes((1, (2, 2, 2), (7, 7, 7)))
    labels[4:6, 4:6, 4:6] = 0
    np.testing.assert_array_equal(clean(labels), boxes((1, (2, 2, 2), (7, 7, 7))))
    labels[4:6, 4:6, 4:6] = 2
    np.testing.assert_array_equal(clean(labels), labels)


@pytest.mark.parametrize(("smallest", "kept"), [(0, {0, 1, 2}), (75, {0, 1, 2}), (84, {0, 1}), (1000, {0})])
def test_the_smallest_volume_is_in_cubic_millimetres(smallest, kept):
    labels = boxes(
        (1, (0, 0, 0), (5, 5, 5)), (2, (10, 10, 0), (3, 3, 3))
    )  # 375 and 81 mm3; skimage decides whether a part of just that size is too small
    assert set(np.unique(clean(labels, min_volume_mm3=smallest))) == kept


def test_a_mask_is_cleaned_only_where_the_bundle_says_so(tmp_path):
    write_thick_phantom(tmp_path / "a.nii.gz", tmp_path / "label.nii.gz")
    plain = Pipeline(device="cpu")(tmp_path / "a.nii.gz")
    overlay = tmp_path / "small.json"
    overlay.write_text(json.dumps({"min_volume_mm3": 1e6}))
    cleaned = Pipeline(device="cpu", overlays=[CLEAN])(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(cleaned.scores, plain.scores)
    assert cleaned.labels.dtype == np.uint8 and cleaned.labels.shape == load_nifti(tmp_path / "a.nii.gz").shape
    for value in (1, 2):
        assert (cleaned.labels == value).sum() > 0
        from monai.transforms import KeepLargestConnectedComponent

        largest = KeepLargestConnectedComponent(is_onehot=True)(torch.from_numpy(cleaned.labels == value)[None].float())
        np.testing.assert_array_equal(largest[0].numpy() > 0, cleaned.labels == value)
    assert not Pipeline(device="cpu", overlays=[CLEAN, overlay])(tmp_path / "a.nii.gz").labels.any()
