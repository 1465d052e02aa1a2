"""The trainable vision encoder: from image slices to the conditioning latent."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import Encoder
from diffusers.models.resnet import ResnetBlock2D
from torch import nn


class VisionEncoder(ModelMixin, ConfigMixin):
    """The encoder of the autoencoder, followed by a 1x1 convolution from 2Z to Z channels (paper, tables 7 to 9).

    Its output is deterministic and is not multiplied by the latent scale factor (official-behaviour 1.4).

    Args:
        block_out_channels: channels of each level; the mask autoencoder must have the same number of levels.
        layers_per_block: residual blocks per level.
        latent_channels: Z, channels of the latent.
        norm_num_groups: groups of every GroupNorm.
        dropout: dropout of the residual blocks; the official code uses 0.2.

    Source: 34,163,628 parameters at the default size.

    Example:
        >>> encoder = VisionEncoder([8, 16, 16], layers_per_block=1, norm_num_groups=4)
        >>> encoder(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 4, 8, 8])
    """

    diffusers_class = None  # diffusers has no model that is an encoder only

    @register_to_config
    def __init__(
        self,
        block_out_channels: Sequence[int] = (128, 256, 512, 512),
        layers_per_block: int = 2,
        latent_channels: int = 4,
        norm_num_groups: int = 32,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.encoder = Encoder(
            in_channels=3,
            out_channels=latent_channels,
            down_block_types=("DownEncoderBlock2D",) * len(block_out_channels),
            block_out_channels=tuple(block_out_channels),
            layers_per_block=layers_per_block,
            norm_num_groups=norm_num_groups,
            double_z=True,
        )
        self.out = nn.Conv2d(2 * latent_channels, latent_channels, kernel_size=1)
        self.latent_channels = latent_channels
        self.downsampling = 2 ** (len(block_out_channels) - 1)
        for block in self.modules():
            if isinstance(block, ResnetBlock2D):  # diffusers' Encoder does not pass a dropout on
                block.dropout.p = dropout

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Encode ``image`` [B, 3, H, W] in [-1, 1] to its latent z_c [B, Z, h, w]."""
        return self.out(self.encoder(image))
