"""Tables 2, 3 and 6 of the paper: Dice and IoU of every experiment of a study, with bootstrap confidence intervals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from monai.bundle import ConfigParser
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator, ScalarEvent
from tqdm import tqdm

from lab.study import Study, load_volume, segment
from lab.tables import Table
from sdseg_monai.evaluation import CaseMetrics, compare_masks, write_csv
from sdseg_monai.io.pictures import image_stem
from sdseg_monai.metrics import RESAMPLES, bootstrap_interval


@torch.inference_mode()
def score(study: Study, parser: ConfigParser, split: str) -> list[CaseMetrics]:
    """Return the metrics of each case of ``split``, on the case's own grid, by the trained network of ``parser``."""
    cases = []
    for item in tqdm(study.items(split), desc=split, leave=False):
        data = load_volume(parser, item)
        masks = (segment(parser, data) > 0, data["label"][0] > 0)
        cases.append(compare_masks(image_stem(Path(item["image"])), *masks))
    return cases


def logged(study: Study, experiment: str, name: str) -> list[ScalarEvent]:
    """Return the values that the training logged as ``name`` for TensorBoard, from all its processes."""
    return [event for events in _logged_by_process(study, experiment, name) for event in events]


def training_minutes(study: Study, experiment: str) -> float:
    """Return the minutes from the first to the last logged step of each process, validations included."""
    by_process = _logged_by_process(study, experiment, "loss")
    return sum(events[-1].wall_time - events[0].wall_time for events in by_process) / 60


def _logged_by_process(study: Study, experiment: str, name: str) -> list[list[ScalarEvent]]:
    # each process has two files, of its trainer and of its evaluator; a name is logged in one of them
    files = sorted((study.run_folder(experiment) / "logs").glob("events.*"))
    logs = [EventAccumulator(str(file), size_guidance={"scalars": 0}).Reload() for file in files]
    return [log.Scalars(name) for log in logs if name in log.Tags()["scalars"]]


def summary(by_seed: Sequence[np.ndarray], digits: int = 2, of_seeds: bool = False) -> str:
    """Return a text with the mean of a measure over cases and seeds, its spread, and how often it is NaN (undefined).

    Args:
        by_seed: for each seed, one value for each case.
        digits: decimals of the numbers.
        of_seeds: if True, the spread is the lowest and the highest mean of a seed, if there are several seeds. If
            False, it is the :func:`bootstrap_interval` over the cases, each the mean of its seeds.
    """
    values = np.stack(by_seed)  # [seeds, cases]
    num_undefined = int(np.isnan(values).sum())
    if num_undefined == values.size:
        return "undefined"
    text = f"{np.nanmean(values):.{digits}f}"
    if not of_seeds:
        cases = values[:, ~np.isnan(values).all(axis=0)]
        low, high = bootstrap_interval(list(np.nanmean(cases, axis=0)))
        text += f" ({low:.{digits}f} to {high:.{digits}f})"
    elif len(values) > 1:
        seeds = [np.nanmean(seed) for seed in values if not np.isnan(seed).all()]
        text += f" ({min(seeds):.{digits}f} to {max(seeds):.{digits}f})"
    return text + (f", {num_undefined} of {values.size} undefined" if num_undefined else "")


def compare(study: Study) -> Table:
    """Score the test cases of each experiment; the weights were chosen on the validation cases."""
    rows = []
    for experiment in study.experiments:
        parser = study.trained(experiment)
        validation, test = (score(study, parser, split) for split in ("validation", "test"))
        write_csv(study.run_folder(experiment) / "test.csv", test)
        parameters = sum(p.numel() for p in parser.get_parsed_content("network_def").trained_parts.parameters())
        row = [experiment, f"{parameters / 1e6:.1f}", f"{100 * np.mean([case.dice for case in validation]):.1f}"]
        for values in ([case.dice for case in test], [case.iou for case in test]):
            low, high = bootstrap_interval(values)
            row.append(f"{100 * np.mean(values):.1f} ({100 * low:.1f} to {100 * high:.1f})")
        rows.append([*row, f"{training_minutes(study, experiment):.0f}", study.config_hash(experiment)])
    cases = len(study.items("test"))
    return Table(
        "comparison",
        f"Tables 2, 3 and 6: mean over {cases} test cases in percent, 95 % bootstrap interval ({RESAMPLES} resamples)",
        ["network", "trained parameters, M", "validation Dice", "test Dice", "test IoU", "training, min", "config"],
        rows,
    )
