"""Distillation of a small mask decoder from the decoder of a mask autoencoder."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from sdseg_monai.networks.autoencoder import MaskAutoencoder
from sdseg_monai.networks.tiny import TinyMaskAutoencoder
from sdseg_monai.seeding import seeded_integers, seeded_normal


class DistillationOutput(NamedTuple):
    """Mask images that both decoders return for the same latents; each [B, 3, H, W], about [-1, 1], not clamped."""

    student: torch.Tensor
    teacher: torch.Tensor


class DecoderDistillation(nn.Module):
    """Decode the teacher's latents of masks with teacher and student; only the student's decoder is trained.

    The latents of half of the samples get Gaussian noise: a segmenter's U-Net predicts latents that are not exactly
    those of any mask, and the output of a decoder that was trained on exact ones only would be undefined there.

    Args:
        student: autoencoder with a distilled decoder; call :meth:`take_encoder` once the teacher has its weights.
        latent_noise: standard deviation of the noise, relative to that of a batch's latents.

    Attributes:
        teacher: autoencoder of the student's sizes with the full decoder, frozen; its weights are random until they are
            loaded.

    Raises:
        ValueError: the student has no distilled decoder.

    Example:
        >>> sizes = {"block_out_channels": [8, 16, 16], "layers_per_block": 1, "norm_num_groups": 4}
        >>> distillation = DecoderDistillation(MaskAutoencoder(**sizes, decoder_channels=8))
        >>> distillation.take_encoder()
        >>> output = distillation(torch.zeros(2, 3, 32, 32), seeds=torch.tensor([0, 1]))
        >>> output.student.shape == output.teacher.shape
        True
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
        """Copy the teacher's encoder to the student, so that both decoders fit the same latents."""
        decoder_prefixes = tuple(f"{name}." for name in self.teacher.decoding_parts)
        teacher_state = self.teacher.state_dict()
        encoder_state = {k: v for k, v in teacher_state.items() if not k.startswith(decoder_prefixes)}
        self.student.load_state_dict({**self.student.state_dict(), **encoder_state})

    def train(self, mode: bool = True) -> DecoderDistillation:
        """Set the student's mode; the teacher stays in evaluation mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Load a state dict as any module does, but only one with the teacher that was loaded before.

        Raises:
            ValueError: the teacher in ``state_dict`` is another one.
        """
        for name, tensor in self.teacher.state_dict().items():
            saved_tensor = state_dict.get(f"teacher.{name}")
            if saved_tensor is None or not torch.equal(tensor.cpu(), saved_tensor.cpu()):
                raise ValueError("it had another teacher")
        return super().load_state_dict(state_dict, *args, **kwargs)

    def forward(self, mask_image: torch.Tensor, seeds: torch.Tensor) -> DistillationOutput:
        """Encode with the teacher and decode with both.

        Args:
            mask_image: [B, 3, H, W] in [-1, 1]; H and W multiples of the autoencoder's ``downsampling``.
            seeds: [B], int64, one seed per sample for the noise.
        """
        with torch.no_grad():
            latent = self.teacher.encode_latent(mask_image)  # [B, Z, h, w]
            noise = seeded_normal(seeds, latent.shape[1:]).to(latent)
            has_noise = seeded_integers(seeds, 2).to(latent).view(-1, 1, 1, 1)  # 0 or 1 for each sample
            latent = latent + self.latent_noise * latent.std() * has_noise * noise
            teacher_image = self.teacher.decode(latent).sample
        return DistillationOutput(self.student.decode(latent).sample, teacher_image)
