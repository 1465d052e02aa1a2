"""What a network scores on whole volumes, each case on its own grid."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from lab.study import Study, load_volume, segment
from lab.tables import DIRTY, commit, hardware
from sdseg_monai.evaluation import Agreement, compare_masks
from sdseg_monai.io.pictures import image_stem

Scores = dict[str, np.ndarray]  # of each measure, one value per case


@torch.inference_mode()
def score(study: Study, run: str, split: str) -> Scores:
    """Return each measure of each case of ``split``, by the network that training chose; kept beside its weights.

    What was kept by another commit or on other hardware is measured anew, as a report says where it was measured.
    """
    study.check_trained_as_configured(run)
    kept = study.run_folder(run) / f"scores_{split}.csv"
    weights = study.run_folder(run) / "model.pt"
    about = f"{study.stamp(run)}, {hardware()}, commit {commit()}"
    written = kept.read_text().splitlines()[0] if kept.is_file() else None
    if written != f"# {about}" or about.endswith(DIRTY) or kept.stat().st_mtime < weights.stat().st_mtime:
        parser = study.trained(run)
        cases = []
        for item in tqdm(study.items(split), desc=f"{run}, {split}", leave=False):
            data = load_volume(parser, item)
            predicted, expected = segment(parser, data), data["label"][0].as_subclass(torch.Tensor)
            measures = measure(predicted, expected, data["label"].pixdim.tolist(), parser["num_classes"])
            cases.append({"case": image_stem(Path(item["image"])), **measures})
        with kept.open("w", newline="") as file:
            file.write(f"# {about}\n")
            writer = csv.DictWriter(file, cases[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(cases)
    rows = list(csv.DictReader(kept.read_text().splitlines()[1:]))
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0] if name != "case"}


def measure(
    predicted: torch.Tensor, expected: torch.Tensor, spacing: Sequence[float], num_classes: int
) -> dict[str, float]:
    """Return Dice in percent and HD95 in mm of the classes' union, and of each class where there are several.

    HD95 is NaN where one of the two masks is empty.

    Args:
        predicted: class of each voxel, [X, Y, Z].
        expected: likewise.
        spacing: of the voxels, in mm.
        num_classes: K, the background's included.
    """
    found = compare_masks("", predicted, expected, spacing)
    agreements: dict[str, Agreement] = {"": found}
    if num_classes > 2:
        agreements |= {f" of {value}": found.in_class(value) for value in range(1, num_classes)}
    dice = {f"Dice{name}": 100 * agreement.dice for name, agreement in agreements.items()}
    return {**dice, **{f"HD95{name}": agreement.hd95 for name, agreement in agreements.items()}}


def mean_class_dice(found: Scores) -> np.ndarray:
    """Return of each case the mean Dice of the classes, what models are chosen by."""
    of_classes = [values for name, values in found.items() if name.startswith("Dice of ")]
    return np.mean(of_classes or [found["Dice"]], axis=0)
