"""From an image to its mask with everything that a user can choose, the same for a program and for the command."""

from __future__ import annotations

import logging
import os
import platform
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from sdseg_monai.about import RESEARCH_ONLY, __version__
from sdseg_monai.bundle import DEFAULT_BUNDLE
from sdseg_monai.errors import InputError
from sdseg_monai.inference.results import SegmentationResult, score_names
from sdseg_monai.inference.samples import NUM_SEEDS, Ensemble, Flips, Samples, Seeds
from sdseg_monai.inference.segmenter import Segmenter
from sdseg_monai.inference.uncertainty import measure_uncertainty
from sdseg_monai.io.files import hash_file
from sdseg_monai.io.sources import ImageLike, hash_source, is_photograph, open_source, source_name

Uncertainty = Literal["flips", "seeds", "ensemble"]


class Pipeline:
    """A model and how it is asked: once, or several times to see how unsure it is.

    Args:
        bundle: name of a shipped bundle, a bundle's folder or a zip file of it. Its configs are code: use what you
            trust.
        device: torch device; None for the bundle's choice, CUDA where there is some.
        seed: of the start noise, where the network has some; None for the bundle's.
        batch_size: slices per forward pass; the result does not depend on it.
        weights: files to use instead of the bundle's own; several are an ensemble.
        overlays: configs to chain after the bundle's; code as well.
        abstain_below: confidence in [0, 1] below which a voxel is given the value 255.
        uncertainty: segment several times, see :mod:`sdseg_monai.inference.samples`.
        num_samples: start noises of ``seeds``.

    Attributes:
        segmenter: the model, the ensemble's first.
        about: versions and device.
        settings: what the masks depend on.

    Raises:
        InputError: the bundle, the weights, an overlay or the device cannot be used, or options contradict each other.
    """

    def __init__(
        self,
        bundle: str | Path = DEFAULT_BUNDLE,
        *,
        device: str | None = None,
        seed: int | None = None,
        batch_size: int | None = None,
        weights: str | Path | Sequence[str | Path] = (),
        overlays: str | Path | Sequence[str | Path] = (),
        abstain_below: float | None = None,
        uncertainty: Uncertainty | None = None,
        num_samples: int | None = None,
    ) -> None:
        if uncertainty not in (None, *get_args(Uncertainty)):
            raise InputError(f"uncertainty {uncertainty!r}: expected one of {', '.join(get_args(Uncertainty))}")
        if abstain_below is not None and not (_is_number(abstain_below, Real) and 0 <= abstain_below <= 1):
            raise InputError(f"abstain_below={abstain_below!r}: expected a confidence from 0 to 1")
        if batch_size is not None and not (_is_number(batch_size, Integral) and batch_size >= 1):
            raise InputError(f"batch_size={batch_size!r}: expected a whole number from 1 on")
        if seed is not None and not (_is_number(seed, Integral) and 0 <= seed < 2**63):
            raise InputError(f"seed={seed!r}: expected a whole number from 0 to 2^63 - 1")
        weights, overlays = _paths("weights", weights), _paths("overlays", overlays)
        if not isinstance(bundle, str | Path):
            raise InputError(f"bundle {bundle!r}: expected a name, a folder or a zip")
        if len(weights) > 1 and uncertainty != "ensemble":
            raise InputError(f"{len(weights)} weights: expected one, or --uncertainty ensemble")
        if len({os.path.realpath(path) for path in weights}) < len(weights):
            raise InputError("--weights: a file is given twice, which would agree with itself; expected different ones")
        if num_samples is not None and uncertainty != "seeds":
            raise InputError("--num-samples: only --uncertainty seeds has a number to choose")
        files: Sequence[Path | None] = weights or [None]
        choice: dict[str, Any] = {"device": device, "seed": seed, "batch_size": batch_size, "overlays": overlays}
        members = [Segmenter(bundle, weights=file, **choice) for file in files]
        self.segmenter = members[0]
        self.abstain_below = abstain_below
        self.samples: Samples | None = None
        if uncertainty == "flips":
            self.samples = Flips(members[0])
        elif uncertainty == "seeds":
            self.samples = Seeds(members[0], NUM_SEEDS if num_samples is None else num_samples)
        elif uncertainty == "ensemble":
            self.samples = Ensemble(members)
        self.about = {
            "versions": {"sdseg-monai": __version__, "torch": torch.__version__, "python": platform.python_version()},
            "device": str(self.segmenter.device),
            "notice": RESEARCH_ONLY,
        }
        self.settings = {
            "bundle": str(bundle),
            "config_sha256": hash_file(self.segmenter.config),
            "weights_sha256": [hash_file(member.weights) for member in members],
            "overlays_sha256": [hash_file(path) for path in overlays],
            "seed": seed,
            "abstain_below": abstain_below,
            "uncertainty": uncertainty,
            "num_samples": num_samples,
        }

    @property
    def map_names(self) -> list[str]:
        """What can be written beside a mask: names of :attr:`SegmentationResult.maps`."""
        return [*score_names(self.segmenter.num_classes - 1), "confidence", *(["entropy"] if self.samples else [])]

    def segment(self, image: ImageLike, noted: Sequence[str] = ()) -> SegmentationResult:
        """Segment one image, see :func:`sdseg_monai.segment`.

        Args:
            image: to segment.
            noted: warnings about it that came before, for the manifest.

        Raises:
            InputError: the image cannot be used, or is a picture, whose mask has no value for what is abstained from.
        """
        start = time.perf_counter()
        source = open_source(image)
        if is_photograph(source) and self.abstain_below is not None:
            raise InputError(f"{source}: a picture's mask is black and white, it has no value for an unsure pixel")
        digest = hash_source(source)  # before: what is put in its place meanwhile is not what was segmented
        with collected_warnings() as warned:
            result: SegmentationResult
            if self.samples is None:
                result = self.segmenter.segment(source)
                found: dict[str, Any] = {}
            else:
                result = sampled = measure_uncertainty(self.samples, source)
                found = {"samples": len(sampled.sample_volumes), "disagreement": round(sampled.disagreement, 4)}
        if self.abstain_below is not None:
            result = result.abstain(self.abstain_below)
        found |= {"seconds": round(time.perf_counter() - start, 2), "warnings": [*noted, *warned], **result.sizes}
        case = {"input": source_name(source), "input_sha256": digest, **found}
        return replace(result, manifest={"about": self.about, "settings": self.settings, "case": case})


def _is_number(value: object, kind: Any) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _paths(name: str, given: object) -> list[Path]:
    listed = [given] if isinstance(given, str | Path) else given
    if not isinstance(listed, Sequence) or not all(isinstance(path, str | Path) for path in listed):
        raise InputError(f"{name} {given!r}: expected a path, or several")
    return [Path(path) for path in listed]


def segment(
    image: ImageLike,
    *,
    bundle: str | Path = DEFAULT_BUNDLE,
    series: str | None = None,
    device: str | None = None,
    seed: int | None = None,
    batch_size: int | None = None,
    weights: str | Path | Sequence[str | Path] = (),
    overlays: str | Path | Sequence[str | Path] = (),
    abstain_below: float | None = None,
    uncertainty: Uncertainty | None = None,
    num_samples: int | None = None,
) -> SegmentationResult:
    """Segment one image, as ``sdseg segment`` does.

    The model is read anew at each call; for many images make one :class:`Pipeline` and call its ``segment``.

    Args:
        image: file of a volume (NIfTI, NRRD, MHA) or picture; a DICOM file, or a folder with one or, chosen by
            ``series``, several series; a nibabel image; or voxels [X, Y, Z] with their affine [4, 4] to RAS+ mm.
        bundle: see :class:`Pipeline`, as are all other arguments.
        series: SeriesInstanceUID in a DICOM folder.
        device: torch device.
        seed: of the start noise.
        batch_size: slices per forward pass.
        weights: one file, or an ensemble's.
        overlays: configs to chain after the bundle's.
        abstain_below: confidence in [0, 1].
        uncertainty: ``flips``, ``seeds`` or ``ensemble``; the result is then a
            :class:`~sdseg_monai.inference.uncertainty.SampledSegmentation`.
        num_samples: start noises of ``seeds``.

    Returns:
        Labels on the image's own grid, with affine, names, scores and manifest; ``save`` writes them.

    Raises:
        InputError: the image, the bundle or an option cannot be used; its message is one line.
    """
    with collected_warnings() as noted:  # files of a DICOM folder that cannot be read
        source = open_source(image, series)
    pipeline = Pipeline(
        bundle,
        device=device,
        seed=seed,
        batch_size=batch_size,
        weights=weights,
        overlays=overlays,
        abstain_below=abstain_below,
        uncertainty=uncertainty,
        num_samples=num_samples,
    )
    return pipeline.segment(source, noted)


@contextmanager
def collected_warnings() -> Iterator[list[str]]:
    """Collect the messages of warnings, which are shown as well."""
    messages: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    here = threading.get_ident()
    handler.addFilter(lambda record: record.thread == here)  # other threads segment other images
    logging.getLogger().addHandler(handler)
    try:
        yield messages
    finally:
        logging.getLogger().removeHandler(handler)
