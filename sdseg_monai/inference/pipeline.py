"""From an image to its mask, with everything that a user can choose: the one way for programs, command and server."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Unpack

import torch

from sdseg_monai.about import RESEARCH_ONLY, __version__
from sdseg_monai.bundle import DEFAULT_BUNDLE
from sdseg_monai.errors import ArgumentError, Cancelled, InputError
from sdseg_monai.inference.options import Options, Progress, check_inputs
from sdseg_monai.inference.results import SegmentationResult, score_names
from sdseg_monai.inference.segmenter import Segmenter
from sdseg_monai.inference.strategies import NUM_SEEDS, Ensemble, Mirror, Once, Seeds, Strategy
from sdseg_monai.io.files import hash_file
from sdseg_monai.io.segments import UNSURE, UNSURE_SEGMENT, Segment
from sdseg_monai.io.sources import ImageLike, hash_source, is_photograph, open_source, source_name


class Pipeline:
    """A model and how it is asked: once, or several times to see how unsure it is.

    Args:
        bundle: name of a shipped bundle, a bundle's folder or a zip file of it. Its configs are code: use what you
            trust.
        options: see :class:`~sdseg_monai.inference.options.Options`.

    Attributes:
        segmenter: the model, the ensemble's first.
        strategy: how it is asked.
        about: versions and device.
        settings: what the masks depend on.

    Raises:
        InputError: the bundle, the weights, an overlay or the device cannot be used, or options contradict each other.

    Example:
        >>> pipeline = Pipeline("hippocampus_sdseg", device="cpu")
        >>> result = pipeline("scan.nii.gz")  # doctest: +SKIP
        >>> result.labels.shape, result.volumes  # doctest: +SKIP
        ((35, 51, 35), {'Anterior hippocampus': 1.52, 'Posterior hippocampus': 1.43})
    """

    def __init__(self, bundle: str | Path = DEFAULT_BUNDLE, **options: Unpack[Options]) -> None:
        if not isinstance(bundle, str | Path):
            raise ArgumentError(f"bundle={bundle!r}: expected a name, a folder or a zip")
        checked = check_inputs(options)
        model = {name: checked[name] for name in ("device", "seed", "batch_size", "overlays")}
        members = [Segmenter(bundle, file, **model) for file in checked["weights"] or [None]]
        self.segmenter = members[0]
        self.strategy = _choose_strategy(members, checked["uncertainty"], checked["num_samples"])
        self.abstain_below: float | None = checked["abstain_below"]
        self.about = {
            "versions": {"sdseg-monai": __version__, "torch": torch.__version__, "python": platform.python_version()},
            "device": str(self.segmenter.device),
            "notice": RESEARCH_ONLY,
        }
        self.settings = {
            "bundle": str(bundle),
            "config_sha256": hash_file(self.segmenter.config),
            "weights_sha256": [hash_file(member.weights) for member in members],
            "overlays_sha256": [hash_file(path) for path in checked["overlays"]],
            **{name: checked[name] for name in ("seed", "abstain_below", "uncertainty", "num_samples")},
        }

    @property
    def segments(self) -> dict[int, Segment]:
        """What the values of a mask stand for, as far as the bundle says; the background is left out."""
        unsure = {} if self.abstain_below is None else {UNSURE: UNSURE_SEGMENT}
        return {**self.segmenter.segments, **unsure}

    @property
    def map_names(self) -> list[str]:
        """What can be written beside a mask: names of :attr:`SegmentationResult.maps`."""
        entropy = ["entropy"] if self.strategy.num_samples > 1 else []
        return [*score_names(self.segmenter.num_classes - 1), "confidence", *entropy]

    def __call__(
        self, image: ImageLike, *, series: str | None = None, progress: Progress | None = None
    ) -> SegmentationResult:
        """Segment one image.

        Args:
            image: see :func:`segment`.
            series: SeriesInstanceUID, where a DICOM folder has several.
            progress: called after each batch with the number of slices that are done and of all; to cancel, it returns
                False.

        Raises:
            InputError: the image cannot be used, or is a picture, whose mask has no value for what is abstained from.
            Cancelled: ``progress`` returned False.
        """
        start = time.perf_counter()
        # 1. Open: a path becomes a file or a DICOM series, what lies in memory a volume; nothing is decoded yet
        source = open_source(image, series)
        if is_photograph(source) and self.abstain_below is not None:
            raise InputError(f"{source}: a picture's mask is black and white, it has no value for an unsure pixel")
        input_sha256 = hash_source(source)  # before: what is put in its place meanwhile is not what was segmented
        # 2. Read and prepare, in the network's orientation: image [C, X, Y, Z] in [-1, 1], float32
        item = self.segmenter.prepare(source)
        # 3. Score, a batch of slices after the other: S samples, slabs of [S, K, X, Y, z] in [0, 1]
        slabs = self._report(self.strategy.iter_slabs(item["image"]), item["image"], progress)
        # 4. Join the slabs, go back to the image's own grid, and decide there: score [K, X, Y, Z], labels [X, Y, Z]
        result = self.strategy.finish(item, slabs)
        # 5. Abstain where the confidence [X, Y, Z] is too low
        if self.abstain_below is not None:
            result = result.abstain(self.abstain_below)
        # 6. Say how the result came about
        case = {
            "input": source_name(source),
            "input_sha256": input_sha256,
            **result.summary,
            "seconds": round(time.perf_counter() - start, 2),
            "warnings": [vars(warning) for warning in result.warnings],
            **result.sizes,
        }
        return replace(result, manifest={"about": self.about, "settings": self.settings, "case": case})

    segment = __call__

    def _report(
        self, slabs: Iterator[torch.Tensor], image: torch.Tensor, progress: Progress | None
    ) -> Iterator[torch.Tensor]:
        """Pass ``slabs`` [S, K, X, Y, z] of ``image`` [C, X, Y, Z] on, and tell ``progress`` of each."""
        axis, done = self.segmenter.inferer.slice_axis, 0
        for slab in slabs:
            done += slab.shape[axis + 2]
            if progress is not None and progress(done, image.shape[axis + 1]) is False:
                raise Cancelled(f"cancelled after {done} of {image.shape[axis + 1]} slices")
            yield slab

    def configure(self, *, seed: int | None = None, batch_size: int | None = None) -> None:
        """Set the seed of the start noise and the slices per forward pass, as at the making; None for the bundle's."""
        checked = check_inputs({"seed": seed, "batch_size": batch_size})
        for member in self.strategy.members:
            member.configure(seed=checked["seed"], batch_size=checked["batch_size"])
        self.settings["seed"] = seed


def _choose_strategy(members: list[Segmenter], uncertainty: str | None, num_samples: int | None) -> Strategy:
    match uncertainty:
        case "flips":
            return Mirror(members[0])
        case "seeds":
            return Seeds(members[0], NUM_SEEDS if num_samples is None else num_samples)
        case "ensemble":
            return Ensemble(members)
        case _:
            return Once(members[0])


def segment(
    image: ImageLike,
    *,
    bundle: str | Path = DEFAULT_BUNDLE,
    series: str | None = None,
    progress: Progress | None = None,
    **options: Unpack[Options],
) -> SegmentationResult:
    """Segment one image, as ``sdseg segment`` does.

    The model is read anew at each call; for many images make one :class:`Pipeline` and call that.

    Args:
        image: file of a volume (NIfTI, NRRD, MHA) or picture; a DICOM file, or a folder with one or, chosen by
            ``series``, several series; a nibabel image; or voxels [X, Y, Z] with their affine [4, 4] to RAS+ mm.
        bundle: see :class:`Pipeline`.
        series: SeriesInstanceUID in a DICOM folder.
        progress: called after each batch with the number of slices that are done and of all; to cancel, it returns
            False.
        options: see :class:`~sdseg_monai.inference.options.Options`. With ``uncertainty`` the result is a
            :class:`~sdseg_monai.inference.uncertainty.SampledSegmentation`.

    Returns:
        Labels on the image's own grid, with affine, names, scores, warnings and manifest; ``save`` writes them.

    Raises:
        InputError: the image, the bundle or an option cannot be used; its message is one line.
        Cancelled: ``progress`` returned False.

    Example:
        >>> from sdseg_monai import segment
        >>> segment("scan.nii.gz", device="cpu").save("mask.nii.gz")  # doctest: +SKIP
    """
    source = open_source(image, series)  # before the model is read
    return Pipeline(bundle, **options)(source, progress=progress)
