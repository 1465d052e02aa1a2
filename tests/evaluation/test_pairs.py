"""Pairs of files that belong to the same case."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdseg_monai.errors import InputError
from sdseg_monai.evaluation import list_cases, match_cases, match_images, pair_cases

# a name at most once with and without the ending that does not count
names = st.lists(
    st.tuples(st.from_regex(r"[ab]{1,2}[0-9]{0,2}", fullmatch=True), st.sampled_from(["", "_0000"])),
    max_size=8,
    unique_by=lambda parts: parts[0],
).map(lambda pairs: ["".join(parts) for parts in pairs])


def files_of(folder, stems):
    return {stem: Path(folder) / f"{stem}.nii.gz" for stem in stems}


def touch(folder, *stems, suffix=".nii.gz"):
    folder.mkdir(exist_ok=True)
    for stem in stems:
        (folder / f"{stem}{suffix}").touch()
    return folder


def pairs_of(files, labels):
    pairing = pair_cases(files_of("files", files), files_of("labels", labels))
    return [tuple(path.name.removesuffix(".nii.gz") for path in pair) for pair in pairing.pairs]


@given(names, names, st.booleans())
@settings(max_examples=200, deadline=None)
def test_every_file_is_in_one_pair_or_left_over(file_names, label_names, numbers):
    files, labels = files_of("files", file_names), files_of("labels", label_names)
    pairing = pair_cases(files, labels, numbers)
    assert sorted([*(file for file, _ in pairing.pairs), *pairing.files]) == sorted(files.values())
    assert sorted([*(label for _, label in pairing.pairs), *pairing.labels]) == sorted(labels.values())
    paired = {file.name: label.name for file, label in pairing.pairs}
    assert all(paired[file.name] == file.name for name, file in files.items() if name in labels)
    bare_labels = {name.removesuffix("_0000") for name in labels}
    assert all(file.name in paired for name, file in files.items() if name.removesuffix("_0000") in bare_labels)


@pytest.mark.parametrize(
    ("files", "labels", "pairs"),
    [
        (["img0001", "b"], ["b", "label0001"], [("img0001", "label0001"), ("b", "b")]),
        (["img1", "x1"], ["label1"], []),  # two files of one number
        (["img1"], ["label1", "other1"], []),  # two labels
        (["a1", "b1"], ["a1", "c1"], [("a1", "a1")]),  # whether b1 belongs to c1 cannot be told: a1 ends so too
        (["a_0000"], ["a"], [("a_0000", "a")]),
        (["a01"], ["b1"], []),  # 01 is not 1
    ],
)
def test_the_same_name_counts_then_a_number_that_is_the_only_one(files, labels, pairs):
    assert pairs_of(files, labels) == pairs


def test_predictions_need_labels_and_labels_no_predictions(tmp_path):
    predictions, labels = touch(tmp_path / "masks", "img1", "b"), touch(tmp_path / "labels", "label1", "b", "c")
    assert [(mask.name, label.name) for mask, label in match_cases(predictions, labels)] == [
        ("b.nii.gz", "b.nii.gz"),
        ("img1.nii.gz", "label1.nii.gz"),
    ]
    touch(predictions, "d")
    with pytest.raises(InputError, match=r"d\.nii\.gz: no label for it in .*labels, expected one of the same name"):
        match_cases(predictions, labels)
    touch(predictions, "b", suffix=".nrrd")
    with pytest.raises(InputError, match=r"b\.nrrd: b\.nii\.gz has the same name, expected one file a case"):
        match_cases(predictions, labels)


def test_a_picture_and_a_volume_are_no_pair(tmp_path):
    with pytest.raises(InputError, match=r"a\.nii\.gz: is of another kind than .*a\.png"):
        match_cases(touch(tmp_path / "masks", "a", suffix=".png"), touch(tmp_path / "labels", "a"))


def test_an_image_has_the_very_name_of_its_prediction(tmp_path):
    predictions = list(list_cases(touch(tmp_path / "masks", "a", "b1")).values())
    images = touch(tmp_path / "images", "a", "b1", "c")
    assert match_images(predictions, None) == [None, None]
    assert match_images(predictions, images) == [images / "a.nii.gz", images / "b1.nii.gz"]
    (images / "b1.nii.gz").rename(images / "x1.nii.gz")
    with pytest.raises(InputError, match=r"b1\.nii\.gz: no image of that name in"):
        match_images(predictions, images)
