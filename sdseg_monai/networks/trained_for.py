"""What weights were trained for stands in their file, so that a config that contradicts it is refused.

A network segments slices of another axis, or from another start noise, without an error, but badly.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sdseg_monai.errors import InputError
from sdseg_monai.networks.sdseg import SDSeg

KEY = "trained_for"  # in the file of the weights, which older files lack, and of a network that has loaded it
NETWORK_OPTIONS = ("num_classes", "prediction_type", "start_noise")
GRID_OPTIONS = ("slice_axis", "size", "context_mm")  # of a SliceWiseInferer


def trained_for(network: Any, inferer: Any) -> dict[str, Any]:
    """Return what a network and its inferer are set to, as plain values by name; empty where nothing is known.

    Args:
        network: an :class:`SDSeg`, or another network, of which nothing is known.
        inferer: a :class:`~sdseg_monai.inferers.SliceWiseInferer`, or another one, of which nothing is known.
    """
    options = {name: getattr(network, name) for name in NETWORK_OPTIONS} if isinstance(network, SDSeg) else {}
    grid = {name: getattr(inferer, name) for name in GRID_OPTIONS if hasattr(inferer, name)}
    return {**options, **{name: list(value) if isinstance(value, tuple) else value for name, value in grid.items()}}


def check_trained_for(known: Any, network: Any, inferer: Any) -> None:
    """Check that a network and its inferer are set to what the network's weights were trained for.

    Args:
        known: what their file says under :data:`KEY`.
        network: see :func:`trained_for`.
        inferer: likewise; None where there is none.

    Raises:
        InputError: a value is another one, or ``known`` are no options by name.
    """
    if not isinstance(known, Mapping):
        raise InputError(f"{KEY} is a {type(known).__name__}, expected options by name")
    present = trained_for(network, inferer)
    changes = [
        f"{name}={known[name]!r}, not {value!r}" for name, value in present.items() if known.get(name, value) != value
    ]
    if changes:
        raise InputError(
            f"the weights were trained for {'; '.join(changes)}: use them with the values of their training, or train "
            "anew"
        )
