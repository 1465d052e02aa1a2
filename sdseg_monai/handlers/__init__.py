"""Ignite handlers that a bundle's training config attaches; MONAI's and ignite's own do the rest."""

from sdseg_monai.handlers.average import UpdateAverage, WeightAverage
from sdseg_monai.handlers.checkpoints import BestModel, Checkpoint, LastModel
from sdseg_monai.handlers.panels import ImageLatentHandler, PanelHandler
from sdseg_monai.handlers.start import CacheLatents, EpochSeed, ExpectedTime, LatentScale

__all__ = [
    "BestModel",
    "CacheLatents",
    "Checkpoint",
    "EpochSeed",
    "ExpectedTime",
    "ImageLatentHandler",
    "LastModel",
    "LatentScale",
    "PanelHandler",
    "UpdateAverage",
    "WeightAverage",
]
