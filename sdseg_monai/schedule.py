"""The diffusion schedule and the closed forms of the paper's Eq. 1 and 2."""

from __future__ import annotations

from typing import Literal

import torch

PredictionType = Literal["epsilon", "sample", "v_prediction"]


class NoiseSchedule:
    """Scaled-linear variance schedule of latent diffusion models.

    ==================  ======================================
    paper               here
    ==================  ======================================
    z_0                 ``latent``
    z_t                 ``noisy_latent``
    n                   ``noise``
    abar_t              ``alphas_cumprod[timesteps]``
    f(z_t; z_c)         ``prediction``
    ==================  ======================================

    The coefficients are computed in float64 and kept in float32. They are no buffers: the constructor determines them,
    and a network cast to bfloat16 must not round them (sqrt(1 - abar_999) would become 1).

    diffusers' and MONAI's schedulers keep the timesteps of the next sampling as a state and compute in float32;
    training needs a timestep of its own for each sample, and the step from T-1 divides by 0.0259.
    ``tests/networks/test_networks.py`` holds :meth:`step` to diffusers' DDIMScheduler.

    Args:
        num_timesteps: T.
        beta_start: variance of the first step.
        beta_end: variance of the last step.

    Source: official-behaviour 1.6.
    """

    def __init__(self, num_timesteps: int = 1000, beta_start: float = 0.0015, beta_end: float = 0.0155) -> None:
        betas = torch.linspace(beta_start**0.5, beta_end**0.5, num_timesteps, dtype=torch.float64) ** 2
        alphas_cumprod = torch.cumprod(1 - betas, dim=0)
        self.num_timesteps = num_timesteps
        self.beta_start = beta_start
        self.beta_end = beta_end
        self.sqrt_alphas_cumprod = alphas_cumprod.sqrt().float()
        self.sqrt_one_minus_alphas_cumprod = (1 - alphas_cumprod).sqrt().float()

    def coefficients(self, timesteps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return sqrt(abar_t) and sqrt(1 - abar_t), each [B, 1, 1, 1] in float32, for ``timesteps`` [B]."""
        signal = self.sqrt_alphas_cumprod.to(timesteps.device)[timesteps]
        noise = self.sqrt_one_minus_alphas_cumprod.to(timesteps.device)[timesteps]
        return signal.view(-1, 1, 1, 1), noise.view(-1, 1, 1, 1)

    def add_noise(self, latent: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Eq. 1: z_t = sqrt(abar_t) z_0 + sqrt(1 - abar_t) n."""
        a, b = self.coefficients(timesteps)
        return a * latent + b * noise

    def estimate_latent(
        self,
        noisy_latent: torch.Tensor,
        prediction: torch.Tensor,
        timesteps: torch.Tensor,
        prediction_type: PredictionType,
    ) -> torch.Tensor:
        """Return the estimate of z_0, in float32; Eq. 2 for ``epsilon``, its equivalents for the other types."""
        if prediction_type == "sample":
            return prediction.float()
        a, b = self.coefficients(timesteps)
        if prediction_type == "epsilon":
            return (noisy_latent.float() - b * prediction.float()) / a
        return a * noisy_latent.float() - b * prediction.float()

    def estimate_noise(
        self,
        noisy_latent: torch.Tensor,
        prediction: torch.Tensor,
        timesteps: torch.Tensor,
        prediction_type: PredictionType,
    ) -> torch.Tensor | None:
        """Return the estimate of n, in float32, or None for ``sample``, which does not predict one."""
        if prediction_type == "sample":
            return None
        if prediction_type == "epsilon":
            return prediction.float()
        a, b = self.coefficients(timesteps)
        return b * noisy_latent.float() + a * prediction.float()

    def reverse_timesteps(self, num_steps: int) -> list[int]:
        """Return ``num_steps`` timesteps from T-1 down, evenly spaced to end one spacing above zero ("trailing").

        One step is [T-1], the paper's single step.

        Raises:
            ValueError: ``num_steps`` is not within 1 and T.
        """
        if not 1 <= num_steps <= self.num_timesteps:
            raise ValueError(f"{num_steps} reverse steps: expected 1 to {self.num_timesteps}")
        return [round(self.num_timesteps * (num_steps - i) / num_steps) - 1 for i in range(num_steps)]

    def step(
        self, noisy_latent: torch.Tensor, latent_pred: torch.Tensor, timesteps: torch.Tensor, previous: torch.Tensor
    ) -> torch.Tensor:
        """Return z at ``previous`` from z_t and the estimate of z_0: DDIM (Song et al., Eq. 12) with eta = 0."""
        a, b = self.coefficients(timesteps)
        noise_pred = (noisy_latent.float() - a * latent_pred) / b
        return self.add_noise(latent_pred, noise_pred, previous)
