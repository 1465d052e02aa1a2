"""The learning rates of a training that goes on, at its place in the present schedule."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

# of a schedule's state: where it is, what torch keeps for itself, and what the optimizer has as well
OTHERS = {"last_epoch", "lr_lambdas", "verbose", "base_lrs"}


def load_schedules(objects: Mapping[str, Optimizer | LRScheduler], states: Mapping[str, Any]) -> list[str]:
    """Load optimizers and their schedules; of options that were changed, the present values count.

    ``load_state_dict`` alone would silently replace the present options by the saved ones: a training that goes on for
    more epochs would keep the shorter cosine, in which the learning rate rises again after its end.

    Args:
        objects: new ones, by name, whose schedules have made no step.
        states: what their ``state_dict`` returned, by the same names.

    Returns:
        The options that were changed, each with the present and the saved value.

    Raises:
        ValueError: an optimizer has other parameters than the saved one.
    """
    changes = [f"{name}.{change}" for name, item in objects.items() for change in _changes(item, states[name])]
    for name, item in objects.items():
        if isinstance(item, Optimizer):
            options = [{key: value for key, value in group.items() if key != "params"} for group in item.param_groups]
            item.load_state_dict(states[name])
            for group, present in zip(item.param_groups, options if changes else [], strict=bool(changes)):
                group.update(present)
    for name, item in objects.items():
        if isinstance(item, LRScheduler) and changes:  # the present schedule, up to the place of the saved one
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch expects a step of the optimizer before
                for _ in range(states[name]["last_epoch"]):
                    item.step()
        elif isinstance(item, LRScheduler):
            item.load_state_dict(states[name])
    return changes


def _changes(item: Optimizer | LRScheduler, state: Mapping[str, Any]) -> list[str]:
    if isinstance(item, Optimizer):
        pairs = list(zip(map(_options, item.param_groups), map(_options, state["param_groups"]), strict=False))
    else:
        pairs = [(_options(item.state_dict()), _options(state))]
    changes = [
        f"{key}={new[key]} (was {old[key]})"
        for new, old in pairs
        for key in sorted(new.keys() & old.keys())
        if new[key] != old[key]
    ]
    return list(dict.fromkeys(changes))  # of several groups with equal options


def _options(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the plain values among options, without those that change with each step."""
    moving = {"params", *OTHERS, *(["lr"] if "initial_lr" in state else [])}
    return {key: value for key, value in state.items() if key not in moving and key[0] != "_" and _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)
