"""``sdseg segment``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdseg_monai.about import RESEARCH_ONLY
from sdseg_monai.bundle import DEFAULT_BUNDLE
from sdseg_monai.cli.arguments import (
    add_bundle,
    add_device,
    chosen_bundle,
    edge,
    fraction,
    message_of,
    path,
    positive,
    seed,
    shard,
)
from sdseg_monai.cli.hints import bundle_hint
from sdseg_monai.cli.outputs import EXIT_SOME_FAILED, check_output, note, report
from sdseg_monai.errors import EXIT_BAD_INPUT, ArgumentError, InputError, printable
from sdseg_monai.io.files import check_exists
from sdseg_monai.io.warnings import NOT_TRUSTED

if TYPE_CHECKING:
    from sdseg_monai.inference.batch import Job
    from sdseg_monai.inference.options import Options
    from sdseg_monai.inference.pipeline import Pipeline
    from sdseg_monai.io.sources import Source

HELP = "segment a volume, a picture, a DICOM series, or a folder or list of them"
NOTE = RESEARCH_ONLY


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    command.add_argument(
        "input",
        type=path,
        metavar="IN",
        help="volume (.nii.gz, .nii, .nrrd, .mha), picture (.png, .jpg, .tif, ...), DICOM file or folder, folder of "
        "volumes or pictures, or datalist (.json, .csv) of images",
    )
    command.add_argument(
        "-o",
        "--output",
        type=path,
        required=True,
        metavar="OUT",
        help="mask file (.dcm: DICOM SEG of a DICOM series), or folder for masks",
    )
    command.add_argument("--series", metavar="UID", help="SeriesInstanceUID, where a DICOM folder has several series")
    command.add_argument("--split", metavar="NAME", help="which list of a JSON datalist, such as test")
    command.add_argument(
        "--dataset-dir",
        type=path,
        metavar="DIR",
        help="folder to which the paths in a datalist are relative (default: the datalist's own)",
    )
    command.add_argument(
        "--pixel-mm",
        type=edge,
        metavar="MM",
        help="edge of the pictures' pixels, in mm, for areas and measures; a volume knows the size of its voxels",
    )
    add_bundle(command)
    add_device(command)
    command.add_argument("--seed", type=seed, help="seed of the start noise, for bundles that start from noise")
    command.add_argument("--batch-size", type=positive, help="slices per forward pass; the masks do not depend on it")
    command.add_argument("--save-score", action="store_true", help="also write each class's score, 0 to 1, as float32")
    command.add_argument(
        "--save-confidence",
        action="store_true",
        help="also write the confidence in each voxel's class, 0 to 1, as float32",
    )
    command.add_argument(
        "--abstain-below",
        type=fraction,
        metavar="CONFIDENCE",
        help="give voxels of a lower confidence the value 255 instead of a class",
    )
    command.add_argument(
        "--weights",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="weights to use instead of the bundle's; may be repeated for an ensemble",
    )
    command.add_argument(
        "--uncertainty",
        choices=("flips", "seeds", "ensemble"),
        help="segment several times (flips: the image and its mirror image; seeds: several start noises; ensemble: "
        "several weights), also write the entropy of the mean score, 0 to 1, and report how much the masks differ; "
        "with seeds and ensemble the mask is that of the mean score",
    )
    command.add_argument(
        "--tta",
        choices=("mirror",),
        help="test-time augmentation: also segment the mirror image, and take the mean of the two scores; takes twice "
        "the time, and is only for bundles that were trained on mirror images and whose classes name no side",
    )
    command.add_argument(
        "--num-samples", type=positive, help="number of start noises of --uncertainty seeds (default: 5)"
    )
    command.add_argument(
        "--force",
        action="store_true",
        help="segment also images that contradict the training of the network (another modality, intensities that it "
        "cannot have, a far larger field of view) and mark their masks as NOT TRUSTED; without it they are refused",
    )
    command.add_argument(
        "--resume",
        action="store_true",
        help="with several images, skip those that a run with the same settings has done and whose masks are complete",
    )
    command.add_argument(
        "--shard",
        type=shard,
        metavar="I/N",
        help="with several images, do the I-th of N parts of them, which N processes or machines do at once",
    )
    command.add_argument(
        "--report", type=path, metavar="HTML", help="write a page that shows every case and needs no network"
    )


def run(options: argparse.Namespace) -> int:
    """Segment the images, and report the masks."""
    for file in (options.input, *options.weights):
        check_exists(file)
    bundle = chosen_bundle(options.bundle, options.overlay)

    from sdseg_monai.inference.manifest import Shard, journal_of
    from sdseg_monai.inference.pipeline import Pipeline
    from sdseg_monai.inference.results import check_sidecar, sidecar
    from sdseg_monai.io.dicom import Series
    from sdseg_monai.io.files import check_folder, check_outputs
    from sdseg_monai.io.sources import list_sources, source_files

    sources = list_sources(options.input, options.series, options.dataset_dir, options.split)
    is_batch = _is_datalist(options.input) or (options.input.is_dir() and not isinstance(sources[0], Series))
    if options.resume and not is_batch:
        raise InputError(f"{options.input}: --resume goes on with several images, this is one")
    if options.shard is not None and not is_batch:
        raise InputError(f"{options.input}: --shard is a part of several images, this is one")
    pixel_sizes = _pixel_sizes(options, sources)
    pipeline = Pipeline(bundle, **_pipeline_options(options))
    jobs = [
        replace(job, pixel_mm=size)
        for job, size in zip(_jobs(options, pipeline, sources, is_batch), pixel_sizes, strict=True)
    ]
    outputs = [file for job in jobs for file in job.outputs]
    if is_batch:
        manifest = _manifest(options)
        check_output(manifest, ".json", "manifest")
        outputs += [manifest, journal_of(manifest)]
    if options.report is not None:
        check_output(options.report, ".html", "page")
        outputs.append(options.report)
    for job in jobs:
        check_sidecar(sidecar(job.mask))
    if options.shard is not None:  # after the checks of all images, which are the same for each part
        jobs = [job for job in jobs if Shard(*options.shard).has(job.name)]
    inputs = [file for source in sources for file in source_files(source)]
    datalist = [options.input] if options.input.is_file() else []
    check_outputs([*inputs, *options.weights, *options.overlay, *datalist], outputs)
    for folder in {file.parent for file in outputs}:
        check_folder(folder)
    return _segment_many(options, pipeline, jobs, sources) if is_batch else _segment_one(options, pipeline, jobs)


def _pixel_sizes(options: argparse.Namespace, sources: list[Source]) -> list[float | None]:
    """Return the size of each image's pixels: that of the option, or of the images' list."""
    from sdseg_monai.inference.options import check_pixel_size
    from sdseg_monai.io.datalists import PIXEL_SIZE, read_pixel_sizes
    from sdseg_monai.io.sources import UnusableImage

    listed_sizes = read_pixel_sizes(options.input, options.split) if _is_datalist(options.input) else []
    if options.pixel_mm is None:
        return listed_sizes or [None] * len(sources)
    if any(size is not None for size in listed_sizes):
        raise ArgumentError(
            f"pixel_mm={options.pixel_mm}: {options.input} has {PIXEL_SIZE} of its own, expected only one of the two"
        )
    for source in sources:  # before the model is read
        if not isinstance(source, UnusableImage):
            check_pixel_size(source, options.pixel_mm)
    return [options.pixel_mm] * len(sources)


def _is_datalist(source: Path) -> bool:
    from sdseg_monai.io.datalists import DATALIST_SUFFIXES

    return source.suffix.lower() in DATALIST_SUFFIXES and source.is_file()


def _manifest(options: argparse.Namespace) -> Path:
    from sdseg_monai.inference.manifest import FILE_NAME, Shard, shard_manifest

    manifest = options.output / FILE_NAME
    return manifest if options.shard is None else shard_manifest(manifest, Shard(*options.shard))


def _pipeline_options(options: argparse.Namespace) -> Options:
    return {
        "device": options.device,
        "seed": options.seed,
        "batch_size": options.batch_size,
        "weights": options.weights,
        "overlays": options.overlay,
        "abstain_below": options.abstain_below,
        "uncertainty": options.uncertainty,
        "num_samples": options.num_samples,
        "tta": options.tta,
        "trust": options.trust,
        "force": options.force,
    }


def _jobs(options: argparse.Namespace, pipeline: Pipeline, sources: list[Source], is_batch: bool) -> list[Job]:
    from sdseg_monai.inference.batch import job_of_file, jobs_in_folder

    maps = _maps(options, pipeline)
    if is_batch:
        return jobs_in_folder(sources, options.output, maps)
    return [job_of_file(sources[0], options.output, maps)]


def _maps(options: argparse.Namespace, pipeline: Pipeline) -> list[str]:
    return [name for name in pipeline.map_names if _is_asked_for(name, options)]


def _is_asked_for(map_name: str, options: argparse.Namespace) -> bool:
    if map_name == "confidence":
        return options.save_confidence
    return map_name == "entropy" or options.save_score


def _segment_one(options: argparse.Namespace, pipeline: Pipeline, jobs: list[Job]) -> int:
    from sdseg_monai.inference.batch import segment_one
    from sdseg_monai.report.runs import report_segmentations

    (job,) = jobs
    try:
        result = segment_one(pipeline, job, _SliceBar(options))
    except InputError as error:
        raise InputError(_describe(options, job.source, error)) from error
    case = dict(result.manifest["case"])
    if options.report is not None:
        report_segmentations(options.report, pipeline, {job: {"status": "done", **case}}, result)
    summary = {"mask": str(job.mask), "labels": _labels(pipeline), **_sizes(case)}
    if case["warnings"]:  # --quiet shows them nowhere else
        summary["warnings"] = case["warnings"]
    if options.report is not None:
        summary["report"] = str(options.report)
    _report(summary, pipeline, options)
    return 0


def _segment_many(options: argparse.Namespace, pipeline: Pipeline, jobs: list[Job], sources: list[Source]) -> int:
    from tqdm import tqdm

    from sdseg_monai.inference.batch import segment_many
    from sdseg_monai.inference.manifest import FILE_NAME, Manifest, case_warnings, merge_shards
    from sdseg_monai.io.sources import left_out_lines, left_out_of
    from sdseg_monai.report.runs import report_segmentations

    settings = {**pipeline.settings, "maps": sorted(_maps(options, pipeline))}
    start = Manifest.resume if options.resume else Manifest
    manifest = start(_manifest(options), pipeline.about, settings)
    manifest.left_out = left_out_of(options.input, sources)
    cases: dict[Job, dict[str, Any]] = {}
    describe = partial(_describe, options)
    with manifest:
        run = segment_many(pipeline, jobs, manifest, options.resume, _SliceBar(options), describe)
        for job, case in tqdm(run, total=len(jobs), desc="segmenting", unit="image", disable=options.quiet):
            cases[job] = case
            if case["status"] == "failed":
                tqdm.write(f"error: {printable(case['error'])}", file=sys.stderr)
    by_name = {job.name: case for job, case in cases.items()}
    if by_name:  # a part of a folder may have no image
        _write_table(by_name, options)
    for line in left_out_lines(manifest.left_out):
        note(line, options)
    failure_count = sum(case["status"] == "failed" for case in cases.values())
    flagged_count = sum(_is_flagged(case) for case in cases.values())
    if flagged_count:
        note(f"{NOT_TRUSTED}: {flagged_count} of {len(cases)} masks", options)
    summary: dict[str, Any] = {"masks": str(options.output), "labels": _labels(pipeline)}
    summary |= {"done": len(cases) - failure_count, "failed": failure_count, "flagged": flagged_count}
    summary["warned"] = sum(case["status"] != "failed" and bool(case_warnings(case)) for case in cases.values())
    summary["manifest"] = str(manifest.path)
    is_merge_failed = False
    if options.shard is not None:
        summary["shard"] = "/".join(map(str, options.shard))
        try:
            if merge_shards(options.output / FILE_NAME, options.shard[1]):
                summary["manifest"] = str(options.output / FILE_NAME)
                note(f"all {options.shard[1]} parts have ended: {summary['manifest']} has their cases", options)
        except InputError as error:  # of another part: what this one has done is reported
            is_merge_failed = True
            sys.stderr.write(f"error: {error}\n")
    if manifest.left_out:
        summary["left_out"] = manifest.left_out
    if options.resume:
        summary["skipped"] = sum(case["status"] == "skipped" for case in cases.values())
    if options.report is not None:
        report_segmentations(options.report, pipeline, cases)
        summary["report"] = str(options.report)
    if options.uncertainty is not None or any("measures" in case for case in cases.values()):
        summary["cases"] = {name: _sizes(case) for name, case in by_name.items() if case["status"] != "failed"}
    _report(summary, pipeline, options)
    if cases and failure_count == len(cases):
        return EXIT_BAD_INPUT
    return EXIT_SOME_FAILED if failure_count or is_merge_failed else 0


def _describe(options: argparse.Namespace, source: Source, error: InputError) -> str:
    """Return the message of an error, with the installed bundles that are for an image of another kind."""
    return "; ".join(filter(None, (message_of(error, options), bundle_hint(source, error))))


def _report(summary: Mapping[str, Any], pipeline: Pipeline, options: argparse.Namespace) -> None:
    """Name the bundle that nobody named, and report the result."""
    if options.bundle is None:
        segments = ", ".join(_labels(pipeline))
        note(f"no --bundle was named: used {DEFAULT_BUNDLE} ({segments}); sdseg info lists the others", options)
    report(summary, options)


class _SliceBar:
    """A progress bar of the slices of one image, shown where it takes longer than two seconds."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.is_quiet = options.quiet
        self.bar: Any = None

    def __call__(self, done: int, total: int) -> None:
        from tqdm import tqdm

        if self.bar is not None and (total != self.bar.total or done < self.bar.n):  # of an image that failed
            self.bar.close()
            self.bar = None
        if self.bar is None:
            self.bar = tqdm(total=total, desc="slices", delay=2, leave=False, disable=self.is_quiet)
        self.bar.update(done - self.bar.n)
        if done == total:
            self.bar.close()
            self.bar = None


def _sizes(case: Mapping[str, Any]) -> dict[str, Any]:
    names = ("samples", "disagreement", "volume_ml", "pixels", "area_mm2", "measures")
    trust = ("trusted", "not_trusted") if _is_flagged(case) else ()
    return {name: case[name] for name in (*trust, *names) if name in case}


def _is_flagged(case: Mapping[str, Any]) -> bool:
    """Tell whether a case of a manifest has a mask that is marked as NOT TRUSTED."""
    return bool(case.get("not_trusted"))


def _labels(pipeline: Pipeline) -> dict[str, int]:
    """Return the values of the masks by the names of their segments."""
    return {segment.name: value for value, segment in pipeline.segments.items()}


def _write_table(cases: Mapping[str, Mapping[str, Any]], options: argparse.Namespace) -> None:
    """Write a line for each case to stderr: its status, the time it took, sizes and measures, its mark and warnings."""
    from sdseg_monai.inference.manifest import case_warnings
    from sdseg_monai.inference.measures import area_texts, measure_texts

    width = max(map(len, cases))
    for name, case in cases.items():
        sizes = [(key, ml["mask"] if isinstance(ml, dict) else ml) for key, ml in case.get("volume_ml", {}).items()]
        text = ", ".join(
            [f"{key} {ml:.2f} ml" for key, ml in sizes]
            + [f"{key} {value}" for key, value in {**area_texts(case), **measure_texts(case)}.items()]
            + ([case["not_trusted"]] if _is_flagged(case) else [])
            + [f"warning: {text}" for text in case_warnings(case)]
        )
        note(f"{name:{width}}  {case['status']:7}  {case['seconds']:7.1f} s  {case.get('error', text)}", options)
