"""The configs of a new bundle: the configs of the shipped bundles, read as data, with other values."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from monai.bundle import ConfigParser

from sdseg_monai.bundle import bundles_dir
from sdseg_monai.io.segments import class_colour
from sdseg_monai.networks.codes import is_one_hot
from sdseg_monai.planning.fingerprint import Fingerprint
from sdseg_monai.planning.proposal import Grid, Schedule

RECIPE = "hippocampus_sdseg"  # the bundle whose training was measured on volumes
GENERAL = "sdseg"  # the bundle whose inference reads pictures too
# the bundle with the sizes and the autoencoder of each network
NETWORKS = {
    "small": "hippocampus_sdseg",
    "pretrained": "skin_lesion_sdseg",
    "paper": "sdseg",
    "unet": "skin_lesion_sdseg",
}
PICTURE_RECIPE = "skin_lesion_sdseg"  # the bundle whose training was measured on pictures
UNET = ("baselines/baseline.json", "baselines/unet_lite.json")  # overlays of GENERAL, which make a U-Net of an SDSeg
# what only an SDSeg has
SDSEG_KNOBS = (
    *("autoencoder_weights", "vision_encoder_weights", "vision_encoder_learning_rate"),
    *("latent_channels", "latent_weight", "segmentation_weight"),
)
SDSEG_LOADERS = ("load_autoencoder", "load_vision_encoder")
ORGANS = "classes/organs.json"  # overlay of GENERAL: its mask autoencoder has a channel for each class
HALVINGS = 3  # of that autoencoder; the networks of a latent with other sizes cannot take it
PRETRAINED = ("taef2.safetensors", "LICENSE.taef2")  # the start of a vision encoder, in the models of GENERAL
COPIED = ("evaluate.json", "multi_gpu_train.json", "multi_gpu_evaluate.json", "logging.conf")
BATCH_SIZES = {"small": 32, "pretrained": 16, "paper": 4, "unet": 16}
FIELD_OF_VIEW = "sdseg_monai.transforms.WarnFieldOfViewd"
UNLIKE = "sdseg_monai.transforms.WarnUnlikeTrainingd"


class Folders(NamedTuple):
    """Where a bundle and its data are, as the bundle's configs say it.

    Attributes:
        bundle_root: folder of the bundle.
        dataset_dir: folder that the paths in the datalist are relative to.
        images: folder of the images.
    """

    bundle_root: str
    dataset_dir: str
    images: str


def shipped_config(bundle: str, name: str) -> dict[str, Any]:
    """Return a config of a shipped bundle as data. No expression in it is evaluated."""
    return ConfigParser.load_config_files(shipped_file(bundle, name))


def shipped_file(bundle: str, name: str) -> Path:
    """Return the path of a file in the ``configs`` folder of a shipped bundle."""
    return bundles_dir() / bundle / "configs" / name


class ShippedAutoencoder(NamedTuple):
    """The mask autoencoder that a network takes.

    Attributes:
        bundle: the shipped bundle that it belongs to.
        training: its ``train_autoencoder.json``, as data.
        weights: file of its weights; it is there for the numbers of classes that the shipped bundles know.
    """

    bundle: str
    training: dict[str, Any]
    weights: Path


def shipped_autoencoder(network: str, num_classes: int) -> ShippedAutoencoder:
    """Return the mask autoencoder for a network and K classes, the background included."""
    bundle = NETWORKS[network]
    own = ConfigParser.load_config_files(
        [shipped_file(name, "train_autoencoder.json") for name in dict.fromkeys((GENERAL, bundle))]
    )
    if not is_one_hot(num_classes) or len(own["network_def"]["block_out_channels"]) != HALVINGS + 1:
        return ShippedAutoencoder(bundle, own, bundles_dir() / bundle / "models" / "autoencoder.pt")
    organs = shipped_config(GENERAL, "train_autoencoder.json")
    organs["latent_channels"] = shipped_config(GENERAL, ORGANS)["latent_channels"]
    return ShippedAutoencoder(GENERAL, organs, bundles_dir() / GENERAL / "models" / "organs" / "autoencoder.pt")


def recipe_of(network: str) -> str:
    """Return the bundle whose training a network takes over."""
    return PICTURE_RECIPE if NETWORKS[network] == PICTURE_RECIPE else RECIPE


def train_config(grid: Grid, num_classes: int, folders: Folders) -> dict[str, Any]:
    """Return ``train.json`` without the values of a :class:`Schedule`, which :func:`fill_schedule` sets."""
    is_unet = grid.network.value == "unet"
    recipe = recipe_of(grid.network.value)
    parser = ConfigParser()
    parser.read_config([shipped_file(recipe, "train.json"), *(shipped_file(GENERAL, name) for name in UNET if is_unet)])
    size, recipe_size = list(grid.size.value), parser["size"]
    network = shipped_config(NETWORKS[grid.network.value], "train.json")
    autoencoder = shipped_autoencoder(grid.network.value, num_classes).training
    parser.update(
        {
            "bundle_root": folders.bundle_root,
            "dataset_dir": folders.dataset_dir,
            "datalist": "$@bundle_root + '/configs/datalist.json'",
            "how_to_get_data": "Name the folder that configs/datalist.json is relative to with --dataset_dir.",
            "num_classes": num_classes,
            "slice_axis": grid.slice_axis.value,
            "size": size,
            "context_mm": grid.context_mm.value,
            "mirror_probability": grid.mirror.value,
            "rotation": shipped_config(RECIPE, "train.json")["rotation"],
            "learning_rate": network["learning_rate"],
            "latent_channels": autoencoder["latent_channels"],
        }
    )
    config = {key: value for key, value in parser.get().items() if key != ConfigParser.meta_key}
    if is_unet:
        config = {key: value for key, value in config.items() if key not in SDSEG_KNOBS}
        config["imports"] = [line for line in config["imports"] if not line.endswith(SDSEG_LOADERS)]
    else:
        config["network_def"] |= {part: network["network_def"][part] for part in ("vision_encoder", "unet")}
        config["network_def"]["autoencoder"] = autoencoder["network_def"]
    if "vision_encoder_weights" in config:
        config["vision_encoder_weights"] = f"$@bundle_root + '/models/{PRETRAINED[0]}'"
    transforms = config["augmentation"]["transforms"]
    shift = next(step for step in transforms if "translate_range" in step)
    shift["translate_range"] = [
        round(length * edge / recipe_edge, 2)
        for length, edge, recipe_edge in zip(shift["translate_range"], size, recipe_size, strict=True)
    ]
    return _with_window(config, ("train", "preprocessing"), grid)


def fill_schedule(config: Mapping[str, Any], schedule: Schedule) -> dict[str, Any]:
    """Return ``train.json`` with the values of a schedule."""
    return {**config, **{name: choice.value for name, choice in schedule.choices.items() if name != "minutes"}}


def inference_config(
    train: Mapping[str, Any], grid: Grid, fingerprint: Fingerprint, folders: Folders
) -> dict[str, Any]:
    """Return the ``inference.json`` that goes with a ``train.json``."""
    config = shipped_config(GENERAL, "inference.json")
    knobs = ("bundle_root", "num_classes", "latent_channels", "slice_axis", "size", "context_mm", "network_def")
    config |= {name: copy.deepcopy(train[name]) for name in knobs if name in train}
    if "latent_channels" not in train:
        del config["latent_channels"]
    config["dataset_dir"] = folders.images
    config = _with_window(config, ("preprocessing",), grid)
    if grid.window.value is None:
        extents = list(zip(*(case.extent for case in fingerprint.cases), strict=True))
        lowest = min(case.lowest for case in fingerprint.cases)
        spread = max(case.intensities[-1] - case.intensities[0] for case in fingerprint.cases)
        config["preprocessing"]["transforms"].insert(
            1,
            {
                "_target_": FIELD_OF_VIEW,
                "keys": "image",
                "extent_mm": [[round(min(ends), 1), round(max(ends), 1)] for ends in extents],
                "lowest": round(lowest - spread, 4),
            },
        )
    if grid.network.value != "unet":  # the training of an SDSeg describes its images
        check = {"_target_": UNLIKE, "keys": "image", "network": "@network_def", "inferer": "@inferer"}
        config["preprocessing"]["transforms"].append(check)
    return config


def autoencoder_config(train: Mapping[str, Any], autoencoder: ShippedAutoencoder) -> dict[str, Any]:
    """Return the ``train_autoencoder.json`` whose autoencoder a ``train.json`` takes."""
    return {**autoencoder.training, "bundle_root": train["bundle_root"], "num_classes": train["num_classes"]}


def metadata(grid: Grid, fingerprint: Fingerprint, names: Mapping[int, str], name: str) -> dict[str, Any]:
    """Return ``metadata.json``."""
    meta = shipped_config(GENERAL, "metadata.json")
    structures = ", ".join(names.values())
    pictures, modality, count = fingerprint.pictures, grid.modality.value, len(names) + 1
    is_unet = grid.network.value == "unet"
    task = "Segmentation" if is_unet else "Latent diffusion segmentation"
    network = f"SDSeg, the {grid.network.value} network, for {structures}; trained from zeros in one step."
    window = "percentiles" if grid.window.value is None else "{} to {}".format(*grid.window.value)
    meta |= {
        "version": "0.1.0",
        "changelog": {"0.1.0": "made by sdseg init-bundle"},
        "name": name,
        "task": f"{task} of {structures} in {modality}" + ("" if is_unet else " in one reverse step"),
        "description": f"A U-Net on EfficientNet-lite0 for {structures}." if is_unet else network,
        "authors": "who trained it",
        "copyright": "the weights: of who trained them; the mask autoencoder's: Apache License 2.0",
        "data_source": f"{len(fingerprint.cases)} cases of its maker (not included)",
        "data_type": "png or jpeg" if pictures else "nifti, nrrd or mha",
        "image_classes": f"{modality}, {window} scaled to -1..1, as three channels",
        "label_classes": "single channel, " + ", ".join(f"{value} {text}" for value, text in _values(names).items()),
        "pred_classes": "single channel score in 0..1, foreground from 0.5"
        if count == 2
        else f"{count} channels, a score in 0..1 for each class, their sum 1; the class is the highest",
        "references": meta["references"][:1],
        "segments": {str(value): {"color": list(class_colour(value))} for value in names},
    }
    formats = meta["network_data_format"]
    image, pred, mask = (next(iter(formats[kind].values())) for kind in ("inputs", "outputs", "post_processed_outputs"))
    channels = ["red", "green", "blue"] if pictures else ["slice"] * 3
    if grid.context_mm.value is not None:
        channels = [f"{grid.context_mm.value:g} mm behind", "slice", f"{grid.context_mm.value:g} mm in front"]
    image |= {
        "format": {True: "rgb", False: "hounsfield" if modality == "CT" else "magnitude"}[pictures],
        "modality": modality,
        "spatial_shape": list(grid.size.value),
        "channel_def": dict(zip("012", channels, strict=True)),
    }
    pred |= {
        "num_channels": 1 if count == 2 else count,
        "spatial_shape": list(grid.size.value),
        "channel_def": _values(names),
    }
    mask |= {"value_range": [0, len(names)], "channel_def": _values(names)}
    return meta


def _values(names: Mapping[int, str]) -> dict[str, str]:
    return {"0": "background", **{str(value): name for value, name in names.items()}}


def _with_window(config: dict[str, Any], path: tuple[str, ...], grid: Grid) -> dict[str, Any]:
    """Return a config whose intensities are scaled by the window of ``grid``, or by percentiles if it has none.

    Args:
        config: the config.
        path: keys that lead to the preprocessing in it.
        grid: the settings.
    """
    donor = shipped_config(RECIPE if grid.window.value is None else GENERAL, "inference.json")
    step = next(step for step in donor["preprocessing"]["transforms"] if "ScaleIntensity" in step["_target_"])
    node = config
    for key in path:
        node = node[key]
    node["transforms"] = [
        step if "ScaleIntensity" in transform["_target_"] else transform for transform in node["transforms"]
    ]
    config = {name: value for name, value in config.items() if name != "intensity_range"}
    if grid.window.value is None:
        return config
    ordered_config: dict[str, Any] = {}
    for name, value in config.items():  # intensity_range comes after slice_axis, as in the shipped config
        ordered_config[name] = value
        if name == "slice_axis":
            ordered_config["intensity_range"] = list(grid.window.value)
    return ordered_config
