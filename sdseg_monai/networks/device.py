"""The device on which networks compute."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from sdseg_monai.errors import InputError


def checked_device(name: str | torch.device) -> torch.device:
    """Return the device ``name`` (``cpu``, ``cuda``, ``cuda:1``) after making a tensor on it.

    Raises:
        InputError: the device cannot be used here.
    """
    try:
        device = torch.device(name)
        if device.type == "cpu" and device.index:
            raise ValueError("there is one CPU")
        if str(device) != str(name):  # torch takes the number modulo 256
            raise ValueError("no such number")
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, ValueError, TypeError, NotImplementedError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"device {str(name)!r} cannot be used ({reason}), expected cpu, or cuda where there is some"
        ) from error
    return device


def without_autocast(tensor: torch.Tensor) -> AbstractContextManager[object]:
    """Return a context without autocast on the device of ``tensor``.

    The meta device, on which networks are counted without their weights, has no autocast.
    """
    return nullcontext() if tensor.is_meta else torch.autocast(tensor.device.type, enabled=False)
