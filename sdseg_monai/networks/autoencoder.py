"""The KL-regularised autoencoder that carries segmentation masks into latent space and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, DecoderTiny, DiagonalGaussianDistribution
from torch import nn

from sdseg_monai.seeding import seeded_normal


class AutoencoderOutput(NamedTuple):
    """What a training step of the autoencoder yields."""

    reconstruction: torch.Tensor  # [B, 3, H, W], about [-1, 1], not clamped
    posterior: DiagonalGaussianDistribution  # over [B, latent_channels, h, w]


class MaskDecoder(DecoderTiny):
    """A cheap decoder for masks, distilled from a :class:`MaskAutoencoder`'s: TAESD's blocks, no norms, no attention.

    It takes latents as they are: diffusers' own first squeezes them to within 3, where a latent of Stable Diffusion
    that is not scaled (its standard deviation is 5.5) would lose its size.

    Args:
        latent_channels: channels of the latent.
        channels: channels of every layer.
        levels: resolutions, each twice the one before; the last is the image's.
    """

    def __init__(self, latent_channels: int, channels: int, levels: int) -> None:
        super().__init__(
            in_channels=latent_channels,
            out_channels=3,
            num_blocks=(3,) * (levels - 1) + (1,),
            block_out_channels=(channels,) * levels,
            upsampling_scaling_factor=2,
            act_fn="relu",
            upsample_fn="nearest",
        )

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        """Decode ``latent`` [B, latent_channels, h, w], not scaled, to a mask image [B, 3, H, W], about [-1, 1]."""
        return 2 * self.layers(latent) - 1


class MaskAutoencoder(AutoencoderKL):
    """CompVis kl-f8 layout (Stable Diffusion's VAE) on diffusers' classes; the defaults are its full size.

    Each level but the last halves the resolution, so ``len(block_out_channels) == 4`` is f=8.

    Args:
        block_out_channels: channels of each level; every entry a multiple of ``norm_num_groups``.
        layers_per_block: residual blocks of an encoder level; the decoder has one more.
        latent_channels: channels of the latent.
        norm_num_groups: groups of every GroupNorm.
        decoder_channels: channels of a distilled :class:`MaskDecoder` in the decoder's place, which takes the same
            latents; None for the decoder of the layout.

    Source: official-behaviour 1.1; 83,653,863 parameters at the default size.
    """

    @register_to_config
    def __init__(
        self,
        block_out_channels: Sequence[int] = (128, 256, 512, 512),
        layers_per_block: int = 2,
        latent_channels: int = 4,
        norm_num_groups: int = 32,
        decoder_channels: int | None = None,
    ) -> None:
        levels = len(block_out_channels)
        super().__init__(
            in_channels=3,
            out_channels=3,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=tuple(block_out_channels),
            layers_per_block=layers_per_block,
            latent_channels=latent_channels,
            norm_num_groups=norm_num_groups,
            use_post_quant_conv=decoder_channels is None,
        )
        if decoder_channels is not None:
            self.decoder = MaskDecoder(latent_channels, decoder_channels, levels)
        self.latent_channels = latent_channels
        self.downsampling = 2 ** (levels - 1)

    @property
    def diffusers_class(self) -> type[AutoencoderKL] | None:
        """Diffusers' class that computes the same; None with a distilled decoder."""
        return AutoencoderKL if self.config.decoder_channels is None else None

    @classmethod
    def arguments_from(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return the constructor arguments that a config of diffusers' class stands for."""
        names = ("block_out_channels", "layers_per_block", "latent_channels", "norm_num_groups")
        return {name: config[name] for name in names}

    @property
    def decoding_parts(self) -> nn.ModuleDict:
        """What decodes."""
        if self.post_quant_conv is None:
            return nn.ModuleDict({"decoder": self.decoder})
        return nn.ModuleDict({"post_quant_conv": self.post_quant_conv, "decoder": self.decoder})

    def encode_latent(self, mask_image: torch.Tensor, noise: torch.Tensor | None = None) -> torch.Tensor:
        """Encode ``mask_image`` [B, 3, H, W] in [-1, 1] to the posterior's mean, or to mean + std * ``noise``."""
        posterior = self.encode(mask_image).latent_dist
        return posterior.mean if noise is None else posterior.mean + posterior.std * noise.to(posterior.mean)

    def forward(
        self,
        sample: torch.Tensor,
        sample_posterior: bool = False,
        return_dict: bool = True,
        generator: torch.Generator | None = None,
        *,
        seeds: torch.Tensor | None = None,
    ) -> AutoencoderOutput | DecoderOutput | tuple[torch.Tensor]:
        """Encode and decode as diffusers' class does, or, given ``seeds``, as a training step of the autoencoder.

        Args:
            sample: mask image, [B, 3, H, W], in [-1, 1]; H and W multiples of ``downsampling``.
            sample_posterior: decode a sample of the posterior, drawn with ``generator``, and not its mean.
            return_dict: return an output with ``sample``, not a tuple.
            generator: of the posterior's noise.
            seeds: [B], int64, one seed per sample for the posterior's noise, in the place of the three before.

        Returns:
            The decoded mask image [B, 3, H, W], about [-1, 1], not clamped, as ``sample`` or alone in a tuple; in a
            training step an :class:`AutoencoderOutput`.
        """
        if seeds is None:
            return super().forward(sample, sample_posterior, return_dict, generator)
        posterior = self.encode(sample).latent_dist
        noise = seeded_normal(seeds, posterior.mean.shape[1:]).to(posterior.mean)
        latent = posterior.mean + posterior.std * noise  # [B, latent_channels, h, w]
        return AutoencoderOutput(self.decode(latent).sample, posterior)


class TinyMaskAutoencoder(AutoencoderTiny):
    """TAESD, the distilled small stand-in for Stable Diffusion's autoencoder: f=8, 1.2 M parameters each way.

    It maps to Stable Diffusion's latents without a posterior, scaled as the diffusion model expects them.

    Args:
        block_out_channels: channels of each level, all equal.
        num_blocks: residual blocks of each encoder level; the decoder has them in reverse.
        latent_channels: channels of the latent.
        decoder_channels: channels of every layer of a distilled decoder; None for those of ``block_out_channels``.

    Source: madebyollin/taesd in diffusers' ``AutoencoderTiny``.
    """

    @register_to_config
    def __init__(
        self,
        block_out_channels: Sequence[int] = (64, 64, 64, 64),
        num_blocks: Sequence[int] = (1, 3, 3, 3),
        latent_channels: int = 4,
        decoder_channels: int | None = None,
    ) -> None:
        encoder = tuple(block_out_channels)
        super().__init__(
            encoder_block_out_channels=encoder,
            decoder_block_out_channels=encoder if decoder_channels is None else (decoder_channels,) * len(encoder),
            num_encoder_blocks=tuple(num_blocks),
            num_decoder_blocks=tuple(reversed(num_blocks)),
            latent_channels=latent_channels,
        )
        self.register_to_config(block_out_channels=encoder)  # diffusers puts the decoder's there
        self.latent_channels = latent_channels
        self.downsampling = 2 ** (len(encoder) - 1)

    @property
    def diffusers_class(self) -> type[AutoencoderTiny]:
        """Diffusers' class that computes the same."""
        return AutoencoderTiny

    @classmethod
    def arguments_from(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return the constructor arguments that a config of diffusers' class stands for."""
        encoder, decoder = config["encoder_block_out_channels"], config["decoder_block_out_channels"]
        return {
            "block_out_channels": encoder,
            "num_blocks": config["num_encoder_blocks"],
            "latent_channels": config["latent_channels"],
            "decoder_channels": None if decoder == encoder else decoder[0],
        }

    @property
    def decoding_parts(self) -> nn.ModuleDict:
        """What decodes."""
        return nn.ModuleDict({"decoder": self.decoder})

    def encode_latent(self, mask_image: torch.Tensor, noise: torch.Tensor | None = None) -> torch.Tensor:
        """Encode ``mask_image`` [B, 3, H, W] in [-1, 1].

        Raises:
            ValueError: ``noise`` is given: there is no posterior to sample.
        """
        if noise is not None:
            raise ValueError("this autoencoder has no posterior to sample: use mask_latent='mean'")
        return self.encode(mask_image).latents
