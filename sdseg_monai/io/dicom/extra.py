"""The packages that only DICOM needs: imported when they are used, so that everything else works without them."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from sdseg_monai.errors import InputError


def require(module: str) -> Any:
    """Import and return pydicom, highdicom or one of their modules.

    Raises:
        InputError: the package is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise InputError(f"DICOM needs {module}, which is not installed: pip install sdseg-monai[dicom]") from error
