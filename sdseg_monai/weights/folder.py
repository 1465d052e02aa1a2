"""A network as a folder of safetensors in the manner of diffusers: one subfolder for each part."""

from __future__ import annotations

import inspect
import json
import math
from pathlib import Path
from typing import Any

import torch
from diffusers import ConfigMixin
from safetensors.torch import save_file
from torch import nn

from sdseg_monai import networks
from sdseg_monai.errors import InputError
from sdseg_monai.io.files import write_folder
from sdseg_monai.networks import SDSeg
from sdseg_monai.schedule import NoiseSchedule
from sdseg_monai.weights.checkpoints import read_checkpoint
from sdseg_monai.weights.files import mask_encoder_names
from sdseg_monai.weights.transfer import check_state, plain, shapes_of, to_float32

INDEX = "model_index.json"
CONFIG = "config.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"
PARTS = {
    "autoencoder": ("MaskAutoencoder", "TinyMaskAutoencoder"),
    "vision_encoder": ("VisionEncoder", "TinyVisionEncoder"),
    "unet": ("DenoisingUNet", "CrossAttentionUNet"),
}
OPTIONS = tuple(name for name in inspect.signature(SDSeg).parameters if name not in (*PARTS, "schedule"))


def save_diffusers_folder(network: SDSeg, folder: str | Path) -> None:
    """Write ``network`` to a new folder, which appears whole or not at all.

    ``model_index.json`` names the classes of the parts and holds SDSeg's options, schedule and ``scale_factor``; each
    part has ``config.json`` and ``diffusion_pytorch_model.safetensors``.

    Raises:
        InputError: the folder exists and is not empty, or cannot be written; the network lacks its mask encoder or
            its latent scale.
    """
    if not mask_encoder_names(network.state_dict()):
        raise InputError("the network has no mask encoder (an inference export), expected the full weights")
    if not float(network.scale_factor) > 0:
        raise InputError(f"the network's scale_factor is {float(network.scale_factor)}, expected a trained network")
    index = {
        "_class_name": "SDSeg",
        **{name: ["sdseg_monai.networks", type(getattr(network, name)).__name__] for name in PARTS},
        "options": {name: getattr(network, name) for name in OPTIONS},
        "schedule": schedule_config(network.schedule),
        "scale_factor": float(network.scale_factor),
    }

    def write(temporary: Path) -> None:
        (temporary / INDEX).write_text(json.dumps(index, indent=2) + "\n")
        for name in PARTS:
            part = getattr(network, name)
            (temporary / name).mkdir()
            (temporary / name / CONFIG).write_text(json.dumps(part_config(part), indent=2) + "\n")
            tensors = {k: v.contiguous() for k, v in part.state_dict().items()}
            save_file(tensors, temporary / name / WEIGHTS, metadata={"format": "pt"})

    write_folder(Path(folder), write)


def load_diffusers_folder(folder: str | Path) -> SDSeg:
    """Return the network that :func:`save_diffusers_folder` wrote, in evaluation mode.

    Raises:
        InputError: a file is missing or damaged, or the tensors are not those of the configs.
    """
    folder = Path(folder)
    index = _read_json(folder / INDEX)
    try:
        parts = {name: _build_part(folder / name, name, index[name][1]) for name in PARTS}
        schedule = NoiseSchedule(**index["schedule"])
        if not bool(torch.isfinite(schedule.sqrt_alphas_cumprod).all()) or schedule.num_timesteps < 1:
            raise ValueError(f"no noise schedule: {index['schedule']}")
        with torch.device("meta"):
            network = SDSeg(**{**parts, "schedule": schedule, **index["options"]})
        own = {name: tensor for name, tensor in network.state_dict().items() if "." not in name}  # of no part
        state = {**own, "scale_factor": torch.tensor(float(index["scale_factor"]))}
    except InputError:
        raise
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{folder / INDEX}: not the index of an SDSeg network ({error!r})") from error
    if not 0 < float(state["scale_factor"]) < math.inf:
        raise InputError(f"{folder / INDEX}: scale_factor is {index['scale_factor']}, expected a positive number")
    for name in PARTS:
        state.update(_read_part(folder / name / WEIGHTS, name, getattr(network, name)))
    network.load_state_dict(state, strict=True, assign=True)
    return network.eval()


def schedule_config(schedule: NoiseSchedule) -> dict[str, Any]:
    """Return the constructor arguments of ``schedule``."""
    return {name: getattr(schedule, name) for name in inspect.signature(NoiseSchedule).parameters}


def part_config(part: ConfigMixin) -> dict[str, Any]:
    """Return the constructor arguments of ``part``, and its class as diffusers names it."""
    names = inspect.signature(type(part)).parameters
    return {"_class_name": type(part).__name__, **{name: plain(part.config[name]) for name in names}}


def _build_part(folder: Path, part: str, class_name: str) -> Any:
    if class_name not in PARTS[part]:
        raise InputError(f"{folder.parent / INDEX}: {part} is a {class_name}, expected {' or '.join(PARTS[part])}")
    kind = getattr(networks, class_name)
    config = _read_json(folder / CONFIG)
    try:
        with torch.device("meta"):
            return kind(**{key: value for key, value in config.items() if not key.startswith("_")})
    except Exception as error:  # diffusers' constructors fail in as many ways as they have arguments
        raise InputError(f"{folder / CONFIG}: not the arguments of {class_name} ({error})") from error


def _read_part(path: Path, part: str, module: nn.Module) -> dict[str, torch.Tensor]:
    state = read_checkpoint(path)
    try:
        check_state(shapes_of(state), shapes_of(module.state_dict()))
        return {f"{part}.{name}": to_float32(name, tensor).clone() for name, tensor in state.items()}
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}), expected a file of a diffusers-style folder") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}, expected an object of options")
    return content
