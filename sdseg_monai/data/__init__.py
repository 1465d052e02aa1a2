"""Datasets of slices, whole volumes and procedural masks, and the datalists that name the cases of each split."""

from sdseg_monai.data.datalist import read_datalist, write_datalist
from sdseg_monai.data.procedural import ProceduralMasks
from sdseg_monai.data.slices import DrawSampler, SliceDataset
from sdseg_monai.data.volumes import VolumeDataset

__all__ = ["DrawSampler", "ProceduralMasks", "SliceDataset", "VolumeDataset", "read_datalist", "write_datalist"]
