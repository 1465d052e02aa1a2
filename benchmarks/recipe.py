"""Compare recipes: train each experiment of a study, score it on whole volumes, and draw figures.

    python benchmarks/recipe.py --study benchmarks/studies/hippocampus_screen.json --dataset_dir DIR --output DIR

Trainings resume from their checkpoints, so the command can be given again at any time. The report is report.md in the
output folder, with a CSV file for each table and a PNG file for each figure. A training that failed or is not finished
has its own row. If a study may not show its cases, their figure is only in the output folder.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Mapping
from statistics import median
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser

from lab import budget
from lab.comparison import summary, training_minutes
from lab.measuring import gflop, take_turns
from lab.recipe_figures import WORST, draw_cost, draw_curves, draw_worst
from lab.scores import Scores, mean_class_dice, score
from lab.study import Study, add_study_options, is_trained, last_words, load_volume, open_study, segment, train_all
from lab.tables import Table, check_section, commit, hardware, replace_section
from sdseg_monai.errors import report_input_errors
from sdseg_monai.metrics import RESAMPLES
from sdseg_monai.planning.speed import BATCH_SIZE, make_step

TIMED_STEPS = 12


def main() -> None:
    """Run the experiments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_study_options(parser)
    parser.add_argument("--no_training", action="store_true", help="report what is trained so far")
    parser.add_argument("--test", action="store_true", help="score the test cases too: once, for finalists")
    parser.add_argument("--no_figures", action="store_true", help="write the tables alone, as for a single network")
    report_input_errors()
    options = parser.parse_args()
    if options.section:
        check_section(options.section, options.study.stem)
    study = open_study(options)
    budget.check(study)
    failures = [] if options.no_training else train_all(study, options.jobs)
    splits = ["validation", *(["test"] if options.test else [])]
    report = _report(study, options.study.stem, splits, not options.no_figures)
    (study.folder / "report.md").write_text(report + "\n")
    if options.section:
        (options.section.parent / "images").mkdir(exist_ok=True)
        for picture in (study.folder / "images").glob(f"{options.study.stem}_*.png"):
            if f"images/{picture.name}" in report:  # an older figure may show cases that this report may not show
                shutil.copy(picture, options.section.parent / "images")
        replace_section(options.section, options.study.stem, report)
    if failures:
        raise SystemExit("\n".join(failures))


@torch.no_grad()
def gflop_per_slice(study: Study, parser: ConfigParser) -> float:
    """Return the arithmetic of inference for a slice: that of a validation case, divided by its number of slices."""
    data = load_volume(parser, study.items("validation")[0])
    parser.get_parsed_content("network").eval()
    return gflop(lambda: segment(parser, data)) / data["image"].shape[parser["slice_axis"] + 1]


def core_minutes(study: Study, runs: Mapping[str, str]) -> dict[str, str]:
    """Return the CPU minutes of the training steps for 1000 images: the median with the lowest and highest.

    The networks take turns: how fast a core is may change within minutes.

    Args:
        study: the study.
        runs: one run of each experiment that is trained, by the experiments' names.
    """
    parsers = {experiment: study.parser(run) for experiment, run in runs.items()}
    steps = {
        experiment: make_step(parser.get(), torch.device("cpu"))
        for experiment, parser in parsers.items()
        if not budget.takes_volumes(parser)
    }
    seconds = take_turns(steps, TIMED_STEPS, clock=time.process_time)
    minutes = {name: [1000 / 60 / BATCH_SIZE * value for value in values] for name, values in seconds.items()}
    texts = {name: f"{median(v):.1f} ({min(v):.1f} to {max(v):.1f})" for name, v in minutes.items()}
    return dict.fromkeys(runs, "-") | texts


def _report(study: Study, name: str, splits: list[str], with_figures: bool) -> str:
    trained_runs = {experiment: [r for r in runs if is_trained(study, r)] for experiment, runs in study.runs.items()}
    minutes = core_minutes(study, {experiment: runs[0] for experiment, runs in trained_runs.items() if runs})
    costs = {name: {**_cost(study, trained_runs[name]), "step": text} for name, text in minutes.items()}
    scores = {s: {e: [score(study, r, s) for r in trained_runs[e]] for e in costs} for s in splits}
    about = {"hardware": hardware(), "commit": commit(), "split": study.manifest()}
    tables = [_table(study, name, split, costs, scores[split]) for split in splits]
    for table in tables:
        table.write_csv(study.folder, **about)
    runs_with_costs = {experiment: trained_runs[experiment] for experiment in costs}
    figures = _figures(study, name, runs_with_costs, costs, scores["validation"]) if costs and with_figures else []
    trained_at = sorted({study.trained_at(run) for runs in trained_runs.values() for run in runs})
    head = (
        f"{study.name}. Split and its hash: {study.manifest()}; trained at commit {', '.join(trained_at) or 'none'}; "
        f"scored on {hardware()}, commit {commit()}. {budget.describe(study)}"
    )
    return "\n\n".join([head.rstrip(), *(table.markdown() for table in tables), *figures])


def _cost(study: Study, runs: list[str]) -> dict[str, Any]:
    parser = study.parser(runs[0])
    parameters = sum(p.numel() for p in parser.get_parsed_content("network_def").trained_parts.parameters())
    return {
        "parameters": parameters / 1e6,
        "gflop": gflop_per_slice(study, parser),
        "images": budget.images_seen(study, runs[0]),
        "minutes": float(np.mean([training_minutes(study, run) for run in runs])),
        "best": f"{', '.join(str(budget.best_epoch(study, run)) for run in runs)} of {parser['epochs']}",
        "gain": summary([np.array([budget.gain_at_the_end(study, run)]) for run in runs], of_seeds=True),
    }


def _table(
    study: Study, name: str, split: str, costs: dict[str, dict[str, Any]], scores: dict[str, list[Scores]]
) -> Table:
    head = ["experiment", "seeds", "trained parameters, M", "GFLOP per slice", "core min for 1000 images"]
    head += ["images seen", "training, min", "best epoch", "gain at the end"]
    measures = list(next(iter(scores.values()))[0]) if scores else []
    rows: list[list[Any]] = []
    for experiment, runs in study.runs.items():
        by_seed = scores.get(experiment, [])
        words = dict.fromkeys(last_words(study, run) for run in runs if not is_trained(study, run))
        seeds = "; ".join([f"{len(by_seed)} of {len(runs)}", *(reason for reason in words if reason)])
        if not by_seed:
            rows.append([experiment, seeds, *["not trained"] * (len(head) - 2 + len(measures))])
            continue
        cost = costs[experiment]
        row = [experiment, seeds, f"{cost['parameters']:.2f}", f"{cost['gflop']:.2f}"]
        row += [cost["step"], f"{cost['images']:.0f}", f"{cost['minutes']:.0f}", cost["best"], cost["gain"]]
        for measure in measures:
            row.append(summary([values[measure] for values in by_seed], of_seeds=split != "test"))
        rows.append(row)
    spread = (
        f"95 % bootstrap interval over cases, each the mean of its seeds ({RESAMPLES} resamples)"
        if split == "test"
        else "lowest and highest seed where there are several"
    )
    title = (
        f"{name}: means over {len(study.items(split))} {split} cases; in brackets the {spread}; Dice in percent, HD95 "
        "in mm, of photographs in pixels, over the cases where both masks are not empty, of the union and of each "
        "class where there are several; a volume counts as its slices; core minutes are the CPU time of the training "
        "steps on one core, without reading, augmentation, optimiser and validation, the median with the lowest and "
        "highest of steps that the networks did in turns; minutes go from the first step to the last, pauses and other "
        f"programs included; the gain at the end is what validations in the last {budget.END:.0%} of the epochs added "
        "to the best Dice before them, mean of the classes, in points"
    )
    return Table(f"{name}_{split}", title, [*head, *measures], rows)


def _figures(
    study: Study,
    name: str,
    runs: dict[str, list[str]],
    costs: dict[str, dict[str, Any]],
    scores: dict[str, list[Scores]],
) -> list[str]:
    """Draw the figures and return their Markdown for the report."""
    folder = study.folder / "images"
    folder.mkdir(exist_ok=True)
    best = max(runs, key=lambda experiment: np.mean([mean_class_dice(values) for values in scores[experiment]]))
    draw_curves(study, runs, {e: cost["images"] for e, cost in costs.items()}, folder / f"{name}_images_seen.png")
    draw_cost(scores, {e: cost["gflop"] for e, cost in costs.items()}, folder / f"{name}_gflop.png")
    captions = {"images_seen": "Dice against images seen", "gflop": "Dice against GFLOP"}
    draw_worst(
        study, runs[best][0], scores[best][0], (folder if study.show_cases else study.folder) / f"{name}_worst.png"
    )
    if study.show_cases:
        captions["worst"] = (
            f"The {WORST} worst validation cases of {runs[best][0]}, each where most is wrong: image, label, prediction"
        )
    return [f"![{caption}](images/{name}_{figure}.png)" for figure, caption in captions.items()]


if __name__ == "__main__":
    main()
