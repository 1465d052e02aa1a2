"""The datastores of images and labels: a folder of volumes, a folder of DICOM files or a DICOMweb server."""

from sdseg_monai.label.stores.opening import open_datastore

__all__ = ["open_datastore"]
