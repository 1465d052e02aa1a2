"""Measure whether the uncertainty of a model predicts where it is wrong, and in which cases.

The test split is scored once, with the images as they are and with worse images: in one pass, by flips, by seeds if the
model starts from noise, and as an ensemble if there are several weights. Nothing is chosen by these scores. Writes a
section of docs/uncertainty.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from monai.utils import convert_to_dst_type
from scipy.ndimage import gaussian_filter
from scipy.stats import bootstrap
from tqdm import tqdm

from lab.bundles import HIPPOCAMPUS
from lab.judgement import NEAR, Case, auroc, calibration_error, kept_dice, measures, once, rank_of_error
from lab.tables import ROOT, Table, check_section, commit, hardware, replace_section
from sdseg_monai.data import read_datalist
from sdseg_monai.errors import report_input_errors
from sdseg_monai.inference.segmenter import Segmenter
from sdseg_monai.inference.strategies import Ensemble, Mirror, Sampling, Seeds
from sdseg_monai.inference.uncertainty import SampledSegmentation
from sdseg_monai.inferers import has_start_noise
from sdseg_monai.io.volumes import read_volume, voxel_millilitres

HIGHEST = 5  # number of cases with the highest uncertainty
RESAMPLES = 10_000
MARGINS = (0.0, 0.1, 0.25, 0.5, 0.75)
SHARES = (0.02, 0.05, 0.1)  # of the voxels near the mask, which are left out
BLURS = (0.0, 0.5, 1.0, 1.5, 2.0)  # standard deviation, voxels
NOISES = (0.0, 0.1, 0.2, 0.3)  # standard deviation, of intensities in [-1, 1]


def run(
    segmenter: Segmenter, sources: Mapping[str, Sampling], items: Sequence[dict[str, str]], worse: bool = False
) -> dict[str, list[Case]]:
    """Segment ``items`` by each source; with ``worse``, the images are made worse before."""
    cases: dict[str, list[Case]] = {name: [] for name in sources}
    for number, data in enumerate(tqdm(items, leave=False)):
        item = segmenter.prepare(Path(data["image"]))
        if worse:
            item["image"] = make_worse(item["image"].whole(), number)
        volume = read_volume(Path(data["label"]))
        label = (volume.array if segmenter.num_classes > 2 else volume.array > 0).astype(np.uint8)
        counts = np.bincount(label.ravel(), minlength=segmenter.num_classes)[1:]
        volumes = counts * voxel_millilitres(volume.affine)
        for name, samples in sources.items():
            result = samples.finish(item, samples.iter_slabs(item["image"]))
            cases[name].append(Case(result, result.entropy, label, volumes, not isinstance(samples, Mirror)))
    return cases


def make_worse(image: torch.Tensor, number: int) -> torch.Tensor:
    """Blur ``image`` [C, X, Y, Z] and add noise; 20 consecutive cases have all combinations of the two."""
    blur = BLURS[number % len(BLURS)]
    noise = NOISES[number // len(BLURS) % len(NOISES)]
    array = gaussian_filter(image.numpy(), (0, blur, blur, blur))
    array += np.random.default_rng(number).normal(0, noise, array.shape)
    return convert_to_dst_type(array, image)[0]


def ranking_rows(cases: Mapping[str, Sequence[Case]], *about: str) -> list[list[object]]:
    """Return a row for each source and measure: its correlation with the error, and the Dice of the highest cases."""
    rows: list[list[object]] = []
    for source, of_source in cases.items():
        dice = np.array([case.dice for case in of_source])
        values_of_cases = [measures(case) for case in of_source]
        for measure in values_of_cases[0]:
            values = np.array([values_of_case[measure] for values_of_case in values_of_cases])
            low, high = bootstrap(
                (values, dice),
                rank_of_error,
                n_resamples=RESAMPLES,
                paired=True,
                method="percentile",
                rng=np.random.default_rng(0),
            ).confidence_interval
            means = [
                values.mean(),
                dice.mean(),
                dice[np.argsort(-values)[:HIGHEST]].mean(),
                np.sort(dice)[:HIGHEST].mean(),
            ]
            correlation = f"{rank_of_error(values, dice):.2f} ({low:.2f} to {high:.2f})"
            rows.append([*about, source, measure, correlation, *(f"{value:.3f}" for value in means)])
    return rows


def voxel_row(cases: Sequence[Case], *about: str) -> list[object]:
    """Return how well entropy, margin and probabilities predict the errors of single voxels near the mask."""
    regions = [case.near for case in cases]
    errors = [case.wrong[region] for case, region in zip(cases, regions, strict=True)]
    entropy = [case.entropy[region] for case, region in zip(cases, regions, strict=True)]
    dice = np.mean([case.dice for case in cases])
    row = [*about, f"{dice:.4f}", f"{np.concatenate(errors).mean():.1%}", f"{_mean_auroc(entropy, errors):.3f}"]
    for share in SHARES:
        limits = [np.quantile(values, 1 - share) for values in entropy]
        dice_of_rest = [kept_dice(case, case.entropy <= limit) for case, limit in zip(cases, limits, strict=True)]
        row.append(f"{np.mean(dice_of_rest):.4f}")
    if not cases[0].is_own:
        return [*row, *["as once"] * 3]
    margin = [1 - case.result.confidence[region] for case, region in zip(cases, regions, strict=True)]
    scores = [case.result.scores[:, region] for case, region in zip(cases, regions, strict=True)]
    probabilities = np.concatenate([np.concatenate([1 - s.sum(axis=0, keepdims=True), s]) for s in scores], axis=1)
    label = np.concatenate([case.label[region] for case, region in zip(cases, regions, strict=True)])
    brier = ((probabilities - (label == np.arange(len(probabilities))[:, None])) ** 2).sum(axis=0).mean()
    error = calibration_error(probabilities.max(axis=0), ~np.concatenate(errors))
    return [*row, f"{_mean_auroc(margin, errors):.3f}", f"{brier:.4f}", f"{error:.4f}"]


def _mean_auroc(values: Sequence[np.ndarray], errors: Sequence[np.ndarray]) -> float:
    return float(np.nanmean([auroc(*pair) for pair in zip(values, errors, strict=True)]))


def abstention_rows(cases: Sequence[Case], *about: str) -> list[list[object]]:
    """Return which voxels ``sdseg segment --abstain-below`` leaves out, and the Dice of the rest."""
    rows: list[list[object]] = []
    for margin in MARGINS:
        sure_voxels = [case.result.confidence >= margin for case in cases]
        pairs = list(zip(cases, sure_voxels, strict=True))
        share = np.mean([1 - voxels[case.near].mean() for case, voxels in pairs])
        num_errors = sum(case.wrong.sum() for case in cases)
        share_of_errors = sum((case.wrong & ~voxels).sum() for case, voxels in pairs) / num_errors
        dice = np.mean([kept_dice(case, voxels) for case, voxels in pairs])
        rows.append([*about, f"{margin:g}", f"{share:.1%}", f"{share_of_errors:.1%}", f"{dice:.4f}"])
    return rows


def volume_rows(cases: Sequence[Case], names: Mapping[int, str], *about: str) -> list[list[object]]:
    """Return for each class the mean volumes, and how often the volume of the label is in the range of the samples."""
    labels = np.array([case.volumes for case in cases])  # [N, C]
    masks = np.array([list(case.result.volumes.values()) for case in cases])
    samples = [case.result for case in cases if isinstance(case.result, SampledSegmentation)]
    low, high = np.array([result.volume_range for result in samples]).swapaxes(0, 1)
    rows: list[list[object]] = []
    for index in range(labels.shape[1]):
        numbers = [array[:, index].mean() for array in (labels, masks, np.abs(masks - labels), high - low)]
        num_in_range = ((low <= labels) & (labels <= high))[:, index].sum()
        name = names.get(index + 1, f"class {index + 1}")
        rows.append([*about, name, *(f"{number:.3f}" for number in numbers), f"{num_in_range} of {len(cases)}"])
    return rows


def tables(segmenter: Segmenter, members: Sequence[Segmenter], items: Sequence[dict[str, str]]) -> list[Table]:
    """Return the tables of the measures of ``items``."""
    sources: dict[str, Sampling] = {"flips": Mirror(segmenter)}
    if has_start_noise(segmenter.network):
        sources["seeds"] = Seeds(segmenter)
    if len(members) > 1:
        sources[f"ensemble of {len(members)}"] = Ensemble(members)
    rankings, voxels, abstentions, volumes = [], [], [], []
    names = {value: segment.name for value, segment in segmenter.segments.items()}
    for images, worse in (("as they are", False), ("made worse", True)):
        cases_of_source = run(segmenter, sources, items, worse)
        cases_of_source = {"once": [once(case) for case in cases_of_source["flips"]], **cases_of_source}
        rankings += ranking_rows(cases_of_source, images)
        for source, cases in cases_of_source.items():
            voxels.append(voxel_row(cases, images, source))
            abstentions += abstention_rows(cases, images, source) if cases[0].is_own else []
            volumes += volume_rows(cases, names, images, source) if source in sources else []
    title = f"How it ranks the cases: Spearman's correlation with 1 - Dice, bootstrap interval ({RESAMPLES} resamples)"
    head = ["images", "scores", "measure", "rank correlation (95 %)", "mean", "mean Dice"]
    head += [f"Dice of the {HIGHEST} highest", f"of the {HIGHEST} worst"]
    near = f"within {NEAR} voxels of the mask"
    return [
        Table("ranking", title, head, rankings),
        Table(
            "voxels",
            f"How it finds wrong voxels {near}: the area is the chance that a wrong voxel is less sure than a "
            "right one (AUROC), mean over the cases; Dice without the voxels of the highest entropy; Brier score and "
            "expected calibration error of the probabilities",
            [
                *("images", "scores", "mean Dice", "wrong", "area of the entropy"),
                *(f"Dice without {share:.0%}" for share in SHARES),
                *("area of the margin", "Brier", "calibration error"),
            ],
            voxels,
        ),
        Table(
            "abstention",
            f"Leaving out what is unsure: of the voxels {near}, and of all wrong ones",
            ["images", "scores", "margin below", "left out", "wrong ones found", "mean Dice of the rest"],
            abstentions,
        ),
        Table(
            "volumes",
            "Volumes in ml; the range goes from the smallest to the largest sample",
            ["images", "scores", "class", "label", "mask", "mean error", "width", "label in range"],
            volumes,
        ),
    ]


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset_dir", required=True)
    parser.add_argument("--datalist", default=str(HIPPOCAMPUS / "configs" / "datalist.json"))
    parser.add_argument("--bundle", type=Path, default=HIPPOCAMPUS)
    parser.add_argument("--overlay", type=Path, nargs="+", default=[], help="configs chained after the bundle's")
    parser.add_argument("--weights", type=Path, nargs="+", help="instead of the bundle's; several are an ensemble")
    parser.add_argument("--document", type=Path, default=ROOT / "docs" / "uncertainty.md")
    parser.add_argument("--section", default="embedded", help="of the document (default: %(default)s)")
    report_input_errors()
    options = parser.parse_args()
    check_section(options.document, options.section)
    items = read_datalist(options.datalist, "test", options.dataset_dir, "")
    members = [
        Segmenter(options.bundle, device="cpu", weights=weights, overlays=options.overlay)
        for weights in options.weights or [None]
    ]
    text = "\n\n".join(table.markdown() for table in tables(members[0], members, items))
    overlay_names = "".join(f", {path.name}" for path in options.overlay)
    weights_text = f"{len(members)} of --weights" if options.weights else "its own"
    note = (
        f"Dice is the mean over the classes. Bundle {options.bundle.name}{overlay_names}; weights: {weights_text}. "
        f"Data MSD Task04 hippocampus, {len(items)} test cases of {Path(options.datalist).name}; {hardware()}; commit "
        f"{commit()}; benchmarks/uncertainty.py."
    )
    replace_section(options.document, options.section, f"{text}\n\n{note}")


if __name__ == "__main__":
    main()
