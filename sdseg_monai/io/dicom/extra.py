"""The packages that only DICOM needs: imported at use, so that all else works without them."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from sdseg_monai.errors import InputError


def require(module: str) -> Any:
    """Import pydicom, highdicom or a module of theirs.

    Raises:
        InputError: it is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise InputError(f"DICOM needs {module}, which is not installed: pip install sdseg-monai[dicom]") from error
