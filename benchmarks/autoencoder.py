"""The latent ceiling: Dice of decode(encode(mask)) by object size, for a bundle's mask autoencoder.

Writes the ceiling table in the bundle's README. Procedural masks are of a seed that training did not use; --masks adds
a folder of real masks (PNG, any size, non-zero is foreground, resized to the network's grid by nearest neighbour).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from monai.bundle import ConfigParser
from PIL import Image
from tables import ROOT, commit, hardware, markdown_table, replace_section
from tqdm import tqdm

from sdseg_monai.data import ProceduralMasks
from sdseg_monai.networks.codes import class_codes, mask_to_image, score_from_mask_image
from sdseg_monai.weights import load_weights

SIZES = (1, 16, 64, 256, 1024, 4096, 16384)  # pixels of foreground: lower ends of the bins
HELD_OUT_SEED = 1000


def real_masks(folder: Path, size: int) -> list[torch.Tensor]:
    """Return the masks of ``folder`` as [1, size, size] in {0, 1}."""
    images = [
        Image.open(p).convert("L").resize((size, size), Image.Resampling.NEAREST) for p in sorted(folder.glob("*.png"))
    ]
    return [torch.from_numpy((np.asarray(image) > 0)[None].astype(np.float32)) for image in images]


@torch.inference_mode()
def dice_by_size(autoencoder: torch.nn.Module, masks: list[torch.Tensor]) -> list[tuple[int, float, float]]:
    """Return (count, mean Dice, worst Dice) for each bin of :data:`SIZES`."""
    areas, values = [], []
    for mask in tqdm(masks):
        area = int(mask.sum())
        if area:
            latent = autoencoder.encode(mask_to_image(mask[None], class_codes(2))).latent_dist.mode()
            again = score_from_mask_image(autoencoder.decode(latent).sample, class_codes(2))[0] >= 0.5
            areas.append(area)
            values.append(float(2 * (again & (mask > 0)).sum() / (again.sum() + area)))
    bins = np.digitize(areas, SIZES)
    dice = np.array(values)
    return [
        (
            int((bins == i).sum()),
            *((dice[bins == i].mean(), dice[bins == i].min()) if (bins == i).any() else (np.nan,) * 2),
        )
        for i in range(1, len(SIZES) + 1)
    ]


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", default="sdseg")
    parser.add_argument("--number", type=int, default=400, help="procedural masks")
    parser.add_argument("--masks", type=Path, help="folder of real masks")
    options = parser.parse_args()
    root = ROOT / "bundles" / options.bundle
    config = ConfigParser()
    config.read_config(root / "configs" / "train.json")
    autoencoder = config.get_parsed_content("network_def#autoencoder").eval()
    load_weights(autoencoder, root / "models" / "autoencoder.pt")
    size = config["size"][0]
    procedural = ProceduralMasks(size, options.number, seed=HELD_OUT_SEED)
    sets = {f"{options.number} procedural masks": [procedural[i]["label"] for i in range(options.number)]}
    if options.masks:
        masks = real_masks(options.masks, size)
        sets[f"{len(masks)} masks of {options.masks.parent.name}"] = masks
    rows = []
    for name, masks in sets.items():
        for low, (count, mean, worst) in zip(SIZES, dice_by_size(autoencoder, masks), strict=True):
            if count:
                rows.append([name, f"{low} px and more", count, f"{mean:.4f}", f"{worst:.4f}"])
    note = f"{size}x{size}; held-out seed {HELD_OUT_SEED}; {hardware()}; commit {commit()}; benchmarks/autoencoder.py."
    table = markdown_table(["masks", "foreground", "count", "mean Dice", "worst Dice"], rows)
    replace_section(root / "docs" / "README.md", "ceiling", f"{table}\n\n{note}")


if __name__ == "__main__":
    main()
