"""The noise schedule of the diffusion and the closed forms of the paper's Eq. 1 and 2."""

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

    The coefficients are computed in float64 and stored in float32. They are not buffers, so that casting a network to
    bfloat16 does not round them (sqrt(1 - abar_999) would become 1), and a state dict does not hold them: the arguments
    determine them.

    The schedulers of diffusers and MONAI compute in float32 and store the timesteps of the next sampling as a state.
    Here each sample of a training batch has its own timestep, and the estimate of z_0 at T-1 divides by 0.0259, which
    amplifies rounding errors. ``tests/networks/test_networks.py`` compares :meth:`step` with diffusers' DDIMScheduler.

    Args:
        num_timesteps: T.
        beta_start: variance of the first step.
        beta_end: variance of the last step.

    Source: official-behaviour 1.6.

    Example:
        >>> schedule = NoiseSchedule()
        >>> schedule.reverse_timesteps(1), schedule.reverse_timesteps(4)
        ([999], [999, 749, 499, 249])
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
        """Return z_t (Eq. 1) = sqrt(abar_t) z_0 + sqrt(1 - abar_t) n, [B, Z, h, w].

        Args:
            latent: z_0, [B, Z, h, w].
            noise: n, [B, Z, h, w], standard normal.
            timesteps: t, [B], int64 in [0, T).
        """
        a, b = self.coefficients(timesteps)
        return a * latent + b * noise

    def estimate_latent(
        self,
        noisy_latent: torch.Tensor,
        prediction: torch.Tensor,
        timesteps: torch.Tensor,
        prediction_type: PredictionType,
    ) -> torch.Tensor:
        """Return the estimate of z_0, [B, Z, h, w], float32: Eq. 2 for ``epsilon``, its equivalents for other types.

        Args:
            noisy_latent: z_t, [B, Z, h, w].
            prediction: of the U-Net, [B, Z, h, w].
            timesteps: t, [B], int64 in [0, T).
            prediction_type: what ``prediction`` is.
        """
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
        """Return the estimate of n, [B, Z, h, w], float32, or None for ``sample``, which does not predict noise.

        Args:
            noisy_latent: z_t, [B, Z, h, w].
            prediction: of the U-Net, [B, Z, h, w].
            timesteps: t, [B], int64 in [0, T).
            prediction_type: what ``prediction`` is.
        """
        if prediction_type == "sample":
            return None
        if prediction_type == "epsilon":
            return prediction.float()
        a, b = self.coefficients(timesteps)
        return b * noisy_latent.float() + a * prediction.float()

    def reverse_timesteps(self, num_steps: int) -> list[int]:
        """Return ``num_steps`` evenly spaced timesteps from T-1 down, diffusers' ``trailing`` spacing.

        One step is [T-1], the paper's single step.

        Raises:
            ValueError: ``num_steps`` is not from 1 to T.
        """
        if not 1 <= num_steps <= self.num_timesteps:
            raise ValueError(f"{num_steps} reverse steps: expected 1 to {self.num_timesteps}")
        return [round(self.num_timesteps * (num_steps - i) / num_steps) - 1 for i in range(num_steps)]

    def step(
        self,
        noisy_latent: torch.Tensor,
        latent_pred: torch.Tensor,
        timesteps: torch.Tensor,
        prev_timesteps: torch.Tensor,
    ) -> torch.Tensor:
        """Return z at ``prev_timesteps``, [B, Z, h, w], float32: a DDIM step (Song et al., Eq. 12) with eta = 0.

        Args:
            noisy_latent: z_t, [B, Z, h, w].
            latent_pred: estimate of z_0, [B, Z, h, w].
            timesteps: t, [B], int64 in [0, T).
            prev_timesteps: timesteps after the step, as diffusers calls them: smaller than t, [B], int64.
        """
        a, b = self.coefficients(timesteps)
        noise_pred = (noisy_latent.float() - a * latent_pred) / b
        return self.add_noise(latent_pred, noise_pred, prev_timesteps)
