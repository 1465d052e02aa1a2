"""Propose the settings of a training for a fingerprint, each with its reason."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from sdseg_monai.data.splits import missing_classes
from sdseg_monai.io.segments import PHOTOGRAPHS, names_side
from sdseg_monai.networks.codes import is_one_hot
from sdseg_monai.planning.fingerprint import Case, Fingerprint

# pixels, divisible by the networks' downsampling
SIZES = {"small": (64, 128, 256), "pretrained": (128, 256), "paper": (128, 256), "unet": (128, 256)}
LARGEST_ON_CPU = 128
LEAST_OF_MEDIAN = 0.75  # a size is large enough if it has this share of a median slice's longer edge
SLICES_FOR_PAPER = 2000  # least number of slices to train 295 M parameters with
KNOWN_CLASSES = 14  # background included, of the shipped mask autoencoder with a channel for each class
ANISOTROPY = 1.5  # if voxels are this factor longer along one axis, it is the slice axis
THIN = 0.5  # if one axis has less than this share of the voxels of the next one, the volume is a slab
CONTEXT_REACH = 3  # times the in-plane spacing; a neighbour that is farther away shows something else
WINDOW_MARGIN = 0.5  # on either side, as a share of the foreground's range
LEAST_WINDOW = 200  # HU
VALIDATIONS = 10
VALIDATION_BUDGET = 0.2  # largest share of the time
STEPS = 400  # that a training needs; if there are fewer, the batches are made smaller
SMALLEST_BATCH = 4
MOST_EPOCHS = 1000
MEASURED_BATCH = 32  # batch size for which the learning rate of the small network was chosen
FORWARD_SHARE = 0.4  # time of a validation step, as a share of a training step
AXES = ("sagittal", "coronal", "axial")


class Choice(NamedTuple):
    """A value, and the reason for it in words."""

    value: Any
    reason: str


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The settings of the network and its input, which do not depend on the speed of the computer.

    Attributes:
        network: ``small``, ``pretrained``, ``paper`` or ``unet``.
        modality: DICOM's term, or ``RGB``.
        window: intensities that become -1 and 1; None for the 0.5th and 99.5th percentile of each image.
        slice_axis: spatial axis across which slices are taken, in RAS orientation.
        size: (H, W) of a slice.
        context_mm: distance of the neighbouring slices that the network also sees, in mm; None if it sees none.
        mirror: probability of a mirror image in the training.
    """

    network: Choice
    modality: Choice
    window: Choice
    slice_axis: Choice
    size: Choice
    context_mm: Choice
    mirror: Choice

    @property
    def choices(self) -> dict[str, Choice]:
        """All of them by name."""
        return dict(vars(self))


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The length of a training and the settings that depend on it.

    Attributes:
        epochs: number of passes over all training slices, a multiple of ``val_interval``.
        val_interval: number of epochs between two validations.
        batch_size: number of slices in a step.
        learning_rate: highest learning rate.
        warmup_steps: number of steps until this learning rate is reached.
        minutes: time of the training, validations included.
    """

    epochs: Choice
    val_interval: Choice
    batch_size: Choice
    learning_rate: Choice
    warmup_steps: Choice
    minutes: Choice

    @property
    def choices(self) -> dict[str, Choice]:
        """All of them by name."""
        return dict(vars(self))


def propose_grid(
    fingerprint: Fingerprint,
    names: Mapping[int, str],
    *,
    modality: str | None = None,
    network: str | None = None,
    cuda: bool = False,
) -> Grid:
    """Propose the settings of the network and its input.

    Args:
        fingerprint: measures of the data.
        names: names of the classes, by their numbers from 1 on.
        modality: DICOM's term, or ``RGB``; None to guess it.
        network: ``small`` or ``paper``; None to choose one.
        cuda: whether the training runs on a GPU.
    """
    axis = _slice_axis(fingerprint)
    slices = sum(case.shape[axis.value] for case in fingerprint.cases)
    network_choice = _network(fingerprint, network, slices, cuda)
    modality_choice = _modality(fingerprint, modality)
    return Grid(
        network=network_choice,
        modality=modality_choice,
        window=_window(fingerprint, modality_choice.value),
        slice_axis=axis,
        size=_size(fingerprint, axis.value, network_choice.value, cuda),
        context_mm=_context(fingerprint, axis.value),
        mirror=_mirror(fingerprint, axis.value, names),
    )


def propose_schedule(
    training: int,
    validation: int,
    *,
    minutes: float,
    seconds_per_slice: float,
    batch_size: int = MEASURED_BATCH,
    learning_rate: float,
    scale_rate: bool = True,
) -> Schedule:
    """Propose the length of a training that takes ``minutes``, but has at least one epoch.

    Args:
        training: number of slices for training.
        validation: number of slices for validation.
        minutes: time for the training.
        seconds_per_slice: time of a training step for each slice.
        batch_size: largest batch size.
        learning_rate: learning rate for this batch size.
        scale_rate: whether the learning rate falls with the square root of the batch size.
    """
    validation_seconds = validation * seconds_per_slice * FORWARD_SHARE
    validations = int(np.clip(VALIDATION_BUDGET * 60 * minutes / validation_seconds, 1, VALIDATIONS))
    affordable_epochs = int((60 * minutes - validations * validation_seconds) / (training * seconds_per_slice))
    epochs = int(np.clip(affordable_epochs, 1, MOST_EPOCHS))
    interval = epochs // validations
    if interval == 0 or epochs // interval > validations:
        interval += 1
    epochs -= epochs % interval  # so that the last epoch is validated
    batch = batch_size
    while batch > SMALLEST_BATCH and (epochs * training < STEPS * batch or batch > training):
        batch //= 2
    batch = min(batch, training)
    steps = epochs * (training // batch)
    rate = learning_rate * math.sqrt(batch / batch_size) if scale_rate else learning_rate
    slices = epochs * training
    expected_minutes = (slices * seconds_per_slice + epochs // interval * validation_seconds) / 60
    if affordable_epochs < 1:
        reason = f"one pass over {training} slices, the least there is, takes longer than {minutes:g} min"
    else:
        reason = f"{slices} slices seen in all, {training} an epoch, are what {minutes:g} min hold at this speed"
    return Schedule(
        epochs=Choice(epochs, reason),
        val_interval=Choice(interval, f"{epochs // interval} validations, of which the best model is kept"),
        batch_size=Choice(batch, f"{steps} steps; fewer than {STEPS} teach little, more slices a step are steadier"),
        learning_rate=Choice(
            float(f"{rate:.3g}"),
            f"{learning_rate:g} is the shipped config's, of {batch_size} slices a step"
            + ("; it falls with the root of the batch" if rate < learning_rate else ""),
        ),
        warmup_steps=Choice(max(1, min(100, steps // 2)), "without a slow start the masks stay empty"),
        minutes=Choice(
            round(expected_minutes, 1), f"{1000 * seconds_per_slice:.0f} ms a slice here, validation included"
        ),
    )


def object_notes(fingerprint: Fingerprint, names: Mapping[int, str], grid: Grid) -> list[str]:
    """Return a line for each class that is so small in some case that the network's grid may lose it."""
    if fingerprint.pictures:
        pixel = float(max(fingerprint.shape[:2] / grid.size.value))
    else:
        edges = np.delete(fingerprint.shape * fingerprint.spacing, grid.slice_axis.value)
        pixel = float(max(edges / grid.size.value))  # mm
    notes = []
    for index, value in enumerate(fingerprint.values):
        if index > 0:
            smallest = min(fingerprint.volumes_of(value))  # pixels or ml
            if fingerprint.pictures:
                shape, diameter = "disc", 2 * math.sqrt(smallest / math.pi)
            else:
                shape, diameter = "ball", 2 * (750 * smallest / math.pi) ** (1 / 3)  # mm
            if diameter < 4 * pixel:
                notes.append(
                    f"{names[index]}: in one case as little as a {shape} {diameter / pixel:.1f} pixels "
                    f"across on the network's grid; sdseg audit tells what is lost"
                )
    return notes


def split_notes(cases: Sequence[Case], splits: Mapping[str, Sequence[str]], names: Mapping[int, str]) -> list[str]:
    """Return a line for each class that a split lacks, and for each image that is there under two names."""
    notes = []
    split_of_case = {name: split for split, members in splits.items() for name in members}
    if not splits["test"]:
        notes.append(
            f"{len(cases)} cases are too few for a test split: nothing will say how good the model is on others"
        )
    values = sorted({value for case in cases for value in case.voxels})
    for value, split in missing_classes({case.name: case.voxels for case in cases}, splits):
        if value > 0:
            notes.append(f"{names[values.index(value)]}: in no case of {split}; another seed may deal them better")
    first_by_digest: dict[str, Case] = {}
    for case in cases:
        first_case = first_by_digest.setdefault(case.digest, case)
        if first_case is case:
            continue
        split, first_split = split_of_case[case.name], split_of_case[first_case.name]
        effect = "one case counts twice" if split == first_split else "the scores will flatter"
        notes.append(
            f"{case.image.name} in {split} is the image {first_case.image.name} in {first_split}: {effect}, remove one"
        )
    return notes


def _modality(fingerprint: Fingerprint, modality: str | None) -> Choice:
    if modality is not None:
        return Choice(modality, "as told")
    if fingerprint.pictures:
        return Choice(PHOTOGRAPHS, "pictures")
    lowest = float(np.median([case.lowest for case in fingerprint.cases]))
    if fingerprint.looks_like_ct:
        return Choice("CT", f"the lowest intensity of a median case, {lowest:g}, can only be air in Hounsfield units")
    return Choice("MR", f"the lowest intensity of a median case, {lowest:g}, is no air in Hounsfield units")


def _window(fingerprint: Fingerprint, modality: str) -> Choice:
    if fingerprint.pictures:
        return Choice((0, 255), "8-bit pictures")
    if modality != "CT":
        return Choice(None, "intensities have no unit: each image's 0.5th to 99.5th percentile")
    low, high = fingerprint.foreground_range
    margin = max(WINDOW_MARGIN * (high - low), (LEAST_WINDOW - (high - low)) / 2)
    window = (math.floor((low - margin) / 5) * 5, math.ceil((high + margin) / 5) * 5)
    return Choice(
        window, f"99 % of what is labelled lies in {low:.0f} to {high:.0f} HU; with a margin for what is around"
    )


def _slice_axis(fingerprint: Fingerprint) -> Choice:
    if fingerprint.pictures:
        return Choice(2, "a picture is one slice")
    order = np.argsort(fingerprint.spacing)
    ratio = fingerprint.spacing[order[-1]] / fingerprint.spacing[order[-2]]
    if ratio >= ANISOTROPY:
        axis = int(order[-1])
        return Choice(axis, f"{AXES[axis]} slices lie {ratio:.1f} times as far apart as the next coarsest voxels")
    shortest_axis = int(np.argmin(fingerprint.shape))
    if fingerprint.shape[shortest_axis] < THIN * np.sort(fingerprint.shape)[1]:
        return Choice(
            shortest_axis,
            f"slabs: there are only {fingerprint.shape[shortest_axis]:.0f} {AXES[shortest_axis]} slices a case",
        )
    return Choice(2, "voxels are about as long along all axes: axial slices, which show left and right at once")


def _size(fingerprint: Fingerprint, axis: int, network: str, cuda: bool) -> Choice:
    edges = [max(n for i, n in enumerate(case.shape) if i != axis) for case in fingerprint.cases]
    median = float(np.median(edges))
    sizes = [size for size in SIZES[network] if cuda or size <= LARGEST_ON_CPU]
    size = next((size for size in sizes if size >= LEAST_OF_MEDIAN * median), sizes[-1])
    reason = f"the longer edge of a median slice has {median:.0f} pixels"
    if size < LEAST_OF_MEDIAN * median:
        reason += f"; {size} is the most that is trained {'on a GPU' if cuda else 'without one'} here"
    return Choice((size, size), reason)


def _context(fingerprint: Fingerprint, axis: int) -> Choice:
    if fingerprint.pictures:
        return Choice(None, "a picture has no neighbours")
    slice_spacing, in_plane = fingerprint.spacing[axis], float(np.max(np.delete(fingerprint.spacing, axis)))
    if slice_spacing > CONTEXT_REACH * in_plane:
        return Choice(None, f"neighbours lie {slice_spacing / in_plane:.1f} pixels away and would show something else")
    return Choice(
        round(float(slice_spacing), 4), "the next slice on either side shows where along the volume this one lies"
    )


def _mirror(fingerprint: Fingerprint, axis: int, names: Mapping[int, str]) -> Choice:
    names_of_sides = [name for name in names.values() if names_side(name)]
    if names_of_sides:
        return Choice(0.0, f"{names_of_sides[0]} names a side, which a mirror image would turn into the other")
    if axis == 0 and not fingerprint.pictures:
        return Choice(0.0, "mirrored sagittal slices would have front and back exchanged")
    return Choice(0.5, "no class names a side, so that a mirror image is as good")


def _network(fingerprint: Fingerprint, network: str | None, slices: int, cuda: bool) -> Choice:
    if network is not None:
        return Choice(network, "as told")
    if fingerprint.pictures:
        return Choice("pretrained", "its vision encoder starts from one that has seen photographs")
    if cuda and slices >= SLICES_FOR_PAPER:
        return Choice(
            "paper", f"there are a GPU and {slices} slices; 295 M parameters, on which this recipe is not measured"
        )
    if is_one_hot(fingerprint.num_classes) and fingerprint.num_classes <= KNOWN_CLASSES:
        return Choice("pretrained", f"its mask autoencoder is shipped for up to {KNOWN_CLASSES} classes")
    return Choice("small", f"3.6 M parameters learn fast; {'few slices' if cuda else 'no GPU'}")
