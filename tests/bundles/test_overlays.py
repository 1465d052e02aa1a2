"""Every overlay of the bundles parses, trains two iterations and evaluates, on data of the kind it is for."""

import inspect
import json
import re
from pydoc import locate

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.transforms import Compose
from PIL import Image

from sdseg_monai.errors import InputError, find_input_error
from sdseg_monai.networks import CrossAttentionUNet
from sdseg_monai.weights import load_autoencoder, save_tensors
from tests.makers import compvis
from tests.makers.places import ROOT
from tests.makers.volumes import write_case

pytestmark = pytest.mark.usefixtures("keep_global_state")
CONFIGS = ROOT / "bundles" / "sdseg" / "configs"
HIPPOCAMPUS = ROOT / "bundles" / "hippocampus_sdseg" / "configs"
OVERLAYS = sorted(
    str(path.relative_to(configs).with_suffix("")) for configs in (CONFIGS, HIPPOCAMPUS) for path in configs.glob("*/*")
)
WHOLE = ("train", "inference", "train_autoencoder", "metadata")
SMALL_SDSEG = json.loads((CONFIGS / "smoke.json").read_text())
RUN = {key: value for key, value in SMALL_SDSEG.items() if not key.startswith("network_def")}
SMALL_TINY = {
    "network_def#autoencoder#block_out_channels": [8] * 4,
    "network_def#vision_encoder#block_out_channels": [8] * 4,
    **{key: value for key, value in SMALL_SDSEG.items() if key.startswith("network_def#unet")},
}
SMALL = {
    "cross_attention": SMALL_SDSEG,
    "sd_autoencoder": {**SMALL_SDSEG, "network_def#autoencoder#block_out_channels": [32] * 4},
    "taesd": {**RUN, **SMALL_TINY},
    "unet": {**RUN, "network_def#backbone#features": [4, 4, 8, 8, 16, 4]},
    "unet_r50": RUN,
    "unet_small": RUN,
    "dynunet_small": RUN,
    "swin_unetr": {**RUN, "network_def#backbone#feature_size": 12},
    "dynunet": {**RUN, "size": [128, 128], "network_def#backbone#filters": [4, 4, 8, 8, 8, 16, 16]},
}
PICTURES = {
    "ablations/cross_attention": ("ablations/cross_attention",),
    "ablations/frozen_encoder": ("ablations/frozen_encoder",),
    "ablations/no_latent_loss": ("ablations/no_latent_loss",),
    "ablations/v_prediction": ("ablations/v_prediction",),
    "table 6, none": ("ablations/cross_attention", "ablations/frozen_encoder", "ablations/no_latent_loss"),
    "cross-attention, frozen": ("ablations/cross_attention", "ablations/frozen_encoder"),
    "cross-attention, no latent loss": ("ablations/cross_attention", "ablations/no_latent_loss"),
    "table 6, fusion": ("ablations/frozen_encoder", "ablations/no_latent_loss"),
    "datasets/cvc": ("datasets/cvc",),
    "datasets/refuge2": ("datasets/refuge2",),
    "sd_autoencoder": ("sd_autoencoder",),
    "taesd": ("taesd",),
    "zero_start": ("zero_start",),
    **{
        f"baselines/{n}": ("baselines/baseline", f"baselines/{n}")
        for n in ("unet", "unet_r50", "unet_small", "swin_unetr", "dynunet", "dynunet_small")
    },
}
VOLUMES = {"datasets/sts": ("datasets/sts",), "official": ("official",)}
ORGANS = {
    "classes/organs": ("classes/organs",),
    "organs by a pixel network": ("classes/organs", "baselines/baseline", "baselines/unet"),
}
RECIPES = [name for name in OVERLAYS if name.startswith("recipe/")]


def write_picture_case(folder, name, seed, size=(40, 56)):
    """Write a photograph of a bright disc and its mask, in the sizes and kinds of the public sets."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]]
    disc = np.hypot(y - 20 - rng.uniform(-5, 5), x - 28 - rng.uniform(-5, 5)) < 12
    picture = rng.normal(60, 15, (*size, 3)) + 120 * disc[..., None]
    for kind, array in (("images", picture.clip(0, 255).astype(np.uint8)), ("masks", 255 * disc.astype(np.uint8))):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(folder / kind / f"{name}.{'jpg' if kind == 'images' else 'png'}", quality=95)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    cases = {"training": [f"a{i}" for i in range(8)], "validation": ["v0"], "test": ["t0", "t1"]}
    for seed, name in enumerate(name for names in cases.values() for name in names):
        write_picture_case(folder, name, seed)
    datalist = {k: [{"image": f"images/{n}.jpg", "label": f"masks/{n}.png"} for n in v] for k, v in cases.items()}
    (folder / "datalist.json").write_text(json.dumps(datalist))
    return folder


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("volumes")
    cases = {"training": ["a"], "validation": ["v"], "test": ["t"]}
    for seed, names in enumerate(cases.values()):
        write_case(folder, names[0], shape=(20, 24, 8), seed=seed)
    datalist = {
        k: [{"image": f"images/{n}.nii.gz", "label": f"labels/{n}.nii.gz"} for n in v] for k, v in cases.items()
    }
    (folder / "datalist.json").write_text(json.dumps(datalist))
    return folder


def write_organs(folder, num_classes, shape):
    """Write volumes in Hounsfield units whose foreground classes are slabs across x, each of its own radiodensity."""
    rng = np.random.default_rng(0)
    inside = np.linspace(1, num_classes, shape[0] - 4, endpoint=False).astype(np.uint8)
    cases = {"training": "a", "validation": "v", "test": "t"}
    for name in cases.values():
        label = np.zeros(shape, np.uint8)
        label[2:-2, 2:-2] = inside[:, None, None]
        image = (20 * label + rng.normal(-100, 5, shape)).astype(np.int16)
        for kind, array in (("images", image), ("labels", label)):
            (folder / kind).mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(array, np.diag([2.0, 2.0, 3.0, 1.0])), folder / kind / f"{name}.nii.gz")
    datalist = {k: [{key: f"{key}s/{n}.nii.gz" for key in ("image", "label")}] for k, n in cases.items()}
    (folder / "datalist.json").write_text(json.dumps(datalist))
    return folder


@pytest.fixture(scope="module")
def organs(tmp_path_factory):
    """BTCV's 13 organs."""
    return write_organs(tmp_path_factory.mktemp("organs"), 14, (30, 24, 8))


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    """Two classes, as the hippocampus has, in eight coronal slices."""
    return write_organs(tmp_path_factory.mktemp("halves"), 3, (20, 8, 24))


def find(overlay, configs=HIPPOCAMPUS):
    """Return the file of an overlay, from ``configs`` or else from the sdseg bundle's."""
    own = configs / f"{overlay}.json"
    return own if own.is_file() else CONFIGS / own.relative_to(configs)


def train_and_evaluate(overlays, data, tmp_path, bundle=CONFIGS, **changes):
    small = SMALL.get(overlays[-1].split("/")[-1], SMALL.get(overlays[0].split("/")[-1], SMALL_SDSEG))
    (tmp_path / "small.json").write_text(json.dumps({**(small if bundle == CONFIGS else RUN), "epochs": 1, **changes}))
    chain = [str(bundle / "train.json"), *(str(find(name, bundle)) for name in overlays)]
    options = {
        "dataset_dir": str(data),
        "datalist": str(data / "datalist.json"),
        "ckpt_dir": str(tmp_path / "models"),
        "log_dir": str(tmp_path / "logs"),
        "output_dir": str(tmp_path / "eval"),
        "batch_size": 4,
        "meta_file": str(CONFIGS / "metadata.json"),
        "logging_file": False,
        "workflow_type": "train",
    }
    last = str(tmp_path / "small.json")
    training = ConfigWorkflow([*chain, last], run_id="training", **options)
    training.initialize()
    assert training.check_properties() == []
    training.run()
    steps = training.parser.get_parsed_content("train#trainer").state.iteration
    # the official preset says how it evaluates, so it comes after
    order = [chain[0], str(CONFIGS / "evaluate.json"), *chain[1:], last]
    evaluation = ConfigWorkflow(order, run_id="evaluating", **options)
    evaluation.initialize()
    evaluation.run()
    metrics = (tmp_path / "eval" / "metrics.csv").read_text().strip().split(",")
    return steps, float(metrics[-1]), evaluation


@pytest.mark.parametrize("name", PICTURES)
def test_overlay_trains_two_iterations_and_evaluates_pictures(name, pictures, tmp_path):
    steps, dice, _ = train_and_evaluate(("datasets/kvasir", *PICTURES[name]), pictures, tmp_path)
    assert steps == 2 and 0 <= dice <= 1
    masks = sorted((tmp_path / "eval").glob("*.png"))
    assert [mask.name for mask in masks] == ["t0.png", "t1.png"]
    assert Image.open(masks[0]).size == (56, 40)


def infer(overlays, data, tmp_path):
    options = {"dataset_dir": str(data), "checkpoint": str(tmp_path / "models" / "model.pt")}
    chain = [str(CONFIGS / f"{name}.json") for name in ("inference", *overlays)]
    inference = ConfigWorkflow(
        [*chain, str(tmp_path / "small.json")],
        run_id="inference",
        workflow_type="infer",
        meta_file=str(CONFIGS / "metadata.json"),
        logging_file=False,
        output_dir=str(tmp_path / "masks"),
        **options,
    )
    inference.initialize()
    inference.run()
    return inference


def test_inference_writes_the_masks_that_evaluation_writes(pictures, tmp_path):
    train_and_evaluate(("datasets/kvasir",), pictures, tmp_path)
    infer(("datasets/kvasir",), pictures / "images", tmp_path)
    assert len(list((tmp_path / "masks").iterdir())) == 11
    for name in ("t0.png", "t1.png"):
        evaluated, inferred = (Image.open(tmp_path / folder / name) for folder in ("eval", "masks"))
        assert inferred.mode == "L" and set(np.unique(inferred)) <= {0, 255}
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


def parse(*overlays):
    parser = ConfigParser()
    parser.read_config([CONFIGS / f"{name}.json" for name in ("train", *overlays, "smoke")])
    return parser


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


def train_autoencoder(overlays, tmp_path):
    """Train a toy autoencoder on the codes of procedural masks; returns the parser."""
    small = {"network_def#block_out_channels": [8] * 4, "size": 32, "epochs": 1, "masks_per_epoch": 32}
    (tmp_path / "small.json").write_text(json.dumps(small))
    workflow = ConfigWorkflow(
        [*(str(CONFIGS / f"{name}.json") for name in ("train_autoencoder", *overlays)), str(tmp_path / "small.json")],
        run_id="training",
        workflow_type="train",
        meta_file=str(CONFIGS / "metadata.json"),
        logging_file=False,
        ckpt_dir=str(tmp_path / "models"),
        log_dir=str(tmp_path / "logs"),
    )
    workflow.initialize()
    workflow.run()
    return workflow.parser


def test_the_organs_are_trained_on_their_own_codes_scored_and_written_by_number(organs, tmp_path):
    masks = train_autoencoder(("classes/organs",), tmp_path).get_parsed_content("train#dataset")
    assert torch.stack([masks[i]["label"] for i in range(32)]).max() == 13
    changes = {"autoencoder_weights": "$@ckpt_dir + '/autoencoder.pt'"}
    with pytest.raises(RuntimeError) as caught:  # two steps teach no code
        train_and_evaluate(("classes/organs",), organs, tmp_path, **changes)
    message = str(find_input_error(caught.value))
    assert message.startswith(f"{tmp_path / 'models' / 'autoencoder.pt'}: does not know the codes of 14 classes")
    steps, dice, evaluation = train_and_evaluate(("classes/organs",), organs, tmp_path)
    assert steps == 2 and 0 <= dice < 1
    assert evaluation.parser.get_parsed_content("network_def").num_classes == 14
    infer(("classes/organs",), organs / "images", tmp_path)
    evaluated, inferred = (nib.load(tmp_path / folder / "t.nii.gz") for folder in ("eval", "masks"))
    assert inferred.shape == (30, 24, 8) and inferred.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(evaluated.get_fdata(), inferred.get_fdata())
    assert set(np.unique(inferred.get_fdata())) <= set(range(14))


def test_the_organs_mean_dice_is_over_the_organs(organs):
    """A mask that is right everywhere, one that swaps two organs and an empty one, by the evaluation's own metric."""
    parser = parse("classes/organs")
    metric = parser.get_parsed_content("validate#key_metric#val_mean_dice#metric_fn")
    label = torch.as_tensor(nib.load(organs / "labels" / "t.nii.gz").get_fdata()).float()[None, None]
    swapped = torch.where(label == 3, 5.0, torch.where(label == 5, 3.0, label))
    for pred, expected in ((label, 1.0), (swapped, 11 / 13), (0 * label, 0.0)):
        metric.reset()
        metric(pred, label)
        assert metric.aggregate().item() == pytest.approx(expected)


def test_every_command_finds_the_organs_weights():
    def paths(names, *keys):
        parser = ConfigParser()
        parser.read_config([CONFIGS / f"{name}.json" for name in (*names, "classes/organs")])
        return [parser.get_parsed_content(key) for key in keys]

    folder = "bundles/sdseg/models/organs"
    assert paths(["train_autoencoder"], "train#handlers#1#path") == [f"{folder}/autoencoder.pt"]
    trained = paths(["train"], "autoencoder_weights", "validate#handlers#0#path", "num_classes")
    assert trained == [f"{folder}/autoencoder.pt", f"{folder}/model.pt", 14]
    assert paths(["train", "evaluate"], "checkpoint") == paths(["inference"], "checkpoint") == [f"{folder}/model.pt"]


def test_a_label_that_is_no_organ_is_refused_by_name(organs, tmp_path):
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
        for path in (organs / kind).iterdir():
            (tmp_path / kind / path.name).write_bytes(path.read_bytes())
    label = nib.load(organs / "labels" / "a.nii.gz")
    array = np.asarray(label.dataobj).copy()
    array[0, 0, 0] = 14
    nib.save(nib.Nifti1Image(array, label.affine), tmp_path / "labels" / "a.nii.gz")
    parser = parse("classes/organs")
    parser.update({"dataset_dir": str(tmp_path), "datalist": str(organs / "datalist.json")})
    with pytest.raises(RuntimeError) as caught:
        parser.get_parsed_content("train#dataset")
    message = str(find_input_error(caught.value))
    assert message == f"{tmp_path / 'labels' / 'a.nii.gz'}: a label of 14, expected 0 to 13 for num_classes=14"


def test_context_for_photographs_is_refused_by_name(pictures):
    parser = parse("datasets/kvasir")
    parser.update({"dataset_dir": str(pictures), "datalist": str(pictures / "datalist.json"), "context_mm": 1.0})
    with pytest.raises(RuntimeError) as caught:
        parser.get_parsed_content("train#dataset")
    assert "a0.jpg: has 3 channels, a photograph without neighbours" in str(find_input_error(caught.value))


@pytest.mark.parametrize("name", ORGANS)
def test_overlay_trains_two_iterations_and_evaluates_organs(name, organs, tmp_path):
    small = {"network_def#backbone#features": [4, 4, 8, 8, 16, 4]} if "pixel" in name else {}
    steps, dice, evaluation = train_and_evaluate(ORGANS[name], organs, tmp_path, **small)
    assert steps == 2 and 0 <= dice <= 1
    with torch.no_grad():
        score = evaluation.parser.get_parsed_content("network_def").eval()(torch.zeros(1, 3, 64, 64))
    assert score.shape == (1, 14, 64, 64)


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_trains_and_evaluates_two_classes_in_one_pass(name, halves, tmp_path):
    steps, dice, evaluation = train_and_evaluate((name,), halves, tmp_path, bundle=HIPPOCAMPUS)
    assert steps == 2 and 0 <= dice <= 1
    assert evaluation.parser.get_parsed_content("network_def").num_classes == 3


def test_no_overlay_is_untested():
    chains = (*PICTURES.values(), *VOLUMES.values(), *ORGANS.values(), RECIPES)
    tested = {overlay for chain in chains for overlay in chain}
    distillation = {"distill_decoder", "distill_taesd", "mask_decoder"}  # tests/networks/test_distillation.py
    elsewhere = {"evaluate", "multi_gpu_train", "multi_gpu_evaluate", "official_inference", "smoke", "paper_weights"}
    elsewhere |= {"clean_mask"}  # tests/inference/test_mask_cleaning.py
    top = {path.stem for path in CONFIGS.glob("*.json")} - set(WHOLE)
    volumes = {"baselines/dynunet_3d"}  # tests/data/test_volumes.py
    assert {name for name in tested | volumes | {"datasets/kvasir"} if "/" in name} == set(OVERLAYS)
    assert top - elsewhere - distillation == {name for name in tested if "/" not in name}


def test_the_official_preset_has_the_official_quirks(volumes, tmp_path):
    _, _, evaluation = train_and_evaluate(("official",), volumes, tmp_path)
    parser = evaluation.parser
    dataset = parser.get_parsed_content("train#dataset")
    image = dataset[0]["image"]
    assert len(dataset) == 16  # the validation case is trained on as well
    hounsfield = np.asarray(nib.load(volumes / "images" / "a.nii.gz").dataobj)[..., 0].astype(float)
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
        nib.save(nib.Nifti1Image(organs, np.eye(4)), tmp_path / f"{name}.nii.gz")
    case = {name: str(tmp_path / f"{name}.nii.gz") for name in ("image", "label")}
    for chain in (transform, Compose(steps[:-1])):
        foreground = set(organs[np.asarray(chain(case)["label"][0]) > 0])
        assert foreground == {1, 2, 3, 4, 6, 7, 8, 11}  # of the 13 organs


def referenced(value):
    """Return every top-level key that a config's values name, with @ or %."""
    if isinstance(value, dict):
        return set().union(*(referenced(v) for v in value.values()))
    if isinstance(value, list):
        return set().union(*(referenced(v) for v in value))
    return {name.split("#")[0] for name in re.findall(r"[@%]([\w#]+)", value)} if isinstance(value, str) else set()


def arguments(target):
    """Return the names of the arguments of a class or function, by its path or MONAI's short name."""
    return inspect.signature(locate(target) or locate(f"monai.networks.nets.{target}")).parameters


MONAI_IDS = {"imports", "bundle_root", "train", "validate", "initialize", "run", "training", "evaluating", "inference"}


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks" / "studies").glob("*.json")), ids=lambda path: path.stem)
def test_a_study_names_what_there_is(path, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from study import read_study

    study = read_study(path, tmp_path, None, tmp_path, {}, None)
    for run, settings in study.settings.items():
        parser = ConfigParser()
        parser.read_config(study.experiments[run])
        for key in settings:
            parent, _, leaf = key.rpartition("#")
            assert key in parser or key in referenced(settings) or leaf in arguments(parser[parent]["_target_"]), key
    assert set(study.images) in (set(), set(study.settings))  # stated for all or for none


@pytest.mark.parametrize("name", ["train", "train_autoencoder", "inference"])
@pytest.mark.parametrize("bundle", ["sdseg", "hippocampus_sdseg"])
def test_no_config_key_is_read_by_nothing(bundle, name):
    path = ROOT / "bundles" / bundle / "configs" / f"{name}.json"
    config = json.loads(path.read_text())
    if "network_def" not in config:  # an overlay
        config = {**json.loads((CONFIGS / f"{name}.json").read_text()), **config}
    read = referenced(config) | MONAI_IDS | {"evaluator", "dataloader", "output_dir"}
    assert {key for key in config if "#" not in key} - read == set()


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
    own = {"unet_weights", "checkpoint"}  # of the overlay itself; where evaluate.json and inference.json look
    changes = json.loads(find(overlay).read_text())
    for key in changes:
        parent, _, leaf = key.lstrip("+").rpartition("#")
        if key.lstrip("+") not in base and key not in own:  # an argument that the base leaves at its default
            assert leaf == "_target_" or leaf in arguments(
                changes.get(f"{parent}#_target_") or base[parent]["_target_"]
            ), key
