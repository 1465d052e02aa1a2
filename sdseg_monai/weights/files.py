"""Files of plain tensors: written atomically, read without executing anything, loaded strictly."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import nn

from sdseg_monai.errors import InputError
from sdseg_monai.io.files import write_atomically
from sdseg_monai.networks import SDSeg
from sdseg_monai.networks.known_images import IMAGES, check_known_images
from sdseg_monai.networks.states import check_state, reason, shapes_of, to_float32
from sdseg_monai.networks.trained_for import KEY, check_trained_for, trained_for
from sdseg_monai.weights.checkpoints import is_plain, load_torch_file

logger = logging.getLogger(__name__)

CLASS_EMBEDDING = "unet.class_embedding."
MASK_ENCODER = ("autoencoder.encoder.", "autoencoder.quant_conv.")
SCALE = "scale_factor"


def save_tensors(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` atomically: the file at ``path`` is complete, or it is not there.

    Args:
        path: the file.
        state: a state dict, or a dict of state dicts and plain values.

    Raises:
        InputError: the file cannot be written.
    """

    def write(temporary: Path) -> None:
        try:
            torch.save(state, temporary)
        except RuntimeError as error:  # torch's error when the disk is full
            raise OSError(str(error).splitlines()[0]) from error

    write_atomically(Path(path), write)


def save_network(network: nn.Module, path: str | Path, inferer: Any = None, half: bool = False) -> None:
    """Write the state dict of ``network`` and what it was trained for, atomically; :func:`load_weights` reads it.

    Args:
        network: network to write.
        path: the file.
        inferer: with which it was validated, which knows its slices; None where there is none.
        half: write float16.

    Raises:
        InputError: the file cannot be written, or a weight is too large for float16.
    """
    state, record = network.state_dict(), _record(network, inferer)
    save_tensors(Path(path), {**(_half(state) if half else state), **({KEY: record} if record else {})})


def _record(network: nn.Module, inferer: Any) -> dict[str, Any]:
    """Return what a network is set to, and what its own file said of the images of its training."""
    known = getattr(network, KEY, {})
    return {**trained_for(network, inferer), **({IMAGES: known[IMAGES]} if IMAGES in known else {})}


def read_tensors(path: str | Path) -> dict[str, Any]:
    """Return what :func:`save_tensors` wrote, with tensors on the CPU; nothing in the file is executed.

    Raises:
        InputError: the file is missing, damaged, or holds other objects than tensors and plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file, expected weights")
    try:
        state = load_torch_file(path)
    except Exception as error:
        raise InputError(f"{path}: not a file of plain tensors ({reason(error)})") from error
    if not isinstance(state, dict):
        raise InputError(f"{path}: holds a {type(state).__name__}, expected a state dict")
    return state


def load_weights(network: nn.Module, path: str | Path, inferer: Any = None) -> None:
    """Load ``path`` into ``network`` strictly; a float16 file fills a float32 network.

    If the file is an inference export, which has no mask encoder, the network loses its mask encoder too: it segments,
    but encoding a mask raises :class:`InputError`.

    Args:
        network: network to fill.
        path: file that :func:`save_network`, :func:`save_tensors` or :func:`save_inference` wrote.
        inferer: with which the network will segment, to check its slices; None where there is none.

    Raises:
        InputError: the file cannot be read, its names or shapes are not the network's, a value is not finite, or the
            weights were trained for other options of the network or the inferer.
    """
    state = read_tensors(path)
    known = state.pop(KEY, {})
    try:
        check_trained_for(known, network, inferer)
        if isinstance(network, SDSeg) and IMAGES in known:
            check_known_images(known[IMAGES], network.vision_encoder.latent_channels)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    integer_names = {name for name, value in network.state_dict().items() if not value.is_floating_point()}
    for name, value in state.items():
        if name not in integer_names and not _is_usable(name, value):
            raise InputError(f"{path}: {name} is no tensor of finite numbers, expected the weights of a network")
    if isinstance(network, SDSeg):
        shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
        mask_encoder = mask_encoder_names(shapes)
        inference_shapes = {name: shape for name, shape in shapes.items() if name not in mask_encoder}
        if mask_encoder and {name: tensor.shape for name, tensor in state.items()} == inference_shapes:
            drop_mask_encoder(network)
            logger.info("%s: an inference export, without the %d tensors of the mask encoder", path, len(mask_encoder))
    try:
        network.load_state_dict(state, strict=True)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        raise InputError(
            f"{path}: not the weights of this network ({' '.join(lines[:2])[:300]}); other sizes?"
        ) from error
    setattr(network, KEY, known)  # for the inferers that it will be used with


def load_binary(network: SDSeg, path: str | Path) -> None:
    """Start a class-conditional network from the weights of a binary one; its class embedding stays random.

    The latent scale of the binary masks is not taken over: :class:`sdseg_monai.handlers.LatentScale` measures it anew.

    Args:
        network: class-conditional network to fill.
        path: ``model.pt`` of a binary network of the same sizes.

    Raises:
        InputError: the network is not class-conditional, or the file cannot be read, has other names or shapes, or a
            value that is not finite.

    Source: official-behaviour 1.3.
    """
    if not network.class_conditional:
        raise InputError(f"{path}: starts a network with one pass per class, set network_def#unet#num_class_embeds")
    path, own_state = Path(path), network.state_dict()
    state = read_tensors(path)
    state.pop(KEY, None)
    embedding = {name: value for name, value in own_state.items() if name.startswith(CLASS_EMBEDDING)}
    try:
        check_state(shapes_of(state), shapes_of({name: own_state[name] for name in own_state if name not in embedding}))
        tensors = {name: to_float32(name, value) for name, value in state.items()}
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    network.load_state_dict({**tensors, **embedding, SCALE: torch.tensor(float("nan"))}, strict=True)


def _is_usable(name: Any, value: Any) -> bool:
    if not (isinstance(name, str) and isinstance(value, torch.Tensor) and value.is_floating_point()):
        return False
    if not is_plain(value):
        return False
    return bool(torch.isfinite(value.float()).all()) and not (name == SCALE and bool(value <= 0))


def save_inference(network: SDSeg, path: str | Path, inferer: Any = None) -> None:
    """Write the weights that inference uses, in float16; :func:`load_weights` reads them.

    The file has no mask encoder, no optimiser and only one set of U-Net weights: 0.757 GB at the full size, where an
    official checkpoint has 5.46 GB.

    Args:
        network: network to write.
        path: the file.
        inferer: as of :func:`save_network`.

    Raises:
        InputError: the file cannot be written, or a weight is too large for float16.
    """
    save_tensors(Path(path), {**inference_state(network), KEY: _record(network, inferer)})


class NoEncoder(nn.Module):
    """Replacement for the mask encoder in a network whose weights do not include one."""

    def forward(self, mask_image: torch.Tensor) -> NoReturn:
        """Raise :class:`InputError`, because there is no encoder."""
        raise InputError(
            "these weights are an inference export without the mask encoder: they segment, but cannot encode a mask or "
            "train; use the full model.pt"
        )


def mask_encoder_names(names: Iterable[str]) -> set[str]:
    """Return those of an SDSeg's tensor ``names`` that belong to the mask encoder, which only training uses."""
    return {name for name in names if name.startswith(MASK_ENCODER)}


def drop_mask_encoder(network: SDSeg) -> None:
    """Remove the mask encoder of ``network``; encoding a mask raises :class:`InputError` from then on."""
    network.autoencoder.encoder = NoEncoder()
    if hasattr(network.autoencoder, "quant_conv"):  # TAESD has none
        network.autoencoder.quant_conv = None


def inference_state(network: SDSeg) -> dict[str, torch.Tensor]:
    """Return the tensors that inference uses, in float16, ``scale_factor`` in float32, whole numbers as they are.

    Raises:
        InputError: a weight is too large for float16.
    """
    state = network.state_dict()
    return _half({name: state[name] for name in sorted(state.keys() - mask_encoder_names(state))})


def _half(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return tensors in float16, ``scale_factor`` in float32, whole numbers as they are."""
    return {
        name: tensor if name == SCALE or not tensor.is_floating_point() else _to_half(name, tensor)
        for name, tensor in state.items()
    }


def _to_half(name: str, tensor: torch.Tensor) -> torch.Tensor:
    half_tensor = tensor.half()
    if not half_tensor.is_meta and not bool(torch.isfinite(half_tensor).all()):
        raise InputError(f"{name} has values beyond float16, expected weights below 65504")
    return half_tensor
