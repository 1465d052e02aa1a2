"""Overlays for photographs and volumes train and evaluate as their commands say."""

import json

import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow
from monai.transforms import Compose
from PIL import Image

from sdseg_monai.errors import InputError
from sdseg_monai.weights import load_autoencoder, save_tensors
from tests.bundles.overlays import CONFIGS, HIPPOCAMPUS, PICTURES, RECIPES, VOLUMES, infer, parse, train_and_evaluate
from tests.makers import compvis
from tests.makers.volumes import load_nifti, write_nifti

pytestmark = pytest.mark.usefixtures("keep_global_state")

LONG = [name for name in PICTURES if name.startswith("baselines/")]
COMBINED = [
    "cross-attention, frozen",
    "cross-attention, no latent loss",
    "table 6, fusion",
]  # of what table 6, none has
ALIKE = [  # but for a number
    f"recipe/{name}"
    for name in (
        *("augmentation_cycle_2", "latent_weight_3", "segmentation_weight_1", "segmentation_weight_3"),
        *("double_width", "reference_width"),
    )
]


def slow_if_in(slow, names):
    return [pytest.param(name, marks=[pytest.mark.slow] * (name in slow)) for name in names]


@pytest.mark.parametrize("name", slow_if_in((*LONG, *COMBINED), PICTURES))
def test_overlay_trains_two_iterations_and_evaluates_pictures(name, pictures, tmp_path):
    steps, dice, _ = train_and_evaluate(("datasets/kvasir", *PICTURES[name]), pictures, tmp_path)
    assert steps == 2 and 0 <= dice <= 1
    masks = sorted((tmp_path / "eval").glob("*.png"))
    assert [mask.name for mask in masks] == ["t0.png", "t1.png"]
    assert Image.open(masks[0]).size == (56, 40)


def test_inference_writes_the_masks_that_evaluation_writes(pictures, tmp_path):
    train_and_evaluate(("datasets/kvasir",), pictures, tmp_path)
    infer(("datasets/kvasir",), pictures / "images", tmp_path)
    assert len(list((tmp_path / "masks").iterdir())) == 11
    for name in ("t0.png", "t1.png"):
        evaluated, inferred = (Image.open(tmp_path / folder / name) for folder in ("eval", "masks"))
        assert inferred.mode == "L" and set(np.unique(np.asarray(inferred))) <= {0, 255}
        np.testing.assert_array_equal(evaluated, inferred)


def test_official_inference_scales_each_volume_to_its_range(volumes, tmp_path):
    train_and_evaluate(("official",), volumes, tmp_path)
    parser = infer(("official_inference",), volumes / "images", tmp_path).parser
    assert len(list((tmp_path / "masks").iterdir())) == 3
    image = parser.get_parsed_content("preprocessing")({"image": str(volumes / "images" / "t.nii.gz")})["image"]
    assert image.min() == -1 and image.max() == 1  # the volume itself ends far within the window
    official = json.loads((CONFIGS / "official.json").read_text())["validate#preprocessing"]["transforms"]
    scaling = [t for t in official if "ScaleIntensity" in t["_target_"]]
    inference = json.loads((CONFIGS / "official_inference.json").read_text())["preprocessing#transforms"]
    assert scaling == [t for t in inference if "ScaleIntensity" in t["_target_"]]


def test_the_papers_weights_start_a_training(pictures, tmp_path):
    """CompVis files of the autoencoder and the U-Net, tiny, fill the network before the first step."""
    autoencoder, unet = (
        compvis.autoencoder(channels=32, mult=(1, 1, 1, 1), layers=1),
        compvis.unet(channels=32, mult=(1, 2), layers=1, attend=(True, False), into=4),
    )
    (tmp_path / "models").mkdir()
    for name, shapes, prefix in (
        ("kl-f8.ckpt", autoencoder, ""),
        ("lsun_churches-ldm-8.ckpt", unet, "model.diffusion_model."),
    ):
        torch.save({"state_dict": compvis.random_state(shapes, prefix)}, tmp_path / "models" / name)
    sizes = {
        "network_def#autoencoder#block_out_channels": [32] * 4,
        "network_def#autoencoder#layers_per_block": 1,
        "network_def#autoencoder#norm_num_groups": 32,
        "network_def#vision_encoder#block_out_channels": [32] * 4,
        "network_def#vision_encoder#layers_per_block": 1,
        "network_def#unet#block_out_channels": [32, 64],
        "network_def#unet#attention_levels": [True, False],
        "network_def#unet#layers_per_block": 1,
        "size": [64, 64],
        "epochs": 1,
        "val_interval": 1,
        "log_dir": str(tmp_path / "logs"),
    }
    (tmp_path / "small.json").write_text(json.dumps(sizes))
    workflow = ConfigWorkflow(
        [
            *(str(CONFIGS / f"{name}.json") for name in ("train", "datasets/kvasir", "paper_weights")),
            str(tmp_path / "small.json"),
        ],
        workflow_type="train",
        meta_file=str(CONFIGS / "metadata.json"),
        logging_file=False,
        dataset_dir=str(pictures),
        datalist=str(pictures / "datalist.json"),
        ckpt_dir=str(tmp_path / "models"),
    )
    workflow.initialize()
    network = workflow.parser.get_parsed_content("network_def")
    state = torch.load(tmp_path / "models" / "lsun_churches-ldm-8.ckpt", weights_only=True)["state_dict"]
    pretrained = state["model.diffusion_model.input_blocks.0.0.weight"]
    assert torch.equal(network.unet.conv_in.weight[:, :4], pretrained)
    assert not network.unet.conv_in.weight[:, 4:].any()
    trunk = network.vision_encoder.encoder.conv_in.weight
    assert torch.equal(trunk, network.autoencoder.encoder.conv_in.weight)
    workflow.run()
    assert (tmp_path / "models" / "model.pt").is_file()
    assert not torch.equal(network.unet.conv_in.weight[:, :4], pretrained)


def test_a_frozen_encoder_that_would_stay_random_is_refused(tmp_path):
    parser = parse("ablations/frozen_encoder")
    parser["network_def#vision_encoder#block_out_channels"] = [16] * 4
    network = parser.get_parsed_content("network_def")
    save_tensors(tmp_path / "autoencoder.pt", network.autoencoder.state_dict())
    with pytest.raises(InputError, match="frozen but has other sizes"):
        load_autoencoder(network, tmp_path / "autoencoder.pt")


@pytest.mark.parametrize("name", VOLUMES)
def test_overlay_trains_two_iterations_and_evaluates_volumes(name, volumes, tmp_path):
    steps, dice, _ = train_and_evaluate(VOLUMES[name], volumes, tmp_path)
    assert steps == (4 if name == "official" else 2) and 0 <= dice <= 1


@pytest.mark.parametrize("name", slow_if_in(ALIKE, RECIPES))
def test_recipe_trains_and_evaluates_two_classes_in_one_pass(name, halves, tmp_path):
    steps, dice, evaluation = train_and_evaluate((name,), halves, tmp_path, bundle=HIPPOCAMPUS, size=[32, 32])
    assert steps == 2 and 0 <= dice <= 1
    assert evaluation.parser.get_parsed_content("network_def").num_classes == 3


def test_the_official_preset_has_the_official_quirks(volumes, tmp_path):
    _, _, evaluation = train_and_evaluate(("official",), volumes, tmp_path)
    parser = evaluation.parser
    dataset = parser.get_parsed_content("train#dataset")
    image = dataset[0]["image"]
    assert len(dataset) == 16  # the validation case is trained on as well
    hounsfield = np.asarray(load_nifti(volumes / "images" / "a.nii.gz").dataobj)[..., 0].astype(float)
    transform = parser.get_parsed_content("train#preprocessing")
    scaled = transform({k: str(volumes / f"{k}s" / "a.nii.gz") for k in ("image", "label")})["image"][0, ..., 0]
    np.testing.assert_allclose(scaled, (hounsfield.clip(-175, 250) + 125) / 400 * 2 - 1, atol=1e-5)
    assert image.shape == (3, 64, 64)
    item = parser.get_parsed_content("validate#dataset")[0]
    assert item["image"].shape == item["label"].shape == (1, 64, 64, 8)  # scored on the network's grid
    steps = parser.get_parsed_content("validate#preprocessing").transforms
    before_resizing = Compose(steps[:-1])({k: str(volumes / f"{k}s" / "t.nii.gz") for k in ("image", "label")})["image"]
    assert before_resizing.min() == -1 and before_resizing.max() == 1
    network = parser.get_parsed_content("network_def")
    assert network.mask_latent == "sample" and network.start_noise == "shared"
    assert list(parser.get_parsed_content("ema").handler.ema_model) == ["unet"]
    metric = parser["validate#key_metric#val_mean_dice#metric_fn#_target_"]
    assert metric == "sdseg_monai.metrics.TransUNetDice"
    organs = np.arange(14, dtype=np.uint8).reshape(14, 1, 1).repeat(14, 1).repeat(2, 2)
    for name in ("image", "label"):
        write_nifti(tmp_path / f"{name}.nii.gz", organs)
    case = {name: str(tmp_path / f"{name}.nii.gz") for name in ("image", "label")}
    for chain in (transform, Compose(steps[:-1])):
        foreground = set(organs[np.asarray(chain(case)["label"][0]) > 0])
        assert foreground == {1, 2, 3, 4, 6, 7, 8, 11}  # of the 13 organs
