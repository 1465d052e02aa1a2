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


class Float32Conv2d(nn.Conv2d):
    """A convolution that computes in float32 whatever the autocast dtype or its weights' dtype.

    At t=999 an error of the predicted noise is amplified 38.66 times: rounding it to bfloat16 costs 0.064 rms in
    unit-variance latents (official-behaviour, fact 3).
    """

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Convolve ``hidden`` [B, C, h, w]; float32 out."""
        with torch.autocast(hidden.device.type, enabled=False):
            bias = None if self.bias is None else self.bias.float()
            return F.conv2d(hidden.float(), self.weight.float(), bias, self.stride, self.padding)


class DenoisingUNet(UNet2DModel):
    """LDM-8 "LSUN churches" U-Net: scale-shift norm, residual up/down blocks, a fixed number of heads.

    Args:
        in_channels: noisy mask latent and image latent together.
        out_channels: channels of the prediction.
        block_out_channels: channels of each level.
        attention_levels: which levels have self-attention; the middle always has it.
        layers_per_block: residual blocks of a down level; an up level has one more.
        num_heads: heads of every attention; divides the channels of each level that attends.
        norm_num_groups: groups of every GroupNorm.
        dropout: dropout of the residual blocks; the official code uses 0.2.
        num_class_embeds: classes whose embedding is added to the time's; None for an unconditional network.

    Source: official-behaviour 1.5; 294,973,828 parameters at the default size.
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
        # diffusers fixes the channels of a head, the official code the number of heads: both can be told where every
        # attention has as many channels
        channels = {*attending_channels(block_out_channels, attention_levels)}
        head_channels = channels.pop() // num_heads if len(channels) == 1 else None
        super().__init__(
            in_channels=in_channels,
            out_channels=out_channels,
            block_out_channels=tuple(block_out_channels),
            down_block_types=tuple("AttnDownBlock2D" if a else "ResnetDownsampleBlock2D" for a in attention_levels),
            up_block_types=tuple("AttnUpBlock2D" if a else "ResnetUpsampleBlock2D" for a in reversed(attention_levels)),
            layers_per_block=layers_per_block,
            downsample_type="resnet",
            upsample_type="resnet",
            resnet_time_scale_shift="scale_shift",
            attention_head_dim=head_channels,  # None: one head each
            norm_num_groups=norm_num_groups,
            attn_norm_num_groups=norm_num_groups,  # else the middle attention silently loses its norm
            norm_eps=1e-5,
            dropout=dropout,
            num_class_embeds=num_class_embeds,
        )
        for module in self.modules():
            if isinstance(module, Attention):
                module.heads = num_heads
                module.scale = (module.inner_dim // num_heads) ** -0.5
        self.conv_out = Float32Conv2d(block_out_channels[0], out_channels, kernel_size=3, padding=1)

    @property
    def diffusers_class(self) -> type[UNet2DModel] | None:
        """Diffusers' class that computes the same; None where heads have other numbers of channels at other levels."""
        is_same = self.config.attention_head_dim is not None or self.config.num_heads == 1
        return UNet2DModel if is_same else None

    @classmethod
    def arguments_from(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return the constructor arguments that a config of diffusers' class stands for."""
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
        """Run on the concatenation [noisy mask latent, image latent]; the order is the official one.

        Args:
            noisy_latent: z_t, [B, Z, h, w].
            image_latent: z_c, [B, Z, h, w].
            timesteps: [B], int64 in [0, T).
            class_labels: [B], int64; for a class-conditional network.

        Returns:
            The prediction in the sense of the network's ``prediction_type``, [B, Z, h, w], float32.
        """
        return self(torch.cat([noisy_latent, image_latent], dim=1), timesteps, class_labels).sample


def check_attention(block_out_channels: Sequence[int], attention_levels: Sequence[bool], num_heads: int) -> None:
    """Raise :class:`ValueError` unless each level says whether it attends and the heads divide its channels."""
    if len(attention_levels) != len(block_out_channels):
        raise ValueError(
            f"attention_levels has {len(attention_levels)} entries for the {len(block_out_channels)} levels of "
            "block_out_channels: give one per level"
        )
    for channels in attending_channels(block_out_channels, attention_levels):
        if num_heads < 1 or channels % num_heads:
            raise ValueError(f"num_heads={num_heads} does not divide the {channels} channels of an attention level")


def attending_channels(block_out_channels: Sequence[int], attention_levels: Sequence[bool]) -> list[int]:
    """Return the channels of every attention; the middle attends at the last level's."""
    levels = [c for c, attends in zip(block_out_channels, attention_levels, strict=True) if attends]
    return [*levels, block_out_channels[-1]]
