"""Splits must not change: bundles, published figures and servers depend on them."""

from hypothesis import given, settings
from hypothesis import strategies as st

from sdseg_monai.data.splits import missing_classes, split_by_counts, split_by_seed, split_by_share

CASES = [f"case_{number}" for number in range(10)]


def cases(*numbers):
    return [CASES[number] for number in numbers]


def test_splits_are_what_they_were():
    """Of seed 0 some deal leaves each split class 2; of seed 1 the first deal is taken."""
    classes = {name: (0, 1, 2) if name in cases(3, 7, 9) else (0, 1) for name in CASES}
    assert split_by_seed(classes, 0) == {
        "training": cases(0, 1, 2, 4, 5, 6, 7, 8),
        "validation": cases(3),
        "test": cases(9),
    }
    assert split_by_seed(dict.fromkeys(classes, (0, 1)), 1) == {
        "training": cases(0, 1, 2, 3, 5, 7, 8, 9),
        "validation": cases(6),
        "test": cases(4),
    }
    assert split_by_counts(CASES, validation=3, test=2) == {
        "training": cases(0, 4, 5, 7, 8),
        "validation": cases(1, 3, 9),
        "test": cases(2, 6),
    }
    assert split_by_share(CASES, 0.2) == {"training": cases(2, 5, 7, 9, 8, 1, 6, 4), "validation": cases(0, 3)}


def test_a_class_that_a_split_lacks_is_named():
    classes = {"a": (0, 1), "b": (0,), "c": (0, 1)}
    assert missing_classes(classes, {"training": ["a"], "validation": ["b"], "test": []}) == [(1, "validation")]


@given(st.lists(st.text(), min_size=2, max_size=30, unique=True), st.integers(0, 9), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_counts_are_kept_and_what_is_left_trains(names, validation, test):
    splits = split_by_counts(names, validation=validation, test=test)
    assert splits == split_by_counts(names[::-1], validation=validation, test=test)
    assert sorted(name for members in splits.values() for name in members) == sorted(names)
    if validation + test <= len(names):
        assert (len(splits["validation"]), len(splits["test"])) == (validation, test)
