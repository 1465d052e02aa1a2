"""Values of labels that are almost whole numbers, and how others are printed."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from sdseg_monai.errors import InputError
from sdseg_monai.io.label_maps import check_label_map, rounded_labels, value_text
from sdseg_monai.transforms import ClassLabelsd


def label_map(value, dtype=np.float32):
    return np.array([0, 1, 2, value], dtype).reshape(4, 1, 1)


@pytest.mark.parametrize(("value", "whole"), [(0.9999, 1), (1.000001, 1), (1.9991, 2), (2.0009, 2), (-0.0005, 0)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_value_within_a_thousandth_is_its_whole_number(value, whole, dtype):
    array = check_label_map("a", label_map(value, dtype), largest=2, most_values=3)
    assert array.ravel().tolist() == [0, 1, 2, whole] and not np.signbit(array).any()
    label = MetaTensor(torch.from_numpy(label_map(value, dtype))[None].float(), meta={"filename_or_obj": "a.nii.gz"})
    result = ClassLabelsd("label", 3)({"label": label})["label"]
    assert result.flatten().tolist() == [0, 1, 2, whole] and result.meta["filename_or_obj"] == "a.nii.gz"
    assert label.flatten()[3] == pytest.approx(value, abs=1e-6), "the input is not changed"


@pytest.mark.parametrize("value", [0.9989, 1.0011, 0.5, -0.002, 1.5000001])
def test_others_are_refused_with_the_digits_that_tell_them_from_whole_numbers(value):
    with pytest.raises(InputError, match=rf"such as {value:.9g}, expected whole numbers from 0"):
        check_label_map("a", label_map(value, np.float64))
    label = MetaTensor(torch.tensor([0.0, 1, 2, 1.0011]).view(1, 4, 1, 1), meta={"filename_or_obj": "a.nii.gz"})
    with pytest.raises(InputError, match=r"a\.nii\.gz: a label of 1\.0011, expected 0 to 2 for num_classes=3"):
        ClassLabelsd("label", 3)({"label": label})


def test_whole_numbers_are_not_copied_and_any_dtype_is_printed():
    array = label_map(2, np.uint8)
    assert rounded_labels(array) is array
    assert [value_text(np.float32(x)) for x in (0.9999, 1.000001, -1, 200000)] == ["0.9999", "1.000001", "-1", "200000"]
    assert value_text(np.uint8(255)) == "255"


@pytest.mark.parametrize(("num_classes", "values"), [(3, (0, 1, 2, 255)), (2, (0, 1, 1, 255))])
def test_unsure_voxels_are_not_trained_on(num_classes, values):
    label = MetaTensor(torch.tensor(values).float().view(1, 4, 1, 1), meta={"filename_or_obj": "a.nii.gz"})
    with pytest.raises(
        InputError, match=r"a\.nii\.gz: a label of 255.*255 stands for an unsure voxel: segment without"
    ):
        ClassLabelsd("label", num_classes)({"label": label})


def test_black_and_white_is_one_class():
    label = MetaTensor(torch.tensor([0.0, 255, 255, 0]).view(1, 4, 1, 1))
    assert ClassLabelsd("label", 2)({"label": label})["label"].flatten().tolist() == [0, 1, 1, 0]
