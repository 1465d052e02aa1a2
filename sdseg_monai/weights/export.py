"""Weights for inference alone: a file without what only training uses."""

from __future__ import annotations

from pathlib import Path

from sdseg_monai.networks import SDSeg
from sdseg_monai.weights.files import save_tensors
from sdseg_monai.weights.inference import inference_state


def save_inference(network: SDSeg, path: str | Path) -> None:
    """Write what inference uses of ``network`` in float16; :func:`load_weights` reads it.

    The mask encoder is left out, and there is one set of U-Net weights and no optimiser: 0.757 GB at the full size,
    of the 5.46 GB of an official checkpoint.

    Raises:
        InputError: the file cannot be written, or a weight is too large for float16.
    """
    save_tensors(Path(path), inference_state(network))
