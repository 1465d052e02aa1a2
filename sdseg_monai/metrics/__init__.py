"""Metrics that MONAI lacks: LPIPS, stability (Table 5), the official Dice, IoU of class maps, bootstrap, ellipses."""

from sdseg_monai.metrics.bootstrap import RESAMPLES, bootstrap_interval
from sdseg_monai.metrics.dice import TransUNetDice
from sdseg_monai.metrics.ellipse import Ellipse, fit_ellipse
from sdseg_monai.metrics.iou import ClassIoU
from sdseg_monai.metrics.lpips import Lpips
from sdseg_monai.metrics.stability import Stability, measure_stability

__all__ = [
    "RESAMPLES",
    "ClassIoU",
    "Ellipse",
    "Lpips",
    "Stability",
    "TransUNetDice",
    "bootstrap_interval",
    "fit_ellipse",
    "measure_stability",
]
