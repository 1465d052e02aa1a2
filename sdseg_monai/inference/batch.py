"""Images to files, one after the other: what goes wrong with one does not stop the rest, and a run can be resumed."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdseg_monai.errors import InputError
from sdseg_monai.inference.manifest import Manifest
from sdseg_monai.inference.options import Progress
from sdseg_monai.inference.pipeline import Pipeline
from sdseg_monai.inference.results import PICTURE_SUFFIX, SegmentationResult, mask_suffixes, sidecar
from sdseg_monai.io.dicom import DICOM_SUFFIX, Series
from sdseg_monai.io.sources import Source, is_photograph, source_name, source_stem, source_warnings
from sdseg_monai.io.volumes import VOLUME_SUFFIXES, volume_suffix

MACHINE_ERRORS = (RuntimeError, MemoryError, OSError, ValueError)  # out of memory above all, a RuntimeError to torch

MAP_SUFFIX = ".nii.gz"  # of maps beside a mask that is no volume file

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Job:
    """An image, and the files that are to be made of it.

    Attributes:
        source: the image.
        mask: its mask's file.
        maps: files of what is written beside the mask, by name.
    """

    source: Source
    mask: Path
    maps: Mapping[str, Path]

    @property
    def name(self) -> str:
        """The image's name."""
        return source_name(self.source)

    @property
    def outputs(self) -> tuple[Path, ...]:
        """Mask, maps, and the JSON file beside the mask."""
        return (self.mask, *self.maps.values(), sidecar(self.mask))


def job_of_file(source: Source, output: Path, maps: Sequence[str]) -> Job:
    """Return the job for one image: the mask is ``output``, or lies in that folder, maps lie beside it, ``NAME_MAP``.

    Raises:
        InputError: the suffix is none that this image's mask can have.
    """
    suffixes = mask_suffixes(source)
    named = output.name.lower().endswith(suffixes) and not output.is_dir()
    if output.suffix and not named and not output.is_dir():
        raise InputError(f"{output}: expected a file ending in {', '.join(suffixes)}, or a folder")
    mask = output if named else output / default_mask_name(source)
    suffix = volume_suffix(mask) if mask.name.lower().endswith(VOLUME_SUFFIXES) else MAP_SUFFIX
    stem = sidecar(mask).stem
    return Job(source, mask, {name: mask.with_name(f"{stem}_{name}{suffix}") for name in maps})


def jobs_in_folder(sources: Sequence[Source], output: Path, maps: Sequence[str]) -> list[Job]:
    """Return the jobs for several files: masks lie in the folder ``output``, each map in a folder of its own in that.

    Raises:
        InputError: ``output`` is called as a file.
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
    """Return the name of a mask in a folder: the image's, so that predictions and labels match by name."""
    if is_photograph(source):
        return source_stem(source) + PICTURE_SUFFIX
    return source_name(source) + (DICOM_SUFFIX if isinstance(source, Series) else "")


def segment_one(pipeline: Pipeline, job: Job, progress: Progress | None = None) -> SegmentationResult:
    """Segment one image and write what is asked for.

    Args:
        pipeline: the model.
        job: the image.
        progress: see :class:`~sdseg_monai.inference.pipeline.Pipeline`.

    Raises:
        InputError: the image cannot be used, the machine cannot do it, or an output not be written.
    """
    try:
        result = pipeline(job.source, progress=progress)
        result.save(job.mask, job.maps)
    except InputError:
        raise
    except MACHINE_ERRORS as error:
        logger.debug("%s: failed", job.name, exc_info=True)
        raise InputError(f"{job.name}: {error}") from error
    return result


def segment_many(
    pipeline: Pipeline, jobs: Sequence[Job], manifest: Manifest, resume: bool, progress: Progress | None = None
) -> Iterator[tuple[Job, dict[str, Any]]]:
    """Segment one job after the other; yields each with its case, as the manifest has it.

    A case has a ``status``: ``done``; ``failed``, with an ``error``; or ``skipped``, what the manifest has as done and
    is still whole.

    Args:
        pipeline: the model.
        jobs: the images.
        manifest: written anew after each case.
        resume: skip what is done and whole.
        progress: of the slices of each image.
    """
    for job in jobs:
        if resume and manifest.is_done(job.source, job.outputs):
            yield job, {**manifest.cases[job.name], "status": "skipped"}
            continue
        start = time.perf_counter()
        try:
            case = {"status": "done", **segment_one(pipeline, job, progress).manifest["case"]}
        except InputError as error:
            warnings = [vars(warning) for warning in source_warnings(job.source)]
            case = {"status": "failed", "error": str(error), "warnings": warnings}
        case["seconds"] = round(time.perf_counter() - start, 2)
        manifest.record(job.source, **case)
        yield job, case
