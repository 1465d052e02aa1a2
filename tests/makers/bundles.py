"""Bundles like the embedded one, with tiny networks."""

import csv
import json
from pathlib import Path

import torch

from sdseg_monai.bundle import Bundle
from tests.makers.networks import make_network
from tests.makers.places import ROOT

INFERENCE = ROOT / "bundles" / "hippocampus_sdseg" / "configs" / "inference.json"
GENERAL_INFERENCE = ROOT / "bundles" / "sdseg" / "configs" / "inference.json"
METADATA = INFERENCE.with_name("metadata.json")
EDGE = 16  # voxels along each axis of the network's images, so that exact cases need no resizing
ENCODER = {"block_out_channels": [8, 16, 16], "layers_per_block": 1, "latent_channels": 4, "norm_num_groups": 4}
UNET = {"in_channels": 8, "out_channels": 4, "block_out_channels": [16, 32], "attention_levels": [False, True]}
UNET |= {"layers_per_block": 1, "num_heads": 4, "norm_num_groups": 8}
SDSEG = {"autoencoder": ENCODER, "vision_encoder": ENCODER, "unet": UNET}  # of make_network


def write_bundle(folder, network_def, network, slice_axis=1, num_classes=2):
    """Write a bundle of ``network``, the embedded one's but for its sizes, and return its folder."""
    config = json.loads(INFERENCE.read_text())
    config |= {"network_def": network_def, "size": [EDGE, EDGE], "slice_axis": slice_axis, "num_classes": num_classes}
    for name in ("configs", "models"):
        (folder / name).mkdir(parents=True)
    (folder / "configs" / "inference.json").write_text(json.dumps(config))
    (folder / "configs" / "metadata.json").write_text(METADATA.read_text())
    torch.save(network.state_dict(), folder / "models" / "model.pt")
    return folder


def write_sdseg(folder, start_noise, num_classes=2):
    """Write a bundle of a real network with random weights, which decide nothing but do so in every voxel."""
    network_def = json.loads(INFERENCE.read_text())["network_def"]
    for part, sizes in SDSEG.items():
        network_def[part] |= sizes
    options = {"prediction_type": "sample", "start_noise": start_noise}
    network = make_network(num_classes=num_classes, **options)
    return write_bundle(folder, network_def | options, network, num_classes=num_classes)


def write_picture_bundle(folder, modality="RGB", name="polyp", **attributes):
    """Write a bundle for pictures with random weights and one class, and return its folder.

    ``attributes`` of the class stand under ``segments`` in its metadata.
    """
    (folder / "configs").mkdir(parents=True)
    config = json.loads(INFERENCE.read_text())
    config |= {"num_classes": 2, "size": [32, 32], "slice_axis": 2, "context_mm": None, "intensity_range": [0, 255]}
    config["preprocessing"] = json.loads(GENERAL_INFERENCE.read_text())["preprocessing"]
    (folder / "configs" / "inference.json").write_text(json.dumps(config))
    metadata = json.loads(METADATA.read_text())
    metadata["network_data_format"]["inputs"]["image"]["modality"] = modality
    for output in ("outputs", "post_processed_outputs"):
        metadata["network_data_format"][output]["pred"]["channel_def"] = {"0": "background", "1": name}
    metadata["segments"]["1"] |= attributes
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
    return write_random_weights(folder)


def write_training(bundle, **values):
    """Write the embedded bundle's train.json, which mirrors along the first axis in the slice, with other values."""
    config = json.loads(INFERENCE.with_name("train.json").read_text())
    (bundle / "configs" / "train.json").write_text(json.dumps(config | values))
    return bundle


def write_random_weights(bundle):
    """Write random weights of the network that a bundle's config names, and return the bundle's folder."""
    torch.manual_seed(0)
    network = Bundle(bundle).config("inference").get_parsed_content("network_def")
    network.scale_factor.fill_(0.1)
    (bundle / "models").mkdir()
    torch.save(network.state_dict(), bundle / "models" / "model.pt")
    return bundle


def write_other_weights(path, bundle):
    """Write other weights for the network of a bundle, and return their file."""
    state = torch.load(bundle / "models" / "model.pt", weights_only=True)
    state["unet.conv_out.bias"] = state["unet.conv_out.bias"] + 0.5
    torch.save(state, path)
    return path


def read_metrics(folder: Path) -> dict[str, float]:
    """Return the metrics that an evaluation wrote to ``folder``, by name."""
    with (folder / "metrics.csv").open() as file:
        return {name: float(value) for name, value in csv.reader(file)}
