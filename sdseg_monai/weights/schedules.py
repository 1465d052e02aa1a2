"""The arguments that make a noise schedule, from its coefficients."""

from __future__ import annotations

import itertools
from typing import Any

import torch

from sdseg_monai.errors import InputError
from sdseg_monai.schedule import NoiseSchedule


def schedule_options(schedule: NoiseSchedule) -> dict[str, Any]:
    """Return arguments with which :class:`NoiseSchedule` makes ``schedule`` again, bit for bit.

    Raises:
        InputError: its betas have more decimals than its float32 coefficients keep.
    """
    signal, noise = schedule.sqrt_alphas_cumprod.double(), schedule.sqrt_one_minus_alphas_cumprod.double()
    first, last = float(noise[0] ** 2), float(1 - (signal[-1] / signal[-2]) ** 2)
    # float32 leaves seven digits of the first beta and, through the quotient, fewer of the last
    for digits in itertools.product(range(1, 8), range(1, 6)):
        start, end = (float(f"{beta:.{count}g}") for beta, count in zip((first, last), digits, strict=True))
        again = NoiseSchedule(schedule.num_timesteps, start, end)
        if torch.equal(again.sqrt_alphas_cumprod, schedule.sqrt_alphas_cumprod):
            return {"num_timesteps": schedule.num_timesteps, "beta_start": start, "beta_end": end}
    raise InputError(f"the noise schedule from about {first:.7g} to {last:.5g} cannot be written, use rounder betas")
