"""The baseline of the paper's ablation: the image latent enters by cross-attention, not by concatenation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.configuration_utils import register_to_config

from sdseg_monai.networks.unet import Float32Conv2d, check_attention


class CrossAttentionUNet(UNet2DConditionModel):
    """U-Net of Stable Diffusion's kind: its input is the mask latent, and it attends to the image latent.

    The official repository has no configuration of this row of the paper's Table 6, so the tokens are this package's
    choice: each of the h * w positions of the image latent is one token of Z channels, in raster order and without a
    positional encoding, as Stable Diffusion's cross-attention takes any conditioning. The scale-shift norm is that of
    :class:`DenoisingUNet`; up- and downsampling are diffusers' plain convolutions, not residual blocks.

    Args:
        in_channels: channels of the noisy mask latent.
        out_channels: channels of the prediction.
        cross_attention_dim: channels of the image latent.
        block_out_channels: channels of each level.
        attention_levels: which levels have self- and cross-attention; the middle always has them.
        layers_per_block: residual blocks of a down level; an up level has one more.
        num_heads: heads of every attention; divides the channels of each level that attends.
        norm_num_groups: groups of every GroupNorm.
        dropout: dropout of the residual blocks.

    Raises:
        ValueError: ``attention_levels`` has another number of levels, or ``num_heads`` does not divide the channels of
            a level with attention.

    Example:
        >>> unet = CrossAttentionUNet(4, 4, 4, [16, 32], [False, True], 1, num_heads=4, norm_num_groups=8)
        >>> unet.predict(torch.zeros(1, 4, 8, 8), torch.zeros(1, 4, 8, 8), torch.tensor([999])).shape
        torch.Size([1, 4, 8, 8])
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 4,
        out_channels: int = 4,
        cross_attention_dim: int = 4,
        block_out_channels: Sequence[int] = (192, 384, 384, 768, 768),
        attention_levels: Sequence[bool] = (True, True, True, True, False),
        layers_per_block: int = 2,
        num_heads: int = 8,
        norm_num_groups: int = 32,
        dropout: float = 0.0,
    ) -> None:
        check_attention(block_out_channels, attention_levels, num_heads)
        super().__init__(
            in_channels=in_channels,
            out_channels=out_channels,
            block_out_channels=tuple(block_out_channels),
            down_block_types=tuple(
                "CrossAttnDownBlock2D" if has_attention else "DownBlock2D" for has_attention in attention_levels
            ),
            up_block_types=tuple(
                "CrossAttnUpBlock2D" if has_attention else "UpBlock2D" for has_attention in reversed(attention_levels)
            ),
            layers_per_block=layers_per_block,
            cross_attention_dim=cross_attention_dim,
            attention_head_dim=num_heads,  # diffusers' name, but this class takes it as the number of heads
            resnet_time_scale_shift="scale_shift",
            norm_num_groups=norm_num_groups,
            dropout=dropout,
        )
        self.conv_out = Float32Conv2d(block_out_channels[0], out_channels, kernel_size=3, padding=1)

    @property
    def diffusers_class(self) -> type[UNet2DConditionModel]:
        """The class of diffusers that computes the same."""
        return UNet2DConditionModel

    @classmethod
    def arguments_from(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of this constructor that give the network of a diffusers ``config``."""
        names = ("in_channels", "out_channels", "cross_attention_dim", "block_out_channels", "layers_per_block")
        return {
            **{name: config[name] for name in (*names, "norm_num_groups", "dropout")},
            "attention_levels": [kind == "CrossAttnDownBlock2D" for kind in config["down_block_types"]],
            "num_heads": config["attention_head_dim"],
        }

    def predict(
        self,
        noisy_latent: torch.Tensor,
        image_latent: torch.Tensor,
        timesteps: torch.Tensor,
        class_labels: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Predict from the noisy mask latent while attending to the image latent; as :meth:`DenoisingUNet.predict`."""
        tokens = image_latent.flatten(2).transpose(1, 2)  # [B, h * w, Z]
        return self(noisy_latent, timesteps, encoder_hidden_states=tokens, class_labels=class_labels).sample
