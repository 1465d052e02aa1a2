"""The cost of a slice with the mask autoencoder's own decoder and with a distilled one, and the cost of encoding masks.

Measures the network at full size and that of the hippocampus bundle, with random weights, on the CPU. It takes a few
minutes and about 4 GB.
Writes one section of docs/decoder.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from monai.bundle import ConfigParser
from torch._subclasses.fake_tensor import FakeTensorMode

from lab.measuring import gflop, median_and_spread, take_turns
from lab.tables import ROOT, check_section, commit, hardware, markdown_table, replace_section
from sdseg_monai.data import ProceduralMasks
from sdseg_monai.errors import report_input_errors
from sdseg_monai.losses import SDSegLoss
from sdseg_monai.networks import DenoisingUNet, MaskAutoencoder, SDSeg, VisionEncoder

CONFIG = ROOT / "bundles" / "hippocampus_sdseg" / "configs" / "train.json"


@dataclass(frozen=True)
class Case:
    """A network at its size.

    Attributes:
        name: name in the tables.
        build: makes the network and its loss from the number of channels of a distilled decoder, or None for its own.
        size: height and width of its images.
        decoder_channels: number of channels of the distilled decoder.
        repeats: number of measurements.
        large: whether to count the arithmetic without computing it; not possible with MONAI's Dice loss.
    """

    name: str
    build: Callable[[int | None], tuple[SDSeg, SDSegLoss]]
    size: int
    decoder_channels: int
    repeats: int
    large: bool

    def counting(self) -> AbstractContextManager:
        """Return the context in which the arithmetic is counted."""
        return FakeTensorMode(allow_non_fake_inputs=True) if self.large else nullcontext()


def full_size(decoder_channels: int | None) -> tuple[SDSeg, SDSegLoss]:
    """Return the paper's network and loss."""
    return SDSeg(MaskAutoencoder(decoder_channels=decoder_channels), VisionEncoder(), DenoisingUNet()), SDSegLoss()


def of_bundle(decoder_channels: int | None) -> tuple[SDSeg, SDSegLoss]:
    """Return the hippocampus bundle's network and loss."""
    parser = read_bundle()
    parser["network_def#autoencoder#decoder_channels"] = decoder_channels
    return parser.get_parsed_content("network_def"), parser.get_parsed_content("loss")


def read_bundle() -> ConfigParser:
    """Return the training configuration of the hippocampus bundle."""
    parser = ConfigParser()
    parser.read_config(CONFIG)
    return parser


def build_both(case: Case) -> dict[str, SDSeg]:
    """Return the network of ``case`` with its own decoder and with a distilled one, by the name of the decoder."""
    decoders = {"its own": None, f"distilled, {case.decoder_channels} channels": case.decoder_channels}
    networks = {name: case.build(channels)[0].eval() for name, channels in decoders.items()}
    for network in networks.values():
        network.scale_factor.fill_(1)
    return networks


def slice_rows(case: Case) -> list[list[Any]]:
    """Return a row for each decoder: the GFLOP of each part and of the whole network, and the seconds, of a slice."""
    with case.counting(), torch.no_grad():
        counts = {name: _count_parts(network, case.size) for name, network in build_both(case).items()}
    image = torch.zeros(1, 3, case.size, case.size)
    with torch.inference_mode():
        works = {name: partial(network, image) for name, network in build_both(case).items()}
        seconds = take_turns(works, case.repeats)
    return [
        [case.name, name, *(f"{count:.2f}" for count in counts[name]), median_and_spread(times)]
        for name, times in seconds.items()
    ]


def _count_parts(network: SDSeg, size: int) -> list[float]:
    image = torch.zeros(1, 3, size, size)
    image_latent, latent = network.encode_image(image), torch.zeros(1, *network.latent_shape(image))
    return [
        gflop(lambda: network.encode_image(image)),
        gflop(lambda: list(network.reverse(image_latent))),
        gflop(lambda: network.decode_score(latent)),
        gflop(lambda: network(image)),
    ]


def step_gflop(case: Case) -> tuple[float, float]:
    """Return the GFLOP of a training step for one slice, forward and backward: all, and those of encoding the mask."""
    seeds = torch.tensor([0])  # outside the context: the network reads their values
    with case.counting():
        network, loss = case.build(None)
        network.train().scale_factor.fill_(1)
        image, mask = (torch.zeros(1, channels, case.size, case.size) for channels in (3, 1))
        latent = torch.zeros(1, *network.latent_shape(image))

        def step(**options: torch.Tensor) -> None:
            loss(network(image, mask=mask, seeds=seeds, **options), mask).backward()

        total, rest = gflop(step), gflop(partial(step, latent=latent))
    return total, total - rest


def time_steps(parser: ConfigParser, repeats: int) -> dict[str, list[float]]:
    """Return the seconds of training steps on one batch, with masks that are encoded in each step, or once before."""
    network, loss, optimizer = (parser.get_parsed_content(key) for key in ("network_def", "loss", "optimizer"))
    network.train().scale_factor.fill_(1)
    number, size = parser["batch_size"], parser["size"]
    masks = ProceduralMasks(size[0], number, num_classes=parser["num_classes"])
    mask = torch.stack([masks[index]["label"] for index in range(number)])
    image = torch.randn(number, 3, *size, generator=torch.Generator().manual_seed(0))
    latent = network.encode_mask(mask, scale=False)

    def step(**options: torch.Tensor) -> None:
        optimizer.zero_grad()
        loss(network(image, mask=mask, seeds=torch.arange(number), **options), mask).backward()
        optimizer.step()

    return take_turns({"encoded": step, "kept": partial(step, latent=latent)}, repeats)


def step_rows(cases: list[Case], seconds_of_case: dict[str, dict[str, list[float]]]) -> list[list[Any]]:
    """Return a row for each case: the arithmetic of a training step, its seconds, and the share of encoding."""
    rows = []
    for case in cases:
        total, encoding = step_gflop(case)
        row = [case.name, f"{total:.2f}", f"{encoding:.2f}", f"{encoding / total:.1%}"]
        seconds = seconds_of_case.get(case.name)
        if seconds is None:
            rows.append([*row, *["not timed"] * 3])
            continue
        share = 1 - median(seconds["kept"]) / median(seconds["encoded"])
        rows.append([*row, *map(median_and_spread, seconds.values()), f"{share:.1%}"])
    return rows


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--document", type=Path, default=ROOT / "docs" / "decoder.md")
    parser.add_argument("--section", default="cost", help="section of the document to write")
    report_input_errors()
    options = parser.parse_args()
    check_section(options.document, options.section)
    training = read_bundle()
    full = Case("full size, 256x256", full_size, 256, 32, 3, large=True)
    small = Case("hippocampus, 64x64", of_bundle, training["size"][0], 8, 15, large=False)
    head = ["network", "mask decoder", "vision encoder, GFLOP", "U-Net", "decoder", "whole", "seconds a slice"]
    of_slices = markdown_table(head, [row for case in (full, small) for row in slice_rows(case)])
    steps = {small.name: time_steps(training, small.repeats)}
    head = ["network", "a slice's GFLOP in a training step", "of it encoding the mask", "share"]
    head += ["seconds a step, masks encoded", "latents kept", "share of encoding"]
    of_steps = markdown_table(head, step_rows([full, small], steps))
    note = (
        "Random weights, float32. Steps have the bundle's loss, at full size the paper's, and in the bundle's batch of "
        f"{training['batch_size']} procedural masks; reading and augmenting are left out. Seconds: median of "
        f"{full.repeats} at full size, else of {small.repeats} (lowest to highest), in turns; {hardware()}; commit "
        f"{commit()}; benchmarks/cost.py."
    )
    replace_section(options.document, options.section, f"{of_slices}\n\n{of_steps}\n\n{note}")


if __name__ == "__main__":
    main()
