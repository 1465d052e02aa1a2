"""What a training sees and takes: the images planned and seen, the hours of the CPU, and what the end still brought."""

from __future__ import annotations

import numpy as np
from monai.bundle import ConfigParser
from tqdm import tqdm

from lab.comparison import logged, training_minutes
from lab.study import Study, load_volume
from sdseg_monai.data import VolumeDataset

END = 0.25  # of the epochs


def check(study: Study) -> None:
    """End with one line if a network would see other than the number of images that the study states."""
    if not study.images:
        return
    slices = count_slices(study)
    for run, stated in study.images.items():
        parser = study.parser(run)
        samples = len(slices) if takes_volumes(parser) else sum(slices)
        epochs, steps, batch = parser["epochs"], samples // parser["batch_size"], parser["batch_size"]
        planned = round(epochs * steps * batch * (float(np.mean(slices)) if takes_volumes(parser) else 1))
        if planned != stated:
            raise SystemExit(
                f"{run}: {epochs} epochs x {steps} steps x {batch} samples are {planned} images, but the study states "
                f"{stated}: change one of the two"
            )


def images_seen(study: Study, run: str) -> float:
    """Return how many slices a trained network has seen; a volume counts as its slices."""
    parser = study.parser(run)
    steps = max(event.step for event in logged(study, run, "loss"))
    slices = float(np.mean(count_slices(study))) if takes_volumes(parser) else 1
    return steps * parser["batch_size"] * slices


def count_slices(study: Study) -> list[int]:
    """Return the number of slices of each training case."""
    parser = study.parser(next(iter(study.experiments)))
    axis = parser["slice_axis"] + 1
    cases = tqdm(study.items("training"), desc="counting slices", leave=False)
    return [load_volume(parser, item)["image"].shape[axis] for item in cases]


def takes_volumes(parser: ConfigParser) -> bool:
    """Whether a sample of the training is a whole volume rather than a slice."""
    return parser["train#dataset#_target_"].endswith(VolumeDataset.__name__)


def describe(study: Study) -> str:
    """Return in a sentence or two what was planned, and what was taken of it so far; empty where nothing was."""
    sentences = []
    if study.images:
        numbers = sorted(set(study.images.values()))
        sentences.append(f"Planned: {' or '.join(map(str, numbers))} images seen by each network.")
    if study.cpu_hours is not None:
        used = sum(training_minutes(study, run) for run in study.experiments) / 60
        sentences.append(
            f"CPU hours planned {study.cpu_hours:g}, used {used:.1f} (the minutes of all trainings, one thread each)."
        )
    return " ".join(sentences)


def validation_curve(study: Study, run: str) -> dict[int, float]:
    """Return the validation Dice, mean of the classes in percent, by epoch; the last where a training was resumed."""
    return {event.step: 100 * event.value for event in logged(study, run, "val_mean_dice")}


def best_epoch(study: Study, run: str) -> int:
    """Return the epoch whose weights the training chose."""
    curve = validation_curve(study, run)
    return max(sorted(curve), key=curve.__getitem__)


def gain_at_the_end(study: Study, run: str) -> float:
    """Return by how much the best validation Dice of all epochs exceeds that before the last quarter, in points.

    NaN where nothing was validated before.
    """
    curve = validation_curve(study, run)
    before = (1 - END) * study.parser(run)["epochs"]
    earlier = [dice for epoch, dice in curve.items() if epoch <= before]
    return max(curve.values()) - max(earlier) if earlier else float("nan")
