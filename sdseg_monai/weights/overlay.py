"""The overlay that converted weights need after the sdseg bundle's ``train.json``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

from sdseg_monai.bundle import Bundle, literal_path
from sdseg_monai.io.files import write_atomically
from sdseg_monai.networks import SDSeg
from sdseg_monai.networks.pretrained import PARTS, options_of, part_config, schedule_config
from sdseg_monai.networks.trained_for import NETWORK_OPTIONS

BASE = "sdseg"
NOT_IN_WEIGHTS = ("dropout",)  # the bundle's own stays: a file of weights does not say with which they were trained


def network_config(network: SDSeg) -> dict[str, Any]:
    """Return the ``network_def`` of a bundle's config that builds ``network``, without its weights."""
    config: dict[str, Any] = {"_target_": "sdseg_monai.networks.SDSeg"}
    for name in PARTS:
        part = part_config(getattr(network, name))
        config[name] = {"_target_": f"sdseg_monai.networks.{part.pop('_class_name')}", **part}
    schedule = {"_target_": "sdseg_monai.schedule.NoiseSchedule", **schedule_config(network.schedule)}
    return {**config, "schedule": schedule, **options_of(network)}


def start_overlay(network: SDSeg, weights: Path) -> dict[str, Any]:
    """Return the overlay with which a training of the sdseg bundle starts from ``weights``.

    It holds ``start_weights.json`` and what of the network differs from ``train.json``: its sizes, number of classes,
    noise schedule and what its weights predict. It suits ``inference.json`` and ``evaluate.json`` too.

    Args:
        network: made of the same classes as the bundle's.
        weights: file of its weights.
    """
    bundle = Bundle.open(BASE)
    overlay = json.loads(bundle.config_file("start_weights").read_text())
    overlay["start_weights"] = literal_path(weights.resolve())
    parser = ConfigParser()
    parser.read_config(bundle.config_file("train"))
    for knob, value in (("num_classes", network.num_classes), ("latent_channels", network.autoencoder.latent_channels)):
        if value != parser[knob]:
            overlay[knob] = parser[knob] = value
    with torch.device("meta"):
        base = network_config(parser.get_parsed_content("network_def"))
    config = network_config(network)
    for part in PARTS:
        for name, value in config[part].items():
            if name not in NOT_IN_WEIGHTS and value != base[part][name]:
                overlay[f"network_def#{part}#{name}"] = value
    for name in ("schedule", *NETWORK_OPTIONS):
        if config[name] != base[name]:
            overlay[f"network_def#{name}"] = config[name]
    return overlay


def write_start_overlay(network: SDSeg, weights: Path) -> Path:
    """Write :func:`start_overlay` beside ``weights``, and return its file.

    Raises:
        InputError: the file cannot be written.
    """
    path = overlay_path(weights)
    text = json.dumps(start_overlay(network, weights), indent=4) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text))
    return path


def overlay_path(weights: Path) -> Path:
    """Return the file of the overlay beside the file of the weights: ``model.json`` for ``model.pt``."""
    return weights.with_suffix(".json")
