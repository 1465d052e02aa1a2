"""Torch's own files, and checkpoints of others (Lightning .ckpt, safetensors), read without running what they hold."""

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
HARMLESS_GLOBALS = (  # what real files name beside tensors; Lightning before 1.5 keys callbacks by their class
    *(f"pytorch_lightning.callbacks.{m}.{c}" for m, c in zip(CALLBACK_MODULES, CALLBACKS, strict=True)),
    *(f"{m}.{c}" for m in ("main", "__main__") for c in ("SetupCallback", "ImageLogger", "CUDACallback")),
    "numpy.core.multiarray.scalar",
    "numpy.dtype",
)


class _Inert:
    """Stands for a class that a file names: takes whatever it is given and keeps and does nothing."""

    def __new__(cls, *_: Any) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


def read_checkpoint(path: str | Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a checkpoint, by name, on the CPU; those under ``state_dict`` where there is that.

    Nothing in the file is executed: known harmless classes become inert stand-ins, any other is refused. Tensors of a
    torch file are mapped, not read, until used.

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
    # each its own: they key a dict
    stand_ins = [(type("Inert", (_Inert,), {}), name) for name in HARMLESS_GLOBALS]
    try:
        return load_torch_file(path, stand_ins, mmap=True)
    except Exception as error:
        if refused := re.search(r"(?:unsupported |Unsupported global: )GLOBAL (\S+)", str(error)):
            raise InputError(
                f"{path}: names the Python object {refused[1]}, which is not loaded; expected tensors and plain values"
            ) from error
        raise InputError(f"{path}: not a checkpoint, or damaged ({reason(error)})") from error


def load_torch_file(path: Path, stand_ins: Sequence[Any] = (), mmap: bool = False) -> Any:
    """Return the content of ``path``, tensors on the CPU.

    Args:
        path: what ``torch.save`` wrote.
        stand_ins: pairs of a harmless class and the name in the file that it is to stand for.
        mmap: map the tensors instead of reading them; for files that nothing writes meanwhile.

    Raises:
        Exception: the file is damaged or names an object that is not known. The restricted unpickler meets a damaged
            file in as many ways as there are bytes: catch them all, and take their :func:`reason`.
    """
    is_zip = zipfile.is_zipfile(path)
    if is_zip:
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():
                raise ValueError(f"the checksum of {damaged} is wrong")
    with torch.serialization.safe_globals(list(stand_ins)):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap and is_zip)


def is_plain(tensor: torch.Tensor) -> bool:
    """Tell whether ``tensor`` is dense and each of its numbers stands in the file, not one for a whole axis."""
    if tensor.layout != torch.strided or tensor.is_meta or tensor.is_nested:
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()
