"""The ``sdseg`` command: it owns stdout and the exit codes.

Exit codes: 0 all done; 1 some cases of a folder failed, the others are done; 2 nothing done, the input cannot be used;
130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from sdseg_monai import __version__
from sdseg_monai.errors import EXIT_BAD_INPUT, InputError

if TYPE_CHECKING:
    from sdseg_monai.bundle import Segmenter
    from sdseg_monai.manifest import Manifest
    from sdseg_monai.samples import Samples

EXIT_SOME_FAILED = 1
EXIT_INTERRUPTED = 130
MACHINE_ERRORS = (RuntimeError, MemoryError, OSError, ValueError)  # out of memory above all, a RuntimeError to torch
RESEARCH_ONLY = "Research use only: not a medical device, not for diagnosis or treatment."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    warnings.filterwarnings("ignore", category=UserWarning)  # MONAI's notes to developers
    warnings.filterwarnings("ignore", category=FutureWarning)
    try:
        return options.command(options)
    except (InputError, OSError) as error:  # a name that is too long, a folder that may not be read, a closed pipe
        sys.stderr.write(f"error: {error}\n")
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; what was finished is kept\n")
        return EXIT_INTERRUPTED


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as every other error is told."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_BAD_INPUT, f"error: {message}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="sdseg", description=f"Segment volumes with SDSeg. {RESEARCH_ONLY}")
    parser.add_argument("--version", action="version", version=f"sdseg {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    segment = commands.add_parser("segment", help="segment a volume file or a folder of them", epilog=RESEARCH_ONLY)
    segment.add_argument(
        "input", type=_path, metavar="IN", help="volume (.nii.gz, .nii, .nrrd, .mha) or folder of volumes"
    )
    segment.add_argument(
        "-o", "--output", type=_path, required=True, metavar="OUT", help="mask file, or folder for masks"
    )
    _add_bundle(segment)
    segment.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: cuda where there is some)")
    segment.add_argument("--seed", type=_seed, help="seed of the start noise, for bundles that start from noise")
    segment.add_argument(
        "--batch-size", type=_positive, help="slices per forward pass; the result does not depend on it"
    )
    segment.add_argument("--save-score", action="store_true", help="also write each class's score in [0, 1] as float32")
    segment.add_argument(
        "--save-confidence", action="store_true", help="also write how sure each voxel's class is, 0 to 1, as float32"
    )
    segment.add_argument(
        "--abstain-below", type=_fraction, metavar="CONFIDENCE", help="give voxels less sure than this the value 255"
    )
    segment.add_argument(
        "--weights",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="weights to use instead of the bundle's; several, by repeating it, are an ensemble",
    )
    segment.add_argument(
        "--uncertainty",
        choices=("flips", "seeds", "ensemble"),
        help="segment several times (the volume and its mirror image; several start noises; several weights), write "
        "the entropy of the mean score, 0 to 1, and report how far the masks differ; of noises and weights the mean "
        "score is the result",
    )
    segment.add_argument("--num-samples", type=_positive, help="start noises of --uncertainty seeds (default: 5)")
    segment.add_argument(
        "--resume",
        action="store_true",
        help="of a folder skip what a run with the same settings has done already and is still whole",
    )
    segment.set_defaults(command=_segment)

    evaluate = commands.add_parser(
        "evaluate", help="3-D Dice, IoU, HD95, surface Dice and volumes of masks against labels, on the labels' grid"
    )
    evaluate.add_argument("--predictions", type=Path, required=True, metavar="DIR", help="folder of masks")
    evaluate.add_argument("--labels", type=Path, required=True, metavar="DIR", help="folder of labels, named likewise")
    evaluate.add_argument("-o", "--output", type=Path, required=True, metavar="CSV", help="table to write")
    evaluate.add_argument(
        "--tolerance",
        type=_length,
        metavar="MM",
        default=2.0,
        help="of the surface Dice, in a picture in pixels (default: %(default)g)",
    )
    evaluate.set_defaults(command=_evaluate)

    convert = commands.add_parser(
        "convert",
        help="weights from one form to another",
        epilog="A bundle's configs are code: convert what you trust.",
    )
    convert.add_argument("source", type=Path, metavar="SRC", help="official .ckpt, bundle's folder or diffusers folder")
    convert.add_argument("-o", "--output", type=Path, required=True, metavar="DST", help=".pt file, or new folder")
    convert.add_argument(
        "--from", dest="source_kind", required=True, choices=("official", "bundle", "diffusers"), help="what SRC is"
    )
    convert.add_argument(
        "--to",
        dest="target_kind",
        required=True,
        choices=("bundle", "diffusers", "inference"),
        help="model.pt of a bundle; folder of safetensors; or float16 weights that only segment",
    )
    convert.add_argument(
        "--num-heads", type=_positive, help="heads of an official U-Net's attention, which the file does not tell (8)"
    )
    convert.add_argument("--raw", action="store_true", help="an official U-Net's raw weights, not their average")
    convert.add_argument(
        "--mask-decoder", type=Path, metavar="FILE", help="put this distilled mask decoder in the place of SRC's own"
    )
    convert.set_defaults(command=_convert)

    audit = commands.add_parser(
        "audit",
        help="what a bundle's mask autoencoder keeps of your labels: Dice of decode(encode(label))",
        epilog="A bundle's configs are code: audit with what you trust.",
    )
    audit.add_argument(
        "--labels",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder of labels, volumes or black and white pictures",
    )
    _add_bundle(audit)
    audit.add_argument("-o", "--output", type=Path, metavar="CSV", help="table to write, a row a slice and class")
    audit.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: cuda where there is some)")
    audit.set_defaults(command=_audit)

    label = commands.add_parser(
        "label", help="start a MONAI Label server: segment, correct and retrain from the viewer", epilog=RESEARCH_ONLY
    )
    label.add_argument(
        "--studies", required=True, metavar="DIR_OR_URL", help="folder of volumes or DICOM files, or a DICOMweb URL"
    )
    label.add_argument(
        "--bundle",
        action="append",
        default=[],
        metavar="NAME_OR_DIR",
        help="bundle to serve; may be repeated (default: every installed bundle that has weights)",
    )
    label.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    label.add_argument("--port", type=int, default=8000, help="port, 0 for any free one (default: %(default)s)")
    label.add_argument(
        "--work-dir",
        type=Path,
        default=Path("sdseg_label"),
        metavar="DIR",
        help="folder for logs and fine-tuned weights (default: %(default)s)",
    )
    label.set_defaults(command=_label)

    info = commands.add_parser("info", help="what the bundles segment, their weights, whose they are")
    info.add_argument("bundles", nargs="*", metavar="NAME_OR_DIR", help="default: the installed ones")
    info.set_defaults(command=_info)

    demo = commands.add_parser("demo", help="segment a volume with the embedded bundle and draw the result")
    demo.add_argument(
        "-o", "--output", type=Path, default=Path("demo_output"), metavar="DIR", help="folder for results"
    )
    demo.add_argument(
        "--data", type=Path, metavar="DIR", help="folder of MSD Task04_Hippocampus, instead of fetching it"
    )
    demo.add_argument("--offline", action="store_true", help="do not try to fetch data, use a made-up volume")
    demo.set_defaults(command=_demo)
    return parser


def _add_bundle(command: argparse.ArgumentParser) -> None:
    command.add_argument("--bundle", metavar="NAME_OR_DIR", help="bundle to use (default: hippocampus_sdseg)")
    command.add_argument(
        "--overlay",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="config to chain after the bundle's own; may be repeated, the last one wins; code: use what you trust",
    )


def _path(text: str) -> Path:
    if not text:  # a shell variable that is not set; the empty path would be the current folder
        raise argparse.ArgumentTypeError("an empty name, expected a file or folder")
    return Path(text)


def _seed(text: str) -> int:
    number = int(_number(text, int))
    if not 0 <= number < 2**63:
        raise argparse.ArgumentTypeError(f"{number}, expected 0 to 2^63 - 1")
    return number


def _positive(text: str) -> int:
    number = int(_number(text, int))
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number}, expected at least 1")
    return number


def _length(text: str) -> float:
    number = _number(text, float)
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text}, expected a length from 0 on")
    return number


def _fraction(text: str) -> float:
    number = _number(text, float)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{text}, expected 0 to 1")
    return number


def _number(text: str, kind: type[int] | type[float]) -> float:
    try:
        return kind(text)
    except ValueError as error:
        expected = "a whole number" if kind is int else "a number"
        raise argparse.ArgumentTypeError(f"{text!r}, expected {expected}") from error


class _Job(NamedTuple):
    image: Path
    mask: Path
    maps: dict[str, Path]  # what is written beside the mask, by name


def _segment(options: argparse.Namespace) -> int:
    images = _images(options.input)
    segmenter, samples = _segmenter(options)
    jobs = _jobs(options, images, segmenter)
    if options.input.is_dir():
        return _segment_folder(segmenter, samples, jobs, options)
    if options.resume:
        raise InputError(f"{options.input}: --resume goes on with a folder, this is a file")
    try:
        differ = _segment_one(segmenter, samples, jobs[0], options)
    except InputError:
        raise
    except MACHINE_ERRORS as error:
        raise InputError(f"{options.input}: {error}") from error
    _report({"mask": str(jobs[0].mask), "labels": _label_names(segmenter, options), **differ})
    return 0


def _segment_one(
    segmenter: Segmenter, samples: Samples | None, job: _Job, options: argparse.Namespace
) -> dict[str, object]:
    """Segment and write; returns the volumes, and what ``samples`` say where there are some."""
    import numpy as np

    from sdseg_monai.uncertainty import measure_uncertainty

    values = range(1, segmenter.num_classes)
    names = [segmenter.segments[n].name if n in segmenter.segments else f"class {n}" for n in values]
    if samples is None:
        volumes = segmenter.segment_file(*job, options.abstain_below).volumes
        return {"volume_ml": dict(zip(names, volumes.round(4).tolist(), strict=True))}
    result = measure_uncertainty(samples, job.image)
    written = result if options.abstain_below is None else result.abstain(options.abstain_below)
    written.write(*job)
    ranges = np.stack([result.volumes, *result.volume_range], axis=1).round(4).tolist()
    volumes_ml = {
        name: dict(zip(("mask", "smallest", "largest"), row, strict=True))
        for name, row in zip(names, ranges, strict=True)
    }
    return {
        "samples": len(result.sample_volumes),
        "disagreement": round(result.disagreement, 4),
        "volume_ml": volumes_ml,
    }


def _images(source: Path) -> list[Path]:
    from sdseg_monai.io import list_volumes, volume_suffix

    if source.is_dir():
        return [Path(path) for path in list_volumes(source)]
    if not source.exists():
        raise InputError(f"{source}: no such file or folder")
    volume_suffix(source)  # checks
    return [source]


def _jobs(options: argparse.Namespace, images: list[Path], segmenter: Segmenter) -> list[_Job]:
    """Return what is to be written of each image; raise :class:`InputError` if it cannot be.

    Maps lie beside the mask of a single image, ``NAME_score``, and in folders of their own within a folder of masks,
    ``scores/NAME``.
    """
    from sdseg_monai.bundle import score_names
    from sdseg_monai.io import VOLUME_SUFFIXES, check_folder, volume_stem, volume_suffix

    names = score_names(segmenter.num_classes - 1) if options.save_score else []
    names += ["confidence"] if options.save_confidence else []
    names += ["entropy"] if options.uncertainty else []
    output = options.output
    named = output.name.lower().endswith(VOLUME_SUFFIXES)
    if options.input.is_dir() and named and not output.is_dir():
        raise InputError(f"{output}: expected a folder for the masks of a folder")
    if not options.input.is_dir() and output.suffix and not named and not output.is_dir():
        raise InputError(f"{output}: expected a file ending in {', '.join(VOLUME_SUFFIXES)}, or a folder")
    if options.input.is_dir():
        folders = {name: output / name.replace("score", "scores") for name in names}
        jobs = [
            _Job(image, output / image.name, {name: folder / image.name for name, folder in folders.items()})
            for image in images
        ]
    else:
        mask = output if named and not output.is_dir() else output / images[0].name
        stem, suffix = volume_stem(mask), volume_suffix(mask)
        jobs = [_Job(images[0], mask, {name: mask.with_name(f"{stem}_{name}{suffix}") for name in names})]
    outputs = [path for job in jobs for path in (job.mask, *job.maps.values())]
    _refuse_to_replace([*images, *options.weights, *options.overlay], outputs)
    for folder in {path.parent for path in outputs}:
        check_folder(folder)
    return jobs


def _label_names(segmenter: Segmenter, options: argparse.Namespace) -> dict[str, int]:
    """Return the values of the masks by what they stand for, as far as that is known."""
    from sdseg_monai.segments import UNSURE

    names = {segment.name: value for value, segment in segmenter.segments.items()}
    return names if options.abstain_below is None else {**names, "unsure": UNSURE}


def _refuse_to_replace(inputs: list[Path], outputs: list[Path]) -> None:
    # os.path.realpath, unlike Path.resolve, does not mind a link to itself
    replaced = {os.path.realpath(path) for path in outputs} & {os.path.realpath(path) for path in inputs}
    if replaced:
        raise InputError(f"{min(replaced)}: is an input and would be replaced, name another output")


def _check_table(path: Path) -> None:
    from sdseg_monai.io import check_folder

    if path.suffix.lower() != ".csv":  # weights or a config would be gone
        raise InputError(f"{path}: expected a table's name, ending in .csv")
    check_folder(path.parent)


def _segmenter(options: argparse.Namespace) -> tuple[Segmenter, Samples | None]:
    """Return the model, and what of it is to be compared, if anything."""
    from sdseg_monai.bundle import DEFAULT_BUNDLE, Segmenter
    from sdseg_monai.samples import NUM_SEEDS, Ensemble, Flips, Seeds

    if len(options.weights) > 1 and options.uncertainty != "ensemble":
        raise InputError(f"{len(options.weights)} weights: expected one, or --uncertainty ensemble")
    if len({os.path.realpath(path) for path in options.weights}) < len(options.weights):
        raise InputError("--weights: a file is given twice, which would agree with itself; expected different ones")
    if options.num_samples is not None and options.uncertainty != "seeds":
        raise InputError("--num-samples: only --uncertainty seeds has a number to choose")
    settings = {
        "device": options.device,
        "seed": options.seed,
        "batch_size": options.batch_size,
        "overlays": options.overlay,
    }
    members = [
        Segmenter(options.bundle or DEFAULT_BUNDLE, weights=weights, **settings)
        for weights in options.weights or [None]
    ]
    members[0].inferer.progress = True
    if options.uncertainty == "flips":
        return members[0], Flips(members[0])
    if options.uncertainty == "seeds":
        return members[0], Seeds(members[0], NUM_SEEDS if options.num_samples is None else options.num_samples)
    return members[0], Ensemble(members) if options.uncertainty == "ensemble" else None


def _segment_folder(
    segmenter: Segmenter, samples: Samples | None, jobs: list[_Job], options: argparse.Namespace
) -> int:
    from tqdm import tqdm

    from sdseg_monai.io import hash_file

    manifest = _manifest(segmenter, jobs[0], options)
    found: dict[str, dict[str, object]] = {}
    skipped = 0
    with _collected_warnings() as warned:
        for job in tqdm(jobs, desc="segmenting", unit="volume"):
            name = job.image.name
            if options.resume and manifest.is_done(job.image, (job.mask, *job.maps.values())):
                found[name] = manifest.cases[name]
                skipped += 1
                continue
            warned.clear()
            start = time.perf_counter()
            try:
                digest = hash_file(job.image)  # before: what is put in its place meanwhile is not what was segmented
                case = {"status": "done", "input_sha256": digest, **_segment_one(segmenter, samples, job, options)}
            except MACHINE_ERRORS as error:  # an InputError is a ValueError
                reason = str(error) if isinstance(error, InputError) else f"{job.image}: {error}"
                case = {"status": "failed", "error": reason}
                tqdm.write(f"error: {reason}", file=sys.stderr)
            found[name] = {**case, "seconds": round(time.perf_counter() - start, 2), "warnings": list(warned)}
            manifest.record(job.image, **found[name])
    _write_table(found)
    done = {name: case for name, case in found.items() if case["status"] == "done"}
    report: dict[str, object] = {"masks": str(jobs[0].mask.parent), "labels": _label_names(segmenter, options)}
    report |= {"done": len(done), "failed": len(found) - len(done), "manifest": str(manifest.path)}
    if options.resume:
        report["skipped"] = skipped
    if samples:
        kept = ("samples", "disagreement", "volume_ml")
        report["cases"] = {name: {key: case[key] for key in kept} for name, case in done.items()}
    _report(report)
    if not done:
        return EXIT_BAD_INPUT
    return EXIT_SOME_FAILED if len(done) < len(found) else 0


def _manifest(segmenter: Segmenter, job: _Job, options: argparse.Namespace) -> Manifest:
    import platform

    import torch

    from sdseg_monai.io import hash_file
    from sdseg_monai.manifest import FILE_NAME, Manifest

    about = {
        "versions": {"sdseg-monai": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "device": str(segmenter.device),
    }
    settings = {
        "bundle": options.bundle,
        "weights_sha256": [hash_file(path) for path in options.weights or [segmenter.weights]],
        "overlays_sha256": [hash_file(path) for path in options.overlay],
        "seed": options.seed,
        "abstain_below": options.abstain_below,
        "uncertainty": options.uncertainty,
        "num_samples": options.num_samples,
        "maps": sorted(job.maps),
    }
    path = job.mask.parent / FILE_NAME
    return Manifest.resume(path, about, settings) if options.resume else Manifest(path, about, settings)


@contextmanager
def _collected_warnings() -> Iterator[list[str]]:
    """Collect the messages of warnings, which are shown as well."""
    messages: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)
    try:
        yield messages
    finally:
        logging.getLogger().removeHandler(handler)


def _write_table(found: Mapping[str, Mapping[str, Any]]) -> None:
    """Write a line for each case to stderr: what came of it, how long it took, volumes in ml."""
    width = max(map(len, found))
    for name, case in found.items():
        volumes = [(key, ml["mask"] if isinstance(ml, dict) else ml) for key, ml in case.get("volume_ml", {}).items()]
        text = case.get("error") or ", ".join(f"{key} {ml:.2f} ml" for key, ml in volumes)
        sys.stderr.write(f"{name:{width}}  {case['status']:6}  {case['seconds']:7.1f} s  {text}\n")


def _evaluate(options: argparse.Namespace) -> int:
    from sdseg_monai.evaluation import evaluate_folders, summarise, write_csv
    from sdseg_monai.pictures import list_images

    for folder in (options.predictions, options.labels):
        list_images(folder)  # before anything is written
        _refuse_to_replace(list(folder.iterdir()), [options.output])
    if os.path.realpath(options.predictions) == os.path.realpath(options.labels):
        raise InputError(f"{options.labels}: the labels are the predictions, which would agree; expected two folders")
    _check_table(options.output)
    cases = evaluate_folders(options.predictions, options.labels, tolerance=options.tolerance)
    write_csv(options.output, cases)
    unmatched = len(list_images(options.labels)) - len(cases)
    if unmatched:
        sys.stderr.write(f"note: {unmatched} labels have no prediction and are not in the mean\n")
    about = {"tolerance": options.tolerance, "labels_without_prediction": unmatched, "table": str(options.output)}
    _report({**summarise(cases), **about})
    return 0


def _convert(options: argparse.Namespace) -> int:
    from sdseg_monai.convert import convert

    done = convert(
        options.source,
        options.output,
        source_kind=options.source_kind,
        target_kind=options.target_kind,
        num_heads=options.num_heads,
        raw=options.raw,
        mask_decoder=options.mask_decoder,
    )
    _report({"output": str(options.output), **done._asdict()})
    return 0


def _audit(options: argparse.Namespace) -> int:
    from sdseg_monai.audit import audit_folder, load_audit, loss_warnings, summarise_audit, write_audit
    from sdseg_monai.bundle import DEFAULT_BUNDLE
    from sdseg_monai.pictures import list_images

    list_images(options.labels)  # before anything is written
    if options.output is not None:
        _refuse_to_replace(list(options.labels.iterdir()), [options.output])
        _check_table(options.output)
    audit = load_audit(options.bundle or DEFAULT_BUNDLE, options.device, options.overlay)
    kept = audit_folder(audit, options.labels)
    for line in loss_warnings(kept):
        sys.stderr.write(f"warning: {line}\n")
    table = None
    if options.output is not None:
        write_audit(options.output, kept)
        table = str(options.output)
    grid = {"weights": audit.weights, "size": audit.size, "slice_axis": audit.slice_axis}
    _report({**summarise_audit(kept), **grid, "table": table})
    return 0


def _info(options: argparse.Namespace) -> int:
    from sdseg_monai.bundle import describe_bundle, shipped_bundles

    described = {str(name): describe_bundle(name) for name in options.bundles or shipped_bundles()}
    sys.stdout.write(json.dumps(described, indent=2) + "\n")
    return 0


def _label(options: argparse.Namespace) -> int:
    from sdseg_monai.label.start import prepare_server

    url, serve = prepare_server(
        options.studies, bundles=options.bundle, host=options.host, port=options.port, work_dir=options.work_dir
    )
    sys.stdout.write(f"serving {options.studies} at {url}, OHIF at {url}/ohif/; {RESEARCH_ONLY}\n")
    sys.stdout.flush()
    serve()
    return 0


def _demo(options: argparse.Namespace) -> int:
    from sdseg_monai.demo import run_demo

    for line in run_demo(options.output, data=options.data, offline=options.offline):
        sys.stdout.write(line + "\n")
    sys.stdout.write(RESEARCH_ONLY + "\n")
    return 0


def _report(result: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(result) + "\n")
    sys.stderr.write(RESEARCH_ONLY + "\n")


if __name__ == "__main__":
    sys.exit(main())
