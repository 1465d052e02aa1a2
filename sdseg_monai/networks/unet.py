"""The denoising U-Net of the official code on diffusers' UNet2DModel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import UNet2DModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention_processor import Attention
from torch import nn
from torch.nn import functional as F

from sdseg_monai.networks.device import without_autocast


class Float32Conv2d(nn.Conv2d):
    """A convolution that computes in float32, whatever the dtype of autocast or of its weights.

    At t=999 the estimate of the latent multiplies an error of the predicted noise by 38.66: rounding the noise to
    bfloat16 would cost a root-mean-square error of 0.064 in latents of unit variance (official-behaviour, fact 3).
    """

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the convolution of ``hidden`` [B, C, h, w], in float32."""
        with without_autocast(hidden):
            bias = None if self.bias is None else self.bias.float()
            return F.conv2d(hidden.float(), self.weight.float(), bias, self.stride, self.padding)


DEFAULT_HEAD_CHANNELS = 8  # of diffusers' UNet2DModel


class DenoisingUNet(UNet2DModel):
    """U-Net of LDM-8 "LSUN churches": scale-shift norm, residual blocks that resample, a fixed number of heads.

    Args:
        in_channels: channels of noisy mask latent and image latent together.
        out_channels: channels of the prediction.
        block_out_channels: channels of each level.
        attention_levels: which levels have self-attention; the middle block always has it.
        layers_per_block: residual blocks of a down level; an up level has one more.
        num_heads: heads of every attention; divides the channels of each level that attends.
        norm_num_groups: groups of every GroupNorm.
        dropout: dropout of the residual blocks; the official code uses 0.2.
        num_class_embeds: number of classes whose embedding is added to that of the timestep; None for a network that is
            not class-conditional.

    Raises:
        ValueError: ``attention_levels`` has another number of levels, or ``num_heads`` does not divide the channels of
            a level with attention.

    Source: official-behaviour 1.5; 294,973,828 parameters at the default size.

    Example:
        >>> unet = DenoisingUNet(8, 4, [16, 32], [False, True], 1, num_heads=4, norm_num_groups=8)
        >>> unet.predict(torch.zeros(1, 4, 8, 8), torch.zeros(1, 4, 8, 8), torch.tensor([999])).shape
        torch.Size([1, 4, 8, 8])
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 8,
        out_channels: int = 4,
        block_out_channels: Sequence[int] = (192, 384, 384, 768, 768),
        attention_levels: Sequence[bool] = (True, True, True, True, False),
        layers_per_block: int = 2,
        num_heads: int = 8,
        norm_num_groups: int = 32,
        dropout: float = 0.0,
        num_class_embeds: int | None = None,
    ) -> None:
        check_attention(block_out_channels, attention_levels, num_heads)
        # diffusers fixes the channels of a head, the official code the number of heads: one argument says both if every
        # attention has the same number of channels
        channels = {*attention_channels(block_out_channels, attention_levels)}
        head_channels = max(channels) // num_heads if len(channels) == 1 else None
        has_odd_channels = any(count % DEFAULT_HEAD_CHANNELS for count in channels)
        if has_odd_channels:  # as in 0.4.0, whose weights have attentions narrower than their level
            head_channels = DEFAULT_HEAD_CHANNELS
        super().__init__(
            in_channels=in_channels,
            out_channels=out_channels,
            block_out_channels=tuple(block_out_channels),
            down_block_types=tuple(
                "AttnDownBlock2D" if has_attention else "ResnetDownsampleBlock2D" for has_attention in attention_levels
            ),
            up_block_types=tuple(
                "AttnUpBlock2D" if has_attention else "ResnetUpsampleBlock2D"
                for has_attention in reversed(attention_levels)
            ),
            layers_per_block=layers_per_block,
            downsample_type="resnet",
            upsample_type="resnet",
            resnet_time_scale_shift="scale_shift",
            attention_head_dim=head_channels,  # None: one head in each attention
            norm_num_groups=norm_num_groups,
            attn_norm_num_groups=norm_num_groups,  # without it the middle attention would have no norm
            norm_eps=1e-5,
            dropout=dropout,
            num_class_embeds=num_class_embeds,
        )
        self.has_diffusers_heads = not has_odd_channels and (len(channels) == 1 or num_heads == 1)
        for module in self.modules():
            if isinstance(module, Attention):
                module.heads = num_heads
                module.scale = (module.inner_dim // num_heads) ** -0.5
        self.conv_out = Float32Conv2d(block_out_channels[0], out_channels, kernel_size=3, padding=1)

    @property
    def diffusers_class(self) -> type[UNet2DModel] | None:
        """The class of diffusers that computes the same; None if its one number of channels of a head does not fit."""
        return UNet2DModel if self.has_diffusers_heads else None

    @classmethod
    def arguments_from(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of this constructor that give the network of a diffusers ``config``."""
        names = ("in_channels", "out_channels", "block_out_channels", "layers_per_block", "norm_num_groups")
        head_channels = config["attention_head_dim"]
        return {
            **{name: config[name] for name in (*names, "dropout", "num_class_embeds")},
            "attention_levels": [kind == "AttnDownBlock2D" for kind in config["down_block_types"]],
            "num_heads": 1 if head_channels is None else config["block_out_channels"][-1] // head_channels,
        }

    def predict(
        self,
        noisy_latent: torch.Tensor,
        image_latent: torch.Tensor,
        timesteps: torch.Tensor,
        class_labels: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Predict from the concatenation [noisy mask latent, image latent], the order of the official code.

        Args:
            noisy_latent: z_t, [B, Z, h, w].
            image_latent: z_c, [B, Z, h, w].
            timesteps: [B], int64 in [0, T).
            class_labels: [B], int64; for a class-conditional network.

        Returns:
            The prediction, [B, Z, h, w], float32; ``prediction_type`` of :class:`SDSeg` says of what.
        """
        return self(torch.cat([noisy_latent, image_latent], dim=1), timesteps, class_labels).sample


def check_attention(block_out_channels: Sequence[int], attention_levels: Sequence[bool], num_heads: int) -> None:
    """Check the attention of a U-Net's levels.

    Raises:
        ValueError: ``attention_levels`` has another number of levels, or ``num_heads`` does not divide the channels of
            a level with attention.
    """
    if len(attention_levels) != len(block_out_channels):
        raise ValueError(
            f"attention_levels has {len(attention_levels)} entries for the {len(block_out_channels)} levels of "
            "block_out_channels: give one per level"
        )
    for channels in attention_channels(block_out_channels, attention_levels):
        if num_heads < 1 or channels % num_heads:
            raise ValueError(f"num_heads={num_heads} does not divide the {channels} channels of an attention level")


def attention_channels(block_out_channels: Sequence[int], attention_levels: Sequence[bool]) -> list[int]:
    """Return the channels of every level with attention, then those of the middle block, which has the last level's."""
    levels = zip(block_out_channels, attention_levels, strict=True)
    return [*(channels for channels, has_attention in levels if has_attention), block_out_channels[-1]]
