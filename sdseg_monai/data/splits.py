"""Splits of cases into training, validation and test; a split depends on the cases' names, so that it is reproducible.

No single rule fits all uses, so there are three:

- :func:`split_by_seed` depends on a seed and tries to give every split each class (``sdseg init-bundle``);
- :func:`split_by_counts` takes the numbers of cases of a published split and no seed (the preprocessing scripts);
- :func:`split_by_share` leaves a case in its split when more cases are added (the label server).

Bundles, published figures and label servers depend on what these functions return: the same names must always give the
same splits.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Mapping, Sequence

from sdseg_monai.errors import InputError
from sdseg_monai.io.datalists import SPLITS
from sdseg_monai.seeding import seed_from

VALIDATION_SHARE = TEST_SHARE = 0.15
DEALS = 20  # random orders that are tried to find one that gives every split each class

Splits = dict[str, list[str]]  # names of cases, by split


def split_by_seed(classes: Mapping[str, Collection[int]], seed: int) -> Splits:
    """Split cases into training, validation and test, 70/15/15.

    Cases are sorted by the SHA-256 of seed, number of the deal and name. Of several deals the first with the fewest
    classes missing in a split is taken. Training and validation get at least one case each; with fewer than seven cases
    test gets none.

    Args:
        classes: values of the classes in each case, by the case's name.
        seed: another seed gives another split.

    Raises:
        InputError: there are fewer than two cases.
    """
    if len(classes) < 2:
        raise InputError(f"{len(classes)} case, expected two or more: one to train on, another to choose the model by")
    num_validation, num_test = max(1, int(VALIDATION_SHARE * len(classes))), int(TEST_SHARE * len(classes))
    orders = (sorted(classes, key=lambda name: _digest(seed, deal, name)) for deal in range(DEALS))
    deals = (_deal(order, num_validation, num_test) for order in orders)
    return min(deals, key=lambda splits: len(missing_classes(classes, splits)))


def split_by_counts(names: Collection[str], *, validation: int, test: int) -> Splits:
    """Split cases in the order of the SHA-256 of their names: first test, then validation, the rest is training.

    Args:
        names: of the cases.
        validation: number of validation cases.
        test: number of test cases.
    """
    return _deal(sorted(names, key=_digest), validation, test)


def split_by_share(names: Collection[str], share: float) -> Splits:
    """Split cases into training and validation by a hash of their names.

    A case stays in its split when more cases are added, unless a split would be empty.

    Args:
        names: of the cases.
        share: expected fraction of validation cases, in [0, 1]; each split gets at least one case.

    Raises:
        InputError: there are fewer than two cases.
    """
    if len(names) < 2:
        raise InputError(f"{len(names)} labelled cases, expected at least two: one to train on and one to validate on")
    hashes = {name: seed_from(name) / 2**63 for name in names}  # in [0, 1)
    order = sorted(hashes, key=lambda name: (hashes[name], name))
    num_validation = min(max(sum(value < share for value in hashes.values()), 1), len(order) - 1)
    return {"training": order[num_validation:], "validation": order[:num_validation]}


def missing_classes(
    classes: Mapping[str, Collection[int]], splits: Mapping[str, Sequence[str]]
) -> list[tuple[int, str]]:
    """Return pairs of a class and a split that has cases, but no case with that class.

    Args:
        classes: values of the classes in each case, by the case's name.
        splits: names of the cases of each split.
    """
    split_classes = {
        split: {value for name in names for value in classes[name]} for split, names in splits.items() if names
    }
    values = sorted({value for case_classes in classes.values() for value in case_classes})
    return [(value, split) for value in values for split in split_classes if value not in split_classes[split]]


def _deal(order: Sequence[str], num_validation: int, num_test: int) -> Splits:
    """Give the first cases to test, the next to validation, the rest to training."""
    training = order[num_test + num_validation :]
    parts = (training, order[num_test : num_test + num_validation], order[:num_test])
    return {split: sorted(names) for split, names in zip(SPLITS, parts, strict=True)}


def _digest(*parts: object) -> bytes:
    return hashlib.sha256(os.fsencode(":".join(map(str, parts)))).digest()
