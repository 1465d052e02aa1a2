"""Write a bundle for new data, ready to be trained: measure the data, propose the settings, write the files."""

from __future__ import annotations

import copy
import json
import math
import os
import re
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from monai.bundle import ConfigParser

from sdseg_monai.bundle import bundles_dir, literal_path
from sdseg_monai.data import write_datalist
from sdseg_monai.data.splits import split_by_seed
from sdseg_monai.errors import ArgumentError, InputError, printable
from sdseg_monai.io.class_names import names_by_value
from sdseg_monai.io.files import check_new_folder, write_folder
from sdseg_monai.io.segments import PHOTOGRAPHS
from sdseg_monai.networks.codes import is_one_hot
from sdseg_monai.networks.states import check_state, shapes_of
from sdseg_monai.planning.configs import (
    BATCH_SIZES,
    COPIED,
    GENERAL,
    NETWORKS,
    PRETRAINED,
    Folders,
    ShippedAutoencoder,
    autoencoder_config,
    fill_schedule,
    inference_config,
    metadata,
    shipped_autoencoder,
    shipped_file,
    train_config,
)
from sdseg_monai.planning.fingerprint import Case, Fingerprint, fingerprint_folders
from sdseg_monai.planning.proposal import (
    Choice,
    Grid,
    Schedule,
    object_notes,
    propose_grid,
    propose_schedule,
    split_notes,
)
from sdseg_monai.planning.speed import measure_step
from sdseg_monai.weights import check_codes, first_classes, read_tensors, save_tensors

MODALITIES = ("CT", "MR", "PT", "US", "OT", PHOTOGRAPHS)  # DICOM's terms, and RGB
NAME = re.compile(r"\w[\w .,()/+-]{0,63}")  # no expression of a config, and not longer than a DICOM segment label
PLAIN = re.compile(r"[\w ./-]+")  # a path that a shell does not change within double quotes
# by the bundle that it belongs to; measured on one x86-64 core
AUTOENCODER_MINUTES = {"hippocampus_sdseg": 6, "skin_lesion_sdseg": 20, "sdseg": 35}
READ_OVERHEAD = 1.05  # measured: the augmentation and the optimiser, relative to a training step


@dataclass(frozen=True, kw_only=True)
class BundlePlan:
    """A bundle that was written: its data, its settings with reasons, and the next commands.

    Attributes:
        output: folder of the bundle.
        fingerprint: measures of the data.
        names: names of the classes, by their numbers from 1 on.
        choices: values of the bundle's settings, with reasons.
        splits: names of the cases in ``training``, ``validation`` and ``test``.
        notes: what the user should know before the training.
        commands: the commands to run next, in this order, each with an explanation.
    """

    output: Path
    fingerprint: Fingerprint
    names: dict[int, str]
    choices: dict[str, Choice]
    splits: dict[str, list[str]]
    notes: tuple[str, ...]
    commands: tuple[tuple[str, str], ...]

    @property
    def lines(self) -> list[str]:
        """The plan as lines of text: the data, the settings, the notes, the commands."""
        summary = self.fingerprint.as_json()
        counts = ", ".join(f"{len(cases)} {split}" for split, cases in self.splits.items())
        unit = "pixels" if self.fingerprint.pictures else "ml"
        lines = [f"found {summary['cases']} {summary['kind']} with labels: {counts}"]
        for value, name in self.names.items():
            volumes = self.fingerprint.volumes_of(self.fingerprint.values[value])
            lines.append(
                f"class {value}, {name}: in {len(volumes)} cases, {min(volumes):.4g} to {max(volumes):.4g} {unit}"
            )
        lines += [f"{name}: {_show(choice.value)} ({choice.reason})" for name, choice in self.choices.items()]
        lines += [f"note: {note}" for note in self.notes]
        lines.append(f"wrote {self.output}; next:")
        lines += [f"  {command}   # {purpose}" for command, purpose in self.commands]
        return lines


def init_bundle(
    images: Path,
    labels: Path,
    output: Path,
    *,
    names: Mapping[int, str] | None = None,
    modality: str | None = None,
    network: str | None = None,
    minutes: float = 10,
    seed: int = 0,
    seconds_per_slice: float | None = None,
    progress: bool = True,
) -> BundlePlan:
    """Write a bundle that trains on images and their labels.

    If an image or a label has a fault, nothing is written.

    Args:
        images: folder of volumes, or of pictures if it has no volume.
        labels: folder of their label maps with the values 0 to K-1, or of black and white pictures. If there is one
            value beside 0, it is class 1.
        output: folder of the new bundle.
        names: names of the classes 1 to K-1. A class without a name here has the name in the labels, see
            :func:`~sdseg_monai.io.class_names.read_class_names`, if they agree, else ``class 1`` and so on.
        modality: one of :data:`MODALITIES`; None to guess it.
        network: one of :data:`~sdseg_monai.planning.configs.NETWORKS`; None to choose one.
        minutes: time that the training may take on this computer, without that of an autoencoder.
        seed: seed of the split and of the training.
        seconds_per_slice: time of a training step for each slice; None to measure it on this computer.
        progress: show a progress bar.

    Returns:
        The plan: what was found, what was chosen and why, and what to do next.

    Raises:
        ArgumentError: ``minutes`` is not above 0.
        InputError: the output exists, another argument cannot be used, or :func:`fingerprint_folders` finds a fault.

    Example:
        >>> from pathlib import Path
        >>> from sdseg_monai.planning import init_bundle
        >>> plan = init_bundle(Path("images"), Path("labels"), Path("my_bundle"), minutes=10)  # doctest: +SKIP
        >>> plan.choices["size"]  # doctest: +SKIP
        Choice(value=(64, 64), reason='the longer edge of a median slice has 51 pixels')
    """
    check_new_folder(output)
    _check_options(modality, network, minutes)
    fingerprint = fingerprint_folders(images.resolve(), labels.resolve(), progress)
    if modality is not None and fingerprint.pictures != (modality == PHOTOGRAPHS):
        kind = "pictures" if fingerprint.pictures else "volumes"
        raise InputError(f"modality {modality}: these are {kind}; {PHOTOGRAPHS} stands for pictures alone")
    class_names = _class_names(fingerprint, names or {})
    cuda = torch.cuda.is_available()
    grid = propose_grid(fingerprint, class_names, modality=modality, network=network, cuda=cuda)
    splits = split_by_seed({case.name: case.voxels for case in fingerprint.cases}, seed)
    folders = _folders(images, labels, output)
    config = {**train_config(grid, fingerprint.num_classes, folders), "seed": seed}
    if seconds_per_slice is None:
        seconds_per_slice = READ_OVERHEAD * measure_step(config, torch.device("cuda" if cuda else "cpu"))
    schedule = _schedule(fingerprint, grid, splits, config, minutes, seconds_per_slice)
    config = fill_schedule(config, schedule)
    has_autoencoder = "autoencoder" in config["network_def"]
    autoencoder = shipped_autoencoder(grid.network.value, fingerprint.num_classes) if has_autoencoder else None
    weights = None if autoencoder is None else _autoencoder_weights(config, autoencoder.weights)
    knows_classes = weights is not None or autoencoder is None
    plan = BundlePlan(
        output=output,
        fingerprint=fingerprint,
        names=class_names,
        choices={**grid.choices, **schedule.choices},
        splits=splits,
        notes=tuple(map(printable, _notes(fingerprint, class_names, grid, splits, knows_classes))),  # they name files
        commands=tuple(
            _commands(
                *(output, labels, grid, schedule, fingerprint.pictures, bool(splits["test"])),
                *(autoencoder, knows_classes),
            )
        ),
    )
    configs = {
        "train": config,
        "inference": inference_config(config, grid, fingerprint, folders),
        **({} if autoencoder is None else {"train_autoencoder": autoencoder_config(config, autoencoder)}),
        "metadata": metadata(grid, fingerprint, class_names, _name(output)),
    }
    write_folder(output, lambda folder: _write(folder, plan, configs, folders, weights))
    return plan


def _name(folder: Path) -> str:
    return Path(os.path.realpath(folder)).name  # Path.resolve would raise on a link to itself


def _check_options(modality: str | None, network: str | None, minutes: float) -> None:
    if modality not in (None, *MODALITIES):
        raise InputError(f"modality {modality!r} is unknown: expected one of {', '.join(MODALITIES)}")
    if network not in (None, *NETWORKS):
        raise InputError(f"network {network!r} is unknown: expected one of {', '.join(NETWORKS)}")
    if not 0 < minutes < float("inf"):
        raise ArgumentError(f"minutes={minutes!r}: expected a number above 0")


def _class_names(fingerprint: Fingerprint, names: Mapping[int, str]) -> dict[int, str]:
    """Return a name for each class: from ``names``, from the labels, or ``class 1`` and so on."""
    last_class = fingerprint.num_classes - 1
    unknown_classes = [value for value in names if not 1 <= value <= last_class]
    if unknown_classes:
        raise InputError(f"a name for class {unknown_classes[0]}, but the labels have the classes 1 to {last_class}")
    for name in names.values():
        if not NAME.fullmatch(name):
            raise InputError(
                f"class name {name!r}: expected at most 64 letters, numbers and '_ .,()/+-', a letter or number first"
            )
    header_names = _names_in_files(fingerprint)
    class_names = {
        value: names.get(value, header_names.get(value, f"class {value}")) for value in range(1, last_class + 1)
    }
    if len({"background", *class_names.values()}) <= last_class:
        raise InputError(
            f"class names {', '.join(class_names.values())}: expected different ones, none of them 'background'"
        )
    return class_names


def _names_in_files(fingerprint: Fingerprint) -> dict[int, str]:
    """Return the names of classes in the labels, where they agree and can be used."""
    names_of_value = names_by_value(case.label for case in fingerprint.cases)
    names: dict[int, str] = {}
    for index, value in enumerate(fingerprint.values):
        candidates = names_of_value.get(value, [])
        name = candidates[0] if len(candidates) == 1 else ""
        if index > 0 and NAME.fullmatch(name) and name not in ("background", *names.values()):
            names[index] = name
    return names


def _folders(images: Path, labels: Path, output: Path) -> Folders:
    parent = os.path.commonpath([images.resolve(), labels.resolve()])
    return Folders(literal_path(output), parent, str(images.resolve()))


def _schedule(
    fingerprint: Fingerprint,
    grid: Grid,
    splits: Mapping[str, list[str]],
    config: Mapping[str, Any],
    minutes: float,
    seconds_per_slice: float,
) -> Schedule:
    slices = {case.name: case.shape[grid.slice_axis.value] for case in fingerprint.cases}
    counts = {split: sum(slices[name] for name in cases) for split, cases in splits.items()}
    largest = BATCH_SIZES[grid.network.value]
    return propose_schedule(
        counts["training"],
        counts["validation"],
        minutes=minutes,
        seconds_per_slice=seconds_per_slice,
        batch_size=largest,
        learning_rate=config["learning_rate"],
        scale_rate=grid.network.value != "paper",  # whose rate is the paper's
    )


def _autoencoder_weights(config: dict[str, Any], source: Path) -> dict[str, Any] | None:
    """Return the weights of a shipped autoencoder for the classes of ``config``.

    Returns:
        None if it is not there, or does not reconstruct each class as itself.
    """
    parser = ConfigParser(copy.deepcopy(config))  # parsing changes the config
    autoencoder = parser.get_parsed_content("network_def#autoencoder").eval()
    num_classes = config["num_classes"]
    try:
        weights = read_tensors(source)
        if is_one_hot(num_classes):
            weights = first_classes(weights, num_classes)
        check_state(shapes_of(weights), shapes_of(autoencoder.state_dict()))
        autoencoder.load_state_dict(weights)
        check_codes(autoencoder, num_classes, source)
    except InputError:
        return None
    return weights


def _notes(
    fingerprint: Fingerprint, names: Mapping[int, str], grid: Grid, splits: Mapping[str, list[str]], knows_classes: bool
) -> list[str]:
    notes = split_notes(fingerprint.cases, splits, names)
    if fingerprint.values[-1] != len(names):
        notes.append(f"the labels' {fingerprint.values[-1]} is class 1: masks will hold 1 in its place")
    axis = grid.slice_axis.value
    unusual_cases = [case.name for case in fingerprint.cases if case.spacing[axis] * 1.5 < max(case.spacing)]
    if unusual_cases:
        notes.append(
            f"{len(unusual_cases)} cases, such as {unusual_cases[0]}, have their coarsest voxels along another axis "
            "than slices"
        )
    notes += object_notes(fingerprint, names, grid)
    cache_size, memory = _cached_bytes(fingerprint, grid, splits), psutil.virtual_memory().total  # bytes
    if cache_size > memory / 2:
        notes.append(
            f"training keeps {cache_size / 2**30:.0f} GiB of slices and volumes in memory, here are "
            f"{memory / 2**30:.0f}"
        )
    if not knows_classes:
        notes.append(f"no shipped mask autoencoder knows {len(names) + 1} classes: train one first, on made-up masks")
    return notes


def _cached_bytes(fingerprint: Fingerprint, grid: Grid, splits: Mapping[str, list[str]]) -> int:
    """Return the bytes of the training slices and the validation volumes in memory: float32, and labels of 1 or 4."""
    height, width = grid.size.value
    channels = 3 if fingerprint.pictures else 1
    shapes = {case.name: case.shape for case in fingerprint.cases}
    slices = sum(shapes[name][grid.slice_axis.value] for name in splits["training"])
    voxels = sum(math.prod(shapes[name]) for name in splits["validation"])
    return slices * height * width * (4 * channels + 1) + voxels * (4 * channels + 4)


def _commands(
    output: Path,
    labels: Path,
    grid: Grid,
    schedule: Schedule,
    pictures: bool,
    has_test: bool,
    autoencoder: ShippedAutoencoder | None,
    knows_classes: bool,
) -> list[tuple[str, str]]:
    run, configs, bundle = "python -m monai.bundle run", output / "configs", shlex.quote(str(output))
    train = shlex.quote(str(configs / "train.json"))
    commands = []
    if autoencoder is not None and not knows_classes:
        file = shlex.quote(str(configs / "train_autoencoder.json"))
        about = f"train the mask autoencoder, about {AUTOENCODER_MINUTES[autoencoder.bundle]} minutes on one core"
        commands.append((f"{run} training --config_file {file}", about))
    if autoencoder is not None:
        audit = f"sdseg audit --labels {shlex.quote(str(labels))} --bundle {bundle}"
        commands.append((audit, "see what the mask autoencoder can keep of these labels"))
    about = f"train, about {schedule.minutes.value:g} minutes; goes on after a stop"
    commands.append((f"{run} training --config_file {train}", about))
    if has_test:
        chain = f"['{configs / 'train.json'}','{configs / 'evaluate.json'}']"
        chain = f'"{chain}"' if PLAIN.fullmatch(str(output)) else shlex.quote(chain)
        commands.append((f"{run} evaluating --config_file {chain}", "score the test cases, once"))
    placeholder = "PICTURE_OR_FOLDER" if pictures else "VOLUME_OR_FOLDER"
    commands.append((f"sdseg segment {placeholder} -o OUT --bundle {bundle}", "segment others"))
    return commands


def _write(
    folder: Path,
    plan: BundlePlan,
    configs: Mapping[str, dict[str, Any]],
    folders: Folders,
    weights: dict[str, Any] | None,
) -> None:
    for name in ("configs", "docs", "models"):
        (folder / name).mkdir()
    for name, config in configs.items():
        ConfigParser.export_config_file(config, folder / "configs" / f"{name}.json", indent=4)
    for name in COPIED:
        shutil.copyfile(shipped_file(GENERAL, name), folder / "configs" / name)
    if weights is not None:
        save_tensors(folder / "models" / "autoencoder.pt", weights)
    if "vision_encoder_weights" in configs["train"]:
        for name in PRETRAINED:
            shutil.copyfile(bundles_dir() / GENERAL / "models" / name, folder / "models" / name)
    cases = {case.name: _item(case, folders) for case in plan.fingerprint.cases}
    items = {split: [cases[name] for name in members] for split, members in plan.splits.items()}
    about = "split by case with the seed of train.json; choose on validation, report test once"
    write_datalist(folder / "configs" / "datalist.json", items, name=_name(plan.output), description=about)
    content = {
        "found": plan.fingerprint.as_json(),
        "chosen": {name: choice._asdict() for name, choice in plan.choices.items()},
        "notes": plan.notes,
    }
    (folder / "docs" / "plan.json").write_text(json.dumps(content, indent=1) + "\n")
    (folder / "docs" / "README.md").write_text(_readme(plan), "utf-8", "surrogateescape")


def _item(case: Case, folders: Folders) -> dict[str, str]:
    return {
        key: os.path.relpath(path, folders.dataset_dir) for key, path in (("image", case.image), ("label", case.label))
    }


def _readme(plan: BundlePlan) -> str:
    table = "\n".join(f"| {name} | {_show(choice.value)} | {choice.reason} |" for name, choice in plan.choices.items())
    classes = "\n".join(f"- {value}: {name}" for value, name in plan.names.items())
    notes = "\n".join(f"- {note}" for note in plan.notes)
    commands = "\n\n".join(f"{purpose}:\n\n    {command}" for command, purpose in plan.commands)
    return f"""# {_name(plan.output)}

**Research use only: not a medical device, not for diagnosis or treatment.** Written by `sdseg init-bundle`. Every
value is a proposal and was not tested on these data. Values that are in `configs/train.json` and in
`configs/inference.json` must be the same in both.

## Classes
{classes}

## Chosen
| | | why |
| --- | --- | --- |
{table}

## Before training
- The cases are split one by one. If two cases are of one patient, edit `configs/datalist.json` so that no patient is in
  two splits.
{notes}

## Commands
Run the commands in the folder in which the bundle was made. In another folder, add `--bundle_root` with this folder. If
the data were moved, add `--dataset_dir` with their folder. If a training was stopped, give the same command again: it
goes on.

{commands}
"""


def _show(value: Any) -> str:
    if isinstance(value, tuple):
        return " x ".join(map(str, value)) if value[0] == value[1] else " to ".join(map(str, value))
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
