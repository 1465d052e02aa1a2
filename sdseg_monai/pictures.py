"""The address that bundles of 0.4.0 hold; what it names lives in :mod:`sdseg_monai.io.pictures`."""

from sdseg_monai.io.pictures import list_images

__all__ = ["list_images"]
