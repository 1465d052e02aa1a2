"""Tiny autoencoders for photographs as mask autoencoder and as vision encoder: TAESD and TAEF2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import AutoencoderTiny, ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import EncoderTiny
from diffusers.models.unets.unet_2d_blocks import AutoencoderTinyBlock
from torch import nn

POOL_GROUPS = 4  # of the branch's GroupNorm, which is over the whole picture


class PoolBlock(AutoencoderTinyBlock):
    """A block of TAESD that first adds a branch to its input: what the whole picture has of each feature.

    Args:
        channels: of input and output.

    Source: TAEF2 in madebyollin/taesd, whose name for the branch this is.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, "relu")
        self.pool = nn.Sequential(
            nn.Conv2d(channels, POOL_GROUPS * channels, 1, bias=False),
            nn.GroupNorm(POOL_GROUPS, POOL_GROUPS * channels),
            nn.ReLU(),
            nn.Conv2d(POOL_GROUPS * channels, channels, 1, bias=False),
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return the features [B, channels, h, w] after the block."""
        return super().forward(features + self.pool(features))


def _add_pool(layers: nn.Sequential, blocks: slice, channels: int) -> None:
    """Replace some ``blocks`` among all of a network's ``layers`` by :class:`PoolBlock`."""
    indices = [index for index, layer in enumerate(layers) if isinstance(layer, AutoencoderTinyBlock)]
    for index in indices[blocks]:
        layers[index] = PoolBlock(channels)


class TinyMaskAutoencoder(AutoencoderTiny):
    """TAESD, a small distilled replacement of Stable Diffusion's autoencoder: f=8, 1.2 M parameters each way.

    It encodes to one latent, without a posterior, already scaled as the U-Net of its teacher expects it.

    Args:
        block_out_channels: channels of each level, all equal.
        num_blocks: residual blocks of each encoder level; the decoder has them in reverse order.
        latent_channels: channels of the latent.
        decoder_channels: channels of every layer of a distilled decoder; None for those of ``block_out_channels``.
        pool: whether the blocks of the lowest resolution are :class:`PoolBlock` (TAEF2).

    Attributes:
        downsampling: f, by which the encoder divides height and width.
        mask_channels: C, channels of the mask image: three, for colours.

    Source: madebyollin/taesd in diffusers' ``AutoencoderTiny``.

    Example:
        >>> autoencoder = TinyMaskAutoencoder([8, 8, 8], num_blocks=[1, 1, 1])
        >>> autoencoder.encode_latent(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 4, 8, 8])
    """

    @register_to_config
    def __init__(
        self,
        block_out_channels: Sequence[int] = (64, 64, 64, 64),
        num_blocks: Sequence[int] = (1, 3, 3, 3),
        latent_channels: int = 4,
        decoder_channels: int | None = None,
        pool: bool = False,
    ) -> None:
        encoder = tuple(block_out_channels)
        super().__init__(
            encoder_block_out_channels=encoder,
            decoder_block_out_channels=encoder if decoder_channels is None else (decoder_channels,) * len(encoder),
            num_encoder_blocks=tuple(num_blocks),
            num_decoder_blocks=tuple(reversed(num_blocks)),
            latent_channels=latent_channels,
        )
        self.register_to_config(block_out_channels=encoder)  # diffusers' constructor registers the decoder's
        if pool:
            _add_pool(self.encoder.layers, slice(-num_blocks[-1], None), encoder[-1])
            _add_pool(self.decoder.layers, slice(num_blocks[-1]), decoder_channels or encoder[-1])
        self.latent_channels = latent_channels
        self.mask_channels = 3
        self.downsampling = 2 ** (len(encoder) - 1)

    @property
    def diffusers_class(self) -> type[AutoencoderTiny] | None:
        """The class of diffusers that computes the same; None with ``pool``."""
        return None if self.config.pool else AutoencoderTiny

    @classmethod
    def arguments_from(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of this constructor that give the network of a diffusers ``config``."""
        encoder, decoder = config["encoder_block_out_channels"], config["decoder_block_out_channels"]
        return {
            "block_out_channels": encoder,
            "num_blocks": config["num_encoder_blocks"],
            "latent_channels": config["latent_channels"],
            "decoder_channels": None if decoder == encoder else decoder[0],
        }

    @property
    def decoding_parts(self) -> nn.ModuleDict:
        """The modules that decoding uses, by name."""
        return nn.ModuleDict({"decoder": self.decoder})

    def encode_latent(self, mask_image: torch.Tensor, noise: torch.Tensor | None = None) -> torch.Tensor:
        """Encode ``mask_image`` [B, 3, H, W] in [-1, 1] to its latent [B, latent_channels, h, w].

        Raises:
            ValueError: ``noise`` is given, but there is no posterior to sample from.
        """
        if noise is not None:
            raise ValueError("this autoencoder has no posterior to sample: use mask_latent='mean'")
        return self.encode(mask_image).latents


class TinyVisionEncoder(ModelMixin, ConfigMixin):
    """A tiny autoencoder's encoder as vision encoder; it needs no further convolution, its output has Z channels.

    Args:
        block_out_channels: channels of each level, all equal; the mask autoencoder must have the same number of levels.
        num_blocks: residual blocks of each level.
        latent_channels: Z, channels of the latent.
        pool: see :class:`TinyMaskAutoencoder`.

    Example:
        >>> TinyVisionEncoder([8, 8, 8], num_blocks=[1, 1, 1])(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 4, 8, 8])
    """

    diffusers_class = None  # diffusers has no model that is an encoder only

    @register_to_config
    def __init__(
        self,
        block_out_channels: Sequence[int] = (64, 64, 64, 64),
        num_blocks: Sequence[int] = (1, 3, 3, 3),
        latent_channels: int = 4,
        pool: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = EncoderTiny(3, latent_channels, tuple(num_blocks), tuple(block_out_channels), "relu")
        if pool:
            _add_pool(self.encoder.layers, slice(-num_blocks[-1], None), block_out_channels[-1])
        self.latent_channels = latent_channels
        self.downsampling = 2 ** (len(block_out_channels) - 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Encode ``image`` [B, 3, H, W] in [-1, 1] to its latent z_c [B, Z, h, w]."""
        return self.encoder(image)
