"""Rules for all configs: every overlay is tested, every key is read, and overlays change only keys that exist."""

import json

import pytest
import torch
from monai.bundle import ConfigParser

from lab.study import read_study
from sdseg_monai.networks import CrossAttentionUNet
from tests.bundles.overlays import (
    CONFIGS,
    HIPPOCAMPUS,
    ORGANS,
    OVERLAYS,
    PICTURES,
    RECIPES,
    VOLUMES,
    WHOLE,
    arguments,
    find,
    parse,
    referenced,
)
from tests.makers.places import ROOT

pytestmark = pytest.mark.usefixtures("keep_global_state")


def test_ablations_do_what_they_say():
    network = parse("ablations/cross_attention", "ablations/frozen_encoder").get_parsed_content("network_def")
    assert isinstance(network.unet, CrossAttentionUNet) and list(network.trained_parts) == ["unet"]
    parser = parse("ablations/no_latent_loss", "ablations/v_prediction")
    network, loss = parser.get_parsed_content("network_def"), parser.get_parsed_content("loss")
    assert network.prediction_type == "v_prediction"
    network.scale_factor.fill_(1)
    mask = torch.ones(1, 1, 64, 64)
    loss(network(torch.randn(1, 3, 64, 64), mask=mask, seeds=torch.tensor([1])), mask)
    assert loss.parts["latent"] == 0 and loss.parts["noise"] > 0


def test_no_overlay_is_untested():
    chains = (*PICTURES.values(), *VOLUMES.values(), *ORGANS.values(), RECIPES)
    tested = {overlay for chain in chains for overlay in chain}
    distillation = {"distill_decoder", "distill_taesd", "mask_decoder"}  # tests/networks/test_distillation.py
    elsewhere = {"evaluate", "multi_gpu_train", "multi_gpu_evaluate", "official_inference", "smoke", "paper_weights"}
    elsewhere |= {"clean_mask"}  # tests/inference/test_mask_cleaning.py
    elsewhere |= {"official_classes"}  # tests/bundles/test_official_classes.py
    elsewhere |= {"start_weights"}  # tests/weights/test_start_weights.py
    top = {path.stem for path in CONFIGS.glob("*.json")} - set(WHOLE)
    volumes = {"baselines/dynunet_3d"}  # tests/data/test_volumes.py
    assert {name for name in tested | volumes | {"datasets/kvasir"} if "/" in name} == set(OVERLAYS)
    assert top - elsewhere - distillation == {name for name in tested if "/" not in name}


MONAI_IDS = {"imports", "bundle_root", "train", "validate", "initialize", "run", "training", "evaluating", "inference"}


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks" / "studies").glob("*.json")), ids=lambda path: path.stem)
def test_a_study_names_what_there_is(path, tmp_path, monkeypatch):
    study = read_study(path, tmp_path, None, tmp_path, {}, None)
    for run, settings in study.settings.items():
        parser = ConfigParser()
        parser.read_config(study.experiments[run])
        for key in settings:
            parent, _, leaf = key.rpartition("#")
            assert key in parser or key in referenced(settings) or leaf in arguments(parser[parent]["_target_"]), key
    assert set(study.images) in (set(), set(study.settings))  # stated for all or for none


@pytest.mark.parametrize(
    "path",
    [
        p
        for name in ("train", "train_autoencoder", "inference")
        for p in (ROOT / "bundles").glob(f"*/configs/{name}.json")
    ],
    ids=lambda path: f"{path.parts[-3]}-{path.stem}",
)
def test_no_config_key_is_read_by_nothing(path):
    name = path.stem
    config = json.loads(path.read_text())
    if "network_def" not in config:  # an overlay
        config = {**json.loads((CONFIGS / f"{name}.json").read_text()), **config}
    known_keys = referenced(config) | MONAI_IDS | {"evaluator", "dataloader", "output_dir"}
    assert {key for key in config if "#" not in key} - known_keys == set()


@pytest.mark.parametrize(
    "overlay",
    [
        *("mask_decoder", "official", "official_inference", "paper_weights", "sd_autoencoder", "smoke", "taesd"),
        *("zero_start", *OVERLAYS),
    ],
)
def test_an_overlay_changes_only_what_the_base_has(overlay):
    base = ConfigParser()
    names = [
        "inference" if "inference" in overlay else "train",
        *(["baselines/baseline"] if "baselines" in overlay else []),
    ]
    configs = HIPPOCAMPUS if overlay.startswith("recipe/") else CONFIGS
    base.read_config([configs / f"{name}.json" for name in names])
    own = {
        "unet_weights",
        "backbone_weights",
        "checkpoint",
    }  # of the overlay itself; where evaluate.json and inference.json look
    changes = json.loads(find(overlay).read_text())
    for key in changes:
        parent, _, leaf = key.lstrip("+").rpartition("#")
        if key.lstrip("+") not in base and key not in own:  # an argument that the base leaves at its default
            assert leaf == "_target_" or leaf in arguments(
                changes.get(f"{parent}#_target_") or base[parent]["_target_"]
            ), key
