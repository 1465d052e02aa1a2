"""The one rule by which files of a case are found: names of label and image programs, folders where it is not clear."""

from pathlib import Path

import pytest

from sdseg_monai.errors import InputError
from sdseg_monai.evaluation import list_cases, match_cases, match_images, pair_cases


def touch(folder, *names):
    folder.mkdir()
    for name in names:
        (folder / name).touch()
    return folder


def pairs_of(files, labels):
    file_of_case, label_of_case = ({name: Path(name) for name in names} for names in (files, labels))
    return [(file.name, label.name) for file, label in pair_cases(file_of_case, label_of_case).pairs]


@pytest.mark.parametrize(
    ("file", "label"),
    [
        ("case_0", "case_0_seg"),
        ("case_0", "case_0-label"),
        ("case_0", "case_0_label"),
        ("case_0", "case_0-Label"),
        ("case_0", "case_0_mask"),
        ("case_0_0000", "case_0"),
        ("case_0_0000", "case_0_seg"),
        ("case_0", "case_0_0000"),  # a mask that has the name of nnU-Net's image
        ("sub-01_T1w", "sub-01_dseg"),
        ("sub-01_ses-2_acq-x_FLAIR", "sub-01_ses-2_acq-x_dseg"),
        ("BraTS_001_t1ce", "BraTS_001_seg"),
        ("patient_ct", "patient_gt"),
        ("case_1_image", "case_1_label"),
        ("visit_t1", "visit_t1_seg"),
        ("img0001_0000", "label0001"),
    ],
)
def test_endings_of_programs_do_not_count(file, label):
    assert pairs_of([file], [label]) == [(file, label)]


@pytest.mark.parametrize(
    ("file", "label"),
    [
        ("case_0_0001", "case_0"),  # another channel
        ("case_0", "case_0_tail"),
        ("case_0", "case_10"),
        ("label", "seg"),
        ("_seg", "_label"),  # an ending is no name
        ("sub-01_T1w", "sub-02_dseg"),
        ("sub-01_left", "sub-01_0001"),
        ("Case_0", "case_0_seg_x"),
    ],
)
def test_other_names_are_no_pair(file, label):
    assert pairs_of([file], [label]) == []


def test_the_full_name_counts_first():
    assert pairs_of(["a_t1", "a_t2"], ["a_t2", "a_t1"]) == [("a_t1", "a_t1"), ("a_t2", "a_t2")]
    numbered = [f"x_{number:04}" for number in range(3)]
    assert pairs_of(numbered, numbered) == [(name, name) for name in numbered]
    assert pairs_of(numbered, [f"{name}_seg" for name in numbered]) == [(name, f"{name}_seg") for name in numbered]
    assert pairs_of(["a_t1"], ["a_t1", "a_t2"]) == [("a_t1", "a_t1")]


@pytest.mark.parametrize(
    ("files", "labels", "twins"),
    [
        (["a"], ["a", "a_seg"], "a_seg: a is of the same case, a"),  # the image beside its label
        (["a"], ["a_seg", "a-label"], "a-label: a_seg is of the same case, a"),
        (["a", "a_0000"], ["a"], "a_0000: a is of the same case, a"),
        (["a_t1", "a_t2"], ["a_seg"], "a_t2: a_t1 is of the same case, a"),
        (["sub-1_T1w", "sub-1_bold"], ["sub-1_dseg"], "sub-1_bold: sub-1_T1w is of the same case, sub-1"),
    ],
)
def test_two_files_of_one_case_are_refused(files, labels, twins):
    with pytest.raises(InputError, match=f"^{twins}, expected one file a case; move one of them"):
        pairs_of(files, labels)


def test_slicer_s_suffix_is_one(tmp_path):
    labels = touch(tmp_path / "labels", "case_0.seg.nrrd", "case_1.seg.nrrd")
    assert list(list_cases(labels)) == ["case_0", "case_1"]
    masks = touch(tmp_path / "masks", "case_0.nii.gz", "case_1_0000.nrrd")
    assert [(mask.name, label.name) for mask, label in match_cases(masks, labels)] == [
        ("case_0.nii.gz", "case_0.seg.nrrd"),
        ("case_1_0000.nrrd", "case_1.seg.nrrd"),
    ]
    (labels / "case_0.nrrd").touch()
    with pytest.raises(InputError, match=r"case_0\.seg\.nrrd: case_0\.nrrd has the same name"):
        list_cases(labels)


def test_images_of_a_report_are_found_by_the_same_rule(tmp_path):
    masks = list(list_cases(touch(tmp_path / "masks", "case_0.nii.gz", "sub-01_dseg.nii.gz")).values())
    images = touch(tmp_path / "images", "case_0_0000.nii.gz", "sub-01_T1w.nii.gz")
    assert match_images(masks, images) == [images / "case_0_0000.nii.gz", images / "sub-01_T1w.nii.gz"]


def test_a_refusal_names_the_rule_and_the_closest_name(tmp_path):
    masks, labels = touch(tmp_path / "masks", "casse_a.nii.gz"), touch(tmp_path / "labels", "case_a.nii.gz", "z.nii.gz")
    with pytest.raises(
        InputError, match=r"casse_a\.nii\.gz: no label .*\(endings such as _seg.*closest is case_a\.nii"
    ):
        match_cases(masks, labels)
