"""The device on which networks compute."""

from __future__ import annotations

import torch

from sdseg_monai.errors import InputError


def checked_device(name: str) -> torch.device:
    """Return the device ``name`` (``cpu``, ``cuda``, ``cuda:1``) after making a tensor on it.

    Raises:
        InputError: the device cannot be used here.
    """
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, ValueError, NotImplementedError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"device {name!r} cannot be used ({reason}), expected cpu, or cuda where there is some"
        ) from error
    return device
