"""Which cases train, which validate and which test: functions of the cases' names, so that a split comes out again.

There is one function for each promise that was given, since no single one keeps them all:

- :func:`split_by_seed` deals anew with each seed and gives every split each class (``sdseg init-bundle``);
- :func:`split_by_counts` takes the numbers of a published split and no seed (the preprocessing scripts);
- :func:`split_by_share` keeps a case on its side when more cases come (the label server).

Bundles, published figures and servers hold what these functions returned: the same names must give the same splits
for ever.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Mapping, Sequence

from sdseg_monai.errors import InputError
from sdseg_monai.io.sources import SPLITS
from sdseg_monai.seeding import seed_from

VALIDATION_SHARE = TEST_SHARE = 0.15
DEALS = 20  # that are tried for one that gives every split each class

Splits = dict[str, list[str]]  # names of cases, by split


def split_by_seed(classes: Mapping[str, Collection[int]], seed: int) -> Splits:
    """Deal cases to training, validation and test, 70/15/15, whatever their order.

    They are dealt in the order of the SHA-256 of seed, deal and name; of several deals the first is taken that leaves
    fewest splits without a class. Training and validation get one case each at least; of fewer than seven, test none.

    Args:
        classes: of each case, by its name.
        seed: of the order.

    Raises:
        InputError: there is only one case.
    """
    if len(classes) < 2:
        raise InputError(f"{len(classes)} case, expected two or more: one to train on, another to choose the model by")
    validation, test = max(1, int(VALIDATION_SHARE * len(classes))), int(TEST_SHARE * len(classes))
    orders = (sorted(classes, key=lambda name: _digest(seed, deal, name)) for deal in range(DEALS))
    deals = (_deal(order, validation, test) for order in orders)
    return min(deals, key=lambda splits: len(missing_classes(classes, splits)))


def split_by_counts(names: Collection[str], *, validation: int, test: int) -> Splits:
    """Deal cases, in the order of the SHA-256 of their names, to test, then validation; the rest trains.

    Args:
        names: of the cases.
        validation: number of cases.
        test: number of cases.
    """
    return _deal(sorted(names, key=_digest), validation, test)


def split_by_share(names: Collection[str], share: float) -> Splits:
    """Divide cases into training and validation by a hash of their names.

    A case stays on its side when more are there, unless that leaves a side empty.

    Args:
        names: of the cases.
        share: of the cases that validate, in expectation; at least one case does, and one trains.

    Raises:
        InputError: there are fewer than two.
    """
    if len(names) < 2:
        raise InputError(f"{len(names)} labelled cases, expected at least two: one to train on and one to validate on")
    draws = {name: seed_from(name) / 2**63 for name in names}
    order = sorted(draws, key=lambda name: (draws[name], name))
    count = min(max(sum(draw < share for draw in draws.values()), 1), len(order) - 1)
    return {"training": order[count:], "validation": order[:count]}


def missing_classes(
    classes: Mapping[str, Collection[int]], splits: Mapping[str, Sequence[str]]
) -> list[tuple[int, str]]:
    """Return each class with a split that has cases, but none with that class.

    Args:
        classes: of each case, by its name.
        splits: names of the cases of each.
    """
    present = {split: {value for name in names for value in classes[name]} for split, names in splits.items() if names}
    values = sorted({value for case_classes in classes.values() for value in case_classes})
    return [(value, split) for value in values for split in present if value not in present[split]]


def _deal(order: Sequence[str], validation: int, test: int) -> Splits:
    """Give the first cases to test, the next to validation, the rest to training."""
    parts = (order[test + validation :], order[test : test + validation], order[:test])
    return {split: sorted(names) for split, names in zip(SPLITS, parts, strict=True)}


def _digest(*parts: object) -> bytes:
    return hashlib.sha256(os.fsencode(":".join(map(str, parts)))).digest()
