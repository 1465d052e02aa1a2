"""Reading DICOM series and writing DICOM SEG, with the extra ``sdseg-monai[dicom]`` or ``sdseg-monai[label]``."""

from sdseg_monai.io.dicom.instances import has_dicom, is_dicom
from sdseg_monai.io.dicom.seg import DICOM_SUFFIX, is_whole_seg, read_seg, write_seg
from sdseg_monai.io.dicom.series import Series, choose_series, find_series, read_series

__all__ = [
    "DICOM_SUFFIX",
    "Series",
    "choose_series",
    "find_series",
    "has_dicom",
    "is_dicom",
    "is_whole_seg",
    "read_seg",
    "read_series",
    "write_seg",
]
