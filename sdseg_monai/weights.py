"""Weights in and out: plain tensors only, strict, atomic."""

from __future__ import annotations

import logging
import zipfile
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import nn

from sdseg_monai.errors import InputError
from sdseg_monai.io import write_atomically
from sdseg_monai.networks import MaskAutoencoder, SDSeg

logger = logging.getLogger(__name__)

RANDOM = "random"
SIZES = ("block_out_channels", "layers_per_block", "latent_channels", "norm_num_groups")


def save_tensors(path: Path, state: dict[str, Any]) -> None:
    """Write a state dict, or several with plain numbers beside them, so that it is complete or not there."""

    def write(temporary: Path) -> None:
        try:
            torch.save(state, temporary)
        except RuntimeError as error:  # what torch makes of a full disk
            raise OSError(str(error).splitlines()[0]) from error

    write_atomically(Path(path), write)


def read_tensors(path: str | Path) -> dict[str, Any]:
    """Read what :func:`save_tensors` wrote, onto the CPU; nothing in the file is executed.

    Raises:
        InputError: the file is missing, damaged, or holds more than tensors and plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file, expected weights")
    try:
        if zipfile.is_zipfile(path) and (damaged := zipfile.ZipFile(path).testzip()):
            raise ValueError(f"the checksum of {damaged} is wrong")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the restricted unpickler meets a damaged file in as many ways as there are bytes
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: not a file of plain tensors ({reason})") from error
    if not isinstance(state, dict):
        raise InputError(f"{path}: holds a {type(state).__name__}, expected a state dict")
    return state


def load_weights(network: nn.Module, path: str | Path) -> None:
    """Load ``path`` into ``network`` strictly; float16 files fill float32 networks.

    Raises:
        InputError: the file cannot be read, or its names or shapes are not the network's.
    """
    state = read_tensors(path)
    unusable = [name for name, value in state.items() if not _is_usable(name, value)]
    if unusable:
        raise InputError(f"{path}: {unusable[0]} is no tensor of finite numbers, expected the weights of a network")
    try:
        network.load_state_dict(state, strict=True)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        raise InputError(
            f"{path}: not the weights of this network ({' '.join(lines[:2])[:300]}); other sizes?"
        ) from error


def _is_usable(name: Any, value: Any) -> bool:
    if not (isinstance(name, str) and isinstance(value, torch.Tensor) and value.is_floating_point()):
        return False
    return bool(torch.isfinite(value).all()) and not (name == "scale_factor" and bool(value <= 0))


def load_autoencoder(network: SDSeg, source: str | Path) -> None:
    """Load pretrained weights into the mask autoencoder and, where the sizes agree, the vision encoder's trunk.

    Args:
        network: its autoencoder is filled; its vision encoder starts from the autoencoder's encoder, as in the paper,
            if both have the same layers, else keeps its random start.
        source: file of plain tensors that ``train_autoencoder.json`` wrote, or a diffusers AutoencoderKL (kl-f8, SD):
            a folder or hub id, of the autoencoder alone or of a pipeline that has it under ``vae``. ``random`` keeps
            the random start, for smoke tests.

    Raises:
        InputError: there is no such file, folder or hub id, or its sizes are not the network's.
    """
    if source == RANDOM:
        logger.warning("random mask autoencoder: what comes out means nothing, this is for smoke tests")
    elif Path(source).suffix == ".pt":
        load_weights(network.autoencoder, source)
    else:
        _load_diffusers(network.autoencoder, str(source))
    trunk = network.vision_encoder.encoder
    pretrained = network.autoencoder.encoder.state_dict()
    if {k: v.shape for k, v in trunk.state_dict().items()} == {k: v.shape for k, v in pretrained.items()}:
        trunk.load_state_dict(pretrained)
    else:
        logger.info("the vision encoder has other sizes than the mask autoencoder: it starts at random")


def _load_diffusers(autoencoder: MaskAutoencoder, source: str) -> None:
    pretrained = _find_diffusers(source)
    # the number of groups changes no shape, so that strict loading would not notice it
    sizes, expected = ({key: _plain(model.config[key]) for key in SIZES} for model in (pretrained, autoencoder))
    if sizes != expected:
        raise InputError(f"{source}: an autoencoder of other sizes, set network_def#autoencoder to {sizes}")
    autoencoder.load_state_dict(pretrained.state_dict(), strict=True)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else value


def _find_diffusers(source: str) -> AutoencoderKL:
    failure: Exception | None = None
    for subfolder in ("vae", None):
        try:
            return AutoencoderKL.from_pretrained(source, subfolder=subfolder)
        except (OSError, ValueError) as error:
            failure = error
    raise InputError(
        f"{source}: no autoencoder there ({str(failure).splitlines()[0]}), expected a .pt file, a diffusers folder or "
        "a hub id that can be reached"
    ) from failure
