"""Compare a distilled mask decoder (the student) with its teacher: masks of the same latents, and their cost.

Writes one section of docs/decoder.md. Both decoders run in one process, in turns. --config_file and --option must be
those of the student's training. A trained bundle is scored on its validation split with its own decoder and with the
student's, because the latents that it predicts need not be latents of masks.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import defaultdict
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from tqdm import tqdm

from lab.bundles import SCORES, score_rows, segment_and_score
from lab.measuring import gflop, median_and_spread, take_turns
from lab.study import parse_options
from lab.tables import ROOT, check_section, commit, hardware, markdown_table, replace_section
from sdseg_monai.bundle import Bundle
from sdseg_monai.data import read_datalist
from sdseg_monai.errors import report_input_errors
from sdseg_monai.inference.pipeline import Pipeline
from sdseg_monai.io.pictures import list_images
from sdseg_monai.networks import DecoderDistillation, MaskAutoencoder
from sdseg_monai.networks.codes import class_codes, classes_from_score, mask_to_image, score_from_mask_image
from sdseg_monai.planning.audit import SIZES, label_slices, slice_dice
from sdseg_monai.transforms import ClassLabelsd, LoadVolumed
from sdseg_monai.weights import load_teacher, load_weights, replace_mask_decoder

FULL_SIZE = 256  # where costs are counted
WARM_UP, REPEATS = 2, 15


def read_pair(options: argparse.Namespace) -> tuple[DecoderDistillation, ConfigParser]:
    """Return the two autoencoders with their weights, and the configuration of the student's training."""
    parser = ConfigParser()
    parser.read_config([ROOT / file for file in options.config_file])
    for name, value in parse_options(options.option).items():
        parser[name] = value
    pair = parser.get_parsed_content("distillation").eval()
    load_teacher(pair, options.teacher)
    load_weights(pair.student, options.student)
    return pair, parser


@torch.inference_mode()
def compare(pair: DecoderDistillation, folder: Path, options: argparse.Namespace, num_classes: int) -> list[list[Any]]:
    """Return a row for each class and size: the Dice of student and teacher, and of each of them and the mask."""
    codes = class_codes(num_classes)
    load = LoadVolumed("label"), ClassLabelsd("label", num_classes)
    dice_of_bin = defaultdict(list)  # by class and bin
    for path in tqdm(list_images(folder)[: options.cases], desc=folder.name):
        label = load[1](load[0]({"label": path}))["label"].as_tensor()
        for _, masks in label_slices(label, (options.size, options.size), options.slice_axis):
            latent = pair.teacher.encode_latent(mask_to_image(masks, codes))
            teacher, student = (
                classes_from_score(score_from_mask_image(network.decode(latent).sample, codes))
                for network in (pair.teacher, pair.student)
            )
            pairs = ((student, teacher), (teacher, masks), (student, masks))
            dice_of_pairs = [list(slice_dice(mask, expected.float(), num_classes)) for mask, expected in pairs]
            for of_both, of_teacher, of_student in zip(*dice_of_pairs, strict=True):
                for value, (size, dice) in of_teacher.items():
                    if size:
                        agreement = of_both.get(value, (0, 1.0))[1]  # 1 if neither of them decodes the class
                        row = [agreement, dice, of_student[value][1]]
                        dice_of_bin[value, int(np.digitize(size, SIZES)) - 1].append(row)
    rows = []
    for (value, index), dice in sorted(dice_of_bin.items()):
        of_both, of_teacher, of_student = np.array(dice).T
        cells = [of_both.mean(), of_both.min(), of_teacher.mean(), of_student.mean()]
        size = f"{SIZES[index]} px and more"
        rows.append([folder.parent.name, value, size, len(dice), *(f"{cell:.4f}" for cell in cells)])
    return rows


def segmenter_rows(bundle: str, dataset_dir: Path, student: Path) -> list[list[Any]]:
    """Return a row for each decoder and structure: the scores of the bundle's network on the validation split."""
    items = read_datalist(Bundle.open(bundle).config_file("datalist"), "validation", dataset_dir, "")
    pipeline = Pipeline(bundle, device="cpu")
    rows: list[list[Any]] = []
    for decoder in ("its own", "the student's"):
        if rows:
            replace_mask_decoder(pipeline.segmenter.network, student)
        with tempfile.TemporaryDirectory() as folder:
            cases, *_ = segment_and_score(pipeline, items, Path(folder))
        rows += [[decoder, *cells] for cells in score_rows(pipeline, cases)]
    return rows


def cost_rows(pair: DecoderDistillation, size: int) -> list[list[Any]]:
    """Return a row for each decoder: parameters, FLOPs at full size and at ``size``, seconds at ``size``."""
    with torch.device("meta"):
        full = MaskAutoencoder()
    seconds = time_decoders(pair, size)
    rows = []
    for name, network in (("teacher", pair.teacher), ("student", pair.student), ("kl-f8, for comparison", full)):
        parameters = sum(p.numel() for p in network.decoding_parts.parameters())
        flops = [f"{count_flops(network, length):.2f}" for length in counted_sizes(size)]
        time_text = median_and_spread(seconds[name]) if name in seconds else ""
        rows.append([name, f"{parameters:,}", *flops, time_text])
    return rows


def counted_sizes(size: int) -> list[int]:
    """Return the sizes at which FLOPs are counted: the full size, and ``size`` if it is another."""
    return list(dict.fromkeys((FULL_SIZE, size)))


def count_flops(network: Any, size: int) -> float:
    """Return the GFLOP of decoding one slice, without computing it."""
    meta = deepcopy(network).to("meta")
    latent = torch.zeros(1, network.latent_channels, *[size // network.downsampling] * 2, device="meta")
    with torch.no_grad():
        return gflop(lambda: meta.decode(latent))


@torch.inference_mode()
def time_decoders(pair: DecoderDistillation, size: int) -> dict[str, list[float]]:
    """Return the seconds of :data:`REPEATS` measurements for one slice; the decoders run in turns."""
    latent = torch.randn(
        1, pair.student.latent_channels, *[size // pair.student.downsampling] * 2, generator=torch.manual_seed(0)
    )
    decoders = {"teacher": pair.teacher, "student": pair.student}
    return take_turns({name: partial(network.decode, latent) for name, network in decoders.items()}, REPEATS, WARM_UP)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--document", type=Path, default=ROOT / "docs" / "decoder.md")
    parser.add_argument("--section", required=True, help="section of the document to write")
    parser.add_argument("--config_file", nargs="+", required=True, help="the configs that trained the student")
    parser.add_argument("--option", nargs=2, action="append", default=[], metavar=("KEY", "VALUE"))
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--student", type=Path, required=True)
    parser.add_argument("--dataset", type=Path, nargs="+", required=True, help="folders of labels")
    parser.add_argument("--cases", type=int, help="the first so many of each dataset")
    parser.add_argument("--bundle", help="trained bundle to put the student into; its cases are in --dataset_dir")
    parser.add_argument("--dataset_dir", type=Path)
    parser.add_argument("--size", type=int, default=FULL_SIZE)
    parser.add_argument("--slice_axis", type=int, default=2)
    report_input_errors()
    options = parser.parse_args()
    check_section(options.document, options.section)
    if (options.bundle is None) != (options.dataset_dir is None):
        raise SystemExit("--bundle and --dataset_dir: expected both or none")
    pair, training = read_pair(options)
    masks = [row for folder in options.dataset for row in compare(pair, folder, options, training["num_classes"])]
    head = ["masks", "class", "size in a slice", "slices", "student and teacher", "worst", "teacher and mask"]
    of_masks = markdown_table([*head, "student and mask"], masks)
    head = ["decoder", "parameters", *(f"GFLOP at {n}" for n in counted_sizes(options.size)), "seconds a slice"]
    of_costs = markdown_table(head, cost_rows(pair, options.size))
    num_masks, length = training["epochs"] * training["masks_per_epoch"], training["size"]
    note = (
        f"Distilled on {num_masks} procedural masks of {length}x{length}. Dice at {options.size}x{options.size}; "
        f"seconds: median of {REPEATS} (lowest to highest), one slice at a time, both decoders in one run; "
        f"{hardware()}; commit {commit()}; benchmarks/decoder.py."
    )
    parts = [of_masks, of_costs]
    if options.bundle:
        head = ["decoder in the trained network", *SCORES]
        parts.append(markdown_table(head, segmenter_rows(options.bundle, options.dataset_dir, options.student)))
    replace_section(options.document, options.section, "\n\n".join([*parts, note]))


if __name__ == "__main__":
    main()
