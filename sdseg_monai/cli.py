"""The ``sdseg`` command: it owns stdout and the exit codes.

Exit codes: 0 all done; 1 some cases of a folder failed, the others are done; 2 nothing done, the input cannot be used;
130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sdseg_monai import __version__
from sdseg_monai.errors import EXIT_BAD_INPUT, InputError

if TYPE_CHECKING:
    from sdseg_monai.bundle import Segmenter

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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sdseg", description=f"Segment volumes with SDSeg. {RESEARCH_ONLY}")
    parser.add_argument("--version", action="version", version=f"sdseg {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    segment = commands.add_parser("segment", help="segment a volume file or a folder of them", epilog=RESEARCH_ONLY)
    segment.add_argument(
        "input", type=Path, metavar="IN", help="volume (.nii.gz, .nii, .nrrd, .mha) or folder of volumes"
    )
    segment.add_argument(
        "-o", "--output", type=Path, required=True, metavar="OUT", help="mask file, or folder for masks"
    )
    segment.add_argument("--bundle", metavar="NAME_OR_DIR", help="bundle to use (default: hippocampus_sdseg)")
    segment.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: cuda where there is some)")
    segment.add_argument("--seed", type=_seed, help="seed of the start noise, for bundles that start from noise")
    segment.add_argument(
        "--batch-size", type=_positive, help="slices per forward pass; the result does not depend on it"
    )
    segment.add_argument("--save-score", action="store_true", help="also write the score in [0, 1] as float32")
    segment.set_defaults(command=_segment)

    evaluate = commands.add_parser("evaluate", help="3-D Dice and IoU of masks against labels, on the labels' grid")
    evaluate.add_argument("--predictions", type=Path, required=True, metavar="DIR", help="folder of masks")
    evaluate.add_argument("--labels", type=Path, required=True, metavar="DIR", help="folder of labels, named likewise")
    evaluate.add_argument("-o", "--output", type=Path, required=True, metavar="CSV", help="table to write")
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
    convert.set_defaults(command=_convert)

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


def _seed(text: str) -> int:
    number = int(text)
    if not 0 <= number < 2**63:
        raise argparse.ArgumentTypeError(f"{number}, expected 0 to 2^63 - 1")
    return number


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number}, expected at least 1")
    return number


def _segment(options: argparse.Namespace) -> int:
    jobs = _jobs(options.input, options.output, options.save_score)
    segmenter = _segmenter(options)
    if options.input.is_dir():
        return _segment_folder(segmenter, jobs)
    try:
        segmenter.segment_file(*jobs[0])
    except InputError:
        raise
    except MACHINE_ERRORS as error:
        raise InputError(f"{options.input}: {error}") from error
    _report({"mask": str(jobs[0][1])})
    return 0


def _jobs(source: Path, output: Path, save_score: bool) -> list[tuple[Path, Path, Path | None]]:
    """Return (image, mask, score) of each case; raise :class:`InputError` if the output cannot be written."""
    from sdseg_monai.io import VOLUME_SUFFIXES, check_folder, list_volumes, volume_stem, volume_suffix

    if source.is_dir():
        images = [Path(path) for path in list_volumes(source)]
        masks = [output / image.name for image in images]
        scores = [output / "scores" / image.name for image in images]
    else:
        if not source.exists():
            raise InputError(f"{source}: no such file or folder")
        is_file = output.name.lower().endswith(VOLUME_SUFFIXES) and not output.is_dir()
        mask = output if is_file else output / source.name
        volume_suffix(source)
        images, masks = [source], [mask]
        scores = [mask.with_name(f"{volume_stem(mask)}_score{volume_suffix(mask)}")]
    outputs = masks + (scores if save_score else [])
    _refuse_to_replace(images, outputs)
    for folder in {path.parent for path in outputs}:
        check_folder(folder)
    return [(i, m, s if save_score else None) for i, m, s in zip(images, masks, scores, strict=True)]


def _refuse_to_replace(inputs: list[Path], outputs: list[Path]) -> None:
    # os.path.realpath, unlike Path.resolve, does not mind a link to itself
    replaced = {os.path.realpath(path) for path in outputs} & {os.path.realpath(path) for path in inputs}
    if replaced:
        raise InputError(f"{min(replaced)}: is an input and would be replaced, name another output")


def _segmenter(options: argparse.Namespace) -> Segmenter:
    from sdseg_monai.bundle import DEFAULT_BUNDLE, Segmenter

    segmenter = Segmenter(
        options.bundle or DEFAULT_BUNDLE, device=options.device, seed=options.seed, batch_size=options.batch_size
    )
    segmenter.inferer.progress = True
    return segmenter


def _segment_folder(segmenter: Segmenter, jobs: list[tuple[Path, Path, Path | None]]) -> int:
    from tqdm import tqdm

    failed: list[str] = []
    for job in tqdm(jobs, desc="segmenting", unit="volume"):
        try:
            segmenter.segment_file(*job)
        except InputError as error:
            failed.append(str(error))
        except MACHINE_ERRORS as error:
            failed.append(f"{job[0]}: {error}")
        else:
            continue
        tqdm.write(f"error: {failed[-1]}", file=sys.stderr)
    _report({"masks": str(jobs[0][1].parent), "done": len(jobs) - len(failed), "failed": len(failed)})
    if len(failed) == len(jobs):
        return EXIT_BAD_INPUT
    return EXIT_SOME_FAILED if failed else 0


def _evaluate(options: argparse.Namespace) -> int:
    from sdseg_monai.evaluation import evaluate_folders, mean_metrics, write_csv
    from sdseg_monai.io import check_folder
    from sdseg_monai.pictures import list_images

    for folder in (options.predictions, options.labels):
        list_images(folder)  # before anything is written
        _refuse_to_replace(list(folder.iterdir()), [options.output])
    check_folder(options.output.parent)
    cases = evaluate_folders(options.predictions, options.labels)
    write_csv(options.output, cases)
    mean = mean_metrics(cases)
    unmatched = len(list_images(options.labels)) - len(cases)
    if unmatched:
        sys.stderr.write(f"note: {unmatched} labels have no prediction and are not in the mean\n")
    _report(
        {
            "cases": len(cases),
            "labels_without_prediction": unmatched,
            "dice": round(mean.dice, 6),
            "iou": round(mean.iou, 6),
            "table": str(options.output),
        }
    )
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
    )
    _report({"output": str(options.output), **done._asdict()})
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
