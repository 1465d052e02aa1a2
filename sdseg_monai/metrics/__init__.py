"""Metrics that MONAI lacks: LPIPS, the stability of Table 5, the official Dice, IoU of class maps, bootstrap."""

from sdseg_monai.metrics.bootstrap import RESAMPLES, bootstrap_interval
from sdseg_monai.metrics.dice import TransUNetDice
from sdseg_monai.metrics.iou import ClassIoU
from sdseg_monai.metrics.lpips import Lpips
from sdseg_monai.metrics.stability import Stability, measure_stability

__all__ = [
    "RESAMPLES",
    "ClassIoU",
    "Lpips",
    "Stability",
    "TransUNetDice",
    "bootstrap_interval",
    "measure_stability",
]
