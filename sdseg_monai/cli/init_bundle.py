"""``sdseg init-bundle``."""

from __future__ import annotations

import argparse
import sys

from sdseg_monai.about import RESEARCH_ONLY
from sdseg_monai.cli.arguments import length, path, seed
from sdseg_monai.errors import InputError, printable
from sdseg_monai.io.files import check_is_folder, check_new_folder

HELP = "analyse images with labels and write a bundle that trains on them"
NOTE = RESEARCH_ONLY


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    command.add_argument("--images", type=path, required=True, metavar="DIR", help="folder of volumes or pictures")
    command.add_argument(
        "--labels", type=path, required=True, metavar="DIR", help="folder of their labels, named as the images are"
    )
    command.add_argument("-o", "--output", type=path, required=True, metavar="DIR", help="new folder for the bundle")
    command.add_argument(
        "--name",
        action="append",
        default=[],
        metavar="VALUE=NAME",
        help="name of a value in the labels, such as 1=liver; may be repeated (default: the names in the labels)",
    )
    command.add_argument(
        "--modality", help="CT, MR, PT, US, OT, or RGB for photographs (default: a guess from the intensities)"
    )
    command.add_argument(
        "--network",
        choices=("small", "pretrained", "paper", "unet"),
        help="the network (default: chosen by the data and the GPU)",
    )
    command.add_argument(
        "--minutes", type=length, default=10, help="time for the training on this machine (default: %(default)g)"
    )
    command.add_argument(
        "--seed", type=seed, default=0, help="seed of the split and the training (default: %(default)s)"
    )


def run(options: argparse.Namespace) -> int:
    """Write the bundle, and report the findings and choices with their reasons."""
    check_new_folder(options.output)
    for folder in (options.images, options.labels):
        check_is_folder(folder)
    names = _names(options.name)

    from sdseg_monai.planning import init_bundle

    plan = init_bundle(
        options.images,
        options.labels,
        options.output,
        names=names,
        modality=options.modality,
        network=options.network,
        minutes=options.minutes,
        seed=options.seed,
        progress=not options.quiet,
    )
    for line in plan.lines:
        sys.stdout.write(printable(line) + "\n")
    return 0


def _names(texts: list[str]) -> dict[int, str]:
    names = {}
    for text in texts:
        value, _, name = text.partition("=")
        if not (value.strip().isdecimal() and name.strip()):
            raise InputError(f"--name {text}: expected VALUE=NAME, such as 1=liver")
        names[int(value)] = name.strip()
    return names
