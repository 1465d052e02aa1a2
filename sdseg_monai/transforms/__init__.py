"""Transforms between files, volumes and slices; the configs scale intensities by MONAI's own transforms."""

from sdseg_monai.transforms.checks import WarnFieldOfViewd, WarnUnlikeTrainingd
from sdseg_monai.transforms.cleaning import FillBackgroundHolesd
from sdseg_monai.transforms.slices import extract_slices, resize_labels, resize_slices, to_three_channels
from sdseg_monai.transforms.volumes import ClassLabelsd, LoadVolumed, SaveMaskd

__all__ = [
    "ClassLabelsd",
    "FillBackgroundHolesd",
    "LoadVolumed",
    "SaveMaskd",
    "WarnFieldOfViewd",
    "WarnUnlikeTrainingd",
    "extract_slices",
    "resize_labels",
    "resize_slices",
    "to_three_channels",
]
