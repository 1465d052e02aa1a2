"""Bundles as 0.4.0 wrote and shipped them train, evaluate, segment and are served; see tests/data/bundles_0.4.0."""

import inspect
import json
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from pydoc import locate
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import requests
import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from PIL import Image

from sdseg_monai import segment
from sdseg_monai.demo.phantom import make_phantom, write_phantom
from sdseg_monai.errors import InputError
from sdseg_monai.label.models import ServedModel
from tests.makers.label_server import LabelServer, needs_label_env
from tests.makers.places import ROOT
from tests.makers.processes import run_process
from tests.makers.volumes import load_nifti

KEPT = ROOT / "tests" / "data" / "bundles_0.4.0"
SHIPPED = ROOT / "bundles"
REAL_WEIGHTS = SHIPPED / "hippocampus_sdseg" / "models" / "model.pt"
CONFIGS = sorted(
    str(path.relative_to(KEPT)) for path in KEPT.rglob("*.json") if path.stem not in ("metadata", "datalist")
)
PREDECESSORS = {  # the configs of the bundle that one is chained after, where that is not train.json alone
    **dict.fromkeys(("train", "inference", "train_autoencoder"), ()),
    "hippocampus_sdseg/train_autoencoder": ("../../sdseg/configs/train_autoencoder",),
    "multi_gpu_evaluate": ("train", "evaluate"),
    "official_inference": ("inference",),
    "clean_mask": ("inference",),
    "distill_decoder": ("train_autoencoder",),
    "distill_taesd": ("train_autoencoder", "distill_decoder"),
    **dict.fromkeys(
        (f"baselines/{path.stem}" for path in KEPT.glob("sdseg/configs/baselines/*.json") if path.stem != "baseline"),
        ("train", "baselines/baseline"),
    ),
}
IMPORT = re.compile(r"from (sdseg_monai[\w.]*) import (\w+)")
SEGMENTS = {
    "init_bundle_volumes": {"head": 1, "tail": 2},
    "init_bundle_pictures": {"class 1": 1},
    "hippocampus_sdseg": {"Anterior hippocampus": 1, "Posterior hippocampus": 2},
    "sdseg": {"abdominal organs": 1},
}


@dataclass(frozen=True)
class Usage:
    """How a kept bundle is used from the folder that holds ``bundles/`` and the data.

    Attributes:
        images: folder of its images, where its ``train.json`` looks for them.
        labels: folder of their labels.
        suffix: of the files of both.
        overlays: configs of its own that make its network small.
        training: options of training and evaluation.
        inference: options of inference.
    """

    images: str
    labels: str
    suffix: str = ".nii.gz"
    overlays: tuple[str, ...] = ()
    training: dict[str, object] = field(default_factory=dict)
    inference: dict[str, object] = field(default_factory=dict)


USAGES = {
    "init_bundle_volumes": Usage("volumes/images", "volumes/labels"),
    "init_bundle_pictures": Usage("pictures/images", "pictures/masks", suffix=".png"),
    "hippocampus_sdseg": Usage(
        "data/Task04_Hippocampus/images",
        "data/Task04_Hippocampus/labels",
        training={"datalist": "datalist.json", "batch_size": 2},
    ),
    "sdseg": Usage(
        "data/BTCV/RawData/Training/img",
        "data/BTCV/RawData/Training/label",
        overlays=("smoke",),
        training={"datalist": "datalist.json", "ckpt_dir": "bundles/sdseg/models", "slice_axis": 1},
        inference={"dataset_dir": "data/BTCV/RawData/Training/img", "slice_axis": 1},
    ),
}


@dataclass(frozen=True)
class Home:
    """A folder in which somebody uses a bundle as the documentation of 0.4.0 says.

    Attributes:
        folder: where commands are run.
        name: of the bundle.
    """

    folder: Path
    name: str

    @property
    def usage(self) -> Usage:
        return USAGES[self.name]

    @property
    def bundle(self) -> Path:
        return self.folder / "bundles" / self.name

    @property
    def weights(self) -> Path:
        return self.bundle / "models" / "model.pt"

    @property
    def images(self) -> list[Path]:
        return sorted((self.folder / self.usage.images).iterdir())

    def chain(self, *names: str) -> list[str]:
        """Return the paths of configs, and of the overlays, as one names them in ``folder``."""
        return [f"bundles/{self.name}/configs/{name}.json" for name in (*names, *self.usage.overlays)]

    def run(self, run_id: str, *names: str, **options: object) -> None:
        """Run a chain of configs in this process as ``python -m monai.bundle run`` does in ``folder``."""
        deterministic = torch.are_deterministic_algorithms_enabled()
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(self.folder)
                patch.setattr("sys.excepthook", None)  # put back at the end: a bundle sets its own
                workflow = ConfigWorkflow(
                    self.chain(*names),
                    run_id=run_id,
                    workflow_type="infer" if run_id == "inference" else "train",
                    logging_file=False,
                    device="cpu",
                    **options,
                )
                workflow.initialize()
                assert workflow.check_properties() == []
                workflow.run()
                workflow.finalize()
        finally:
            torch.use_deterministic_algorithms(deterministic)

    def train(self) -> None:
        """Train for one epoch."""
        self.run("training", "train", epochs=1, val_interval=1, **self.usage.training)


def make_home(folder: Path, name: str, configs: Path) -> Home:
    """Put a bundle of these configs and data of its kind into ``folder``, everything where the configs look for it."""
    home = Home(folder, name)
    shutil.copytree(configs, home.bundle / "configs")
    (home.bundle / "models").mkdir()
    if not home.usage.overlays:
        shutil.copy(REAL_WEIGHTS.with_name("autoencoder.pt"), home.bundle / "models")
    if "datalist" in home.usage.training:
        kinds = {"image": home.usage.images, "label": home.usage.labels}
        cases = {"training": ["a", "b"], "validation": ["v"], "test": ["t"]}
        datalist = {
            split: [{kind: f"{Path(path).name}/{case}.nii.gz" for kind, path in kinds.items()} for case in members]
            for split, members in cases.items()
        }
        (folder / "datalist.json").write_text(json.dumps(datalist))
    else:
        datalist = json.loads((home.bundle / "configs" / "datalist.json").read_text())
    for path in (home.usage.images, home.usage.labels):
        (folder / path).mkdir(parents=True)
    write = write_picture_case if home.usage.suffix == ".png" else write_volume_case
    data = (folder / home.usage.images).parent
    for seed, item in enumerate(item for split in ("training", "validation", "test") for item in datalist[split]):
        write(data / item["image"], data / item["label"], seed)
    return home


def write_volume_case(image: Path, label: Path, seed: int) -> None:
    """Write the two coronal slices of a phantom between which its classes meet."""
    for path, array in zip((image, label), make_phantom(seed), strict=True):
        nib.save(nib.Nifti1Image(array[:, 28:30], np.eye(4)), path)


def write_picture_case(image: Path, label: Path, seed: int, size: tuple[int, int] = (40, 48)) -> None:
    """Write a bright disc in noise, and its mask."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]]
    disc = np.hypot(y - size[0] / 2 - rng.uniform(-5, 5), x - size[1] / 2) < 12
    picture = rng.integers(0, 90, (*size, 3)) + 120 * disc[..., None]
    Image.fromarray(picture.astype(np.uint8)).save(image)
    Image.fromarray(255 * disc.astype(np.uint8)).save(label)


def read_mask(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path) if path.suffix == ".png" else load_nifti(path).dataobj)


def check_equal_masks(mask: Path, expected: Path) -> None:
    """Check that two files hold the same values on the same grid."""
    np.testing.assert_array_equal(read_mask(mask), read_mask(expected))
    if mask.suffix != ".png":
        np.testing.assert_array_equal(load_nifti(mask).affine, load_nifti(expected).affine)


@pytest.fixture(scope="module", params=list(USAGES))
def home(request, tmp_path_factory) -> Home:
    """A kept bundle that has trained for an epoch and inferred all its images into ``masks``."""
    home = make_home(tmp_path_factory.mktemp(request.param), request.param, KEPT / request.param / "configs")
    home.train()
    home.run("inference", "inference", output_dir="masks", **home.usage.inference)
    return home


def test_every_bundle_is_tested():
    assert {path.name for path in KEPT.iterdir() if path.is_dir()} == set(USAGES) == set(SEGMENTS)


def read_chain(config: str) -> dict:
    """Return a config, given as BUNDLE/configs/NAME.json, merged with those that it is chained after."""
    bundle, _, file = config.split("/", 2)
    name = file.removesuffix(".json")
    predecessors = PREDECESSORS.get(f"{bundle}/{name}", PREDECESSORS.get(name, ("train",)))
    parser = ConfigParser()
    parser.read_config([KEPT / bundle / "configs" / f"{link}.json" for link in (*predecessors, name)])
    return parser.get()


def nodes(content: object) -> Iterator[dict | str]:
    """Yield every dict and every text within a config."""
    if isinstance(content, dict | str):
        yield content
    if isinstance(content, dict | list):
        for child in content.values() if isinstance(content, dict) else content:
            yield from nodes(child)


@pytest.mark.parametrize("config", CONFIGS)
def test_every_address_is_there_and_takes_its_arguments(config):
    addresses = 0
    for node in nodes(read_chain(config)):
        if isinstance(node, str):
            for module, name in IMPORT.findall(node):
                assert callable(locate(f"{module}.{name}")), node
        elif str(node.get("_target_")).startswith("sdseg_monai."):
            arguments = {key: value for key, value in node.items() if not key.startswith("_")}
            component: Any = locate(node["_target_"])
            inspect.signature(component).bind_partial(**arguments)
            addresses += 1
    assert addresses


def test_training_keeps_its_best_model(home):
    assert {"checkpoint.pt", "model.pt"} <= {path.name for path in home.weights.parent.iterdir()}
    assert list((home.bundle / "logs").rglob("events*"))


def test_evaluation_writes_masks_and_dice(home):
    home.run("evaluating", "train", "evaluate", **home.usage.training)
    assert 0 <= float((home.bundle / "eval" / "metrics.csv").read_text().strip().split(",")[-1]) <= 1
    (mask,) = (home.bundle / "eval").glob(f"*{home.usage.suffix}")
    check_equal_masks(mask, home.folder / "masks" / mask.name)


def test_segment_makes_the_mask_of_inference(home, tmp_path):
    assert [path.name for path in sorted((home.folder / "masks").iterdir())] == [path.name for path in home.images]
    overlays = [home.folder / overlay for overlay in home.chain()]
    if "slice_axis" in home.usage.inference:
        (tmp_path / "axis.json").write_text(json.dumps({"slice_axis": home.usage.inference["slice_axis"]}))
        overlays.append(tmp_path / "axis.json")
    masks = {path: read_mask(home.folder / "masks" / path.name) for path in home.images}
    image = max(masks, key=lambda path: np.count_nonzero(masks[path]))
    assert masks[image].any(), "an empty mask shows nothing"
    result = segment(image, bundle=home.bundle, overlays=overlays, device="cpu")
    assert set(result.names.values()) == set(SEGMENTS[home.name])
    result.save(tmp_path / image.name)
    check_equal_masks(tmp_path / image.name, home.folder / "masks" / image.name)


def test_the_label_server_opens_it(home, tmp_path):
    model = ServedModel.open(home.bundle, tmp_path)
    assert model.bundle.labels == SEGMENTS[home.name] and model.weights == home.weights
    assert ("seeds" in model.signals) == (home.name == "sdseg"), "the others start from zeros, not from noise"
    if not home.usage.overlays:  # which a server takes none of
        assert model.pipeline(device="cpu").segmenter.weights == home.weights


@pytest.mark.parametrize("name", ["hippocampus_sdseg", "sdseg"])
def test_training_is_that_of_the_shipped_bundle(name, tmp_path):
    """The same data, seed and options give the same weights, bit for bit."""
    states = []
    for folder, configs in (("kept", KEPT), ("shipped", SHIPPED)):
        home = make_home(tmp_path / folder, name, configs / name / "configs")
        home.train()
        states.append(torch.load(home.weights, weights_only=True))
    assert states[0].keys() == states[1].keys()
    assert states[0].pop("trained_for") == states[1].pop("trained_for")
    for key, tensor in states[0].items():
        assert torch.equal(tensor, states[1][key]), key


@pytest.fixture(scope="module")
def phantom(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("phantom")
    write_phantom(folder / "phantom.nii.gz", folder / "label.nii.gz")
    return folder / "phantom.nii.gz"


@pytest.fixture(scope="module")
def real_result(phantom):
    """The phantom by the shipped weights with the kept configs."""
    result = segment(phantom, bundle=KEPT / "hippocampus_sdseg", weights=REAL_WEIGHTS, device="cpu")
    assert set(np.unique(result.labels)) == {0, 1, 2}
    return result


def check_equal_results(result, expected) -> None:
    """Check that labels, scores and confidence are the same, bit for bit."""
    for name in ("labels", "scores", "confidence", "affine"):
        np.testing.assert_array_equal(getattr(result, name), getattr(expected, name), err_msg=name)
    assert result.segments == expected.segments


def test_the_shipped_weights_make_the_masks_of_the_shipped_bundle(phantom, real_result):
    check_equal_results(segment(phantom, bundle=SHIPPED / "hippocampus_sdseg", device="cpu"), real_result)


def change_postprocessing(folder: Path, change) -> Path:
    """Return a copy of the kept bundle of the hippocampus, with the steps after its network as ``change`` makes them.

    Args:
        folder: in which the copy is made.
        change: takes the list of the config's steps and returns another one.
    """
    bundle = shutil.copytree(KEPT / "hippocampus_sdseg", folder / "hippocampus_sdseg")
    path = bundle / "configs" / "inference.json"
    config = json.loads(path.read_text())
    config["postprocessing"]["transforms"] = change(config["postprocessing"]["transforms"])
    path.write_text(json.dumps(config))
    return bundle


@pytest.mark.parametrize(
    "change",
    [
        lambda steps: [{"_target_": "Compose", "transforms": steps[:-1]}, steps[-1]],
        lambda steps: [{"_target_": "Compose", "transforms": steps}],
        lambda steps: [steps[0], {"_target_": "Compose", "transforms": steps[1:]}],
    ],
    ids=["all but saving", "all", "all but the inverse"],
)
def test_postprocessing_may_be_nested(change, phantom, real_result, tmp_path):
    bundle = change_postprocessing(tmp_path, change)
    check_equal_results(segment(phantom, bundle=bundle, weights=REAL_WEIGHTS, device="cpu"), real_result)


def test_postprocessing_that_makes_no_classes_is_refused_with_what_is_missing(phantom, tmp_path):
    bundle = change_postprocessing(
        tmp_path, lambda steps: [step for step in steps if step["_target_"] != "AsDiscreted"]
    )
    with pytest.raises(InputError, match=r"inference\.json: .*AsDiscreted"):
        segment(phantom, bundle=bundle, weights=REAL_WEIGHTS, device="cpu")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, usage in USAGES.items() if not usage.overlays])
def test_the_commands_of_its_readme(name, tmp_path):
    home = make_home(tmp_path, name, KEPT / name / "configs")
    bundle = f"bundles/{name}"
    options = [word for key, value in home.usage.training.items() for word in (f"--{key}", value)]
    train, evaluate, inference = (f"{bundle}/configs/{config}.json" for config in ("train", "evaluate", "inference"))
    run = ("python", "-m", "monai.bundle", "run")
    for command in (
        (*run, "training", "--config_file", train, *options, "--epochs", 1, "--val_interval", 1),
        (*run, "evaluating", "--config_file", f"['{train}','{evaluate}']", *options),
        (*run, "inference", "--config_file", inference, "--output_dir", "masks"),
        ("sdseg", "segment", home.usage.images, "-o", "segmented", "--bundle", bundle),
        ("sdseg", "audit", "--labels", home.usage.labels, "--bundle", bundle),
    ):
        process = run_process(*command, cwd=tmp_path)
        assert process.returncode == 0, process.stderr[-3000:]
    for image in home.images:
        check_equal_masks(tmp_path / "masks" / image.name, tmp_path / "segmented" / image.name)


@pytest.mark.slow
@needs_label_env
def test_the_label_server_segments_and_trains(tmp_path):
    """Two bundles over HTTP: masks are those of ``segment``, and a fine-tuning on submitted labels comes to its end."""
    names = ("init_bundle_volumes", "hippocampus_sdseg")
    homes = [make_home(tmp_path / name, name, KEPT / name / "configs") for name in names]
    for home in homes:
        shutil.copy(REAL_WEIGHTS, home.weights)
    studies = tmp_path / "studies"
    shutil.copytree(homes[0].folder / homes[0].usage.images, studies)
    labels = homes[0].folder / homes[0].usage.labels
    cases = [path.name.removesuffix(".nii.gz") for path in sorted(studies.iterdir())[:3]]
    bundles = [word for home in homes for word in ("--bundle", str(home.bundle))]
    with LabelServer(studies, tmp_path / "work", *bundles) as server:
        info = requests.get(f"{server.url}/info/").json()
        assert {name: model["labels"] for name, model in info["models"].items()} == {n: SEGMENTS[n] for n in names}
        for home in homes:
            answer = requests.post(
                f"{server.url}/infer/{home.name}",
                params={"image": cases[0], "output": "image"},
                files={"params": (None, json.dumps({"device": "cpu"}))},
                timeout=300,
            )
            assert answer.status_code == 200, answer.text
            mask = tmp_path / f"{home.name}.nii.gz"
            mask.write_bytes(answer.content)
            result = segment(studies / f"{cases[0]}.nii.gz", bundle=home.bundle, device="cpu")
            assert result.labels.any()
            np.testing.assert_array_equal(read_mask(mask), result.labels)
        for case in cases:
            label = labels / f"{case}.nii.gz"
            files: Any = {"params": (None, "{}"), "label": (label.name, label.read_bytes())}
            query = {"image": case, "tag": "final"}
            assert requests.put(f"{server.url}/datastore/label", params=query, files=files).ok, server.log
        for home in homes:
            answer = requests.post(f"{server.url}/train/{home.name}", json={"max_epochs": 1, "device": "cpu"})
            assert answer.status_code == 200, answer.text
            status, deadline = "RUNNING", time.monotonic() + 300
            while status in ("SUBMITTED", "RUNNING") and time.monotonic() < deadline:
                time.sleep(0.5)
                status = requests.get(f"{server.url}/train/").json()["status"]
            assert status == "DONE", server.log
