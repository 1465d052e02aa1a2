"""Hints from the installed bundles: which of them is for an image that the chosen one cannot segment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from sdseg_monai.bundle import Bundle, shipped_bundles
from sdseg_monai.errors import InputError
from sdseg_monai.io.segments import OTHER_MODALITY, PHOTOGRAPHS

if TYPE_CHECKING:
    from sdseg_monai.io.sources import Source


def bundle_hint(source: Source, error: InputError) -> str:
    """Return which installed bundles with weights are for an image like ``source``; empty where none is known.

    Only what the bundles' metadata say is compared: pictures, volumes, and the modality of a DICOM series.

    Args:
        source: the image.
        error: with which it was refused; there is a hint only where the image is of another kind than those of the
            bundle's training.
    """
    if not any(warning.kind == "modality" and warning.contradiction for warning in error.warnings):
        return ""
    kind, fits = _kind_of(source)
    names = [_name(bundle) for bundle in _usable_bundles() if fits(bundle.modality)]
    return f"installed for {kind}: {' and '.join(names)}" if names else ""


def _name(bundle: Bundle) -> str:
    """Return the name of a bundle and what it segments, for example ``liver (CT: Liver)``."""
    images = "" if bundle.modality == PHOTOGRAPHS else f"{bundle.modality}: "
    return f"{bundle.name} ({images}{', '.join(bundle.labels)})"


def _kind_of(source: Source) -> tuple[str, Callable[[str], bool]]:
    """Return the kind of an image in words, and what tells whether a bundle of a modality is for such images."""
    from sdseg_monai.io.dicom import Series
    from sdseg_monai.io.sources import is_photograph

    if is_photograph(source):
        return "pictures", lambda modality: modality == PHOTOGRAPHS
    modality_of_source = source.modality if isinstance(source, Series) else ""
    if modality_of_source:
        return modality_of_source, lambda modality: modality == modality_of_source != OTHER_MODALITY
    return "volumes", lambda modality: modality not in ("", PHOTOGRAPHS, OTHER_MODALITY)


def _usable_bundles() -> Iterator[Bundle]:
    """Yield the installed bundles that have weights and metadata; one that is damaged hides no other."""
    for name in shipped_bundles():
        try:
            bundle = Bundle.open(name)
            if bundle.weights is not None and bundle.labels and bundle.modality:
                yield bundle
        except InputError:
            continue
