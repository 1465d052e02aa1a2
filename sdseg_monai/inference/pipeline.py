"""From an image to its mask, with all options: programs, the command and the label server all segment through here."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

import torch

from sdseg_monai.about import RESEARCH_ONLY, __version__
from sdseg_monai.bundle import DEFAULT_BUNDLE
from sdseg_monai.errors import ArgumentError, Cancelled, InputError
from sdseg_monai.inference.measures import values_of
from sdseg_monai.inference.options import Options, Progress, check_inputs, check_pixel_size
from sdseg_monai.inference.results import CONFIDENCE, KEPT, SCORES, SegmentationResult, score_names
from sdseg_monai.inference.segmenter import Segmenter
from sdseg_monai.inference.strategies import (
    NUM_SEEDS,
    Ensemble,
    Mirror,
    MirrorMean,
    Once,
    PreparedImage,
    Seeds,
    Strategy,
)
from sdseg_monai.io.arrays import chunks
from sdseg_monai.io.files import hash_file
from sdseg_monai.io.segments import UNSURE, UNSURE_SEGMENT, Segment
from sdseg_monai.io.sources import ImageLike, hash_source, is_photograph, open_source, short_name, source_name
from sdseg_monai.io.warnings import ImageWarning, LoggedWarnings


class Pipeline:
    """A model with its options, read once for many images; call it to segment an image.

    Args:
        bundle: name of a shipped bundle, a bundle's folder or a zip file of it. Its configs are code, see ``trust``.
        options: see :class:`~sdseg_monai.inference.options.Options`.

    Attributes:
        segmenter: the model; of an ensemble the first one.
        strategy: how the scores of a volume are computed: once, with mirror images, or several times to measure the
            uncertainty.
        abstain_below: confidence in [0, 1] below which a voxel is "unsure"; None where no voxel is.
        force: whether images that contradict the training are segmented too.
        about: versions and device, as in the manifest.
        settings: everything that the masks depend on, as in the manifest.

    Raises:
        ArgumentError: an option has a value that it cannot have, or two options contradict each other.
        InputError: the bundle, the weights, an overlay or the device cannot be used; or there is code that is not
            trusted.
        TypeError: an option is unknown.

    Example:
        >>> from sdseg_monai import Pipeline
        >>> pipeline = Pipeline("hippocampus_sdseg", device="cpu")
        >>> result = pipeline("scan.nii.gz")  # doctest: +SKIP
        >>> result.labels.shape, result.volumes  # doctest: +SKIP
        ((35, 51, 35), {'Anterior hippocampus': 1.52, 'Posterior hippocampus': 1.43})
    """

    def __init__(self, bundle: str | Path = DEFAULT_BUNDLE, **options: Unpack[Options]) -> None:
        if not isinstance(bundle, str | Path):
            raise ArgumentError(f"bundle={bundle!r}: expected a name, a folder or a zip")
        values = check_inputs(options)
        model_options = {name: values[name] for name in ("device", "seed", "batch_size", "overlays", "trust")}
        members = [Segmenter(bundle, file, **model_options) for file in values["weights"] or [None]]
        self.segmenter = members[0]
        self.strategy = _choose_strategy(members, values)
        self.abstain_below: float | None = values["abstain_below"]
        self.force: bool = values["force"]
        self.about = {
            "versions": {"sdseg-monai": __version__, "torch": torch.__version__, "python": platform.python_version()},
            "device": str(self.segmenter.device),
            "notice": RESEARCH_ONLY,
        }
        self.settings = {
            "bundle": str(bundle),
            "config_sha256": hash_file(self.segmenter.config),
            "weights_sha256": [hash_file(member.weights) for member in members],
            "overlays_sha256": [hash_file(path) for path in values["overlays"]],
            **{name: values[name] for name in ("seed", "abstain_below", "uncertainty", "num_samples", "tta")},
            "force": self.force or None,  # None as in manifests of 0.4.0, so that its runs can be resumed
        }

    @property
    def segments(self) -> dict[int, Segment]:
        """What each value of a mask stands for, without the background; empty where the bundle does not say it."""
        unsure = {} if self.abstain_below is None else {UNSURE: UNSURE_SEGMENT}
        return {**self.segmenter.segments, **unsure}

    @property
    def map_names(self) -> list[str]:
        """Names of the maps that can be written beside a mask, see :attr:`SegmentationResult.maps`."""
        entropy = ["entropy"] if self.strategy.num_samples > 1 else []
        return [*score_names(self.segmenter.num_classes - 1), "confidence", *entropy]

    def __call__(
        self,
        image: ImageLike,
        *,
        series: str | None = None,
        modality: str = "",
        pixel_mm: float | None = None,
        progress: Progress | None = None,
        maps: Sequence[str] | None = None,
    ) -> SegmentationResult:
        """Segment one image.

        A large volume is read, segmented and put together slab by slab, and lies in temporary files of the system: it
        needs little memory, whatever its depth.

        Args:
            image: see :func:`sdseg_monai.segment`.
            series: SeriesInstanceUID of the series to segment, where a DICOM folder has several.
            modality: DICOM's term for the modality, such as ``MR``, where it is known and the image does not say it;
                empty where it is not known.
            pixel_mm: edge of a photograph's pixels, in mm; None where it is not known.
            progress: called after each batch of slices, as ``progress(slices_done, slices_in_all)``; to cancel, it
                returns False.
            maps: which of :attr:`map_names` the result shall have beside the mask, each of four bytes a voxel; None
                for all.

        Returns:
            The result; with ``uncertainty`` a :class:`~sdseg_monai.inference.uncertainty.SampledSegmentation`.

        Raises:
            InputError: the image cannot be used, or it is a photograph and ``abstain_below`` is set.
            ArgumentError: the image contradicts the training, and ``force`` is not set; ``pixel_mm`` is no size of a
                pixel, or is given for a volume; or a map is unknown.
            Cancelled: ``progress`` returned False.
        """
        start = time.perf_counter()
        # 1. Open: a path becomes a file or a DICOM series, an array in memory a volume; no voxel is read from disk yet
        source = open_source(image, series)
        check_pixel_size(source, pixel_mm)
        if is_photograph(source) and self.abstain_below is not None:
            raise InputError(f"{source}: a picture's mask is black and white, it has no value for an unsure pixel")
        input_sha256 = hash_source(source)  # first: the file may be replaced while it is segmented
        with LoggedWarnings(short_name(source), self.force) as warnings:
            # 2. Read, refuse what contradicts the training, prepare in the network's orientation: image [C, X, Y, Z] in
            #    [-1, 1], float32
            item = self.segmenter.prepare(source, warnings, modality)
            # 3. Compute the scores, one batch of slices after the other: slabs of S samples, [S, K, X, Y, z] in [0, 1].
            #    They are not computed, and the image's slabs are not read, before the next step takes them
            slabs = self._report(self.strategy.iter_slabs(item["image"]), item["image"], progress)
            # 4. Resample each slab to the image's grid, choose its classes, put it in its place: labels [X, Y, Z]
            result = self.strategy.finish(item, slabs, self._kept(maps))
        if not any(part.any() for part in chunks(result.labels)):
            warnings.append(ImageWarning("empty", "nothing was found, the mask is empty"))
        # 5. Mark as unsure the voxels whose confidence [X, Y, Z] is too low
        if self.abstain_below is not None:
            result = result.abstain(self.abstain_below)
        # 6. Measure what the bundle declares of its segments, in mm where the size of a pixel is known
        result = replace(result, pixel_mm=None if pixel_mm is None else float(pixel_mm))
        measurements = result.measurements
        for measurement in measurements:
            if measurement.doubt:
                warnings.append(ImageWarning("measure", f"{measurement.segment}: {measurement.doubt}"))
        result = replace(result, warnings=list(warnings))
        # 7. Record how the result was made
        case = {
            "input": source_name(source),
            "input_sha256": input_sha256,
            **({} if pixel_mm is None else {"pixel_mm": result.pixel_mm}),
            **result.summary,
            "seconds": round(time.perf_counter() - start, 2),
            **result.trust,
            "warnings": [vars(warning) for warning in result.warnings],
            **result.sizes,
            **({"measures": values_of(measurements)} if measurements else {}),
        }
        return replace(result, manifest={"about": self.about, "settings": self.settings, "case": case})

    segment = __call__

    def _kept(self, maps: Sequence[str] | None) -> list[str]:
        """Return which arrays of the result are needed for ``maps`` of :attr:`map_names`."""
        unknown = [name for name in maps or () if name not in self.map_names]
        if unknown:
            raise ArgumentError(f"maps={maps!r}: no {unknown[0]!r}, expected some of {', '.join(self.map_names)}")
        if maps is None:
            return list(KEPT)
        needs_confidence = CONFIDENCE in maps or self.abstain_below is not None
        needs_scores = bool({*maps} & {*score_names(self.segmenter.num_classes - 1)})
        return [SCORES] * needs_scores + [CONFIDENCE] * needs_confidence

    def _report(
        self, slabs: Iterator[torch.Tensor], image: PreparedImage, progress: Progress | None
    ) -> Iterator[torch.Tensor]:
        """Yield the ``slabs`` [S, K, X, Y, z] of ``image`` [C, X, Y, Z], and call ``progress`` after each."""
        axis = self.segmenter.inferer.slice_axis
        num_done, num_slices = 0, image.shape[axis + 1]
        for slab in slabs:
            num_done += slab.shape[axis + 2]
            if progress is not None and progress(num_done, num_slices) is False:
                raise Cancelled(f"cancelled after {num_done} of {num_slices} slices")
            yield slab

    def configure(self, *, seed: int | None = None, batch_size: int | None = None, force: bool = False) -> None:
        """Change the options ``seed``, ``batch_size`` and ``force``; None sets the bundle's own value.

        Raises:
            ArgumentError: an option has a value that it cannot have.
        """
        values = check_inputs({"seed": seed, "batch_size": batch_size, "force": force})
        for member in self.strategy.members:
            member.configure(seed=values["seed"], batch_size=values["batch_size"])
        self.force = force
        self.settings |= {"seed": seed, "force": force or None}


def _choose_strategy(members: list[Segmenter], options: Mapping[str, Any]) -> Strategy:
    match options["uncertainty"] or options["tta"]:
        case "flips":
            return Mirror(members[0])
        case "seeds":
            return Seeds(members[0], NUM_SEEDS if options["num_samples"] is None else options["num_samples"])
        case "ensemble":
            return Ensemble(members)
        case "mirror":
            return MirrorMean(members[0])
        case _:
            return Once(members[0])


def segment(
    image: ImageLike,
    *,
    bundle: str | Path = DEFAULT_BUNDLE,
    series: str | None = None,
    pixel_mm: float | None = None,
    progress: Progress | None = None,
    **options: Unpack[Options],
) -> SegmentationResult:
    """Segment one image, as ``sdseg segment`` does.

    The model is read again at each call. For many images, make one :class:`sdseg_monai.Pipeline` and call it.

    Args:
        image: one of these: the file of a volume (NIfTI, NRRD, MHA) or of a photograph (PNG, JPEG, BMP, TIFF); a DICOM
            file, or a folder with one or several DICOM series; a nibabel image; or a tuple of an array [X, Y, Z] and
            its affine [4, 4] from voxels to RAS+ millimetres.
        bundle: name of a shipped bundle, a bundle's folder or a zip file of it. Its configs are code, see ``trust``.
        series: SeriesInstanceUID of the series to segment, where a DICOM folder has several.
        pixel_mm: edge of a photograph's pixels, in mm, for measures and areas in mm; None where it is not known. A
            volume knows its own.
        progress: called after each batch of slices, as ``progress(slices_done, slices_in_all)``; to cancel, it returns
            False.
        options: see :class:`~sdseg_monai.inference.options.Options`.

    Returns:
        The mask on the image's own grid, with names, volumes, scores, warnings and manifest; its ``save`` writes files.
        With ``uncertainty`` it is a :class:`~sdseg_monai.inference.uncertainty.SampledSegmentation`.

    Raises:
        ArgumentError: an option has a value that it cannot have, two options contradict each other, the image
            contradicts the training and ``force`` is not set, or ``pixel_mm`` is no size of a pixel or is given for a
            volume.
        InputError: the image, the bundle, the weights or the device cannot be used; the message is one line.
        TypeError: an option is unknown.
        Cancelled: ``progress`` returned False.

    Example:
        >>> from sdseg_monai import segment
        >>> result = segment("scan.nii.gz", device="cpu")  # doctest: +SKIP
        >>> result.volumes  # doctest: +SKIP
        {'Anterior hippocampus': 1.52, 'Posterior hippocampus': 1.43}
        >>> result.save("mask.nii.gz")  # doctest: +SKIP
    """
    source = open_source(image, series)  # a wrong path is reported before the model is read
    check_pixel_size(source, pixel_mm)
    return Pipeline(bundle, **options)(source, pixel_mm=pixel_mm, progress=progress)
