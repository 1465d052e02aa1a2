"""Official SDSeg checkpoints: from a Lightning ``.ckpt`` to :class:`SDSeg`."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sdseg_monai.errors import InputError
from sdseg_monai.networks import DenoisingUNet, MaskAutoencoder, SDSeg, VisionEncoder
from sdseg_monai.networks.states import Shapes, refuse_unexpected, shapes_of
from sdseg_monai.schedule import NoiseSchedule
from sdseg_monai.weights.checkpoints import read_checkpoint
from sdseg_monai.weights.keymaps import (
    AUTOENCODER_PREFIX,
    UNET_PREFIX,
    VISION_ENCODER_PREFIX,
    Source,
    autoencoder_source,
    axis,
    describe_layout,
    ema_name,
    encoder_sizes,
    unet_sizes,
    unet_source,
)
from sdseg_monai.weights.transfer import ImportReport, check_sources, make_report, strip_prefix, take_tensors

logger = logging.getLogger(__name__)

OFFICIAL_HEADS = 8  # of the U-Net's attention; the number cannot be seen in a shape
SCHEDULE_NAMES = ("betas", "alphas_cumprod")


@dataclass(frozen=True)
class ImportedNetwork:
    """A network from a file, with the report on which tensors of the file were used."""

    network: SDSeg
    report: ImportReport


@dataclass(frozen=True)
class Plan:
    """A network of a checkpoint's sizes, on the meta device, with the source of each of its tensors."""

    network: SDSeg
    sources: dict[str, Source]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the network's tensors."""
        return shapes_of(self.network.state_dict())


def load_official(path: str | Path, *, num_heads: int = OFFICIAL_HEADS, use_ema: bool = True) -> SDSeg:
    """Return the network of an official checkpoint; arguments and errors are those of :func:`import_official`."""
    return import_official(path, num_heads=num_heads, use_ema=use_ema).network


def import_official(path: str | Path, *, num_heads: int = OFFICIAL_HEADS, use_ema: bool = True) -> ImportedNetwork:
    """Read an official Lightning ``.ckpt`` into a network of its sizes, in float32 on the CPU, in evaluation mode.

    Every tensor of the network comes from the file. The rest of the file, which is the optimiser, the other set of
    U-Net weights and derived buffers of the schedule, is not used; the report counts it. Nothing in the file is
    executed.

    Args:
        path: the checkpoint; binary, or class-conditional (``label_emb``).
        num_heads: heads of the U-Net's attention, 8 in the official configs; the file does not say the number.
        use_ema: take the U-Net's averaged weights, as the official evaluation does; False takes the raw ones.

    Source: official-behaviour, section 6; as the official code runs in ``tests/weights/test_official.py``.

    Raises:
        InputError: the file cannot be read or has another layout; a tensor is missing, has another shape or values that
            are not finite; ``num_heads`` does not divide the channels; :class:`NoiseSchedule` cannot make its noise
            schedule.
    """
    state = read_checkpoint(path)
    try:
        plan = plan_official(shapes_of(state), num_heads=num_heads, use_ema=use_ema)
        plan.network.schedule = read_schedule(state)
        tensors = take_tensors(state, plan.sources, plan.shapes, num_heads)
        if not float(tensors["scale_factor"]) > 0:
            raise InputError(f"scale_factor is {float(tensors['scale_factor'])}, expected a positive number")
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    plan.network.load_state_dict(tensors, strict=True, assign=True)
    report = make_report(state, [source.name for source in plan.sources.values()] + list(SCHEDULE_NAMES))
    logger.info("%s: %s weights of the U-Net; tensors: %s", path, "averaged" if use_ema else "raw", report)
    return ImportedNetwork(plan.network.eval(), report)


def plan_official(shapes: Shapes, *, num_heads: int = OFFICIAL_HEADS, use_ema: bool = True) -> Plan:
    """Find the sizes of the network and the source of each of its tensors, and check that all of them fit.

    Args:
        shapes: shapes of the tensors of an official checkpoint.
        num_heads: heads of the U-Net's attention.
        use_ema: take the U-Net's averaged weights.

    Raises:
        InputError: as :func:`import_official`, without the file's name.
    """
    unet, first_stage, cond_stage = (
        strip_prefix(shapes, prefix) for prefix in (UNET_PREFIX, AUTOENCODER_PREFIX, VISION_ENCODER_PREFIX)
    )
    if not unet or not first_stage or not any(name.startswith("encoder.") for name in cond_stage):
        raise InputError(f"looks like {describe_layout(shapes)}, expected an official SDSeg checkpoint")
    unet_options = {**unet_sizes(unet), "num_heads": num_heads}
    autoencoder_options = encoder_sizes(first_stage, axis(first_stage, "post_quant_conv.weight", 0, rank=4))
    vision_options = encoder_sizes(cond_stage, axis(cond_stage, "out.weight", 0, rank=4))
    network = _build(autoencoder_options, vision_options, unet_options)
    sources = official_sources(network, use_ema=False)
    source_names = {source.name for source in sources.values()}
    for prefix, part in ((UNET_PREFIX, unet), (AUTOENCODER_PREFIX, first_stage), (VISION_ENCODER_PREFIX, cond_stage)):
        # the loss of the autoencoder is left from its training
        refuse_unexpected((prefix + name for name in part if not name.startswith("loss.")), source_names)
    if use_ema:
        check_ema_names(unet)
        if not any(name.startswith("model_ema.") for name in shapes):
            raise InputError("it has no averaged weights (model_ema.*), expected them; take the raw ones instead")
        sources = official_sources(network, use_ema=True)
    plan = Plan(network, sources)
    check_sources(shapes, sources, plan.shapes)
    return plan


def official_sources(network: SDSeg, *, use_ema: bool) -> dict[str, Source]:
    """Return the source of each of ``network``'s tensors in an official checkpoint.

    Args:
        network: of the checkpoint's sizes.
        use_ema: take the U-Net's averaged weights.
    """
    autoencoder_levels = len(network.autoencoder.config.block_out_channels)
    vision_levels = len(network.vision_encoder.encoder.down_blocks)
    config = network.unet.config
    sources = {"scale_factor": Source("scale_factor")}
    for name in network.autoencoder.state_dict():
        sources[f"autoencoder.{name}"] = Source(AUTOENCODER_PREFIX + autoencoder_source(name, autoencoder_levels).name)
    for name in network.vision_encoder.state_dict():
        sources[f"vision_encoder.{name}"] = Source(VISION_ENCODER_PREFIX + autoencoder_source(name, vision_levels).name)
    for name in network.unet.state_dict():
        source = unet_source(name, config.layers_per_block, config.attention_levels)
        raw_name = UNET_PREFIX + source.name
        sources[f"unet.{name}"] = Source(
            ema_name(raw_name.removeprefix("model.")) if use_ema else raw_name, source.qkv_part
        )
    return sources


def check_ema_names(unet: Shapes) -> None:
    """Raise :class:`InputError` if two tensors of the U-Net have one name for their average, which has no dots."""
    names_by_average: dict[str, str] = {}
    for name in unet:
        first_name = names_by_average.setdefault(ema_name(name), name)
        if first_name != name:
            raise InputError(f"{first_name} and {name} share one averaged tensor ({ema_name(name)}), expected one each")


def read_schedule(state: dict[str, torch.Tensor]) -> NoiseSchedule:
    """Return the noise schedule whose ``betas`` and ``alphas_cumprod`` a checkpoint holds.

    Raises:
        InputError: they are missing, or not scaled-linear, the only kind of schedule that :class:`NoiseSchedule` has.
    """
    for name in SCHEDULE_NAMES:
        if name not in state:
            raise InputError(f"{name} is missing, expected the buffers of a noise schedule")
    betas, alphas_cumprod = (state[name].double() for name in SCHEDULE_NAMES)
    for name, buffer in zip(SCHEDULE_NAMES, (betas, alphas_cumprod), strict=True):
        if buffer.ndim != 1 or len(buffer) < 2 or len(buffer) != len(betas):
            raise InputError(f"{name} has shape {tuple(buffer.shape)}, expected one number for each timestep")
    # the shortest decimal number that rounds to the stored float32 is the number in the config
    start, end = (float(str(np.float32(float(beta)))) for beta in betas[[0, -1]])
    if 0 < start <= end < 1:
        schedule = NoiseSchedule(len(betas), start, end)
        if torch.allclose(schedule.sqrt_alphas_cumprod.double() ** 2, alphas_cumprod, rtol=1e-5, atol=0):
            return schedule
    raise InputError(
        f"its {len(betas)} betas from {start:g} to {end:g} are not scaled-linear, the only schedule known here "
        "(square of a line between the roots)"
    )


def _build(autoencoder_options: dict[str, Any], vision_options: dict[str, Any], unet_options: dict[str, Any]) -> SDSeg:
    schedule = NoiseSchedule()  # not on the meta device: its values are not in the checkpoint's state dict
    try:
        with torch.device("meta"):
            return SDSeg(
                MaskAutoencoder(**autoencoder_options),
                VisionEncoder(**vision_options),
                DenoisingUNet(**unet_options),
                schedule,
            )
    except (ValueError, RuntimeError) as error:
        raise InputError(
            f"its sizes fit no network ({error}): another number of heads, or a misshapen tensor"
        ) from error
