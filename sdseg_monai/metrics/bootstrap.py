"""Confidence interval of a mean over cases."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import bootstrap

RESAMPLES = 10_000


def bootstrap_interval(values: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """Return the 95 % confidence interval of the mean of ``values``, by the percentile bootstrap.

    Args:
        values: one per case, at least one, none of them NaN.
        seed: of the resampling.

    Returns:
        Lower and upper bound; both are the value itself if all values are equal.
    """
    if len(set(values)) < 2:
        return (values[0], values[0])
    result = bootstrap(
        (np.array(values),), np.mean, n_resamples=RESAMPLES, method="percentile", rng=np.random.default_rng(seed)
    )
    low, high = result.confidence_interval
    return float(low), float(high)
