"""A distilled mask decoder in the place of a trained network's own."""

from __future__ import annotations

import inspect
from pathlib import Path

import torch

from sdseg_monai.errors import InputError
from sdseg_monai.networks import SDSeg
from sdseg_monai.weights.files import load_weights, read_tensors
from sdseg_monai.weights.inference import mask_encoder_names

FIRST_LAYER = "decoder.layers.0.weight"


def replace_mask_decoder(network: SDSeg, path: str | Path) -> int:
    """Give ``network`` the decoder of a file that ``distill_decoder.json`` wrote.

    Nothing else changes: the file's encoder must be the network's, bit for bit, because a decoder means nothing to the
    latents of another.

    Args:
        network: with its mask encoder.
        path: the file.

    Returns:
        The number of the old decoder's tensors.

    Raises:
        InputError: the file cannot be read, has no such decoder or is of another autoencoder; the network is an
            inference export without its mask encoder.
    """
    if not mask_encoder_names(network.state_dict()):
        raise InputError("the network has no mask encoder (an inference export), so that no decoder can be told to fit")
    old = network.autoencoder
    first = read_tensors(path).get(FIRST_LAYER)
    if not isinstance(first, torch.Tensor) or first.ndim != 4:
        raise InputError(f"{path}: no distilled decoder ({FIRST_LAYER}), expected what distill_decoder.json wrote")
    sizes = {name: old.config[name] for name in inspect.signature(type(old)).parameters}
    autoencoder = type(old)(**{**sizes, "decoder_channels": len(first)})
    load_weights(autoencoder, path)
    found = autoencoder.state_dict()
    replaced = {f"{part}.{name}" for part, module in old.decoding_parts.items() for name in module.state_dict()}
    for name, tensor in old.state_dict().items():
        if name not in replaced and not torch.equal(tensor, found[name]):
            raise InputError(f"{path}: its {name} is not the network's: the decoder of another autoencoder")
    network.autoencoder = autoencoder.requires_grad_(False).eval()
    network.autoencoder.decoding_parts.requires_grad_(network.train_decoder)
    return len(replaced)
