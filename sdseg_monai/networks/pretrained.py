"""A network as a diffusers folder: one subfolder for each part, in the form of diffusers' class where there is one."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import save_file
from torch import nn

from sdseg_monai.errors import InputError
from sdseg_monai.io.files import write_folder
from sdseg_monai.networks.autoencoder import MaskAutoencoder
from sdseg_monai.networks.cross_attention import CrossAttentionUNet
from sdseg_monai.networks.lite import LiteVisionEncoder
from sdseg_monai.networks.states import check_state, read_safetensors, shapes_of, to_float32
from sdseg_monai.networks.tiny import TinyMaskAutoencoder, TinyVisionEncoder
from sdseg_monai.networks.unet import DenoisingUNet
from sdseg_monai.networks.vision_encoder import VisionEncoder
from sdseg_monai.schedule import NoiseSchedule

Network = TypeVar("Network", bound=nn.Module)

INDEX = "model_index.json"
CONFIG = "config.json"
OWN_WEIGHTS = "sdseg_monai.safetensors"  # diffusers does not look for this name, so it cannot load half of a part
PARTS: Mapping[str, tuple[Any, ...]] = {
    "autoencoder": (MaskAutoencoder, TinyMaskAutoencoder),
    "vision_encoder": (VisionEncoder, TinyVisionEncoder, LiteVisionEncoder),
    "unet": (DenoisingUNet, CrossAttentionUNet),
}
DIFFUSERS_CLASSES = {  # with the class of this package that computes the same
    "AutoencoderKL": MaskAutoencoder,
    "AutoencoderTiny": TinyMaskAutoencoder,
    "UNet2DModel": DenoisingUNet,
    "UNet2DConditionModel": CrossAttentionUNet,
}


def save_folder(network: Any, folder: Path) -> None:
    """Write ``network`` as :meth:`SDSeg.save_pretrained` describes."""
    if not any(name.startswith("encoder.") for name in network.autoencoder.state_dict()):
        raise InputError("the network has no mask encoder (an inference export), expected the full weights")
    scale_factor = float(network.scale_factor)
    if not scale_factor > 0:
        raise InputError(f"the network's scale_factor is {scale_factor}, expected a trained network")

    def write(temporary: Path) -> None:
        classes = {name: _save_part(getattr(network, name), name, temporary / name, scale_factor) for name in PARTS}
        index = {
            "_class_name": "SDSeg",
            **classes,
            "options": options_of(network),
            "schedule": schedule_config(network.schedule),
            "scale_factor": scale_factor,
        }
        _write_json(temporary / INDEX, index)

    write_folder(folder, write)


def load_folder(kind: type[Network], folder: Path) -> Network:
    """Return the network that :func:`save_folder` wrote, as :meth:`SDSeg.from_pretrained` describes."""
    index = _read_json(folder / INDEX)
    try:
        scale_factor = float(index["scale_factor"])
        if not 0 < scale_factor < math.inf:
            raise InputError(f"{folder / INDEX}: scale_factor is {scale_factor}, expected a positive number")
        parts = {name: _build_part(folder / name, name, index[name][1], scale_factor) for name in PARTS}
        schedule = NoiseSchedule(**index["schedule"])
        if not bool(torch.isfinite(schedule.sqrt_alphas_cumprod).all()) or schedule.num_timesteps < 1:
            raise ValueError(f"no noise schedule: {index['schedule']}")
        with torch.device("meta"):
            network = kind(**{**parts, "schedule": schedule, **index["options"]})
    except InputError:
        raise
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{folder / INDEX}: not the index of an SDSeg network ({error!r})") from error
    state = {name: tensor for name, tensor in network.state_dict().items() if "." not in name}  # SDSeg's own buffers
    state["scale_factor"] = torch.tensor(scale_factor)
    for name, part in parts.items():
        state.update({f"{name}.{key}": tensor for key, tensor in _read_part(folder / name, part).items()})
    network.load_state_dict(state, strict=True, assign=True)
    return network.eval()


def options_of(network: nn.Module) -> dict[str, Any]:
    """Return the constructor arguments of ``network`` except its parts and its schedule."""
    names = inspect.signature(type(network)).parameters
    return {name: getattr(network, name) for name in names if name not in (*PARTS, "schedule")}


def schedule_config(schedule: NoiseSchedule) -> dict[str, Any]:
    """Return the constructor arguments of ``schedule``."""
    return {name: getattr(schedule, name) for name in inspect.signature(NoiseSchedule).parameters}


def part_config(part: Any) -> dict[str, Any]:
    """Return the constructor arguments of ``part``, with its class under diffusers' key ``_class_name``."""
    names = inspect.signature(type(part)).parameters
    return {"_class_name": type(part).__name__, **{name: tuples_to_lists(part.config[name]) for name in names}}


def tuples_to_lists(value: Any) -> Any:
    """Return ``value`` with every tuple in it as a list, the form that JSON has."""
    return [tuples_to_lists(item) for item in value] if isinstance(value, list | tuple) else value


def to_diffusers(part: Any, **options: Any) -> Any:
    """Return ``part`` as a model of diffusers' class, which shares its tensors; None where no class computes the same.

    Args:
        part: one of the networks of an :class:`SDSeg`.
        options: arguments of diffusers' class that ``part`` does not set.
    """
    kind = part.diffusers_class
    if kind is None:
        return None
    arguments = {name: part.config[name] for name in inspect.signature(kind).parameters}
    with torch.device("meta"):
        model = kind(**{**arguments, **options})
    model.load_state_dict(part.state_dict(), strict=True, assign=True)
    return model.eval()


def _save_part(part: Any, name: str, folder: Path, scale_factor: float) -> list[str]:
    """Write a part to a new folder; return the library and the class that load it."""
    model = to_diffusers(part, **_scaling_options(name, scale_factor))
    folder.mkdir()
    if model is not None:
        model.save_pretrained(folder)
        return ["diffusers", type(model).__name__]
    _write_json(folder / CONFIG, part_config(part))
    tensors = {key: tensor.contiguous() for key, tensor in part.state_dict().items()}
    save_file(tensors, folder / OWN_WEIGHTS, metadata={"format": "pt"})
    return ["sdseg_monai.networks", type(part).__name__]


def _build_part(folder: Path, name: str, class_name: str, scale_factor: float) -> Any:
    """Return the part of a folder without its weights, on the meta device."""
    package_classes = {kind.__name__: kind for kind in PARTS[name]}
    classes = {**package_classes, **{key: kind for key, kind in DIFFUSERS_CLASSES.items() if kind in PARTS[name]}}
    if class_name not in classes:
        raise InputError(f"{folder.parent / INDEX}: {name} is a {class_name}, expected {' or '.join(classes)}")
    kind, config = classes[class_name], _read_json(folder / CONFIG)
    if config.get("_class_name") != class_name:
        raise InputError(
            f"{folder / CONFIG}: is of a {config.get('_class_name')}, expected {class_name}, as {INDEX} says"
        )
    arguments = {key: value for key, value in config.items() if not key.startswith("_")}
    try:
        with torch.device("meta"):
            if class_name in package_classes:
                return kind(**arguments)
            part = kind(**kind.arguments_from(arguments))
        _check_config(to_diffusers(part, **_scaling_options(name, scale_factor)), arguments)
    except Exception as error:  # diffusers' constructors raise many types of errors for arguments that do not fit
        raise InputError(f"{folder / CONFIG}: not the arguments of {kind.__name__} ({error})") from error
    return part


def _check_config(model: Any, arguments: Mapping[str, Any]) -> None:
    """Raise :class:`ValueError` unless ``arguments`` are those of diffusers' ``model``."""
    for key, value in arguments.items():
        if key not in model.config:
            raise ValueError(f"{key} is unknown")
        if tuples_to_lists(model.config[key]) != value:
            raise ValueError(f"{key} is {value}, expected {model.config[key]}")


def _read_part(folder: Path, part: nn.Module) -> dict[str, torch.Tensor]:
    """Return the tensors of a part's folder; version 0.4.0 wrote those of every part under diffusers' file name."""
    path = folder / OWN_WEIGHTS
    if not path.is_file():
        path = folder / SAFETENSORS_WEIGHTS_NAME
    state = read_safetensors(path)
    try:
        check_state(shapes_of(state), shapes_of(part.state_dict()))
        return {name: to_float32(name, tensor).clone() for name, tensor in state.items()}
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _scaling_options(name: str, scale_factor: float) -> dict[str, float]:
    """Return the options of diffusers' class for part ``name`` that follow from the latents' scale."""
    return {"scaling_factor": scale_factor} if name == "autoencoder" else {}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}), expected a file of a diffusers-style folder") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}, expected an object of options")
    return content
