"""``sdseg convert``."""

from __future__ import annotations

import argparse
from pathlib import Path

from sdseg_monai.cli.arguments import add_trust, positive
from sdseg_monai.cli.outputs import report
from sdseg_monai.io.files import check_exists

HELP = "convert weights from one form to another"
NOTE = None


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    command.add_argument(
        "source", type=Path, metavar="SRC", help="official .ckpt file, folder of a bundle, or diffusers folder"
    )
    command.add_argument(
        "-o", "--output", type=Path, required=True, metavar="DST", help="the .pt file or new folder to write"
    )
    command.add_argument(
        "--from", dest="source_kind", required=True, choices=("official", "bundle", "diffusers"), help="what SRC is"
    )
    command.add_argument(
        "--to",
        dest="target_kind",
        required=True,
        choices=("bundle", "diffusers", "inference"),
        help="bundle: model.pt of a bundle; diffusers: folder of safetensors; inference: float16 weights that can only "
        "segment",
    )
    command.add_argument(
        "--num-heads",
        type=positive,
        help="attention heads of an official U-Net, which its file does not contain (default: 8)",
    )
    command.add_argument(
        "--raw", action="store_true", help="use an official U-Net's raw weights instead of their moving average"
    )
    command.add_argument(
        "--mask-decoder", type=Path, metavar="FILE", help="use this distilled mask decoder instead of SRC's own"
    )
    add_trust(command)


def run(options: argparse.Namespace) -> int:
    """Convert, and report what the weights are."""
    for file in filter(None, (options.source, options.mask_decoder)):
        check_exists(file)

    from sdseg_monai.weights.convert import convert

    conversion = convert(
        options.source,
        options.output,
        source_kind=options.source_kind,
        target_kind=options.target_kind,
        num_heads=options.num_heads,
        raw=options.raw,
        mask_decoder=options.mask_decoder,
        trust=options.trust,
    )
    report({"output": str(options.output), **conversion._asdict()}, options)
    return 0
