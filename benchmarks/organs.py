"""How well the shipped mask autoencoder of 14 classes reconstructs real labels, class by class, also with latent noise.

    python benchmarks/organs.py --ct TOTALSEGMENTATOR_LABELS.nii.gz --hippocampi LABELS

The first are TotalSegmentator's labels of one CT, as BTCV's organs; the second is a folder of labels with the values 1
and 2. Writes the table in the sdseg bundle's README.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from lab.organs import NUM_CLASSES, read_organs
from lab.tables import ROOT, check_section, commit, hardware, markdown_table, replace_section
from sdseg_monai.errors import report_input_errors
from sdseg_monai.evaluation import list_cases
from sdseg_monai.io.label_maps import read_mask
from sdseg_monai.planning.audit import LATENT_NOISE, Reconstruction, audit_label, load_audit

BUNDLE = ROOT / "bundles" / "sdseg"
OVERLAY = BUNDLE / "configs" / "classes" / "organs.json"
CT_SIZE, HIPPOCAMPUS_SIZE = (256, 256), (64, 64)
HIPPOCAMPUS_AXIS = 1
CASES = 40  # hippocampi, evenly spaced over the folder


def table_rows(name: str, reconstructions: Iterable[Reconstruction]) -> list[list[object]]:
    """Return a row for each class, and one for their mean: the Dice of whole cases at each noise, and the strays."""
    cases = [row for row in reconstructions if row.slice is None]
    classes = sorted({row.label for row in cases if row.size})
    rows: list[list[object]] = []
    means = []
    for value in classes:
        dice, strays = [], []
        for noise in LATENT_NOISE:
            same = [row for row in cases if row.label == value and row.noise == noise]
            dice.append(float(np.mean([row.dice for row in same])))
            strays.append(sum(row.strays for row in same))
        means.append(dice)
        size = int(np.median([row.size for row in cases if row.label == value and row.noise == 0]))
        rows.append([name, value, size, *(f"{d:.4f}" for d in dice), *strays])
    mean = np.mean(means, axis=0)
    rows.append([name, "mean", "", *(f"{d:.4f}" for d in mean), "", "", ""])
    return rows


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ct", type=Path, required=True)
    parser.add_argument("--hippocampi", type=Path, required=True)
    report_input_errors()
    options = parser.parse_args()
    document = BUNDLE / "docs" / "README.md"
    check_section(document, "organs")
    autoencoder = load_audit(BUNDLE, "cpu", [OVERLAY]).autoencoder
    organs = audit_label(
        autoencoder, read_organs(options.ct), "ct", num_classes=NUM_CLASSES, size=CT_SIZE, slice_axis=2
    )
    hippocampi = []
    paths = list(list_cases(options.hippocampi).items())
    for case, path in tqdm(paths[:: max(1, len(paths) // CASES)], leave=False):
        label = torch.from_numpy(read_mask(path).array)[None]
        hippocampi += audit_label(
            *(autoencoder, label, case), num_classes=NUM_CLASSES, size=HIPPOCAMPUS_SIZE, slice_axis=HIPPOCAMPUS_AXIS
        )
    rows = table_rows("organs of a CT", organs) + table_rows("hippocampi", hippocampi)
    head = ["labels", "class", "median voxels", *(f"Dice, noise {noise:g}" for noise in LATENT_NOISE)]
    head += [f"strays, noise {noise:g}" for noise in LATENT_NOISE]
    note = (
        f"CT at {CT_SIZE[0]} x {CT_SIZE[1]} pixels, hippocampi at {HIPPOCAMPUS_SIZE[0]} x {HIPPOCAMPUS_SIZE[1]}; noise "
        f"relative to the latents' standard deviation; {hardware()}; commit {commit()}; benchmarks/organs.py."
    )
    replace_section(document, "organs", f"{markdown_table(head, rows)}\n\n{note}")


if __name__ == "__main__":
    main()
