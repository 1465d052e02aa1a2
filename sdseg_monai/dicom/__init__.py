"""DICOM series in and DICOM SEG out; all but reading slices needs the extra ``sdseg-monai[dicom]``."""

from sdseg_monai.dicom.seg import write_seg
from sdseg_monai.dicom.series import Series, choose_series, find_series, has_dicom, read_series

__all__ = ["Series", "choose_series", "find_series", "has_dicom", "read_series", "write_seg"]
