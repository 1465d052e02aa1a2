"""Segment many images into files, one after the other: one bad image does not stop the others; a run can be resumed."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from sdseg_monai.errors import InputError
from sdseg_monai.inference.manifest import Manifest
from sdseg_monai.inference.options import Progress
from sdseg_monai.inference.pipeline import Pipeline
from sdseg_monai.inference.results import PICTURE_SUFFIX, SegmentationResult, mask_suffixes, sidecar
from sdseg_monai.io.dicom import DICOM_SUFFIX, Series
from sdseg_monai.io.sources import Source, UnusableImage, is_photograph, source_name, source_stem, source_warnings
from sdseg_monai.io.volumes import SLICER_SUFFIX, VOLUME_SUFFIXES, volume_suffix

MACHINE_ERRORS = (RuntimeError, MemoryError, OSError, ValueError)  # torch raises RuntimeError when memory runs out

MAP_SUFFIX = ".nii.gz"  # for maps beside a mask that is not a volume file (PNG, DICOM SEG)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Job:
    """One image and the files to write for it.

    Attributes:
        source: the image.
        mask: file of its mask.
        maps: files of the maps beside the mask, by the maps' names, see :attr:`SegmentationResult.maps`.
        pixel_mm: edge of a photograph's pixels, in mm; None where it is not known.
    """

    source: Source
    mask: Path
    maps: Mapping[str, Path]
    pixel_mm: float | None = None

    @property
    def name(self) -> str:
        """Name of the image."""
        return source_name(self.source)

    @property
    def outputs(self) -> tuple[Path, ...]:
        """All files that are written: the mask, the maps, and the JSON file beside the mask."""
        return (self.mask, *self.maps.values(), sidecar(self.mask))


class Segmentation(NamedTuple):
    """An image that was segmented: the model, the image with its files, and the result."""

    pipeline: Pipeline
    job: Job
    result: SegmentationResult


def job_of_file(source: Source, output: Path, maps: Sequence[str]) -> Job:
    """Return the job for one image.

    Args:
        source: the image.
        output: file of the mask, or a folder for it.
        maps: names of the maps; the files lie beside the mask and are called ``MASK_MAP``, such as ``mask_entropy``.

    Raises:
        InputError: the mask of this image cannot have the suffix of ``output``.
    """
    suffixes = mask_suffixes(source)
    is_mask_file = output.name.lower().endswith(suffixes) and not output.is_dir()
    if output.suffix and not is_mask_file and not output.is_dir():
        raise InputError(f"{output}: expected a file ending in {', '.join(suffixes)}, or a folder")
    mask = output if is_mask_file else output / default_mask_name(source)
    suffix = volume_suffix(mask) if mask.name.lower().endswith(VOLUME_SUFFIXES) else MAP_SUFFIX
    suffix = mask.suffix if suffix.lower() == SLICER_SUFFIX else suffix  # a map is no segmentation
    stem = sidecar(mask).stem
    return Job(source, mask, {name: mask.with_name(f"{stem}_{name}{suffix}") for name in maps})


def jobs_in_folder(sources: Sequence[Source], output: Path, maps: Sequence[str]) -> list[Job]:
    """Return the jobs for several images.

    Args:
        sources: the images.
        output: folder of the masks.
        maps: names of the maps; ``output`` has a subfolder for each of them.

    Raises:
        InputError: ``output`` has the name of a file rather than of a folder.
    """
    if output.name.lower().endswith((*VOLUME_SUFFIXES, PICTURE_SUFFIX, DICOM_SUFFIX)) and not output.is_dir():
        raise InputError(f"{output}: expected a folder for the masks of a folder")
    jobs = []
    for source in sources:
        mask = output / default_mask_name(source)
        map_name = mask.name if mask.name.lower().endswith(VOLUME_SUFFIXES) else f"{mask.stem}{MAP_SUFFIX}"
        jobs.append(Job(source, mask, {name: output / name.replace("score", "scores") / map_name for name in maps}))
    return jobs


def default_mask_name(source: Source) -> str:
    """Return the name of a mask in a folder: that of its image, so that predictions and labels match by name."""
    if is_photograph(source):
        return source_stem(source) + PICTURE_SUFFIX
    # no file is written for an unusable image; with a suffix its name is that of a file in any case
    return source_name(source) + (DICOM_SUFFIX if isinstance(source, Series | UnusableImage) else "")


def segment_one(pipeline: Pipeline, job: Job, progress: Progress | None = None) -> SegmentationResult:
    """Segment one image and write its files.

    Args:
        pipeline: the model.
        job: the image and its files.
        progress: see :func:`~sdseg_monai.inference.pipeline.segment`.

    Raises:
        InputError: the image cannot be used, the machine cannot segment it (out of memory, for example), or a file
            cannot be written.
        Cancelled: ``progress`` returned False.
    """
    try:
        result = pipeline(job.source, pixel_mm=job.pixel_mm, progress=progress, maps=[*job.maps])
        result.save(job.mask, job.maps)
    except InputError:
        raise
    except MACHINE_ERRORS as error:
        logger.debug("%s: failed", job.name, exc_info=True)
        raise InputError(f"{job.name}: {error}") from error
    return result


def segment_many(
    pipeline: Pipeline,
    jobs: Sequence[Job],
    manifest: Manifest,
    resume: bool,
    progress: Progress | None = None,
    describe: Callable[[Source, InputError], str] = lambda source, error: str(error),
) -> Iterator[tuple[Job, dict[str, Any]]]:
    """Segment one job after the other, and yield each job with its entry of the manifest.

    An entry has a ``status``. It is ``done``; or ``failed``, with the message of the ``error``; or ``skipped``: the
    image was segmented in an earlier run, and its files are still complete.

    Args:
        pipeline: the model.
        jobs: the images and their files.
        manifest: takes each image's entry as soon as it is known; a context that the caller has entered.
        resume: skip the images that an earlier run has segmented.
        progress: see :func:`~sdseg_monai.inference.pipeline.segment`; it is called for each image.
        describe: returns the message of an image's error in an entry.

    Raises:
        InputError: the manifest cannot be written. An image that fails raises nothing.
        Cancelled: ``progress`` returned False.
    """
    for job in jobs:
        if resume and manifest.is_done(job.source, job.outputs, job.pixel_mm):
            yield job, {**manifest.cases[job.name], "status": "skipped"}
            continue
        start = time.perf_counter()
        try:
            case = {"status": "done", **segment_one(pipeline, job, progress).manifest["case"]}
        except InputError as error:
            warnings = [vars(warning) for warning in error.warnings or source_warnings(job.source)]
            case = {"status": "failed", "error": describe(job.source, error), "warnings": warnings}
        case["seconds"] = round(time.perf_counter() - start, 2)
        manifest.record(job.source, **case)
        yield job, case
