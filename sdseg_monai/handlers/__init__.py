"""Ignite handlers of a bundle's training config, in addition to those of MONAI and ignite."""

from sdseg_monai.handlers.autocast import CpuAutocast
from sdseg_monai.handlers.average import UpdateAverage, WeightAverage
from sdseg_monai.handlers.checkpoints import BestModel, Checkpoint, LastModel, TrainingCheckpoint
from sdseg_monai.handlers.clipping import ClipGradients
from sdseg_monai.handlers.images import DescribeImages
from sdseg_monai.handlers.metrics import ClassMetricsSaver
from sdseg_monai.handlers.panels import ImageLatentHandler, PanelHandler
from sdseg_monai.handlers.start import CacheLatents, EpochSeed, ExpectedTime, LatentScale

__all__ = [
    "BestModel",
    "CacheLatents",
    "Checkpoint",
    "ClassMetricsSaver",
    "ClipGradients",
    "CpuAutocast",
    "DescribeImages",
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
