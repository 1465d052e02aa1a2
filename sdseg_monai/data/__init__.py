"""Datasets: slices of volumes, procedural masks, and the datalists that name the cases."""

from sdseg_monai.data.datalist import read_datalist, write_datalist
from sdseg_monai.data.procedural import ProceduralMasks
from sdseg_monai.data.slices import DrawSampler, SliceDataset

__all__ = ["DrawSampler", "ProceduralMasks", "SliceDataset", "read_datalist", "write_datalist"]
