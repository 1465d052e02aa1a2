"""Options of a request: viewers send a number as a number or a text, and a choice alone or in the list of choices."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from monailabel.utils.others.generic import device_map

from sdseg_monai.errors import InputError
from sdseg_monai.io.volumes import VOLUME_SUFFIXES
from sdseg_monai.label.guard import PLAIN_NAME, is_plain_name
from sdseg_monai.networks.device import checked_device

WEIGHTS = ("latest", "original")  # the weights in service; the bundle's weights
LARGEST_SEED = 2**63 - 1
LARGEST_BATCH = 32  # the full-size network needs 170 MB per slice, and larger batches are not faster
LARGEST_EPOCHS = 100_000
# set by the URL or the server, and a body would override them; MONAI Label runs Python files in bundle_path
RESERVED = {"bundle_path", "image", "label", "method", "modality", "model", "session", "strategy", "timeout"}


def read_option(request: Mapping[str, Any], name: str) -> Any:
    """Return one of :data:`OPTIONS` in its type, None where it is empty.

    Raises:
        InputError: its value cannot be used.
    """
    value = request.get(name)
    if value is None or value in ("", []):
        return None
    try:
        return OPTIONS[name](value)
    except ValueError as error:
        raise InputError(f"{name}={value!r}: expected {error}") from error


def check_options(options: object, tasks: Collection[str] = ()) -> None:
    """Check the options of a task, or of several tasks, each under the task's name.

    Args:
        options: from the body of a request.
        tasks: names of tasks.

    Raises:
        InputError: the options are not an object, the value of one cannot be used, or clients may not set one.
    """
    if not isinstance(options, Mapping):
        raise InputError(f"options {options!r}: expected an object with names and values")
    for name, value in options.items():
        if name in RESERVED:
            raise InputError(f"{name}={value!r}: leave it out, this option is not for clients to set")
        if name in OPTIONS:
            read_option(options, name)
        elif name in tasks:
            check_options(value)


def _whole(lowest: int, highest: int) -> Callable[[Any], int]:
    def read(value: object) -> int:
        number = _decimal(value)
        if not lowest <= number <= highest or number != int(number):
            raise ValueError(f"a whole number from {lowest} to {highest}")
        return int(number)

    return read


def _real(lowest: float, highest: float) -> Callable[[Any], float]:
    def read(value: object) -> float:
        number = _decimal(value)
        if not lowest <= number <= highest:
            raise ValueError(f"a number from {lowest} to {highest}")
        return float(number)

    return read


def _decimal(value: object) -> Decimal:
    """Return a number with all its digits, some of which a float would lose."""
    try:
        number = Decimal(str(value))
    except InvalidOperation as error:
        raise ValueError("a number") from error
    if number.is_nan():
        raise ValueError("a number")
    return number


def _choice(*choices: str) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        choice = value[0] if isinstance(value, list) else value
        if choice not in choices:
            raise ValueError(" or ".join(choices))
        return choice

    return read


def _device(value: Any) -> str:
    name = value[0] if isinstance(value, list) else value
    if not isinstance(name, str):
        raise ValueError("a device's name")
    device = device_map().get(name, name)  # the panel shows the product names of GPUs
    try:
        checked_device(device)
    except InputError as error:
        raise ValueError("cpu, or cuda where there is a GPU") from error
    return device


def _name(value: object) -> str:
    if not isinstance(value, str) or not is_plain_name(value):
        raise ValueError(PLAIN_NAME)
    return value


def _exactly(kind: type, expected: str) -> Callable[[Any], Any]:
    """Return a reader for options of MONAI Label's own code, which does not accept a text in place of a number."""

    def read(value: object) -> object:
        if type(value) is not kind:
            raise ValueError(expected)
        return value

    return read


def _names(value: object) -> list[str]:
    if not isinstance(value, list):
        raise ValueError("a list of images")
    return [_name(image) for image in value]


OPTIONS: dict[str, Callable[[Any], Any]] = {
    "batch_size": _whole(1, LARGEST_BATCH),
    "device": _device,
    "force": _exactly(bool, "true or false"),
    "learning_rate": _real(1e-12, 1.0),
    "max_epochs": _whole(1, LARGEST_EPOCHS),
    "result_compress": _exactly(bool, "true or false"),
    "result_extension": _choice(*VOLUME_SUFFIXES),
    "seed": _whole(0, LARGEST_SEED),
    "val_split": _real(0.01, 0.99),
    "weights": _choice(*WEIGHTS),
    # read by MONAI Label
    "client_id": _exactly(str, "a text"),
    "gpus": _exactly(str, "a text of numbers, separated by commas"),
    "images": _names,
    "label_tag": _name,
    "max_batch_size": _exactly(int, "a whole number"),
    "max_workers": _exactly(int, "a whole number"),
    "multi_gpu": _exactly(bool, "true or false"),
    "save_label": _exactly(bool, "true or false"),
}
