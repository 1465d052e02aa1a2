"""The scores of a network on whole volumes, each case on its own grid."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from lab.study import Study, load_volume, segment
from lab.tables import DIRTY, commit, hardware
from sdseg_monai.evaluation import compare_masks
from sdseg_monai.io.pictures import image_stem
from sdseg_monai.io.tables import text_cell

Scores = dict[str, np.ndarray]  # for each measure, one value for each case


@torch.inference_mode()
def score(study: Study, run: str, split: str) -> Scores:
    """Return each measure of each case of ``split``, with the best weights of the training.

    The scores are saved beside the weights. They are measured again with another commit or on other hardware, because
    a report says where it was measured.
    """
    study.check_trained_as_configured(run)
    file = study.run_folder(run) / f"scores_{split}.csv"
    weights = study.run_folder(run) / "model.pt"
    about = f"{study.stamp(run)}, {hardware()}, commit {commit()}"
    first_line = file.read_text().splitlines()[0] if file.is_file() else None
    if first_line != f"# {about}" or about.endswith(DIRTY) or file.stat().st_mtime < weights.stat().st_mtime:
        parser = study.trained(run)
        cases = []
        for item in tqdm(study.items(split), desc=f"{run}, {split}", leave=False):
            data = load_volume(parser, item)
            mask, label = segment(parser, data), data["label"][0].as_subclass(torch.Tensor)
            measures = measure(mask, label, data["label"].pixdim.tolist(), parser["num_classes"])
            cases.append({"case": text_cell(image_stem(Path(item["image"]))), **measures})
        with file.open("w", newline="") as stream:
            stream.write(f"# {about}\n")
            writer = csv.DictWriter(stream, cases[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(cases)
    rows = list(csv.DictReader(file.read_text().splitlines()[1:]))
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0] if name != "case"}


def measure(
    predicted: torch.Tensor, expected: torch.Tensor, spacing: Sequence[float], num_classes: int
) -> dict[str, float]:
    """Return Dice in percent and HD95 in mm of the union of the classes, and of each class if there are several.

    If there is one class, the Jaccard index in percent too.

    HD95 is NaN if one of the two masks is empty.

    Args:
        predicted: class of each voxel, [X, Y, Z].
        expected: the label, in the same form.
        spacing: lengths of a voxel's edges, in mm.
        num_classes: K, the number of classes, the background included.
    """
    metrics = compare_masks("", predicted, expected, spacing)
    agreements = {"": metrics.foreground}
    if num_classes > 2:
        agreements |= {f" of {value}": metrics.in_class(value) for value in range(1, num_classes)}
    dice = {f"Dice{name}": 100 * agreement.dice for name, agreement in agreements.items()}
    if num_classes == 2:
        dice["Jaccard"] = 100 * metrics.foreground.iou
    return {**dice, **{f"HD95{name}": agreement.hd95 for name, agreement in agreements.items()}}


def mean_class_dice(scores: Scores) -> np.ndarray:
    """Return for each case the mean Dice of the classes, by which models are chosen."""
    class_dice = [values for name, values in scores.items() if name.startswith("Dice of ")]
    return np.mean(class_dice or [scores["Dice"]], axis=0)
