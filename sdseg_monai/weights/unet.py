"""The pretrained U-Net that the paper starts from: LDM-8 (LSUN churches)."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from sdseg_monai.errors import InputError
from sdseg_monai.networks import DenoisingUNet
from sdseg_monai.networks.pretrained import tuples_to_lists
from sdseg_monai.networks.states import refuse_unexpected, shapes_of
from sdseg_monai.weights.checkpoints import read_checkpoint
from sdseg_monai.weights.keymaps import UNET_PREFIX, Source, describe_layout, unet_sizes, unet_source
from sdseg_monai.weights.transfer import ImportReport, check_sources, make_report, strip_prefix, take_tensors

logger = logging.getLogger(__name__)

SIZES = ("out_channels", "block_out_channels", "attention_levels", "layers_per_block", "norm_num_groups")


def load_unet(unet: DenoisingUNet, source: str | Path) -> ImportReport:
    """Load the raw U-Net of a CompVis LDM checkpoint, from which the official training starts, into ``unet``.

    The weights of input channels that the file does not have, those of the image latent, become zero. A class embedding
    that the file does not have keeps its random weights; the report lists it as missing. The number of heads is that of
    ``unet``, because the file does not say it.

    Args:
        unet: network to fill.
        source: ``.ckpt`` or ``.safetensors`` file (LSUN churches, LDM-8).

    Returns:
        The report on the tensors.

    Source: official-behaviour 1.5.

    Raises:
        InputError: the file cannot be read, has another layout or other sizes, or a tensor is missing.
    """
    state = read_checkpoint(source)
    try:
        tensors, report = take_unet(unet, state)
    except InputError as error:
        raise InputError(f"{source}: {error}") from error
    unet.load_state_dict({**unet.state_dict(), **tensors}, strict=True)
    logger.info("%s: tensors of the U-Net: %s", source, report)
    return report


def take_unet(unet: DenoisingUNet, state: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], ImportReport]:
    """Return the tensors of ``unet`` from those of a checkpoint as :func:`load_unet` describes, and the report on them.

    Args:
        unet: network of the sizes to expect; it does not change.
        state: tensors of the checkpoint.

    Raises:
        InputError: as :func:`load_unet`, without the file's name.
    """
    prefix, part = _find_unet(state)
    if any(".transformer_blocks." in name for name in part):
        raise InputError(f"looks like {describe_layout(state)}, expected a U-Net without cross-attention")
    sizes, targets = unet_sizes(shapes_of(part)), shapes_of(unet.state_dict())
    in_channels = sizes["in_channels"]
    if any(sizes[key] != tuples_to_lists(unet.config[key]) for key in SIZES) or in_channels > unet.config.in_channels:
        file_sizes = {key: sizes[key] for key in SIZES}
        raise InputError(f"a U-Net of other sizes, set network_def#unet to {file_sizes}, {in_channels} inputs or more")
    missing_names = {"class_embedding.weight"} & targets.keys() if sizes["num_class_embeds"] is None else set()
    sources = {}
    for name in targets.keys() - missing_names:
        source = unet_source(name, sizes["layers_per_block"], sizes["attention_levels"])
        sources[name] = Source(prefix + source.name, source.qkv_part)
    shape = targets["conv_in.weight"]
    targets["conv_in.weight"] = (shape[0], in_channels, *shape[2:])
    check_sources(shapes_of(state), sources, targets)
    used_names = {source.name for source in sources.values()}
    refuse_unexpected((prefix + name for name in part), used_names)
    tensors = take_tensors(state, sources, targets, unet.config.num_heads)
    tensors["conv_in.weight"] = widen(tensors["conv_in.weight"], unet.config.in_channels)
    return tensors, make_report(state, used_names, missing_names)


def widen(weight: torch.Tensor, in_channels: int) -> torch.Tensor:
    """Return the ``weight`` [O, I, k, k] of a convolution with zeros for more inputs, [O, ``in_channels``, k, k]."""
    padding = weight.new_zeros(len(weight), in_channels - weight.shape[1], *weight.shape[2:])
    return torch.cat([weight, padding], dim=1)


def _find_unet(state: dict[str, torch.Tensor]) -> tuple[str, dict[str, torch.Tensor]]:
    """Return the prefix of the U-Net's tensors in ``state``, and these tensors under their names without it."""
    part = strip_prefix(state, UNET_PREFIX)
    prefix, part = (UNET_PREFIX, part) if part else ("", state)
    if not any(name.startswith("input_blocks.") for name in part):
        raise InputError(f"looks like {describe_layout(state)}, expected a CompVis U-Net")
    return prefix, part
