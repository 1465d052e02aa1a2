"""Pretrained weights for the mask autoencoder."""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny

from sdseg_monai.errors import InputError
from sdseg_monai.networks import DecoderDistillation, MaskAutoencoder, SDSeg, TinyMaskAutoencoder, TinyVisionEncoder
from sdseg_monai.networks.codes import class_codes, class_logits, mask_to_image
from sdseg_monai.networks.pretrained import tuples_to_lists
from sdseg_monai.networks.states import check_state, reason, refuse_unexpected, shapes_of, to_float32
from sdseg_monai.weights.checkpoints import read_checkpoint
from sdseg_monai.weights.files import MASK_ENCODER, load_weights, mask_encoder_names, read_tensors
from sdseg_monai.weights.keymaps import (
    AUTOENCODER_PREFIX,
    autoencoder_source,
    axis,
    describe_layout,
    encoder_sizes,
    tiny_source,
)
from sdseg_monai.weights.transfer import check_sources, strip_prefix, take_tensors

logger = logging.getLogger(__name__)

RANDOM = "random"
SINGLE_FILES = (".ckpt", ".safetensors")
TINY_LAYER = re.compile(r"(encoder|decoder)\.\d+\.")  # of a file of madebyollin/taesd
FIRST_LAYER = "decoder.layers.0.weight"  # of a distilled decoder
DISC_RADIUS = 0.3  # of a class in check_codes, as a fraction of the mask's edge
KNOWN_SHARE = 0.95  # of the disc; measured: 0.99 and more where the classes were trained, 0.80 and less where not
LATENT_EDGE = 16  # h and w of the latents in check_codes; on smaller masks a trained autoencoder may fail as well
SIZES = ("block_out_channels", "layers_per_block", "latent_channels", "norm_num_groups")
OPTIONS = ("act_fn", "shift_factor")
TINY_SIZES = (
    "encoder_block_out_channels",
    "decoder_block_out_channels",
    "num_encoder_blocks",
    "num_decoder_blocks",
    "latent_channels",
)


def load_autoencoder(network: SDSeg, source: str | Path, start_vision_encoder: bool = True) -> None:
    """Load pretrained weights into the mask autoencoder and, where the sizes agree, the vision encoder's trunk.

    Args:
        network: its autoencoder is filled. If its vision encoder has the same layers as the autoencoder's encoder, it
            gets the same weights, as in the paper; else it keeps its random weights.
        source: one of

            - a ``.pt`` file of plain tensors that ``train_autoencoder.json`` or ``distill_decoder.json`` wrote;
            - a ``.ckpt`` or ``.safetensors`` file of CompVis (kl-f8, SD's VAE, or a whole model with it under
              ``first_stage_model``), of diffusers, or of TAESD or TAEF2 for a :class:`TinyMaskAutoencoder`, in any
              floating point dtype; a file of diffusers does not say how many groups its norms have: the network's are
              assumed;
            - a diffusers autoencoder, folder or hub id, alone or under ``vae`` in a pipeline;
            - ``random``, which keeps the random weights, for smoke tests.

        start_vision_encoder: whether the vision encoder may start from it; not where it starts from weights of its own,
            see :func:`load_vision_encoder` and :func:`~sdseg_monai.weights.load_backbone`.

    Raises:
        InputError: there is no such file, folder or hub id, a tensor is missing, its sizes are not the network's, or
            it was not trained on the codes of the network's classes; or the vision encoder is frozen and would stay
            random.
    """
    fill_autoencoder(network.autoencoder, source)
    check_codes(network.autoencoder, len(network.class_codes), source)
    if not start_vision_encoder:
        return
    trunk = getattr(network.vision_encoder, "encoder", None)  # another backbone has none
    encoder_state = network.autoencoder.encoder.state_dict()
    if trunk is not None and shapes_of(trunk.state_dict()) == shapes_of(encoder_state):
        trunk.load_state_dict(encoder_state)
    elif not network.train_vision_encoder and source != RANDOM:
        raise InputError(
            "the vision encoder is frozen but has other sizes than the mask autoencoder's and would stay random: "
            "give both the same (sd_autoencoder.json, taesd.json), or train it"
        )
    else:
        logger.info("the vision encoder has other sizes than the mask autoencoder: it starts at random")


def load_vision_encoder(network: SDSeg, source: str | Path) -> None:
    """Start a :class:`TinyVisionEncoder` from the encoder of a tiny autoencoder, whatever the mask autoencoder is.

    Args:
        network: its vision encoder is filled.
        source: as of :func:`load_autoencoder`, for a :class:`TinyMaskAutoencoder`.

    Raises:
        InputError: the vision encoder is of another kind, or there is no such source, or a tensor is missing or has
            another shape.
    """
    encoder = network.vision_encoder
    if not isinstance(encoder, TinyVisionEncoder):
        raise InputError(
            f"{source}: starts a TinyVisionEncoder, but network_def#vision_encoder is a {type(encoder).__name__}"
        )
    autoencoder = TinyMaskAutoencoder(
        **{name: encoder.config[name] for name in inspect.signature(type(encoder)).parameters}
    )
    fill_autoencoder(autoencoder, source)
    encoder.encoder.load_state_dict(autoencoder.encoder.state_dict())


def load_teacher(distillation: DecoderDistillation, source: str | Path, num_classes: int = 2) -> None:
    """Load the teacher of a distillation, and copy its encoder to the student.

    Args:
        distillation: its teacher is filled.
        source: as of :func:`load_autoencoder`.
        num_classes: classes of the training masks, including the background.

    Raises:
        InputError: as :func:`load_autoencoder`.
    """
    fill_autoencoder(distillation.teacher, source)
    check_codes(distillation.teacher, num_classes, source)
    distillation.take_encoder()


def fill_autoencoder(autoencoder: MaskAutoencoder | TinyMaskAutoencoder, source: str | Path) -> None:
    """Load pretrained weights into a mask autoencoder.

    Args:
        autoencoder: network to fill.
        source: as of :func:`load_autoencoder`.

    Raises:
        InputError: there is no such source, a tensor is missing, or its sizes are not the autoencoder's.
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
    """Load the mask autoencoder of a trained :class:`SDSeg` from its ``model.pt``.

    Args:
        autoencoder: network to fill.
        path: the ``model.pt``.

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


def first_classes(state: Mapping[str, Any], num_classes: int) -> dict[str, Any]:
    """Return the weights of a mask autoencoder for the first of the classes that it was trained on.

    This is exact where each class has a channel of its own: the channels of the other classes would be 0 in every mask
    image, and their logits are not decoded.

    Args:
        state: tensors of a :class:`MaskAutoencoder` with a channel for each class.
        num_classes: K, the classes to keep, including the background.
    """
    kept = dict(state)
    for name, dim in (("encoder.conv_in.weight", 1), ("decoder.conv_out.weight", 0), ("decoder.conv_out.bias", 0)):
        kept[name] = state[name].narrow(dim, 0, min(num_classes, state[name].shape[dim])).clone()
    return kept


def replace_mask_decoder(network: SDSeg, path: str | Path) -> int:
    """Replace the mask decoder of ``network`` by that of a file that ``distill_decoder.json`` wrote.

    Nothing else changes: the file's encoder must be the network's, bit for bit, because a decoder fits the latents of
    one encoder only.

    Args:
        network: must have its mask encoder.
        path: the file.

    Returns:
        The number of the old decoder's tensors.

    Raises:
        InputError: the file cannot be read, has no distilled decoder or is of another autoencoder; the network is an
            inference export without its mask encoder.
    """
    if not mask_encoder_names(network.state_dict()):
        raise InputError("the network has no mask encoder (an inference export), so that no decoder can be told to fit")
    old_autoencoder = network.autoencoder
    first_layer = read_tensors(path).get(FIRST_LAYER)
    if not isinstance(first_layer, torch.Tensor) or first_layer.ndim != 4:
        raise InputError(f"{path}: no distilled decoder ({FIRST_LAYER}), expected what distill_decoder.json wrote")
    kind = type(old_autoencoder)
    sizes = {name: old_autoencoder.config[name] for name in inspect.signature(kind).parameters}
    autoencoder = kind(**{**sizes, "decoder_channels": len(first_layer)})
    load_weights(autoencoder, path)
    state = autoencoder.state_dict()
    decoding_parts = old_autoencoder.decoding_parts
    old_names = {f"{part}.{name}" for part, module in decoding_parts.items() for name in module.state_dict()}
    for name, tensor in old_autoencoder.state_dict().items():
        if name not in old_names and not torch.equal(tensor, state[name]):
            raise InputError(f"{path}: its {name} is not the network's: the decoder of another autoencoder")
    network.autoencoder = autoencoder.requires_grad_(False).eval()
    network.autoencoder.decoding_parts.requires_grad_(network.train_decoder)
    return len(old_names)


@torch.no_grad()
def check_codes(autoencoder: MaskAutoencoder | TinyMaskAutoencoder, num_classes: int, source: str | Path) -> None:
    """Check that an autoencoder encodes and decodes a disc of each class, on the background, to the same class.

    An autoencoder that was trained on fewer colours does not, nor one whose training was too short. Two classes and
    ``random`` are not checked. A class does not fill the mask: group normalisation would remove most of what tells it.

    Args:
        autoencoder: with its weights.
        num_classes: K, including the background.
        source: where the weights are from, for the message.

    Raises:
        InputError: a class is decoded as another one.
    """
    if num_classes == 2 or source == RANDOM:
        return
    codes, edge = class_codes(num_classes), LATENT_EDGE * autoencoder.downsampling
    places = torch.arange(edge) - edge / 2
    disc = torch.hypot(places[:, None], places) < DISC_RADIUS * edge  # [H, W]
    masks = torch.arange(num_classes).view(-1, 1, 1, 1) * disc  # [K, 1, H, W]
    latent = autoencoder.encode_latent(mask_to_image(masks, codes).to(autoencoder.device, autoencoder.dtype))
    classes = class_logits(autoencoder.decode(latent).sample.cpu(), codes).argmax(dim=1)  # [K, H, W]
    for value, decoded in enumerate(classes[:, disc]):
        wrong = decoded[decoded != value]
        if len(wrong) > (1 - KNOWN_SHARE) * len(decoded):
            raise InputError(
                f"{source}: does not know the codes of {num_classes} classes (class {value} comes back as "
                f"{wrong.mode().values}); train it with train_autoencoder.json --num_classes {num_classes}"
            )


def _load_file(autoencoder: MaskAutoencoder | TinyMaskAutoencoder, path: Path) -> None:
    state = read_checkpoint(path)
    state = strip_prefix(state, AUTOENCODER_PREFIX) or state
    is_tiny = isinstance(autoencoder, TinyMaskAutoencoder)
    diffusers_prefix = "encoder.layers." if is_tiny else "encoder.down_blocks."  # diffusers' names are the network's
    try:
        if is_tiny and all(TINY_LAYER.match(name) for name in state):
            tensors = take_tiny(autoencoder, state)
        elif any(name.startswith(diffusers_prefix) for name in state):
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


def take_tiny(autoencoder: TinyMaskAutoencoder, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the state dict of ``autoencoder`` with the tensors of a file of madebyollin/taesd.

    Args:
        autoencoder: network of the sizes to expect; it does not change.
        state: tensors of the file, by name.

    Raises:
        InputError: a tensor is missing, has another shape or is not part of the network.
    """
    targets = shapes_of(autoencoder.state_dict())
    sources = {name: tiny_source(name) for name in targets}
    check_sources(shapes_of(state), sources, targets)
    refuse_unexpected(state, (source.name for source in sources.values()))
    return take_tensors(state, sources, targets)


def take_compvis(autoencoder: MaskAutoencoder, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the state dict of ``autoencoder`` with the tensors of a CompVis autoencoder.

    Args:
        autoencoder: network of the sizes to expect; it does not change.
        state: tensors of CompVis, by name.

    Raises:
        InputError: a tensor is missing, has another shape or is not part of the network, or the sizes differ.
    """
    shapes, targets = shapes_of(state), shapes_of(autoencoder.state_dict())
    sizes = encoder_sizes(shapes, axis(shapes, "post_quant_conv.weight", 0, rank=4))
    if sizes != {key: tuples_to_lists(autoencoder.config[key]) for key in SIZES}:
        raise InputError(f"an autoencoder of other sizes, set network_def#autoencoder to {sizes}")
    sources = {name: autoencoder_source(name, len(sizes["block_out_channels"])) for name in targets}
    check_sources(shapes, sources, targets)
    # names of other prefixes are left from the training of the autoencoder (its loss)
    refuse_unexpected(
        (name for name in state if name.startswith(("encoder.", "decoder.", "quant_conv.", "post_quant_conv."))),
        (source.name for source in sources.values()),
    )
    return take_tensors(state, sources, targets)


def _load_diffusers(autoencoder: MaskAutoencoder | TinyMaskAutoencoder, source: str) -> None:
    is_tiny = isinstance(autoencoder, TinyMaskAutoencoder)
    model = _read_pretrained(AutoencoderTiny if is_tiny else AutoencoderKL, source)
    # norm_num_groups and OPTIONS change no tensor's shape, so that strict loading does not notice a difference
    size_names = TINY_SIZES if is_tiny else SIZES
    sizes = _config_values(model, size_names)
    if sizes != _config_values(autoencoder, size_names):
        raise InputError(f"{source}: an autoencoder of other sizes, set network_def#autoencoder to {sizes}")
    options, expected_options = (_config_values(network, OPTIONS) for network in (model, autoencoder))
    if options != expected_options:
        raise InputError(f"{source}: an autoencoder with {options}, expected {expected_options}: another architecture")
    try:
        check_state(shapes_of(model.state_dict()), shapes_of(autoencoder.state_dict()))
    except InputError as error:
        raise InputError(f"{source}: {error}") from error
    autoencoder.load_state_dict(model.state_dict(), strict=True)


def _config_values(model: Any, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: tuples_to_lists(model.config[name]) for name in names}


def _read_pretrained(kind: Any, source: str) -> Any:
    """Return the model of diffusers' class ``kind`` at ``source`` in float32, alone or as a pipeline's ``vae``.

    Args:
        kind: a diffusers model class.
        source: a folder, for which nothing is downloaded, or a hub id.

    Raises:
        InputError: there is no such model, or its file has missing or extra tensors, or values that are not finite.
    """
    is_local = Path(source).is_dir()
    subfolders = ["vae", None]
    if is_local:
        subfolders = ["vae" if Path(source, "vae").is_dir() else None]
    failure: Exception = ValueError(source)
    for subfolder in subfolders:
        try:
            model, info = kind.from_pretrained(
                source, subfolder=subfolder, output_loading_info=True, local_files_only=is_local
            )
        except Exception as error:  # each reader that diffusers tries has its own errors for a damaged file
            failure = error
        else:
            _check_complete(source, model, info)
            return model.float()
    raise InputError(
        f"{source}: no autoencoder there ({reason(failure)}), expected a file, a diffusers folder or a hub id that can "
        "be reached"
    ) from failure


def _check_complete(source: str, model: Any, info: dict[str, Any]) -> None:
    for key in ("missing_keys", "unexpected_keys", "mismatched_keys"):  # diffusers only logs them
        if info[key]:
            name = min(map(str, info[key]))
            raise InputError(f"{source}: {key.replace('_', ' ')}: {name}, expected the tensors of its config.json")
    try:
        for name, tensor in model.state_dict().items():
            to_float32(name, tensor)
    except InputError as error:
        raise InputError(f"{source}: {error}") from error
