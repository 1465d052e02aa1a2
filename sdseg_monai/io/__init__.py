"""Images and masks in and out: files, volumes, pictures, DICOM, and where they come from.

Nothing is imported here but what is asked for: whoever wants to write a file need not wait for nibabel and ITK.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

# bundles hold these addresses
_MODULES = {"Volume": "volumes", "list_volumes": "volumes", "read_volume": "volumes", "list_images": "pictures"}

__all__ = ["Volume", "list_images", "list_volumes", "read_volume"]


def __getattr__(name: str) -> Any:
    """Import a name of :data:`__all__` from its module."""
    if name in _MODULES:
        return getattr(import_module(f"sdseg_monai.io.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
