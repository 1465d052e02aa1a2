"""The budget of a training: the images planned and seen, the CPU hours, and the gain of the last epochs."""

from __future__ import annotations

import numpy as np
from monai.bundle import ConfigParser
from tqdm import tqdm

from lab.comparison import logged, training_minutes
from lab.study import Study, load_volume
from sdseg_monai.data import VolumeDataset

END = 0.25  # share of the epochs that are the last ones


def check(study: Study) -> None:
    """Raise :class:`SystemExit` if a network would see another number of images than the study states."""
    if not study.images:
        return
    slices = count_slices(study)
    for run, stated_images in study.images.items():
        parser = study.parser(run)
        samples = len(slices) if takes_volumes(parser) else sum(slices)
        epochs, steps, batch = parser["epochs"], samples // parser["batch_size"], parser["batch_size"]
        images = round(epochs * steps * batch * (float(np.mean(slices)) if takes_volumes(parser) else 1))
        if images != stated_images:
            raise SystemExit(
                f"{run}: {epochs} epochs x {steps} steps x {batch} samples are {images} images, but the study states "
                f"{stated_images}: change one of the two"
            )


def images_seen(study: Study, run: str) -> float:
    """Return the number of slices that a trained network has seen; a volume counts as its slices."""
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
    """Tell whether a sample of the training is a whole volume rather than a slice."""
    return parser["train#dataset#_target_"].endswith(VolumeDataset.__name__)


def describe(study: Study) -> str:
    """Return sentences about the plan and the hours used so far; an empty text if there is no plan."""
    sentences = []
    if study.images:
        numbers = sorted(set(study.images.values()))
        sentences.append(f"Planned: {' or '.join(map(str, numbers))} images seen by each network.")
    if study.cpu_hours is not None:
        hours = sum(training_minutes(study, run) for run in study.experiments) / 60
        sentences.append(
            f"CPU hours planned {study.cpu_hours:g}, used {hours:.1f} (the minutes of all trainings, one thread each)."
        )
    return " ".join(sentences)


def validation_curve(study: Study, run: str) -> dict[int, float]:
    """Return the validation Dice by epoch, mean of the classes in percent; of a resumed training the last values."""
    return {event.step: 100 * event.value for event in logged(study, run, "val_mean_dice")}


def best_epoch(study: Study, run: str) -> int:
    """Return the epoch with the best validation, whose weights were saved."""
    curve = validation_curve(study, run)
    return max(sorted(curve), key=curve.__getitem__)


def gain_at_the_end(study: Study, run: str) -> float:
    """Return how much the best validation Dice increased in the last quarter of the epochs, in points.

    It is NaN if there was no validation before the last quarter.
    """
    curve = validation_curve(study, run)
    last_epoch_before = (1 - END) * study.parser(run)["epochs"]
    dice_before = [dice for epoch, dice in curve.items() if epoch <= last_epoch_before]
    return max(curve.values()) - max(dice_before) if dice_before else float("nan")
