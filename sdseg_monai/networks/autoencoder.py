"""The KL-regularised autoencoder that carries segmentation masks into latent space and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from diffusers import AutoencoderKL
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, DecoderTiny, DiagonalGaussianDistribution
from torch import nn

from sdseg_monai.networks.codes import class_codes, is_one_hot
from sdseg_monai.seeding import seeded_normal


class AutoencoderOutput(NamedTuple):
    """Output of a training step of the autoencoder."""

    reconstruction: torch.Tensor  # [B, C, H, W], colours, about [-1, 1] and not clamped, or logits
    posterior: DiagonalGaussianDistribution  # over [B, latent_channels, h, w]


class MaskDecoder(DecoderTiny):
    """Small mask decoder, distilled from that of a :class:`MaskAutoencoder`: TAESD's blocks, no norm, no attention.

    It takes latents as they are. diffusers' ``DecoderTiny`` would first limit them to [-3, 3] by a tanh, which distorts
    latents of Stable Diffusion that are not scaled (their standard deviation is 5.5).

    Args:
        latent_channels: channels of the latent.
        channels: channels of every layer.
        levels: number of resolutions; each is twice the one before it, the last is the image's.
        mask_channels: C, channels of the mask image.
    """

    def __init__(self, latent_channels: int, channels: int, levels: int, mask_channels: int = 3) -> None:
        super().__init__(
            in_channels=latent_channels,
            out_channels=mask_channels,
            num_blocks=(3,) * (levels - 1) + (1,),
            block_out_channels=(channels,) * levels,
            upsampling_scaling_factor=2,
            act_fn="relu",
            upsample_fn="nearest",
        )

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        """Decode ``latent`` [B, latent_channels, h, w], not scaled, to a mask image [B, C, H, W]."""
        return 2 * self.layers(latent) - 1


class MaskAutoencoder(AutoencoderKL):
    """Mask autoencoder in the layout of CompVis' kl-f8, Stable Diffusion's VAE; the defaults are its full size.

    Each level but the last halves the resolution, so that four levels give a downsampling factor f of 8.

    Args:
        block_out_channels: channels of each level; every entry a multiple of ``norm_num_groups``.
        layers_per_block: residual blocks of an encoder level; the decoder has one more.
        latent_channels: channels of the latent.
        norm_num_groups: groups of every GroupNorm.
        decoder_channels: channels of a distilled :class:`MaskDecoder`, which replaces the decoder of the layout and
            takes the same latents; None keeps the decoder of the layout.
        num_classes: K, including the background: the mask image has the channels of its
            :func:`~sdseg_monai.networks.codes.class_codes`, three for up to four classes, else K.

    Attributes:
        downsampling: f, by which the encoder divides height and width.
        mask_channels: C, channels of the mask image.

    Source: official-behaviour 1.1; 83,653,863 parameters at the default size.

    Example:
        >>> autoencoder = MaskAutoencoder([8, 16, 16], layers_per_block=1, norm_num_groups=4)
        >>> latent = autoencoder.encode_latent(torch.zeros(1, 3, 32, 32))
        >>> latent.shape, autoencoder.decode(latent).sample.shape
        (torch.Size([1, 4, 8, 8]), torch.Size([1, 3, 32, 32]))
    """

    @register_to_config
    def __init__(
        self,
        block_out_channels: Sequence[int] = (128, 256, 512, 512),
        layers_per_block: int = 2,
        latent_channels: int = 4,
        norm_num_groups: int = 32,
        decoder_channels: int | None = None,
        num_classes: int = 2,
    ) -> None:
        levels = len(block_out_channels)
        mask_channels = class_codes(num_classes).shape[1]
        super().__init__(
            in_channels=mask_channels,
            out_channels=mask_channels,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=tuple(block_out_channels),
            layers_per_block=layers_per_block,
            latent_channels=latent_channels,
            norm_num_groups=norm_num_groups,
            use_post_quant_conv=decoder_channels is None,
        )
        if decoder_channels is not None:
            self.decoder = MaskDecoder(latent_channels, decoder_channels, levels, mask_channels)
        self.latent_channels = latent_channels
        self.mask_channels = mask_channels
        self.downsampling = 2 ** (levels - 1)

    @property
    def diffusers_class(self) -> type[AutoencoderKL] | None:
        """The class of diffusers that computes the same; None with a distilled decoder."""
        return AutoencoderKL if self.config.decoder_channels is None else None

    @classmethod
    def arguments_from(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of this constructor that give the network of a diffusers ``config``."""
        names = ("block_out_channels", "layers_per_block", "latent_channels", "norm_num_groups")
        channels = config["in_channels"]
        return {name: config[name] for name in names} | {"num_classes": channels if is_one_hot(channels) else 2}

    @property
    def decoding_parts(self) -> nn.ModuleDict:
        """The modules that decoding uses, by name."""
        if self.post_quant_conv is None:
            return nn.ModuleDict({"decoder": self.decoder})
        return nn.ModuleDict({"post_quant_conv": self.post_quant_conv, "decoder": self.decoder})

    def encode_latent(self, mask_image: torch.Tensor, noise: torch.Tensor | None = None) -> torch.Tensor:
        """Encode ``mask_image`` [B, C, H, W] to its latent [B, latent_channels, h, w], not scaled.

        Args:
            mask_image: H and W are multiples of ``downsampling``.
            noise: standard normal, of the latent's shape: returns the posterior's sample mean + std * ``noise``; None
                returns the posterior's mean.
        """
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
        """Encode and decode as diffusers' class does, or, with ``seeds``, as a training step of the autoencoder does.

        Args:
            sample: mask image, [B, C, H, W]; H and W multiples of ``downsampling``.
            sample_posterior: decode a sample of the posterior instead of its mean.
            return_dict: return an output with the attribute ``sample`` instead of a tuple.
            generator: random generator of the posterior's noise.
            seeds: [B], int64, one seed per sample for the posterior's noise; replaces the three arguments above.

        Returns:
            The decoded mask image [B, C, H, W], as the attribute ``sample`` or alone in a tuple: colours, about [-1, 1]
            and not clamped, or logits. With ``seeds`` an :class:`AutoencoderOutput`.
        """
        if seeds is None:
            return super().forward(sample, sample_posterior, return_dict, generator)
        posterior = self.encode(sample).latent_dist
        noise = seeded_normal(seeds, posterior.mean.shape[1:]).to(posterior.mean)
        latent = posterior.mean + posterior.std * noise  # [B, latent_channels, h, w]
        return AutoencoderOutput(self.decode(latent).sample, posterior)
