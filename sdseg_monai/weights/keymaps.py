"""Which tensor of a CompVis checkpoint fills which tensor of ours: names only, no tensors."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

UNET_PREFIX = "model.diffusion_model."
AUTOENCODER_PREFIX = "first_stage_model."
VISION_ENCODER_PREFIX = "cond_stage_model."
QKV_PARTS = {"to_q": 0, "to_k": 1, "to_v": 2}


class Source(NamedTuple):
    """Where a tensor comes from: ``name`` in the file, and which third of a fused query-key-value tensor, if any."""

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
    """Return the source of ``name``, a tensor of :class:`DenoisingUNet`, in a guided-diffusion style U-Net.

    Source: official-behaviour 1.5 and 6; checked against executed official code in ``tests/weights/test_official.py``.

    Raises:
        ValueError: there is no such tensor in that layout.
    """
    module, _, tensor = name.rpartition(".")
    if module in UNET_ENDS:
        return Source(f"{UNET_ENDS[module]}.{tensor}")
    found = UNET_BLOCK.fullmatch(module)
    if found is None:
        raise ValueError(f"{name}: no tensor of the U-Net")
    layer = found["layer"]
    block = _unet_block(found, layers_per_block, attention_levels)
    if found["kind"] == "attentions" and layer in QKV_PARTS:
        return Source(f"{block}.qkv.{tensor}", QKV_PARTS[layer])
    layers = UNET_ATTENTION if found["kind"] == "attentions" else UNET_RESNET
    if layer not in layers:
        raise ValueError(f"{name}: no tensor of the U-Net")
    return Source(f"{block}.{layers[layer]}.{tensor}")


def _unet_block(found: re.Match[str], layers_per_block: int, attention_levels: Sequence[bool]) -> str:
    kind, index = found["kind"], int(found["index"])
    if found["stage"] == "mid":
        return "middle_block.1" if kind == "attentions" else f"middle_block.{2 * index}"
    level = int(found["level"])
    first = level * (layers_per_block + 1)  # layers_per_block residual blocks and one that resamples or joins
    if found["stage"] == "down":
        position = 1 + first + (layers_per_block if kind == "downsamplers" else index)
        return f"input_blocks.{position}.{1 if kind == 'attentions' else 0}"
    if kind == "upsamplers":  # the last module of a level's last block, after the attention if there is one
        return f"output_blocks.{first + layers_per_block}.{2 if attention_levels[-1 - level] else 1}"
    return f"output_blocks.{first + index}.{1 if kind == 'attentions' else 0}"


def autoencoder_source(name: str, levels: int) -> Source:
    """Return the source of ``name``, a tensor of :class:`MaskAutoencoder`, in a CompVis autoencoder (kl-f8, SD).

    Source: official-behaviour 1.1; agrees with diffusers' ``convert_ldm_vae_checkpoint`` (``tests/weights``).
    """
    for pattern, replacement in AUTOENCODER_RULES:
        name = re.sub(pattern, replacement, name)
    # CompVis counts the decoder's levels from the image, diffusers from the latent
    return Source(re.sub(r"\.up\.(\d+)\.", lambda found: f".up.{levels - 1 - int(found[1])}.", name))


def ema_name(name: str) -> str:
    """Return the name under ``model_ema`` of ``name``, a parameter of ``model``: without its dots."""
    return "model_ema." + name.replace(".", "")
