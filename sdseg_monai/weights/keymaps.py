"""The layout and sizes of a checkpoint, from its names and shapes alone, and the source of each tensor of a network."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from sdseg_monai.errors import InputError
from sdseg_monai.networks.states import Shapes

LAYOUTS = (  # parts of names, with a description; the first row fits whose parts all occur in a name
    (("model.diffusion_model.", "cond_stage_model.encoder.", "first_stage_model."), "an official SDSeg checkpoint"),
    (("model.diffusion_model.", ".transformer_blocks."), "a CompVis Stable Diffusion checkpoint"),
    (("model.diffusion_model.",), "a CompVis latent diffusion checkpoint"),
    (("autoencoder.", "vision_encoder.", "unet.", "scale_factor"), "a model.pt of this package"),
    (("vision_encoder.", "unet."), "a training checkpoint of this package"),
    (("down_blocks.", "transformer_blocks."), "a diffusers UNet2DConditionModel"),
    (("time_embedding.", "down_blocks."), "a diffusers UNet2DModel"),
    (("encoder.down_blocks.", "decoder.up_blocks."), "an autoencoder of diffusers or this package"),
    (("encoder.down_blocks.", "decoder.layers."), "an autoencoder of this package with a distilled decoder"),
    (("encoder.layers.", "decoder.layers."), "a TAESD (AutoencoderTiny)"),
    (("encoder.down.", "decoder.up."), "a CompVis autoencoder (kl-f8, Stable Diffusion's VAE)"),
)

NORM_NUM_GROUPS = 32  # the only value in CompVis' code; it cannot be seen in a shape
UNET_PREFIX = "model.diffusion_model."
AUTOENCODER_PREFIX = "first_stage_model."
VISION_ENCODER_PREFIX = "cond_stage_model."
QKV_PARTS = {"to_q": 0, "to_k": 1, "to_v": 2}


class Source(NamedTuple):
    """Source of a tensor: ``name`` in the file, and which third of it if it is a fused query-key-value tensor."""

    name: str
    qkv_part: int | None = None


UNET_ENDS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "class_embedding": "label_emb",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
UNET_ATTENTION = {"group_norm": "norm", "to_out.0": "proj_out"}
UNET_BLOCK = re.compile(
    r"(?P<stage>down|mid|up)_block(?:s\.(?P<level>\d+))?\."
    r"(?P<kind>resnets|attentions|downsamplers|upsamplers)\.(?P<index>\d+)\.(?P<layer>.+)"
)

AUTOENCODER_RULES = (
    (r"\.down_blocks\.(\d+)\.resnets\.", r".down.\1.block."),
    (r"\.down_blocks\.(\d+)\.downsamplers\.0\.", r".down.\1.downsample."),
    (r"\.up_blocks\.(\d+)\.resnets\.", r".up.\1.block."),
    (r"\.up_blocks\.(\d+)\.upsamplers\.0\.", r".up.\1.upsample."),
    (r"\.mid_block\.resnets\.0\.", r".mid.block_1."),
    (r"\.mid_block\.resnets\.1\.", r".mid.block_2."),
    (r"\.mid_block\.attentions\.0\.", r".mid.attn_1."),
    (r"\.group_norm\.", r".norm."),
    (r"\.to_([qkv])\.", r".\1."),
    (r"\.to_out\.0\.", r".proj_out."),
    (r"\.conv_shortcut\.", r".nin_shortcut."),
    (r"\.conv_norm_out\.", r".norm_out."),
)


def unet_source(name: str, layers_per_block: int, attention_levels: Sequence[bool]) -> Source:
    """Return the source of a tensor of :class:`DenoisingUNet` in a U-Net of guided diffusion's layout.

    Args:
        name: of the tensor in the network.
        layers_per_block: residual blocks of a down level.
        attention_levels: which levels have self-attention.

    Source: official-behaviour 1.5 and 6; checked against executed official code in ``tests/weights/test_official.py``.

    Raises:
        ValueError: there is no such tensor in that layout.
    """
    module, _, tensor = name.rpartition(".")
    if module in UNET_ENDS:
        return Source(f"{UNET_ENDS[module]}.{tensor}")
    match = UNET_BLOCK.fullmatch(module)
    if match is None:
        raise ValueError(f"{name}: no tensor of the U-Net")
    layer = match["layer"]
    block = _unet_block(match, layers_per_block, attention_levels)
    if match["kind"] == "attentions" and layer in QKV_PARTS:
        return Source(f"{block}.qkv.{tensor}", QKV_PARTS[layer])
    layers = UNET_ATTENTION if match["kind"] == "attentions" else UNET_RESNET
    if layer not in layers:
        raise ValueError(f"{name}: no tensor of the U-Net")
    return Source(f"{block}.{layers[layer]}.{tensor}")


def _unet_block(match: re.Match[str], layers_per_block: int, attention_levels: Sequence[bool]) -> str:
    kind, index = match["kind"], int(match["index"])
    if match["stage"] == "mid":
        return "middle_block.1" if kind == "attentions" else f"middle_block.{2 * index}"
    level = int(match["level"])
    # a level has layers_per_block blocks and one more: the downsampling, or the additional block of an up level
    first_block = level * (layers_per_block + 1)
    if match["stage"] == "down":
        position = 1 + first_block + (layers_per_block if kind == "downsamplers" else index)
        return f"input_blocks.{position}.{1 if kind == 'attentions' else 0}"
    if kind == "upsamplers":  # the last module of a level's last block, after the attention if there is one
        return f"output_blocks.{first_block + layers_per_block}.{2 if attention_levels[-1 - level] else 1}"
    return f"output_blocks.{first_block + index}.{1 if kind == 'attentions' else 0}"


def autoencoder_source(name: str, levels: int) -> Source:
    """Return the source of a tensor of :class:`MaskAutoencoder` in a CompVis autoencoder (kl-f8, Stable Diffusion).

    Args:
        name: of the tensor in the network.
        levels: number of resolutions.

    Source: official-behaviour 1.1; agrees with diffusers' ``convert_ldm_vae_checkpoint`` (``tests/weights``).
    """
    for pattern, replacement in AUTOENCODER_RULES:
        name = re.sub(pattern, replacement, name)
    # CompVis counts the decoder's levels from the image, diffusers from the latent
    return Source(re.sub(r"\.up\.(\d+)\.", lambda match: f".up.{levels - 1 - int(match[1])}.", name))


def tiny_source(name: str) -> Source:
    """Return the source of a tensor of :class:`TinyMaskAutoencoder` in a file of madebyollin/taesd, such as TAEF2's.

    Its decoder counts the clamp of the latent as its first layer.
    """
    part, _, index, rest = name.split(".", 3)
    return Source(f"{part}.{int(index) + (part == 'decoder')}.{rest}")


def ema_name(name: str) -> str:
    """Return the name of the average of a parameter ``name`` of ``model``: under ``model_ema``, without the dots."""
    return "model_ema." + name.replace(".", "")


def describe_layout(names: Iterable[str]) -> str:
    """Return a short description of the layout that the tensors called ``names`` have."""
    names = list(names)
    for parts, description in LAYOUTS:
        if all(any(part in name for name in names) for part in parts):
            return description
    return "no layout known here"


def unet_sizes(shapes: Shapes) -> dict[str, Any]:
    """Return the constructor arguments of :class:`DenoisingUNet` except ``num_heads``, which cannot be seen in shapes.

    Args:
        shapes: shapes of the tensors of a U-Net of guided diffusion's layout with residual up- and downsampling.

    Raises:
        InputError: they are not those of such a network.
    """
    blocks = 1 + max((int(n.split(".")[1]) for n in shapes if re.match(r"output_blocks\.\d+\.", n)), default=-1)
    levels = 1 + len({n.split(".")[1] for n in shapes if re.match(r"output_blocks\.\d+\.[12]\.in_layers\.", n)})
    if blocks <= levels or blocks % levels:
        raise InputError(
            f"its U-Net has {blocks} output blocks in {levels} levels, expected as many in each, two or more"
        )
    first_blocks = [1 + level * blocks // levels for level in range(levels)]  # first input block of each level
    channels = [axis(shapes, f"input_blocks.{block}.0.out_layers.0.weight", 0, rank=1) for block in first_blocks]
    embedding_channels = axis(shapes, f"input_blocks.{first_blocks[0]}.0.emb_layers.1.weight", 0, rank=2)
    if embedding_channels != 2 * channels[0]:
        raise InputError(
            f"its U-Net's time embedding has {embedding_channels} channels, expected {2 * channels[0]} (scale-shift)"
        )
    return {
        "in_channels": axis(shapes, "input_blocks.0.0.weight", 1, rank=4),
        "out_channels": axis(shapes, "out.2.weight", 0, rank=4),
        "block_out_channels": channels,
        "attention_levels": [any(n.startswith(f"input_blocks.{block}.1.") for n in shapes) for block in first_blocks],
        "layers_per_block": blocks // levels - 1,
        "norm_num_groups": NORM_NUM_GROUPS,
        "num_class_embeds": axis(shapes, "label_emb.weight", 0, rank=2) if "label_emb.weight" in shapes else None,
    }


def encoder_sizes(shapes: Shapes, latent_channels: int) -> dict[str, Any]:
    """Return the constructor arguments of :class:`MaskAutoencoder` or :class:`VisionEncoder`.

    Args:
        shapes: shapes of the tensors of a CompVis encoder, whose names begin with ``encoder.``.
        latent_channels: half of the encoder's output channels.

    Raises:
        InputError: they are not those of such an encoder.
    """
    matches = [re.match(r"encoder\.down\.(\d+)\.block\.(\d+)\.", name) for name in shapes]
    pairs = {(int(match[1]), int(match[2])) for match in matches if match}
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


def axis(shapes: Shapes, name: str, index: int, rank: int) -> int:
    """Return the length of one axis of a tensor.

    Args:
        shapes: shapes of the tensors, by name.
        name: of the tensor.
        index: of the axis.
        rank: number of axes that the tensor must have.

    Raises:
        InputError: there is no such tensor, or it has another number of axes.
    """
    if name not in shapes:
        raise InputError(f"{name} is missing")
    shape = tuple(shapes[name])
    if len(shape) != rank:
        raise InputError(f"{name} has shape {shape}, expected {rank} axes")
    return int(shape[index])
