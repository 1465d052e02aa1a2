"""What inference needs of a network, and networks that hold no more."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NoReturn

import torch
from torch import nn

from sdseg_monai.errors import InputError
from sdseg_monai.networks import SDSeg

MASK_ENCODER = ("autoencoder.encoder.", "autoencoder.quant_conv.")


class NoEncoder(nn.Module):
    """Stands where a mask encoder was left out."""

    def forward(self, mask_image: torch.Tensor) -> NoReturn:
        """Raise :class:`InputError`: there is nothing to encode with."""
        raise InputError(
            "these weights are an inference export without the mask encoder: they segment, but cannot encode a mask or "
            "train; use the full model.pt"
        )


def mask_encoder_names(names: Iterable[str]) -> set[str]:
    """Return those of an SDSeg's tensors that only training uses."""
    return {name for name in names if name.startswith(MASK_ENCODER)}


def drop_mask_encoder(network: SDSeg) -> None:
    """Leave ``network`` with what inference uses; encoding a mask raises :class:`InputError` from then on."""
    network.autoencoder.encoder = NoEncoder()
    if hasattr(network.autoencoder, "quant_conv"):  # TAESD has none
        network.autoencoder.quant_conv = None


def inference_state(network: SDSeg) -> dict[str, torch.Tensor]:
    """Return the tensors that inference uses, in float16 but for ``scale_factor``, which is one number in float32.

    Raises:
        InputError: a weight is too large for float16.
    """
    state = network.state_dict()
    kept = {name: state[name] for name in state.keys() - mask_encoder_names(state)}
    return {name: kept[name].float() if name == "scale_factor" else _to_half(name, kept[name]) for name in sorted(kept)}


def _to_half(name: str, tensor: torch.Tensor) -> torch.Tensor:
    half = tensor.half()
    if not half.is_meta and not bool(torch.isfinite(half).all()):
        raise InputError(f"{name} has values beyond float16, expected weights below 65504")
    return half
