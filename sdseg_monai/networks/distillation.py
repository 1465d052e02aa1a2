"""A cheap mask decoder learns from a mask autoencoder's own."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from sdseg_monai.networks.autoencoder import MaskAutoencoder, TinyMaskAutoencoder
from sdseg_monai.seeding import seeded_integers, seeded_normal


class DistillationOutput(NamedTuple):
    """What two decoders make of the same latents, [B, 3, H, W] each, about [-1, 1], not clamped."""

    student: torch.Tensor
    teacher: torch.Tensor


class DecoderDistillation(nn.Module):
    """Decode the teacher's latents of masks with the teacher and with the student; only the student's decoder learns.

    Half of the samples get Gaussian noise on their latents. A segmenter's U-Net predicts latents that are not exactly
    those of any mask, and a decoder that knew nothing else could make anything of them.

    Args:
        student: autoencoder with a distilled decoder; call :meth:`take_encoder` when the teacher has its weights.
        latent_noise: standard deviation of the noise, relative to that of a batch's latents.

    Attributes:
        teacher: autoencoder of the student's sizes with the decoder of its layout, frozen, without weights yet.

    Raises:
        ValueError: the student has no distilled decoder.
    """

    def __init__(self, student: MaskAutoencoder | TinyMaskAutoencoder, latent_noise: float = 0.1) -> None:
        super().__init__()
        if student.config.decoder_channels is None:
            raise ValueError("the student has no distilled decoder: set its decoder_channels")
        sizes = {name: student.config[name] for name in inspect.signature(type(student)).parameters}
        self.teacher = type(student)(**{**sizes, "decoder_channels": None}).requires_grad_(False).eval()
        self.student = student.requires_grad_(False)
        self.student.decoder.requires_grad_(True)
        self.latent_noise = latent_noise

    def take_encoder(self) -> None:
        """Copy the teacher's encoder to the student: both decoders then serve the same latents."""
        decoding = tuple(f"{name}." for name in self.teacher.decoding_parts)
        encoding = {k: v for k, v in self.teacher.state_dict().items() if not k.startswith(decoding)}
        self.student.load_state_dict({**self.student.state_dict(), **encoding})

    def train(self, mode: bool = True) -> DecoderDistillation:
        """Set the student's mode; the teacher stays in evaluation mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Load as any module does, but never another teacher than the one that was loaded before.

        Raises:
            ValueError: the teacher in ``state_dict`` is another.
        """
        for name, tensor in self.teacher.state_dict().items():
            loaded = state_dict.get(f"teacher.{name}")
            if loaded is None or not torch.equal(tensor.cpu(), loaded.cpu()):
                raise ValueError("it had another teacher")
        return super().load_state_dict(state_dict, *args, **kwargs)

    def forward(self, mask_image: torch.Tensor, seeds: torch.Tensor) -> DistillationOutput:
        """Encode with the teacher and decode with both.

        Args:
            mask_image: [B, 3, H, W] in [-1, 1]; H and W multiples of the autoencoder's ``downsampling``.
            seeds: [B], int64, one seed per sample for the noise.
        """
        with torch.no_grad():
            latent = self.teacher.encode_latent(mask_image)
            noise = seeded_normal(seeds, latent.shape[1:]).to(latent)
            noisy = seeded_integers(seeds, 2).to(latent).view(-1, 1, 1, 1)
            latent = latent + self.latent_noise * latent.std() * noisy * noise
            teacher = self.teacher.decode(latent).sample
        return DistillationOutput(self.student.decode(latent).sample, teacher)
