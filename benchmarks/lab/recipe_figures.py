"""Figures of a study of recipes: Dice against the images seen and the arithmetic, and the worst cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import torch

from lab.budget import validation_curve
from lab.scores import Scores, mean_class_dice
from lab.study import Study, load_volume, segment
from sdseg_monai.io.pictures import image_stem
from sdseg_monai.visualize import picture_panel, slice_panel

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

WORST = 3  # number of cases that are shown


def draw_curves(study: Study, runs: Mapping[str, Sequence[str]], images: Mapping[str, float], path: Path) -> None:
    """Draw the validation Dice against the number of images seen; of several runs the mean and the range.

    Args:
        study: the study.
        runs: trained runs of each experiment.
        images: number of images that each experiment has seen at its end.
        path: file of the figure.
    """
    figure, axes = _axes()
    for experiment, names in runs.items():
        curves = [validation_curve(study, name) for name in names]
        epochs = sorted(set.intersection(*map(set, curves)))
        values = np.array([[curve[epoch] for epoch in epochs] for curve in curves])
        images_seen = np.array(epochs) * images[experiment] / study.parser(names[0])["epochs"]
        (line,) = axes.plot(images_seen, 100 - values.mean(axis=0), marker=".", label=experiment)
        ends = 100 - values.max(axis=0), 100 - values.min(axis=0)
        axes.fill_between(images_seen, *ends, color=line.get_color(), alpha=0.2)
    axes.set(xlabel="images seen", ylabel="100 - validation Dice, mean of the classes, %")
    _finish(axes)
    _save(figure, path)


def draw_cost(scores: Mapping[str, Sequence[Scores]], gflop: Mapping[str, float], path: Path) -> None:
    """Draw the Dice of each experiment, a point for each seed, against the arithmetic of inference for a slice."""
    figure, axes = _axes()
    for experiment, by_seed in scores.items():
        errors = [100 - values["Dice"].mean() for values in by_seed]
        axes.plot([gflop[experiment]] * len(errors), errors, marker="o", linestyle="", label=experiment)
    axes.set(xscale="log", xlabel="GFLOP per slice", ylabel="100 - validation Dice of the union, %")
    _finish(axes)
    _save(figure, path)


@torch.inference_mode()
def draw_worst(study: Study, run: str, scores: Scores, path: Path) -> None:
    """Draw the validation cases with the lowest mean Dice of the classes; of a volume the slice with most wrong voxels.

    Args:
        study: the study.
        run: a trained run.
        scores: its scores of the validation cases.
        path: file of the figure.
    """
    parser, items = study.trained(run), study.items("validation")
    dice = mean_class_dice(scores)
    indices = np.argsort(dice, kind="stable")[:WORST]
    figure, axes = plt.subplots(len(indices), squeeze=False, figsize=(7, 2.5 * len(indices)))
    for axis, index in zip(axes[:, 0], indices, strict=True):
        data = load_volume(parser, items[index])
        image, label = (data[key].numpy() for key in ("image", "label"))
        mask = segment(parser, data).numpy()
        if len(image) == 3:  # a photograph
            panel = picture_panel(image[..., 0], label[0, ..., 0], mask[..., 0])
        else:
            slice_axis = parser["slice_axis"]
            errors = np.moveaxis(label[0] != mask, slice_axis, 0).sum(axis=(1, 2))  # of each slice
            slices = [np.take(array, [errors.argmax()], slice_axis) for array in (image[0], label[0], mask)]
            panel = slice_panel(slices[0], slices[1], slices[2], slice_axis)
        axis.imshow(panel)
        axis.set(title=f"{image_stem(Path(items[index]['image']))}: Dice {dice[index]:.1f} %", xticks=[], yticks=[])
    _save(figure, path)


def _axes() -> tuple[plt.Figure, plt.Axes]:
    figure, axes = plt.subplots(figsize=(7, 5))
    axes.set_prop_cycle(color=plt.get_cmap("tab20")(range(20)))
    return figure, axes


def _finish(axes: plt.Axes) -> None:
    """Set a logarithmic axis of the error, and a legend in the order in which the lines end."""
    axes.set_yscale("log")
    axes.invert_yaxis()
    for axis in (axes.xaxis, axes.yaxis):
        if axis.get_scale() == "log":
            axis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
            axis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axis.set_minor_locator(NullLocator())
    lines = sorted(axes.get_lines(), key=lambda line: float(np.asarray(line.get_ydata())[-1]))
    axes.legend(handles=lines, frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))


def _save(figure: plt.Figure, path: Path) -> None:
    figure.savefig(path, dpi=120, bbox_inches="tight")
    plt.close(figure)
