"""The overlays, how they are made small, and how they are run."""

import inspect
import json
import re
from pydoc import locate
from typing import Any

from monai.bundle import ConfigParser, ConfigWorkflow

from tests.makers.bundles import read_metrics
from tests.makers.places import ROOT

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
    "taef2": {**RUN, **SMALL_TINY},
    "taef2_encoder": {**RUN, **SMALL_TINY, "vision_encoder_weights": "random"},
    "lite_encoder": {
        **{key: value for key, value in SMALL_SDSEG.items() if "#vision_encoder#" not in key},
        "backbone_weights": "random",
    },
    "unet_lite": {**RUN, "backbone_weights": "random"},
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
    "taef2": ("taef2",),
    "taef2_encoder": ("taef2_encoder",),
    "lite_encoder": ("lite_encoder",),
    "zero_start": ("zero_start",),
    **{
        f"baselines/{n}": ("baselines/baseline", f"baselines/{n}")
        for n in ("unet", "unet_r50", "unet_small", "unet_lite", "swin_unetr", "dynunet", "dynunet_small")
    },
}
VOLUMES = {"datasets/sts": ("datasets/sts",), "official": ("official",)}
ORGANS = {
    "classes/organs": ("classes/organs",),
    "classes/synapse9": ("classes/synapse9",),
    "organs by a pixel network": ("classes/organs", "baselines/baseline", "baselines/unet"),
}
RECIPES = [name for name in OVERLAYS if name.startswith("recipe/")]


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
    return steps, read_metrics(tmp_path / "eval")["val_mean_dice"], evaluation


def parse(*overlays):
    parser = ConfigParser()
    parser.read_config([CONFIGS / f"{name}.json" for name in ("train", *overlays, "smoke")])
    return parser


def referenced(value):
    """Return every top-level key that a config's values name, with @ or %."""
    if isinstance(value, dict):
        return set().union(*(referenced(v) for v in value.values()))
    if isinstance(value, list):
        return set().union(*(referenced(v) for v in value))
    return {name.split("#")[0] for name in re.findall(r"[@%]([\w#]+)", value)} if isinstance(value, str) else set()


def arguments(target):
    """Return the names of the arguments of a class or function, by its path or MONAI's short name."""
    target_class: Any = locate(target) or locate(f"monai.networks.nets.{target}")
    return inspect.signature(target_class).parameters


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
