"""How well the classes of a mask survive a blurred mask image, by the code of a class.

A network predicts mask images that are softer than those of labels. Here the mask images of real labels of the abdomen
are blurred, and some noise is added; then each pixel gets the class of the nearest code. Writes the table in the sdseg
bundle's README.
"""

from __future__ import annotations

import argparse
from itertools import product
from pathlib import Path

import numpy as np
import torch
from monai.transforms import GaussianSmooth

from lab.organs import NUM_CLASSES, read_organs
from lab.tables import ROOT, check_section, commit, markdown_table, replace_section
from sdseg_monai.errors import report_input_errors
from sdseg_monai.networks.codes import class_codes, mask_to_image
from sdseg_monai.planning.audit import label_slices
from sdseg_monai.seeding import seeded_normal

DOCUMENT, SECTION = ROOT / "bundles" / "sdseg" / "docs" / "README.md", "codes"
SIZE = 256, 256
# standard deviations of the blur, in pixels, and of the noise, relative to half the distance of a channel's two levels
BLURS = ((0.4, 0.0), (0.7, 0.0), (1.0, 0.0), (1.5, 0.0), (0.4, 0.3))


def lattice(num_classes: int) -> torch.Tensor:
    """Return the colours that 9 to 14 classes had before, [K, 3]: corners of a cube, then centres of its faces."""
    corners = list(product((-1, 1), repeat=3))
    faces = [point for point in product((-1, 0, 1), repeat=3) if point.count(0) == 2]
    by_parity = sorted(corners, key=lambda corner: corner.count(1) % 2)
    return torch.tensor([*by_parity, *faces][:num_classes], dtype=torch.float32)


def bits(num_classes: int) -> torch.Tensor:
    """Return the binary digits of each class, one channel each, [K, 4] for 9 to 16 classes, as -1 and 1."""
    return torch.tensor(list(product((-1.0, 1.0), repeat=4))[:num_classes])


CODES = {
    "colours of three channels, as before": lattice(NUM_CLASSES),
    "four bits in four channels": bits(NUM_CLASSES),
    "one channel a class": class_codes(NUM_CLASSES),
}


def mean_dice(label: torch.Tensor, codes: torch.Tensor, blur: float, noise: float) -> float:
    """Return the mean Dice, over the organs of ``label`` [1, X, Y, Z], of the classes nearest to a worse mask image."""
    smooth = GaussianSmooth(blur)
    overlap, total = np.zeros(NUM_CLASSES), np.zeros(NUM_CLASSES)
    for start, masks in label_slices(label, SIZE, slice_axis=2):
        for offset, mask in enumerate(masks):
            image = smooth(mask_to_image(mask[None], codes)[0]).flatten(1).T  # [H * W, C]
            amplitude = float(codes.max() - codes.min()) / 2
            image = image + noise * amplitude * seeded_normal(torch.tensor([start + offset]), image.shape)[0]
            predicted, expected = torch.cdist(image, codes).argmin(dim=1).numpy(), mask.flatten().long().numpy()
            overlap += np.bincount(expected[predicted == expected], minlength=NUM_CLASSES)
            total += np.bincount(expected, minlength=NUM_CLASSES) + np.bincount(predicted, minlength=NUM_CLASSES)
    organs = [value for value in range(1, NUM_CLASSES) if (label == value).any()]
    return float(np.mean(2 * overlap[organs] / total[organs]))


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--label", type=Path, required=True, help="a label map with TotalSegmentator's classes")
    report_input_errors()
    options = parser.parse_args()
    check_section(DOCUMENT, SECTION)
    label = read_organs(options.label)
    head = ["code of a class", *(f"blur {b:g} px" + (f", noise {n:g}" if n else "") for b, n in BLURS)]
    rows = [[name, *(f"{mean_dice(label, codes, b, n):.4f}" for b, n in BLURS)] for name, codes in CODES.items()]
    about = f"Mean Dice over the organs of {options.label.name}, as BTCV's, slices of {SIZE[0]}x{SIZE[1]}"
    note = f"{about}; commit {commit()}; benchmarks/mask_codes.py."
    replace_section(DOCUMENT, SECTION, f"{markdown_table(head, rows)}\n\n{note}")


if __name__ == "__main__":
    main()
