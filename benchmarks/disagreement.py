"""Does the disagreement between flips rank the true error of the embedded hippocampus model?

The axes are chosen on the validation split, the test split is then scored once. Writes the table in
docs/label_disagreement.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from hippocampus import BUNDLE, read_splits
from monai.utils import convert_to_dst_type
from scipy.ndimage import gaussian_filter
from scipy.stats import bootstrap, spearmanr
from tables import ROOT, commit, hardware, markdown_table, replace_section
from tqdm import tqdm

from sdseg_monai.bundle import Segmenter
from sdseg_monai.disagreement import flip_scores, mask_disagreement
from sdseg_monai.evaluation import compare_masks
from sdseg_monai.io import read_volume

AXES = {"left-right": (0,), "inferior-superior": (2,), "mean of both": (0, 2)}  # the third only reorders the slices
HIGHEST = 5
RESAMPLES = 10_000
BLURS = (0.0, 0.5, 1.0, 1.5, 2.0)  # standard deviation, voxels
NOISES = (0.0, 0.1, 0.2, 0.3)  # standard deviation, of intensities in [-1, 1]


@dataclass(frozen=True)
class Ranking:
    """How disagreement and Dice of the same cases go together."""

    dice: np.ndarray
    disagreement: np.ndarray

    @property
    def correlation(self) -> float:
        """Spearman's, of the disagreement and the error."""
        return _rank_correlation(self.disagreement, 1 - self.dice)

    def cells(self) -> list[str]:
        """Return the correlation with its interval, the means, and what taking the highest first would find."""
        low, high = bootstrap(
            (self.disagreement, 1 - self.dice),
            _rank_correlation,
            n_resamples=RESAMPLES,
            paired=True,
            vectorized=False,
            method="percentile",
            rng=np.random.default_rng(0),
        ).confidence_interval
        highest = self.dice[np.argsort(-self.disagreement)[:HIGHEST]]
        worst = np.sort(self.dice)[:HIGHEST]
        means = [f"{values.mean():.3f}" for values in (self.disagreement, self.dice, highest, worst)]
        return [str(len(self.dice)), f"{self.correlation:.2f} ({low:.2f} to {high:.2f})", *means]


def _rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    return spearmanr(one, other).statistic


def measure(
    segmenter: Segmenter, items: Sequence[dict[str, str]], candidates: Sequence[str], worse: bool = False
) -> dict[str, Ranking]:
    """Segment ``items``, made worse if asked, and rank them by the mean over the axes of each candidate."""
    dice, by_candidate = [], {name: [] for name in candidates}
    for number, data in enumerate(tqdm(items, leave=False)):
        item = segmenter.prepare(Path(data["image"]))
        image = make_worse(item["image"], number) if worse else item["image"]
        by_axis = {}
        for axis in sorted({axis for name in candidates for axis in AXES[name]}):
            masks = [segmenter.finish(item, score).mask for score in flip_scores(segmenter, image, axis)]
            by_axis[axis] = mask_disagreement(masks)
        label = read_volume(Path(data["label"])).array > 0
        dice.append(compare_masks("", torch.from_numpy(masks[0]) > 0, torch.from_numpy(label)).dice)
        for name, values in by_candidate.items():
            values.append(np.mean([by_axis[axis] for axis in AXES[name]]))
    return {name: Ranking(np.array(dice), np.array(values)) for name, values in by_candidate.items()}


def make_worse(image: torch.Tensor, number: int) -> torch.Tensor:
    """Blur ``image`` [C, X, Y, Z] and add noise; 20 cases in a row get every combination of the two once."""
    blur = BLURS[number % len(BLURS)]
    noise = NOISES[number // len(BLURS) % len(NOISES)]
    array = gaussian_filter(image.numpy(), (0, blur, blur, blur))
    array += np.random.default_rng(number).normal(0, noise, array.shape)
    return convert_to_dst_type(array, image)[0]


def main() -> None:
    """Run the benchmark."""
    validation, test = read_splits(__doc__).values()
    segmenter = Segmenter(BUNDLE, device="cpu")
    rankings = measure(segmenter, validation, list(AXES))
    rows = [["validation", "as they are", name, *ranking.cells()] for name, ranking in rankings.items()]
    chosen = max(rankings, key=lambda name: rankings[name].correlation)
    for split, images, items, worse in (
        ("validation", "made worse", validation, True),
        ("test", "as they are", test, False),
        ("test", "made worse", test, True),
    ):
        ranking = measure(segmenter, items, [chosen], worse)[chosen]
        rows.append([split, images, chosen, *ranking.cells()])
    head = ["split", "images", "mirrored", "cases", "rank correlation (95 %)", "mean disagreement", "mean Dice"]
    head += [f"of the {HIGHEST} highest scores", f"of the {HIGHEST} worst cases"]
    note = (
        f"Spearman's correlation of disagreement and 1 - Dice, bootstrap interval ({RESAMPLES} resamples). Data MSD "
        f"Task04 hippocampus, label > 0; split hippocampus_180_20_20; {hardware()}; commit {commit()}; "
        "benchmarks/disagreement.py."
    )
    document = ROOT / "docs" / "label_disagreement.md"
    replace_section(document, "disagreement", f"{markdown_table(head, rows)}\n\n{note}")


if __name__ == "__main__":
    main()
