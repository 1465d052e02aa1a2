"""What an epoch is made of, so that a training goes on only with what it was started with."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ignite.engine import Engine
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

BATCHES, BATCH = "batches an epoch", "samples a batch"
CASES = ("training cases", "validation cases")


def epoch_contents(engine: Engine, evaluator: Engine | None, objects: Mapping[str, Any]) -> dict[str, Any]:
    """Return what decides which sample has which draw, and what its training step does, as plain values by their names.

    Args:
        engine: the trainer, which has started.
        evaluator: the best epoch is chosen on its cases; None if there is none.
        objects: of the training; the kinds of its optimizers and schedules are named.

    Returns:
        The number of batches of an epoch, the samples of a batch of all processes together, the cases, and the
        ``settings`` of the data set (see :class:`sdseg_monai.data.SliceDataset`), as far as they can be known. Cases
        are named relative to the folder that contains them all, so that the data may move.
    """
    loader = engine.state.dataloader
    dataset, batch_size = getattr(loader, "dataset", None), getattr(loader, "batch_size", None)
    replicas = getattr(getattr(loader, "sampler", None), "num_replicas", 1)
    validation = getattr(getattr(evaluator, "data_loader", None), "dataset", None)
    contents = {
        BATCHES: engine.state.epoch_length,
        BATCH: None if batch_size is None else batch_size * replicas,
        "samples": None if dataset is None else len(dataset),
        **dict(zip(CASES, map(_case_names, (dataset, validation)), strict=True)),
    }
    kinds = {name: type(item).__name__ for name, item in objects.items() if isinstance(item, Optimizer | LRScheduler)}
    known = {name: value for name, value in contents.items() if value is not None}
    return {**known, **getattr(dataset, "settings", {}), **kinds}


def check_position(epoch: int, iteration: int, engine: Engine) -> None:
    """Raise ValueError unless ``iteration`` is the end of ``epoch``: ignite would train a part of an epoch, or nothing.

    Checkpoints of version 0.4.0 say nothing else of what an epoch was made of.
    """
    batches = engine.state.epoch_length
    if batches is not None and iteration != epoch * batches:
        raise ValueError(f"{iteration / max(epoch, 1):g} {BATCHES}, now {batches}")


def check_contents(saved: Mapping[str, Any], contents: Mapping[str, Any]) -> None:
    """Raise ValueError if an epoch is made of other things than the ``saved`` ones; its text names old and new."""
    changes = [
        f"{name}: {_new_cases(old, contents[name]) if name in CASES else f'{old}, now {contents[name]}'}"
        for name, old in saved.items()
        if name in contents and old != contents[name]
    ]
    if changes:
        raise ValueError("; ".join(changes))


def _case_names(dataset: Any) -> list[str] | None:
    """Return image and label of each case; None where a data set has no cases or their files have no names."""
    cases = getattr(dataset, "data", None)
    if not isinstance(cases, Sequence) or not all(isinstance(case, Mapping) for case in cases):
        return None
    paths = [[str(case[key]) for key in sorted(case)] for case in cases]
    folders = {Path(path).absolute().parent for case in paths for path in case}
    if not folders:
        return None
    common_folder = os.path.commonpath(folders)
    return [" ".join(os.path.relpath(path, common_folder) for path in case) for case in paths]


def _new_cases(old: Sequence[str], new: Sequence[str]) -> str:
    old_set, new_set = set(old), set(new)
    added, missing = [case for case in new if case not in old_set], [case for case in old if case not in new_set]
    if not added and not missing:
        return "in another order"
    parts = [f"{len(a)} {text}, {a[0]}" for a, text in ((added, "added"), (missing, "missing")) if a]
    return f"{len(old)}, now {len(new)} ({'; '.join(parts)})"
