"""Reading torch's own files without running what they hold."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch


def load_torch_file(path: Path, stand_ins: Sequence[Any] = (), mmap: bool = False) -> Any:
    """Return the content of ``path``, tensors on the CPU.

    Args:
        path: what ``torch.save`` wrote.
        stand_ins: pairs of a harmless class and the name in the file that it is to stand for.
        mmap: map the tensors instead of reading them; for files that nothing writes meanwhile.

    Raises:
        Exception: the file is damaged or names an object that is not known. The restricted unpickler meets a damaged
            file in as many ways as there are bytes: catch them all, and take :func:`reason`.
    """
    is_zip = zipfile.is_zipfile(path)
    if is_zip:
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():
                raise ValueError(f"the checksum of {damaged} is wrong")
    with torch.serialization.safe_globals(list(stand_ins)):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap and is_zip)


def reason(error: Exception) -> str:
    """Return the first sentence of what went wrong; torch's next one advises to switch the protection off."""
    return str(error).splitlines()[0].split(". ")[0] if str(error) else type(error).__name__


def is_plain(tensor: torch.Tensor) -> bool:
    """Tell whether ``tensor`` is dense and each of its numbers stands in the file, not one for a whole axis."""
    if tensor.layout != torch.strided or tensor.is_meta or tensor.is_nested:
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()
