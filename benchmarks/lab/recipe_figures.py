"""Figures of a study of recipes: what the images and the arithmetic bring, and where the best still fails."""

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

WORST = 3  # cases that are shown


def draw_curves(study: Study, done: Mapping[str, Sequence[str]], images: Mapping[str, float], path: Path) -> None:
    """Draw the validation Dice of each experiment's trained runs against the images seen, of all its epochs ``images``.

    Where there are several runs, their mean and range.
    """
    figure, axes = _axes()
    for experiment, runs in done.items():
        curves = [validation_curve(study, run) for run in runs]
        epochs = sorted(set.intersection(*map(set, curves)))
        values = np.array([[curve[epoch] for epoch in epochs] for curve in curves])
        seen = np.array(epochs) * images[experiment] / study.parser(runs[0])["epochs"]
        (line,) = axes.plot(seen, 100 - values.mean(axis=0), marker=".", label=experiment)
        axes.fill_between(seen, 100 - values.max(axis=0), 100 - values.min(axis=0), color=line.get_color(), alpha=0.2)
    axes.set(xlabel="images seen", ylabel="100 - validation Dice, mean of the classes, %")
    _finish(axes)
    _save(figure, path)


def draw_cost(scores: Mapping[str, Sequence[Scores]], gflop: Mapping[str, float], path: Path) -> None:
    """Draw the Dice of each experiment, a point for each seed, against the arithmetic of a slice in inference."""
    figure, axes = _axes()
    for experiment, by_seed in scores.items():
        wrong = [100 - found["Dice"].mean() for found in by_seed]
        axes.plot([gflop[experiment]] * len(wrong), wrong, marker="o", linestyle="", label=experiment)
    axes.set(xscale="log", xlabel="GFLOP per slice", ylabel="100 - validation Dice of the union, %")
    _finish(axes)
    _save(figure, path)


@torch.inference_mode()
def draw_worst(study: Study, run: str, found: Scores, path: Path) -> None:
    """Draw the validation cases with the lowest mean Dice of the classes, ``found`` by ``run``, lowest first.

    Of a volume it is the slice with most wrong voxels.
    """
    parser, items = study.trained(run), study.items("validation")
    dice = mean_class_dice(found)
    worst = np.argsort(dice, kind="stable")[:WORST]
    figure, axes = plt.subplots(len(worst), squeeze=False, figsize=(7, 2.5 * len(worst)))
    for axis, index in zip(axes[:, 0], worst, strict=True):
        data = load_volume(parser, items[index])
        image, label = (data[key].numpy() for key in ("image", "label"))
        predicted = segment(parser, data).numpy()
        if len(image) == 3:  # a photograph
            panel = picture_panel(image[..., 0], label[0, ..., 0], predicted[..., 0])
        else:
            cut = parser["slice_axis"]
            wrong = np.moveaxis(label[0] != predicted, cut, 0).sum(axis=(1, 2))
            shown = [np.take(array, [wrong.argmax()], cut) for array in (image[0], label[0], predicted)]
            panel = slice_panel(shown[0], shown[1], shown[2], cut)
        axis.imshow(panel)
        axis.set(title=f"{image_stem(Path(items[index]['image']))}: Dice {dice[index]:.1f} %", xticks=[], yticks=[])
    _save(figure, path)


def _axes() -> tuple[plt.Figure, plt.Axes]:
    figure, axes = plt.subplots(figsize=(7, 5))
    axes.set_prop_cycle(color=plt.get_cmap("tab20")(range(20)))
    return figure, axes


def _finish(axes: plt.Axes) -> None:
    """Spread the good ones by the logarithm of what is wrong; name the experiments in the order of their ends."""
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
