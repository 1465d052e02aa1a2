"""The sizes of a network, read off the shapes of a CompVis checkpoint; no tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sdseg_monai.errors import InputError

Shapes = Mapping[str, Sequence[int]]
NORM_NUM_GROUPS = 32  # CompVis code knows no other; no shape tells


def unet_sizes(shapes: Shapes) -> dict[str, Any]:
    """Return the constructor arguments of :class:`DenoisingUNet` but for ``num_heads``, which no shape tells.

    Args:
        shapes: of the tensors of a guided-diffusion style U-Net with residual up- and downsampling.

    Raises:
        InputError: they are not of such a network.
    """
    levels = _find_levels(shapes, r"output_blocks\.\d+\.[12]\.in_layers\.")
    firsts, channels = levels.first_blocks, levels.channels
    embedding = axis(shapes, f"input_blocks.{firsts[0]}.0.emb_layers.1.weight", 0, rank=2)
    if embedding != 2 * channels[0]:
        raise InputError(
            f"its U-Net's time embedding has {embedding} channels, expected {2 * channels[0]} (scale-shift)"
        )
    return {
        "in_channels": axis(shapes, "input_blocks.0.0.weight", 1, rank=4),
        "out_channels": axis(shapes, "out.2.weight", 0, rank=4),
        "block_out_channels": channels,
        "attention_levels": [any(n.startswith(f"input_blocks.{first}.1.") for n in shapes) for first in firsts],
        "layers_per_block": levels.layers_per_block,
        "norm_num_groups": NORM_NUM_GROUPS,
        "num_class_embeds": axis(shapes, "label_emb.weight", 0, rank=2) if "label_emb.weight" in shapes else None,
    }


def sd_unet_sizes(shapes: Shapes) -> dict[str, Any]:
    """Return the constructor arguments of diffusers' UNet2DConditionModel for a Stable Diffusion 1.x U-Net.

    Args:
        shapes: of the tensors of a CompVis U-Net with cross-attention and plain up- and downsampling.

    Raises:
        InputError: they are not of such a network.
    """
    levels = _find_levels(shapes, r"output_blocks\.\d+\.[12]\.conv\.")
    attend = [any(name.startswith(f"input_blocks.{first}.1.") for name in shapes) for first in levels.first_blocks]
    return {
        "in_channels": axis(shapes, "input_blocks.0.0.weight", 1, rank=4),
        "out_channels": axis(shapes, "out.2.weight", 0, rank=4),
        "block_out_channels": levels.channels,
        "layers_per_block": levels.layers_per_block,
        "down_block_types": ["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attend],
        "up_block_types": ["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attend)],
        "cross_attention_dim": axis(shapes, "middle_block.1.transformer_blocks.0.attn2.to_k.weight", 1, rank=2),
        "norm_num_groups": NORM_NUM_GROUPS,
    }


def encoder_sizes(shapes: Shapes, latent_channels: int) -> dict[str, Any]:
    """Return the constructor arguments of :class:`MaskAutoencoder` or :class:`VisionEncoder`.

    Args:
        shapes: of the tensors of a CompVis encoder, under ``encoder.``.
        latent_channels: half of what it puts out.

    Raises:
        InputError: they are not of such an encoder.
    """
    found = [re.match(r"encoder\.down\.(\d+)\.block\.(\d+)\.", name) for name in shapes]
    pairs = {(int(match[1]), int(match[2])) for match in found if match}
    if not pairs:
        raise InputError("it has no encoder of CompVis' layout (encoder.down.*)")
    levels, layers = (1 + max(numbers) for numbers in zip(*pairs, strict=True))
    if len(pairs) != levels * layers:
        raise InputError(f"its encoder has {len(pairs)} blocks, expected {layers} in each of {levels} levels")
    return {
        "block_out_channels": [
            axis(shapes, f"encoder.down.{i}.block.0.norm2.weight", 0, rank=1) for i in range(levels)
        ],
        "layers_per_block": layers,
        "latent_channels": latent_channels,
        "norm_num_groups": NORM_NUM_GROUPS,
    }


class _Levels(NamedTuple):
    first_blocks: list[int]  # index of each level's first input block
    channels: list[int]
    layers_per_block: int


def _find_levels(shapes: Shapes, upsampling: str) -> _Levels:
    blocks = 1 + max((int(n.split(".")[1]) for n in shapes if re.match(r"output_blocks\.\d+\.", n)), default=-1)
    count = 1 + len({n.split(".")[1] for n in shapes if re.match(upsampling, n)})
    if blocks <= count or blocks % count:
        raise InputError(
            f"its U-Net has {blocks} output blocks in {count} levels, expected as many in each, two or more"
        )
    firsts = [1 + level * blocks // count for level in range(count)]
    channels = [axis(shapes, f"input_blocks.{first}.0.out_layers.0.weight", 0, rank=1) for first in firsts]
    return _Levels(firsts, channels, blocks // count - 1)


def axis(shapes: Shapes, name: str, index: int, rank: int) -> int:
    """Return the length of one axis of the tensor ``name``, which has ``rank`` of them.

    Raises:
        InputError: there is no such tensor, or it has another number of axes.
    """
    if name not in shapes:
        raise InputError(f"{name} is missing")
    shape = tuple(shapes[name])
    if len(shape) != rank:
        raise InputError(f"{name} has shape {shape}, expected {rank} axes")
    return int(shape[index])
