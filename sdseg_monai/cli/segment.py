"""``sdseg segment``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdseg_monai.about import RESEARCH_ONLY
from sdseg_monai.cli.arguments import add_bundle, add_device, check_bundle, fraction, path, positive, seed
from sdseg_monai.cli.outputs import check_output, note, report
from sdseg_monai.errors import EXIT_BAD_INPUT, InputError
from sdseg_monai.io.files import check_exists

if TYPE_CHECKING:
    from sdseg_monai.inference.batch import Job
    from sdseg_monai.inference.pipeline import Pipeline

EXIT_SOME_FAILED = 1
HELP = "segment a volume, a picture, a DICOM series, or a folder or list of them"
NOTE = RESEARCH_ONLY


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    command.add_argument(
        "input",
        type=path,
        metavar="IN",
        help="volume (.nii.gz, .nii, .nrrd, .mha), picture (.png, .jpg, .tif, ...), DICOM file or folder, folder of "
        "volumes or pictures, or datalist (.json, .csv)",
    )
    command.add_argument(
        "-o",
        "--output",
        type=path,
        required=True,
        metavar="OUT",
        help="mask file (.dcm: DICOM SEG of a DICOM series), or folder for masks",
    )
    command.add_argument("--series", metavar="UID", help="SeriesInstanceUID, where a DICOM folder has several")
    command.add_argument("--split", metavar="NAME", help="list of a JSON datalist, such as test")
    command.add_argument(
        "--dataset-dir", type=path, metavar="DIR", help="folder of a datalist's paths (default: the datalist's own)"
    )
    add_bundle(command)
    add_device(command)
    command.add_argument("--seed", type=seed, help="seed of the start noise, for bundles that start from noise")
    command.add_argument(
        "--batch-size", type=positive, help="slices per forward pass; the result does not depend on it"
    )
    command.add_argument("--save-score", action="store_true", help="also write each class's score in [0, 1] as float32")
    command.add_argument(
        "--save-confidence", action="store_true", help="also write how sure each voxel's class is, 0 to 1, as float32"
    )
    command.add_argument(
        "--abstain-below", type=fraction, metavar="CONFIDENCE", help="give voxels less sure than this the value 255"
    )
    command.add_argument(
        "--weights",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="weights to use instead of the bundle's; several, by repeating it, are an ensemble",
    )
    command.add_argument(
        "--uncertainty",
        choices=("flips", "seeds", "ensemble"),
        help="segment several times (the volume and its mirror image; several start noises; several weights), write "
        "the entropy of the mean score, 0 to 1, and report how far the masks differ; of noises and weights the mean "
        "score is the result",
    )
    command.add_argument("--num-samples", type=positive, help="start noises of --uncertainty seeds (default: 5)")
    command.add_argument(
        "--resume",
        action="store_true",
        help="of several images skip what a run with the same settings has done already and is still whole",
    )
    command.add_argument(
        "--report", type=path, metavar="HTML", help="write a page with every case to look at, which needs no network"
    )


def run(options: argparse.Namespace) -> int:
    """Segment what is asked for, and say what came of it."""
    for file in (options.input, *options.weights):
        check_exists(file)
    check_bundle(options)

    from sdseg_monai.inference.pipeline import Pipeline, collected_warnings
    from sdseg_monai.inference.results import check_sidecar, sidecar
    from sdseg_monai.io.dicom import Series
    from sdseg_monai.io.files import check_outputs
    from sdseg_monai.io.sources import list_sources, source_files

    with collected_warnings() as noted:
        sources = list_sources(options.input, options.series, options.dataset_dir, options.split)
    many = _is_datalist(options.input) or (options.input.is_dir() and not isinstance(sources[0], Series))
    if options.resume and not many:
        raise InputError(f"{options.input}: --resume goes on with several images, this is one")
    pipeline = Pipeline(**_settings(options))
    pipeline.segmenter.inferer.progress = not options.quiet
    jobs = _jobs(options, pipeline, sources, many, noted)
    outputs = [file for job in jobs for file in job.outputs]
    if many:
        outputs.append(_manifest(options))
        check_output(outputs[-1], ".json", "manifest")
    if options.report is not None:
        check_output(options.report, ".html", "page")
        outputs.append(options.report)
    for job in jobs:
        check_sidecar(sidecar(job.mask))
    inputs = [file for source in sources for file in source_files(source)]
    check_outputs([*inputs, *options.weights, *options.overlay, *_lists(options)], outputs)
    _check_folders(outputs)
    return (_segment_many if many else _segment_one)(options, pipeline, jobs)


def _is_datalist(source: Path) -> bool:
    from sdseg_monai.io.sources import DATALIST_SUFFIXES

    return source.suffix.lower() in DATALIST_SUFFIXES and source.is_file()


def _manifest(options: argparse.Namespace) -> Path:
    from sdseg_monai.inference.manifest import FILE_NAME

    return options.output / FILE_NAME


def _lists(options: argparse.Namespace) -> list[Path]:
    return [options.input] if options.input.is_file() else []


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "bundle": options.bundle,
        "device": options.device,
        "seed": options.seed,
        "batch_size": options.batch_size,
        "weights": options.weights,
        "overlays": options.overlay,
        "abstain_below": options.abstain_below,
        "uncertainty": options.uncertainty,
        "num_samples": options.num_samples,
    }


def _jobs(
    options: argparse.Namespace, pipeline: Pipeline, sources: list[Any], many: bool, noted: list[str]
) -> list[Job]:
    from sdseg_monai.inference.batch import job_of_file, jobs_in_folder

    wanted = [name for name in pipeline.map_names if _is_wanted(name, options)]
    if many:
        return jobs_in_folder(sources, options.output, wanted)
    return [job_of_file(sources[0], options.output, wanted, noted)]


def _is_wanted(name: str, options: argparse.Namespace) -> bool:
    if name == "confidence":
        return options.save_confidence
    return name == "entropy" or options.save_score


def _check_folders(outputs: list[Path]) -> None:
    from sdseg_monai.io.files import check_folder

    for folder in {file.parent for file in outputs}:
        check_folder(folder)


def _segment_one(options: argparse.Namespace, pipeline: Pipeline, jobs: list[Job]) -> int:
    from sdseg_monai.inference.batch import segment_one
    from sdseg_monai.report.runs import report_segmentations

    (job,) = jobs
    result = segment_one(pipeline, job)
    case = dict(result.manifest["case"])
    if options.report is not None:
        report_segmentations(options.report, pipeline, {job: {"status": "done", **case}}, result)
    kept = {name: case[name] for name in ("samples", "disagreement", "volume_ml", "pixels") if name in case}
    found = {"mask": str(job.mask), "labels": _labels(pipeline), **kept}
    if case["warnings"]:  # --quiet shows them nowhere else
        found["warnings"] = case["warnings"]
    report(found if options.report is None else {**found, "report": str(options.report)}, options)
    return 0


def _segment_many(options: argparse.Namespace, pipeline: Pipeline, jobs: list[Job]) -> int:
    from tqdm import tqdm

    from sdseg_monai.inference.batch import segment_many
    from sdseg_monai.inference.manifest import Manifest
    from sdseg_monai.report.runs import report_segmentations

    settings = {**pipeline.settings, "maps": sorted(jobs[0].maps)}
    start = Manifest.resume if options.resume else Manifest
    manifest = start(_manifest(options), pipeline.about, settings)
    found: dict[Job, dict[str, Any]] = {}
    for job, case in segment_many(pipeline, jobs, manifest, options.resume, not options.quiet):
        found[job] = case
        if case["status"] == "failed":
            tqdm.write(f"error: {case['error']}", file=sys.stderr)
    by_name = {job.name: case for job, case in found.items()}
    _write_table(by_name, options)
    failed = sum(case["status"] == "failed" for case in found.values())
    summary: dict[str, Any] = {"masks": str(options.output), "labels": _labels(pipeline)}
    summary |= {"done": len(found) - failed, "failed": failed, "manifest": str(manifest.path)}
    if options.resume:
        summary["skipped"] = sum(case["status"] == "skipped" for case in found.values())
    if options.report is not None:
        report_segmentations(options.report, pipeline, found)
        summary["report"] = str(options.report)
    if pipeline.samples:
        kept = ("samples", "disagreement", "volume_ml", "pixels")
        summary["cases"] = {
            name: {key: case[key] for key in kept if key in case}
            for name, case in by_name.items()
            if case["status"] != "failed"
        }
    report(summary, options)
    if failed == len(found):
        return EXIT_BAD_INPUT
    return EXIT_SOME_FAILED if failed else 0


def _labels(pipeline: Pipeline) -> dict[str, int]:
    """Return the values of the masks by what they stand for, as far as that is known."""
    from sdseg_monai.io.segments import UNSURE, UNSURE_SEGMENT

    names = {segment.name: value for value, segment in pipeline.segmenter.segments.items()}
    return names if pipeline.abstain_below is None else {**names, UNSURE_SEGMENT.name: UNSURE}


def _write_table(found: Mapping[str, Mapping[str, Any]], options: argparse.Namespace) -> None:
    """Write a line for each case to stderr: what came of it, how long it took, how large its classes are."""
    width = max(map(len, found))
    for name, case in found.items():
        sizes = [(key, ml["mask"] if isinstance(ml, dict) else ml) for key, ml in case.get("volume_ml", {}).items()]
        text = ", ".join(
            [f"{key} {ml:.2f} ml" for key, ml in sizes]
            + [f"{key} {count} pixels" for key, count in case.get("pixels", {}).items()]
        )
        note(f"{name:{width}}  {case['status']:7}  {case['seconds']:7.1f} s  {case.get('error', text)}", options)
