"""The address of ``list_images`` in bundles of 0.4.0."""

from sdseg_monai.io.pictures import list_images

__all__ = ["list_images"]
