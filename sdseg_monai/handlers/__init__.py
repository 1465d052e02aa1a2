"""Ignite handlers of a bundle's training config, in addition to those of MONAI and ignite."""

from sdseg_monai.handlers.average import UpdateAverage, WeightAverage
from sdseg_monai.handlers.checkpoints import BestModel, LastModel, TrainingCheckpoint
from sdseg_monai.handlers.panels import ImageLatentHandler, PanelHandler
from sdseg_monai.handlers.start import CacheLatents, EpochSeed, ExpectedTime, LatentScale

Checkpoint = TrainingCheckpoint  # its name in bundles of version 0.4.0

__all__ = [
    "BestModel",
    "CacheLatents",
    "EpochSeed",
    "ExpectedTime",
    "ImageLatentHandler",
    "LastModel",
    "LatentScale",
    "PanelHandler",
    "TrainingCheckpoint",
    "UpdateAverage",
    "WeightAverage",
]
