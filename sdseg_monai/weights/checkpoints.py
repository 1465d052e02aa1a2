"""Torch files and checkpoints of other projects (Lightning .ckpt, safetensors), read without executing anything."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from sdseg_monai.errors import InputError
from sdseg_monai.networks.states import read_safetensors, reason

CALLBACKS = ("ModelCheckpoint", "EarlyStopping", "LearningRateMonitor", "Timer")
CALLBACK_MODULES = ("model_checkpoint", "early_stopping", "lr_monitor", "timer")
# Python objects that real files name in addition to tensors: Lightning before 1.5 uses classes of callbacks as keys
HARMLESS_GLOBALS = (
    *(f"pytorch_lightning.callbacks.{m}.{c}" for m, c in zip(CALLBACK_MODULES, CALLBACKS, strict=True)),
    *(f"{m}.{c}" for m in ("main", "__main__") for c in ("SetupCallback", "ImageLogger", "CUDACallback")),
    "numpy.core.multiarray.scalar",
    "numpy.dtype",
)


class _Inert:
    """Replacement for a class that a file names: accepts any arguments, stores nothing and does nothing."""

    def __new__(cls, *_: Any) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


def read_checkpoint(path: str | Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a checkpoint by name, on the CPU; those under ``state_dict`` if the file has this key.

    Nothing in the file is executed: classes that are known to be harmless are replaced by inert ones, any other is an
    error. The tensors of a torch file are memory-mapped: they are read when they are used.

    Args:
        path: a ``.safetensors`` file, or any other that ``torch.save`` wrote.

    Raises:
        InputError: the file is missing, damaged, no checkpoint, or names an object that is not known to be harmless.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file, expected a checkpoint")
    content = read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}, expected a checkpoint with a state dict")
    tensors = {k: v for k, v in state.items() if isinstance(k, str) and isinstance(v, torch.Tensor)}
    if not tensors:
        raise InputError(f"{path}: holds no tensors by name, expected a checkpoint with a state dict")
    for name, tensor in tensors.items():
        if not is_plain(tensor):
            raise InputError(f"{path}: {name} is no plain tensor (sparse, nested or without values of its own)")
    return tensors


def _read_torch(path: Path) -> Any:
    with path.open("rb") as file:
        if file.read(2) == b"PK" and not zipfile.is_zipfile(path):
            raise InputError(f"{path}: the file is truncated, expected a whole checkpoint")
    # one class for each name, because the file may use these classes as keys of one dict
    stand_ins = [(type("Inert", (_Inert,), {}), name) for name in HARMLESS_GLOBALS]
    try:
        return load_torch_file(path, stand_ins, mmap=True)
    except Exception as error:
        if match := re.search(r"(?:unsupported |Unsupported global: )GLOBAL (\S+)", str(error)):
            raise InputError(
                f"{path}: names the Python object {match[1]}, which is not loaded; expected tensors and plain values"
            ) from error
        raise InputError(f"{path}: not a checkpoint, or damaged ({reason(error)})") from error


def load_torch_file(path: Path, stand_ins: Sequence[Any] = (), mmap: bool = False) -> Any:
    """Return the content of a torch file, with tensors on the CPU; nothing in it is executed.

    Args:
        path: file that ``torch.save`` wrote.
        stand_ins: pairs of an inert class and the name, in the file, of the class that it replaces.
        mmap: memory-map the tensors instead of reading them; only if nothing writes the file meanwhile.

    Raises:
        Exception: the file is damaged or names an object that is not known. The restricted unpickler raises errors of
            many types for a damaged file: catch ``Exception``, and show its :func:`reason`.
    """
    is_zip = zipfile.is_zipfile(path)
    if is_zip:
        with zipfile.ZipFile(path) as archive:
            if member := archive.testzip():  # the first damaged one
                raise ValueError(f"the checksum of {member} is wrong")
    with torch.serialization.safe_globals(list(stand_ins)):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap and is_zip)


def is_plain(tensor: torch.Tensor) -> bool:
    """Return whether ``tensor`` is dense and stores every value, not one value that is expanded along an axis."""
    if tensor.layout != torch.strided or tensor.is_meta or tensor.is_nested:
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()
