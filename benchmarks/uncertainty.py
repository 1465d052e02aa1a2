"""Does what a model says of its own uncertainty tell where it is wrong, and in which case?

The axis to mirror is chosen on the validation split, the test split is then scored once, as it is and made worse. An
ensemble is measured where several weights are given, seeds where the model starts from noise. Writes a section of
docs/uncertainty.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from hippocampus import BUNDLE
from monai.utils import convert_to_dst_type
from scipy.ndimage import binary_dilation, gaussian_filter, maximum_filter, minimum_filter
from scipy.stats import bootstrap, rankdata, spearmanr
from tables import ROOT, Table, commit, hardware, replace_section
from tqdm import tqdm

from sdseg_monai.bundle import Segmentation, Segmenter
from sdseg_monai.data import read_datalist
from sdseg_monai.io import read_volume
from sdseg_monai.samples import Ensemble, Flips, Samples, Seeds
from sdseg_monai.uncertainty import SampledSegmentation, compare_samples, mask_disagreement, predictive_entropy

AXES = {"left-right": 0, "inferior-superior": 2}  # the third only reorders the slices
NEAR = 2  # voxels around the predicted foreground in which voxels are judged; farther away every model is right
HIGHEST = 5
RESAMPLES = 10_000
BINS = 15  # of the calibration error
MARGINS = (0.0, 0.1, 0.25, 0.5, 0.75)
BLURS = (0.0, 0.5, 1.0, 1.5, 2.0)  # standard deviation, voxels
NOISES = (0.0, 0.1, 0.2, 0.3)  # standard deviation, of intensities in [-1, 1]


@dataclass(frozen=True)
class Case:
    """One result beside its label: class of each voxel, [X, Y, Z]; ``volumes`` of the label's classes, [C], in ml."""

    result: Segmentation
    entropy: np.ndarray
    label: np.ndarray
    volumes: np.ndarray

    @property
    def dice(self) -> float:
        """Mean Dice over the classes."""
        return 1 - mask_disagreement([self.result.mask, self.label])

    @property
    def near(self) -> np.ndarray:
        """The predicted foreground and what lies around it, or all where nothing is predicted."""
        foreground = self.result.mask > 0
        return binary_dilation(foreground, iterations=NEAR) if foreground.any() else ~foreground

    @property
    def outline(self) -> np.ndarray:
        """Voxels that touch another class of the mask, or all where there is one class."""
        mask = self.result.mask
        outline = maximum_filter(mask, size=3) != minimum_filter(mask, size=3)
        return outline if outline.any() else ~outline

    @property
    def wrong(self) -> np.ndarray:
        """Voxels of another class than the label's."""
        return self.result.mask != self.label


def measures(case: Case) -> dict[str, float]:
    """Return what ranks cases, the higher the less sure; what needs samples only where there are some."""
    found = {
        "entropy near the mask": float(case.entropy[case.near].mean()),
        "1 - margin at the outline": 1 - float(case.result.confidence[case.outline].mean()),
    }
    if isinstance(case.result, SampledSegmentation):
        found["disagreement"] = case.result.disagreement
        found["width of the volume range"] = case.result.relative_volume_range
    return found


def run(
    segmenter: Segmenter, sources: Mapping[str, Samples | None], items: Sequence[dict[str, str]], worse: bool = False
) -> dict[str, list[Case]]:
    """Segment ``items``, made worse if asked, by every source; None is the model as it is, once."""
    cases: dict[str, list[Case]] = {name: [] for name in sources}
    for number, data in enumerate(tqdm(items, leave=False)):
        item = segmenter.prepare(Path(data["image"]))
        if worse:
            item["image"] = make_worse(item["image"], number)
        volume = read_volume(Path(data["label"]))
        label = volume.array.astype(np.uint8) if segmenter.num_classes > 2 else (volume.array > 0).astype(np.uint8)
        voxel_ml = abs(np.linalg.det(volume.affine[:3, :3])) / 1000
        volumes = np.bincount(label.ravel(), minlength=segmenter.num_classes)[1:] * voxel_ml
        for name, samples in sources.items():
            if samples is None:
                result = segmenter.finish(item, segmenter.predict(item["image"]))
                entropy = predictive_entropy(result.scores)
            else:
                result = compare_samples(samples, item)
                entropy = result.entropy
            cases[name].append(Case(result, entropy, label, volumes))
    return cases


def make_worse(image: torch.Tensor, number: int) -> torch.Tensor:
    """Blur ``image`` [C, X, Y, Z] and add noise; 20 cases in a row get every combination of the two once."""
    blur = BLURS[number % len(BLURS)]
    noise = NOISES[number // len(BLURS) % len(NOISES)]
    array = gaussian_filter(image.numpy(), (0, blur, blur, blur))
    array += np.random.default_rng(number).normal(0, noise, array.shape)
    return convert_to_dst_type(array, image)[0]


def ranking_rows(cases: Mapping[str, Sequence[Case]], *about: str) -> list[list[object]]:
    """Return a row for every source and measure: how it ranks the error, and what taking the highest first finds."""
    rows: list[list[object]] = []
    for source, of_source in cases.items():
        dice = np.array([case.dice for case in of_source])
        found = [measures(case) for case in of_source]
        for measure in found[0]:
            values = np.array([of_case[measure] for of_case in found])
            low, high = bootstrap(
                (values, dice),
                _rank_of_error,
                n_resamples=RESAMPLES,
                paired=True,
                vectorized=False,
                method="percentile",
                rng=np.random.default_rng(0),
            ).confidence_interval
            picked = [
                values.mean(),
                dice.mean(),
                dice[np.argsort(-values)[:HIGHEST]].mean(),
                np.sort(dice)[:HIGHEST].mean(),
            ]
            correlation = f"{_rank_of_error(values, dice):.2f} ({low:.2f} to {high:.2f})"
            rows.append([*about, source, measure, correlation, *(f"{value:.3f}" for value in picked)])
    return rows


def _rank_of_error(values: np.ndarray, dice: np.ndarray) -> float:
    return spearmanr(values, 1 - dice).statistic


def voxel_row(cases: Sequence[Case], *about: str) -> list[object]:
    """Return how well single voxels near the mask are judged, by probabilities and by what says how sure they are."""
    wrong = [case.wrong[case.near] for case in cases]
    probabilities = [_probabilities(case.result.scores)[:, case.near] for case in cases]  # [K, N] each
    labels = [case.label[case.near] for case in cases]
    brier = np.mean([_brier(*pair) for pair in zip(probabilities, labels, strict=True)])
    areas = [
        np.nanmean([auroc(unsure(case)[case.near], mask) for case, mask in zip(cases, wrong, strict=True)])
        for unsure in (lambda case: case.entropy, lambda case: 1 - case.result.confidence)
    ]
    error = calibration_error(np.concatenate([p.max(axis=0) for p in probabilities]), ~np.concatenate(wrong))
    share = np.concatenate(wrong).mean()
    dice = np.mean([case.dice for case in cases])
    return [*about, f"{dice:.4f}", f"{share:.1%}", *(f"{a:.3f}" for a in areas), f"{brier:.4f}", f"{error:.4f}"]


def _probabilities(scores: np.ndarray) -> np.ndarray:
    return np.concatenate([1 - scores.sum(axis=0, keepdims=True), scores])


def _brier(probabilities: np.ndarray, label: np.ndarray) -> float:
    return float(((probabilities - (label == np.arange(len(probabilities))[:, None])) ** 2).sum(axis=0).mean())


def auroc(values: np.ndarray, positive: np.ndarray) -> float:
    """Return the chance that a positive has a higher value than a negative, ties counted half; NaN without both."""
    count = positive.sum()
    if count in (0, positive.size):
        return float("nan")
    return float((rankdata(values)[positive].mean() - (count + 1) / 2) / (positive.size - count))


def calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """Return the expected difference between the probability of the class taken and how often it is right."""
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bins, confidence - right, minlength=BINS)
    return float(np.abs(gaps).sum() / confidence.size)


def abstention_rows(cases: Sequence[Case], *about: str) -> list[list[object]]:
    """Return what is left out and what the rest scores, where voxels of too small a margin are left out."""
    rows: list[list[object]] = []
    for margin in MARGINS:
        kept = [case.result.confidence >= margin for case in cases]
        pairs = list(zip(cases, kept, strict=True))
        left_out = np.mean([1 - keep[case.near].mean() for case, keep in pairs])
        found = sum((case.wrong & ~keep).sum() for case, keep in pairs) / sum(case.wrong.sum() for case in cases)
        dice = np.mean([1 - mask_disagreement([case.result.mask[keep], case.label[keep]]) for case, keep in pairs])
        rows.append([*about, f"{margin:g}", f"{left_out:.1%}", f"{found:.1%}", f"{dice:.4f}"])
    return rows


def volume_rows(cases: Sequence[Case], names: Mapping[int, str], *about: str) -> list[list[object]]:
    """Return for each class the volumes of labels and samples, and how often a label's lies in the samples' range."""
    labels = np.array([case.volumes for case in cases])  # [N, C]
    means = np.array([case.result.volumes.mean(axis=0) for case in cases])
    low, high = np.array([case.result.volume_range for case in cases]).swapaxes(0, 1)
    rows: list[list[object]] = []
    for index in range(labels.shape[1]):
        numbers = [array[:, index].mean() for array in (labels, means, np.abs(means - labels), high - low)]
        inside = ((low <= labels) & (labels <= high))[:, index].sum()
        name = names.get(index + 1, f"class {index + 1}")
        rows.append([*about, name, *(f"{number:.3f}" for number in numbers), f"{inside} of {len(cases)}"])
    return rows


def tables(
    segmenter: Segmenter, members: Sequence[Segmenter], splits: Mapping[str, list[dict[str, str]]]
) -> list[Table]:
    """Choose the axis on validation, measure on test."""
    by_axis = run(segmenter, {name: Flips(segmenter, axis) for name, axis in AXES.items()}, splits["validation"])
    choice = ranking_rows(by_axis, "validation", "as they are")
    errors = {name: 1 - np.array([case.dice for case in cases]) for name, cases in by_axis.items()}
    said = {name: np.array([case.result.disagreement for case in cases]) for name, cases in by_axis.items()}
    chosen = max(AXES, key=lambda name: spearmanr(said[name], errors[name]).statistic)

    sources: dict[str, Samples | None] = {"once": None, f"flips, {chosen}": Flips(segmenter, AXES[chosen])}
    if getattr(segmenter.network, "start_noise", "zeros") != "zeros":
        sources["seeds"] = Seeds(segmenter)
    if len(members) > 1:
        sources[f"ensemble of {len(members)}"] = Ensemble(members)
    rankings, voxels, abstentions, volumes = choice, [], [], []
    names = {value: segment.name for value, segment in segmenter.segments.items()}
    for images, worse in (("as they are", False), ("made worse", True)):
        measured = run(segmenter, sources, splits["test"], worse)
        rankings += ranking_rows(measured, "test", images)
        for source, cases in measured.items():
            voxels.append(voxel_row(cases, images, source))
            abstentions += abstention_rows(cases, images, source)
            volumes += volume_rows(cases, names, images, source) if sources[source] else []
    title = f"How it ranks the cases: Spearman's correlation with 1 - Dice, bootstrap interval ({RESAMPLES} resamples)"
    head = ["split", "images", "scores", "measure", "rank correlation (95 %)", "mean", "mean Dice"]
    head += [f"Dice of the {HIGHEST} highest", f"of the {HIGHEST} worst"]
    near = f"within {NEAR} voxels of the mask"
    return [
        Table("ranking", title, head, rankings),
        Table(
            "voxels",
            f"How it finds wrong voxels, {near}, test: the area is the chance that a wrong voxel is less sure than a right "
            "one (AUROC), mean over the cases; Brier score; expected calibration error",
            ["images", "scores", "mean Dice", "wrong", "entropy's area", "margin's area", "Brier", "calibration"],
            voxels,
        ),
        Table(
            "abstention",
            f"Leaving out what is unsure, test: of the voxels {near}, and of all wrong ones",
            ["images", "scores", "margin below", "left out", "wrong ones found", "mean Dice of the rest"],
            abstentions,
        ),
        Table(
            "volumes",
            "Volumes in ml, test; the range goes from the smallest to the largest sample",
            ["images", "scores", "class", "label", "mean of samples", "mean error", "width", "label in range"],
            volumes,
        ),
    ]


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset_dir", required=True)
    parser.add_argument("--datalist", default=str(BUNDLE / "configs" / "datalist.json"))
    parser.add_argument("--bundle", type=Path, default=BUNDLE)
    parser.add_argument("--weights", type=Path, nargs="+", help="instead of the bundle's; several are an ensemble")
    parser.add_argument("--section", default="embedded", help="of docs/uncertainty.md (default: %(default)s)")
    options = parser.parse_args()
    splits = {
        split: read_datalist(options.datalist, split, options.dataset_dir, "") for split in ("validation", "test")
    }
    members = [Segmenter(options.bundle, device="cpu", weights=weights) for weights in options.weights or [None]]
    text = "\n\n".join(table.markdown() for table in tables(members[0], members, splits))
    note = (
        f"Dice is the mean over the classes. Data MSD Task04 hippocampus, {len(splits['validation'])} validation and "
        f"{len(splits['test'])} test cases of {Path(options.datalist).name}; {hardware()}; commit {commit()}; "
        "benchmarks/uncertainty.py."
    )
    replace_section(ROOT / "docs" / "uncertainty.md", options.section, f"{text}\n\n{note}")


if __name__ == "__main__":
    main()
