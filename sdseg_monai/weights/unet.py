"""The pretrained U-Net that the paper starts from: LDM-8 (LSUN churches)."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from sdseg_monai.errors import InputError
from sdseg_monai.networks import DenoisingUNet
from sdseg_monai.networks.pretrained import plain
from sdseg_monai.networks.states import refuse_unexpected, shapes_of
from sdseg_monai.weights.checkpoints import read_checkpoint
from sdseg_monai.weights.keymaps import UNET_PREFIX, Source, describe_layout, unet_sizes, unet_source
from sdseg_monai.weights.transfer import ImportReport, check_sources, make_report, strip_prefix, take_tensors

logger = logging.getLogger(__name__)

SIZES = ("out_channels", "block_out_channels", "attention_levels", "layers_per_block", "norm_num_groups")


def load_unet(unet: DenoisingUNet, source: str | Path) -> ImportReport:
    """Load a CompVis LDM checkpoint's raw U-Net, the official start (LSUN churches, LDM-8), into ``unet``.

    Input channels beyond the file's, the image latent's, become zero; a class embedding that the file lacks keeps its
    random start and is reported missing. The number of heads is ``unet``'s own, no shape tells it.

    Source: official-behaviour 1.5.

    Raises:
        InputError: the file cannot be read, has another layout or other sizes, or lacks a tensor.
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
    """Return the tensors for ``unet`` from ``state`` as :func:`load_unet` says, and what became of ``state``.

    Raises:
        InputError: as :func:`load_unet`, without the file's name.
    """
    prefix, part = _find_unet(state)
    if any(".transformer_blocks." in name for name in part):
        raise InputError(f"looks like {describe_layout(state)}, expected a U-Net without cross-attention")
    sizes, targets = unet_sizes(shapes_of(part)), shapes_of(unet.state_dict())
    in_channels = sizes["in_channels"]
    if any(sizes[key] != plain(unet.config[key]) for key in SIZES) or in_channels > unet.config.in_channels:
        file_sizes = {key: sizes[key] for key in SIZES}
        raise InputError(f"a U-Net of other sizes, set network_def#unet to {file_sizes}, {in_channels} inputs or more")
    missing = {"class_embedding.weight"} & targets.keys() if sizes["num_class_embeds"] is None else set()
    sources = {}
    for name in targets.keys() - missing:
        source = unet_source(name, sizes["layers_per_block"], sizes["attention_levels"])
        sources[name] = Source(prefix + source.name, source.qkv_part)
    weight = targets["conv_in.weight"]
    targets["conv_in.weight"] = (weight[0], in_channels, *weight[2:])
    check_sources(shapes_of(state), sources, targets)
    used = {source.name for source in sources.values()}
    refuse_unexpected((prefix + name for name in part), used)
    tensors = take_tensors(state, sources, targets, unet.config.num_heads)
    tensors["conv_in.weight"] = widen(tensors["conv_in.weight"], unet.config.in_channels)
    return tensors, make_report(state, used, missing)


def widen(weight: torch.Tensor, in_channels: int) -> torch.Tensor:
    """Return the convolution's weight [O, I, k, k] with zeros for the input channels from I to ``in_channels``."""
    padding = weight.new_zeros(len(weight), in_channels - weight.shape[1], *weight.shape[2:])
    return torch.cat([weight, padding], dim=1)


def _find_unet(state: dict[str, torch.Tensor]) -> tuple[str, dict[str, torch.Tensor]]:
    """Return the U-Net's prefix in ``state``, and its tensors without it."""
    part = strip_prefix(state, UNET_PREFIX)
    prefix, part = (UNET_PREFIX, part) if part else ("", state)
    if not any(name.startswith("input_blocks.") for name in part):
        raise InputError(f"looks like {describe_layout(state)}, expected a CompVis U-Net")
    return prefix, part
