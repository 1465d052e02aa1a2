"""Pretrained weights for the mask autoencoder."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny

from sdseg_monai.errors import InputError
from sdseg_monai.networks import DecoderDistillation, MaskAutoencoder, SDSeg, TinyMaskAutoencoder
from sdseg_monai.networks.codes import class_codes, class_logits, mask_to_image
from sdseg_monai.weights.checkpoints import read_checkpoint
from sdseg_monai.weights.files import load_weights, read_tensors
from sdseg_monai.weights.inference import MASK_ENCODER
from sdseg_monai.weights.keymaps import AUTOENCODER_PREFIX, autoencoder_source
from sdseg_monai.weights.layouts import describe_layout
from sdseg_monai.weights.pretrained import find_pretrained
from sdseg_monai.weights.sizes import axis, encoder_sizes
from sdseg_monai.weights.transfer import (
    check_sources,
    check_state,
    plain,
    refuse_unexpected,
    shapes_of,
    strip_prefix,
    take_tensors,
    to_float32,
)

logger = logging.getLogger(__name__)

RANDOM = "random"
SINGLE_FILES = (".ckpt", ".safetensors")
LATENT_EDGE = 16  # of the masks on which an autoencoder shows whether it knows its classes; tiny ones mislead
SIZES = ("block_out_channels", "layers_per_block", "latent_channels", "norm_num_groups")
OPTIONS = ("act_fn", "shift_factor")
TINY_SIZES = (
    "encoder_block_out_channels",
    "decoder_block_out_channels",
    "num_encoder_blocks",
    "num_decoder_blocks",
    "latent_channels",
)


def load_autoencoder(network: SDSeg, source: str | Path) -> None:
    """Load pretrained weights into the mask autoencoder and, where the sizes agree, the vision encoder's trunk.

    Args:
        network: its autoencoder is filled; its vision encoder starts from the autoencoder's encoder, as in the paper,
            if both have the same layers, else keeps its random start.
        source: one of

            - a ``.pt`` file of plain tensors that ``train_autoencoder.json`` or ``distill_decoder.json`` wrote;
            - a ``.ckpt`` or ``.safetensors`` file of CompVis (kl-f8, SD's VAE, or a whole model with it under
              ``first_stage_model``), of diffusers, or of TAESD for a :class:`TinyMaskAutoencoder`, in any type of
              float; a file of diffusers does not say how many groups its norms have: the network's are taken;
            - a diffusers autoencoder, folder or hub id, alone or of a pipeline that has it under ``vae``;
            - ``random``, which keeps the random start, for smoke tests.

    Raises:
        InputError: there is no such file, folder or hub id, it lacks a tensor, its sizes are not the network's, or it
            does not know the codes of the network's classes; or the vision encoder is frozen and would stay random.
    """
    fill_autoencoder(network.autoencoder, source)
    check_codes(network.autoencoder, len(network.class_codes), source)
    trunk = network.vision_encoder.encoder
    pretrained = network.autoencoder.encoder.state_dict()
    if shapes_of(trunk.state_dict()) == shapes_of(pretrained):
        trunk.load_state_dict(pretrained)
    elif not network.train_vision_encoder and source != RANDOM:
        raise InputError(
            "the vision encoder is frozen but has other sizes than the mask autoencoder's and would stay random: "
            "give both the same (sd_autoencoder.json, taesd.json), or train it"
        )
    else:
        logger.info("the vision encoder has other sizes than the mask autoencoder: it starts at random")


def load_teacher(distillation: DecoderDistillation, source: str | Path, num_classes: int = 2) -> None:
    """Load the autoencoder whose decoder is to be distilled, and give the student its encoder.

    Args:
        distillation: its teacher is filled.
        source: what :func:`load_autoencoder` takes.
        num_classes: classes of the masks that it is distilled on, the background's included.

    Raises:
        InputError: as :func:`load_autoencoder`.
    """
    fill_autoencoder(distillation.teacher, source)
    check_codes(distillation.teacher, num_classes, source)
    distillation.take_encoder()


def fill_autoencoder(autoencoder: MaskAutoencoder | TinyMaskAutoencoder, source: str | Path) -> None:
    """Load what :func:`load_autoencoder` says into a mask autoencoder alone.

    Raises:
        InputError: there is no such source, it lacks a tensor, or its sizes are not the autoencoder's.
    """
    if source == RANDOM:
        logger.warning("random mask autoencoder: what comes out means nothing, this is for smoke tests")
    elif Path(source).suffix == ".pt":
        load_weights(autoencoder, source)
    elif Path(source).suffix in SINGLE_FILES:
        _load_file(autoencoder, Path(source))
    else:
        _load_diffusers(autoencoder, str(source))


def fill_from_segmenter(autoencoder: MaskAutoencoder | TinyMaskAutoencoder, path: Path) -> None:
    """Load the mask autoencoder that lies in the ``model.pt`` of a trained network.

    Raises:
        InputError: the file cannot be read, is an inference export without the mask encoder, or has other sizes.
    """
    state = strip_prefix(read_tensors(path), "autoencoder.")
    if not any(f"autoencoder.{name}".startswith(MASK_ENCODER) for name in state):
        raise InputError(
            f"{path}: has no mask encoder (an inference export?), expected the file that the training wrote"
        )
    try:
        check_state(shapes_of(state), shapes_of(autoencoder.state_dict()))
        autoencoder.load_state_dict({name: to_float32(name, tensor) for name, tensor in state.items()}, strict=True)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


@torch.no_grad()
def check_codes(autoencoder: MaskAutoencoder | TinyMaskAutoencoder, num_classes: int, source: str | Path) -> None:
    """Refuse an autoencoder from which a mask of one class comes back as another; it was trained on fewer.

    Raises:
        InputError: it does, with ``source`` as its name.
    """
    if num_classes == 2 or source == RANDOM:
        return
    codes, edge = class_codes(num_classes), LATENT_EDGE * autoencoder.downsampling
    masks = torch.arange(num_classes).view(-1, 1, 1, 1).expand(-1, 1, edge, edge)
    latent = autoencoder.encode_latent(mask_to_image(masks, codes).to(autoencoder.device, autoencoder.dtype))
    classes = class_logits(autoencoder.decode(latent).sample.cpu(), codes).argmax(dim=1)  # [K, H, W]
    for value, found in enumerate(classes.flatten(1).mode().values.tolist()):
        if found != value:
            raise InputError(
                f"{source}: does not know the codes of {num_classes} classes (class {value} comes back as {found}); "
                f"train it with train_autoencoder.json --num_classes {num_classes}"
            )


def _load_file(autoencoder: MaskAutoencoder | TinyMaskAutoencoder, path: Path) -> None:
    state = read_checkpoint(path)
    state = strip_prefix(state, AUTOENCODER_PREFIX) or state
    is_tiny = isinstance(autoencoder, TinyMaskAutoencoder)
    own_names = "encoder.layers." if is_tiny else "encoder.down_blocks."  # diffusers', which are ours
    try:
        if any(name.startswith(own_names) for name in state):
            check_state(shapes_of(state), shapes_of(autoencoder.state_dict()))
            tensors = {name: to_float32(name, tensor) for name, tensor in state.items()}
        elif is_tiny or not any(name.startswith("encoder.down.") for name in state):
            expected = "TAESD" if is_tiny else "an autoencoder of CompVis or diffusers"
            raise InputError(f"looks like {describe_layout(state)}, expected {expected}")
        else:
            tensors = take_compvis(autoencoder, state)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    autoencoder.load_state_dict(tensors, strict=True)


def take_compvis(autoencoder: MaskAutoencoder, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors for ``autoencoder`` from those of a CompVis one.

    Raises:
        InputError: one is missing, misshapen or too many, or the sizes are others.
    """
    found, targets = shapes_of(state), shapes_of(autoencoder.state_dict())
    sizes = encoder_sizes(found, axis(found, "post_quant_conv.weight", 0, rank=4))
    if sizes != {key: plain(autoencoder.config[key]) for key in SIZES}:
        raise InputError(f"an autoencoder of other sizes, set network_def#autoencoder to {sizes}")
    sources = {name: autoencoder_source(name, len(sizes["block_out_channels"])) for name in targets}
    check_sources(found, sources, targets)
    # a loss beside the autoencoder is left over from its training
    refuse_unexpected(
        (name for name in state if name.startswith(("encoder.", "decoder.", "quant_conv.", "post_quant_conv."))),
        (source.name for source in sources.values()),
    )
    return take_tensors(state, sources, targets)


def _load_diffusers(autoencoder: MaskAutoencoder | TinyMaskAutoencoder, source: str) -> None:
    is_tiny = isinstance(autoencoder, TinyMaskAutoencoder)
    pretrained = find_pretrained(AutoencoderTiny if is_tiny else AutoencoderKL, source, "vae")
    # the number of groups and the rest of OPTIONS change no shape, so that strict loading would not notice them
    sizes, expected = (_sizes(model, TINY_SIZES if is_tiny else SIZES) for model in (pretrained, autoencoder))
    if sizes != expected:
        raise InputError(f"{source}: an autoencoder of other sizes, set network_def#autoencoder to {sizes}")
    options, own = (_sizes(model, OPTIONS) for model in (pretrained, autoencoder))
    if options != own:
        raise InputError(f"{source}: an autoencoder with {options}, expected {own}: another architecture")
    try:
        check_state(shapes_of(pretrained.state_dict()), shapes_of(autoencoder.state_dict()))
    except InputError as error:
        raise InputError(f"{source}: {error}") from error
    autoencoder.load_state_dict(pretrained.state_dict(), strict=True)


def _sizes(model: Any, keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: plain(model.config[key]) for key in keys}
