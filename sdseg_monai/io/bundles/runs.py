"""Checks of a ``monai.bundle run`` before it begins, since MONAI takes any name and any value without a word."""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from difflib import get_close_matches
from numbers import Real
from typing import TYPE_CHECKING, Any

from sdseg_monai.errors import InputError, root_cause, short

if TYPE_CHECKING:
    from monai.bundle import ConfigWorkflow

# smallest and largest whole number of the values at the top of the shipped configs, None for no largest
WHOLE_NUMBERS: dict[str, tuple[int, int | None]] = {
    "batch_size": (1, None),
    "epochs": (1, None),
    "latent_scale_masks": (1, None),
    "masks_per_epoch": (1, None),
    "num_workers": (0, None),
    "seed": (0, None),
    "size": (1, None),
    "slice_axis": (0, 2),
    "val_interval": (1, None),
    "warmup_steps": (0, None),
}

# values at the top of the shipped configs that MONAI makes; anything else it would take as it is
COMPONENTS = ("dataloader", "dataset", "evaluator", "inferer", "network", "network_def", "postprocessing")
PREPROCESSING = ("preprocessing", "train#preprocessing", "validate#preprocessing")


def check_run() -> None:
    """Refuse a run whose names or values can only be mistakes; for the ``initialize`` of a config.

    Overrides are known where ``monai.bundle run`` or ``create_workflow`` was called, and not where only a
    ``ConfigWorkflow`` was made.

    Raises:
        InputError: the config cannot run the id that is to run; its device is an error; an override has an unknown
            name, a value of another kind than the config's, or None, which MONAI leaves out; a number is out of range;
            a component is none, or has no transforms.
    """
    from monai.bundle import ConfigParser, ConfigWorkflow

    workflow, call = _find_run()
    if workflow is None:
        return
    _check_ids(workflow)
    _check_device(workflow)
    if call.get("config_file") is not None:
        arguments = {*inspect.signature(ConfigWorkflow).parameters, "args_file"}
        files = ConfigParser(ConfigParser.load_config_files(call["config_file"]))
        given = {**call["kwargs"], **call["_args"]}
        overrides = {name: value for name, value in given.items() if name not in arguments}
        if given.get("tracking") is None:  # it brings values of its own
            _check_names(overrides, {*files.config, *_references(workflow.parser.config)}, arguments)
        for name, value in overrides.items():
            _check_kind(name, value, files)
    for name, value in workflow.parser.config.items():
        _check_number(name, value)
    for name in (*COMPONENTS, *PREPROCESSING):
        if name in workflow.parser:
            _check_component(name, workflow.parser[name])


def _find_run() -> tuple[ConfigWorkflow | None, Mapping[str, Any]]:
    """Return the workflow that is being initialized, and the variables of the ``create_workflow`` that makes it.

    They are looked for among the calls that lead here, because MONAI gives an expression no access to them.
    """
    from monai.bundle import ConfigWorkflow, create_workflow

    workflow, frame = None, inspect.currentframe()
    while frame is not None:
        caller = frame.f_locals.get("self")
        if workflow is None and isinstance(caller, ConfigWorkflow):
            workflow = caller
        if frame.f_code is create_workflow.__code__:
            return workflow, frame.f_locals
        frame = frame.f_back
    return workflow, {}


def _check_ids(workflow: ConfigWorkflow) -> None:
    config = workflow.parser.config
    steps = (workflow.init_id, workflow.final_id, "imports")
    runnable = [name for name, value in config.items() if name not in steps and _is_runnable(value)]
    if workflow.run_id not in runnable:
        raise InputError(f"cannot run {workflow.run_id!r}, {_expected(workflow.run_id, runnable)}")
    if workflow.final_id != "finalize" and workflow.final_id not in config:
        raise InputError(f"final_id={workflow.final_id}: the config has nothing of that name")


def _check_device(workflow: ConfigWorkflow) -> None:
    """Refuse an expression that gives no device; whether the device can be used is for torch to say."""
    if "device" in workflow.parser:
        try:
            workflow.parser.get_parsed_content("device")
        except RuntimeError as error:
            text, cause = workflow.parser["device"], root_cause(error)
            raise InputError(f"device={text!r} cannot be used ({type(cause).__name__}: {cause})") from error


def _is_runnable(value: Any) -> bool:
    """Tell whether a value of a config does something: a list of expressions, or a text such as ``$@trainer.run()``."""
    if isinstance(value, list):
        return any(isinstance(item, str) and item[:1] == "$" for item in value)
    return isinstance(value, str) and value[:1] == "$" and ".run(" in value


def _check_names(overrides: Iterable[str], known: Collection[str], arguments: Iterable[str]) -> None:
    for name in overrides:
        if re.split("#|::", name)[0] not in known:
            raise InputError(f"--{name}: the config has no such value, {_expected(name, [*known, *arguments], '--')}")


def _references(config: Any) -> Iterator[str]:
    if isinstance(config, str):
        yield from re.findall(r"[@%](\w+)", config)
    elif isinstance(config, Mapping | list):
        for value in config.values() if isinstance(config, Mapping) else config:
            yield from _references(value)


def _expected(name: str, names: Iterable[str], dashes: str = "") -> str:
    close = get_close_matches(name, sorted(names), 3)
    return f"did you mean {' or '.join(dashes + other for other in close)}?" if close else "see the names at its top"


def _check_kind(name: str, value: Any, files: Any) -> None:
    if value is None:
        raise InputError(f"--{name} None: MONAI leaves it out, and the config's value would count; write '$None'")
    if name not in files or _is_expression(value):
        return
    old, expected = files[name], None
    if isinstance(old, bool):
        expected = None if value in (True, False) else "True or False"
    elif isinstance(old, Real):
        expected = None if _is_number(value) else "a number"
    elif isinstance(old, list) and not isinstance(value, list | tuple):
        expected = "a list"
    elif isinstance(old, list) and all(map(_is_number, old)) and not all(map(_is_number, value)):
        expected = "a list of numbers"
    if expected is not None:
        raise InputError(f"{name}={value!r}: expected {expected}, as {old!r} in the config")


def _check_number(name: str, value: Any) -> None:
    low, high = WHOLE_NUMBERS.get(name, (None, None))
    if low is None or _is_expression(value):
        return
    for number in value if isinstance(value, list | tuple) else [value]:
        is_whole = isinstance(number, int) and not isinstance(number, bool)
        if not is_whole or number < low or (high is not None and number > high):
            bounds = f"from {low} on" if high is None else f"from {low} to {high}"
            raise InputError(f"{name}={value!r}: expected whole numbers {bounds}")


def _check_component(name: str, value: Any) -> None:
    if _is_expression(value):
        return
    if not (isinstance(value, Mapping) and isinstance(value.get("_target_"), str)):
        raise InputError(f"{name}={short(value)}: expected a component, with its _target_, or an expression")
    if name in PREPROCESSING and not value.get("transforms", True):
        raise InputError(f"{name}#transforms={value['transforms']!r}: expected at least one transform")


def _is_expression(value: Any) -> bool:
    return isinstance(value, str) and value[:1] in ("$", "@", "%")


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
