"""Weights in and out: plain tensors only, strict, atomic."""

from pathlib import Path

from sdseg_monai.networks import SDSeg
from sdseg_monai.weights.autoencoder import (
    RANDOM,
    check_codes,
    fill_autoencoder,
    fill_from_segmenter,
    first_classes,
    load_autoencoder,
    load_teacher,
    load_vision_encoder,
    replace_mask_decoder,
)
from sdseg_monai.weights.backbone import load_backbone
from sdseg_monai.weights.checkpoints import read_checkpoint
from sdseg_monai.weights.files import (
    drop_mask_encoder,
    inference_state,
    load_binary,
    load_weights,
    read_tensors,
    save_inference,
    save_network,
    save_tensors,
)
from sdseg_monai.weights.official import ImportedNetwork, import_official, load_official
from sdseg_monai.weights.transfer import ImportReport
from sdseg_monai.weights.unet import load_unet

Imported = ImportedNetwork  # its name in 0.4.0
load_diffusers_folder = SDSeg.from_pretrained


def save_diffusers_folder(network: SDSeg, folder: str | Path) -> None:
    """Write ``network`` to a new folder, see :meth:`SDSeg.save_pretrained`."""
    network.save_pretrained(folder)


__all__ = [
    "RANDOM",
    "ImportReport",
    "ImportedNetwork",
    "check_codes",
    "drop_mask_encoder",
    "fill_autoencoder",
    "fill_from_segmenter",
    "first_classes",
    "import_official",
    "inference_state",
    "load_autoencoder",
    "load_backbone",
    "load_binary",
    "load_diffusers_folder",
    "load_official",
    "load_teacher",
    "load_unet",
    "load_vision_encoder",
    "load_weights",
    "read_checkpoint",
    "read_tensors",
    "replace_mask_decoder",
    "save_diffusers_folder",
    "save_inference",
    "save_network",
    "save_tensors",
]
