"""Measures that MONAI lacks: LPIPS, the stability of the paper's Table 5, and the official Dice rule."""

from sdseg_monai.metrics.dice import TransUNetDice
from sdseg_monai.metrics.lpips import Lpips
from sdseg_monai.metrics.stability import Stability, measure_stability

__all__ = [
    "Lpips",
    "Stability",
    "TransUNetDice",
    "measure_stability",
]
