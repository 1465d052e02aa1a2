"""Hints from the installed bundles: which of them is for an image that the chosen one cannot segment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from sdseg_monai.bundle import Bundle, shipped_bundles
from sdseg_monai.errors import InputError
from sdseg_monai.io.segments import OTHER_MODALITY, PHOTOGRAPHS
from sdseg_monai.io.warnings import ImageWarnings

if TYPE_CHECKING:
    from sdseg_monai.inference.segmenter import Segmenter
    from sdseg_monai.io.sources import Source


def bundle_hint(source: Source, error: InputError) -> str:
    """Return which installed bundles with weights are for an image like ``source``; empty where none is known.

    For an image of another modality, or a picture in place of a volume, the bundles' metadata say it. One that looks
    unlike the images of the training is looked at by the other bundles.

    Args:
        source: the image.
        error: with which it was refused.
    """
    contradicted = {warning.kind for warning in error.warnings if warning.contradiction}
    if not contradicted & {"modality", "unlike"}:
        return ""
    kind, fits = _kind_of(source)
    bundles = [bundle for bundle in _usable_bundles() if fits(bundle.modality)]
    introduction = f"installed for {kind}:"
    if "modality" not in contradicted:
        bundles = [bundle for bundle in bundles if _looks_known(bundle.root, source)]
        introduction = "it looks like the images of"
    names = " and ".join(map(_name, bundles))
    return f"{introduction} {names}" if names else ""


def _looks_known(root: Path, source: Source) -> bool:
    """Tell whether an image looks like those that the weights of a bundle were trained on, where these say it."""
    from sdseg_monai.networks.known_images import IMAGES

    warnings = ImageWarnings(root.name)
    try:
        segmenter = _segmenter(root)
        segmenter.prepare(source, warnings)
    except InputError:
        return False
    is_known = IMAGES in getattr(segmenter.network, "trained_for", {})
    return is_known and not any(warning.kind == "unlike" for warning in warnings)


@cache
def _segmenter(root: Path) -> Segmenter:
    from sdseg_monai.inference.segmenter import Segmenter

    return Segmenter(root)


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
