"""Reading and writing of images and masks: files, volumes, pictures, DICOM.

A module is imported only when a name of it is used, so that writing a file does not have to import nibabel and ITK.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

# the configs of bundles use these names
_MODULES = {"Volume": "volumes", "list_volumes": "volumes", "read_volume": "volumes", "list_images": "pictures"}

__all__ = ["Volume", "list_images", "list_volumes", "read_volume"]


def __getattr__(name: str) -> Any:
    """Import a name of :data:`__all__` from its module."""
    if name in _MODULES:
        return getattr(import_module(f"sdseg_monai.io.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
