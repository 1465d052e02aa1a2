"""Which recipe segments best: every experiment of a study trained, scored on whole volumes, and drawn.

    python benchmarks/recipe.py --study benchmarks/studies/hippocampus_screen.json --dataset_dir DIR --output DIR

Trainings resume from their checkpoints, so the command can be given again at any time. The report is report.md in the
output folder, with a CSV per table and a PNG per figure; a training that failed or is not done is a row of its own.
"""

from __future__ import annotations

import argparse
import csv
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from comparison import RESAMPLES, interval, logged, training_minutes
from monai.bundle import ConfigParser
from study import Study, is_trained, load_volume, parse_options, read_study, segment, train_all
from tables import Table, commit, hardware, replace_section
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from sdseg_monai.data import VolumeDataset
from sdseg_monai.evaluation import BOTH_EMPTY, compare_masks
from sdseg_monai.pictures import image_stem

matplotlib.use("Agg")
from matplotlib import pyplot as plt

Scores = dict[str, np.ndarray]  # of each measure, one value per case


def main() -> None:
    """Run the experiments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path, required=True, help="JSON file of the study")
    parser.add_argument("--dataset_dir", type=Path, required=True)
    parser.add_argument("--datalist", type=Path, help="default: the bundle's")
    parser.add_argument("--output", type=Path, required=True, help="folder for weights, tables, figures and report")
    parser.add_argument("--only", nargs="+", metavar="EXPERIMENT", help="default: all of the study")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at once, each with one thread if several")
    parser.add_argument("--no_training", action="store_true", help="report what is trained so far")
    parser.add_argument("--test", action="store_true", help="score the test cases too: once, for finalists")
    parser.add_argument("--option", nargs=2, action="append", default=[], metavar=("KEY", "VALUE"), help="config key")
    parser.add_argument("--section", type=Path, help="document whose section of the study's name becomes the report")
    options = parser.parse_args()
    for path in (options.study, *(path for path in (options.datalist, options.section) if path)):
        if not path.is_file():
            raise SystemExit(f"{path}: no such file")
    study = read_study(
        *(options.study, options.dataset_dir, options.datalist, options.output),
        parse_options(options.option),
        options.only,
    )
    failures = [] if options.no_training else train_all(study, options.jobs)
    report = _report(study, options.study.stem, ["validation", *(["test"] if options.test else [])])
    (study.folder / "report.md").write_text(report + "\n")
    if options.section:
        (options.section.parent / "images").mkdir(exist_ok=True)
        for picture in (study.folder / "images").glob(f"{options.study.stem}_*.png"):
            shutil.copy(picture, options.section.parent / "images")
        replace_section(options.section, options.study.stem, report)
    if failures:
        raise SystemExit("\n".join(failures))


@torch.inference_mode()
def score(study: Study, run: str, split: str) -> Scores:
    """Return each measure of each case of ``split``, by the network that training chose; kept beside its weights."""
    kept = study.run_folder(run) / f"{split}.csv"
    weights = study.run_folder(run) / "model.pt"
    if not kept.is_file() or kept.stat().st_mtime < weights.stat().st_mtime:
        parser = study.trained(run)
        cases = []
        for item in tqdm(study.items(split), desc=f"{run}, {split}", leave=False):
            data = load_volume(parser, item)
            predicted, expected = segment(parser, data), data["label"][0].as_subclass(torch.Tensor)
            measures = measure(predicted, expected, data["label"].pixdim.tolist(), parser["num_classes"])
            cases.append({"case": image_stem(Path(item["image"])), **measures})
        with kept.open("w", newline="") as file:
            writer = csv.DictWriter(file, cases[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(cases)
    with kept.open() as file:
        rows = list(csv.DictReader(file))
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
    agreements = {"": found}
    if num_classes > 2:
        agreements |= {f" of {value}": found.classes.get(value, BOTH_EMPTY) for value in range(1, num_classes)}
    dice = {f"Dice{name}": 100 * agreement.dice for name, agreement in agreements.items()}
    return {**dice, **{f"HD95{name}": agreement.hd95 for name, agreement in agreements.items()}}


@torch.no_grad()  # in inference mode some operations are not counted
def gflop_per_slice(study: Study, parser: ConfigParser) -> float:
    """Return what a slice costs in inference: a validation case's arithmetic, through the inferer, over its slices."""
    data = load_volume(parser, study.items("validation")[0])
    parser.get_parsed_content("network").eval()
    with FlopCounterMode(display=False) as counter:
        segment(parser, data)
    return counter.get_total_flops() / data["image"].shape[parser["slice_axis"] + 1] / 1e9


def slices_per_sample(study: Study, parser: ConfigParser) -> float:
    """Return how many slices a training sample has: 1, or the mean over the training volumes."""
    target = parser["train#dataset#_target_"]
    if not target.endswith(VolumeDataset.__name__):
        return 1.0
    axis = parser["slice_axis"] + 1
    return float(np.mean([load_volume(parser, item)["image"].shape[axis] for item in study.items("training")]))


def _report(study: Study, name: str, splits: list[str]) -> str:
    done = {experiment: [r for r in runs if is_trained(study, r)] for experiment, runs in study.runs.items()}
    costs = {experiment: _cost(study, runs) for experiment, runs in done.items() if runs}
    scores = {s: {e: [score(study, r, s) for r in runs] for e, runs in done.items() if runs} for s in splits}
    about = {"hardware": hardware(), "commit": commit(), "split": study.manifest()}
    tables = [_table(study, name, split, costs, scores[split]) for split in splits]
    for table in tables:
        table.write_csv(study.folder, **about)
    images = study.folder / "images"
    images.mkdir(exist_ok=True)
    figures = []
    if costs:
        _draw_curves(study, {e: done[e] for e in costs}, costs, images / f"{name}_images_seen.png")
        _draw_cost(costs, scores["validation"], images / f"{name}_gflop.png")
        figures = [f"![Dice against images seen](images/{name}_images_seen.png)"]
        figures += [f"![Dice against GFLOP](images/{name}_gflop.png)"]
    trained_at = sorted({study.trained_at(run) for runs in done.values() for run in runs})
    head = (
        f"{study.name}. Split and its hash: {study.manifest()}; trained at commit {', '.join(trained_at) or 'none'}; "
        f"scored on {hardware()}, commit {commit()}."
    )
    return "\n\n".join([head, *(table.markdown() for table in tables), *figures])


def _cost(study: Study, runs: list[str]) -> dict[str, float]:
    parser = study.parser(runs[0])
    parameters = sum(p.numel() for p in parser.get_parsed_content("network_def").trained_parts.parameters())
    steps = max(event.step for event in logged(study, runs[0], "loss"))
    return {
        "parameters": parameters / 1e6,
        "gflop": gflop_per_slice(study, parser),
        "images": steps * parser["batch_size"] * slices_per_sample(study, parser),
        "minutes": float(np.mean([training_minutes(study, run) for run in runs])),
    }


def _table(
    study: Study, name: str, split: str, costs: dict[str, dict[str, float]], scores: dict[str, list[Scores]]
) -> Table:
    measures = list(next(iter(scores.values()))[0]) if scores else []
    rows: list[list[Any]] = []
    for experiment, runs in study.runs.items():
        if experiment not in costs:
            rows.append([experiment, f"0 of {len(runs)}", *["not trained"] * (4 + len(measures))])
            continue
        cost, by_seed = costs[experiment], scores[experiment]
        row = [experiment, f"{len(by_seed)} of {len(runs)}", f"{cost['parameters']:.2f}", f"{cost['gflop']:.2f}"]
        row += [f"{cost['images']:.0f}", f"{cost['minutes']:.0f}"]
        rows.append([*row, *(_summary([found[m] for found in by_seed], split) for m in measures)])
    spread = (
        f"95 % bootstrap interval over cases, each the mean of its seeds ({RESAMPLES} resamples)"
        if split == "test"
        else "lowest and highest seed where there are several"
    )
    title = (
        f"{name}: means over {len(study.items(split))} {split} cases; in brackets the {spread}; Dice in percent, HD95 "
        "in mm over the cases where both masks are not empty, of the union and of each class; a volume counts as its "
        "slices; minutes include validation"
    )
    head = ["experiment", "seeds", "trained parameters, M", "GFLOP per slice", "images seen", "training, min"]
    return Table(f"{name}_{split}", title, [*head, *measures], rows)


def _summary(by_seed: list[np.ndarray], split: str) -> str:
    """Return the mean over cases and seeds, its spread, and of how many cases a measure is undefined."""
    values = np.stack(by_seed)  # [seeds, cases]
    undefined = int(np.isnan(values).sum())
    if undefined == values.size:
        return "undefined"
    text = f"{np.nanmean(values):.2f}"
    cases = values[:, ~np.isnan(values).all(axis=0)]
    if split == "test":
        low, high = interval(list(np.nanmean(cases, axis=0)))
        text += f" ({low:.2f} to {high:.2f})"
    elif len(values) > 1:
        seeds = [np.nanmean(seed) for seed in values if not np.isnan(seed).all()]
        text += f" ({min(seeds):.2f} to {max(seeds):.2f})"
    return text + (f", {undefined} of {values.size} undefined" if undefined else "")


def _draw_curves(study: Study, done: dict[str, list[str]], costs: dict[str, dict[str, float]], path: Path) -> None:
    figure, axes = plt.subplots(figsize=(7, 5))
    axes.set_prop_cycle(color=plt.get_cmap("tab20").colors)
    for experiment, runs in done.items():
        curves = [
            {event.step: 100 * event.value for event in logged(study, run, "val_mean_dice")} for run in runs
        ]  # by epoch, the last where a training was resumed
        epochs = sorted(set.intersection(*map(set, curves)))
        values = np.array([[curve[epoch] for epoch in epochs] for curve in curves])
        images = np.array(epochs) * costs[experiment]["images"] / study.parser(runs[0])["epochs"]
        (line,) = axes.plot(images, values.mean(axis=0), marker=".", label=experiment)
        axes.fill_between(images, values.min(axis=0), values.max(axis=0), color=line.get_color(), alpha=0.2)
    axes.set(xlabel="images seen", ylabel="validation Dice, mean of the classes, %")
    axes.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    _save(figure, path)


def _draw_cost(costs: dict[str, dict[str, float]], scores: dict[str, list[Scores]], path: Path) -> None:
    figure, axes = plt.subplots(figsize=(7, 5))
    axes.set_prop_cycle(color=plt.get_cmap("tab20").colors)
    for experiment, cost in costs.items():
        dice = [found["Dice"].mean() for found in scores[experiment]]
        axes.plot([cost["gflop"]] * len(dice), dice, marker="o", linestyle="", label=experiment)
    axes.set(xscale="log", xlabel="GFLOP per slice", ylabel="validation Dice of the union, %")
    axes.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    _save(figure, path)


def _save(figure: plt.Figure, path: Path) -> None:
    figure.savefig(path, dpi=120, bbox_inches="tight")
    plt.close(figure)


if __name__ == "__main__":
    main()
