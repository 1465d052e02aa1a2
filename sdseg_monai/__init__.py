"""SDSeg on MONAI: single-step latent diffusion segmentation of medical images."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from sdseg_monai.about import RESEARCH_ONLY, __version__

__all__ = ["RESEARCH_ONLY", "Pipeline", "SegmentationResult", "__version__", "segment"]


def __getattr__(name: str) -> Any:
    """Import what is asked for only then: the version and the command's help need not wait for torch."""
    if name in ("Pipeline", "SegmentationResult", "segment"):
        return getattr(import_module("sdseg_monai.inference.pipeline"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
