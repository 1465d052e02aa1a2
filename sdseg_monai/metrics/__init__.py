"""Metrics that MONAI lacks: LPIPS, stability as in Table 5, the official Dice, bootstrap intervals, fitted ellipses."""

from sdseg_monai.metrics.bootstrap import RESAMPLES, bootstrap_interval
from sdseg_monai.metrics.dice import TransUNetDice
from sdseg_monai.metrics.ellipse import Ellipse, fit_ellipse
from sdseg_monai.metrics.lpips import Lpips
from sdseg_monai.metrics.stability import Stability, measure_stability

__all__ = [
    "RESAMPLES",
    "Ellipse",
    "Lpips",
    "Stability",
    "TransUNetDice",
    "bootstrap_interval",
    "fit_ellipse",
    "measure_stability",
]
