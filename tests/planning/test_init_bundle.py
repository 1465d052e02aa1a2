"""The content of a bundle that is made from a folder of images and a folder of labels."""

import json
import re
import shlex
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow, verify_metadata

from sdseg_monai import segment
from sdseg_monai.bundle import Bundle
from sdseg_monai.data import read_datalist
from sdseg_monai.errors import InputError
from sdseg_monai.inference.segmenter import Segmenter
from sdseg_monai.io.formats.nifti_labels import label_extension
from sdseg_monai.io.segments import Segment
from sdseg_monai.planning import init_bundle
from sdseg_monai.planning.audit import audit_folder, audit_label, load_audit
from sdseg_monai.planning.configs import GENERAL, NETWORKS, ORGANS, SDSEG_KNOBS, recipe_of, shipped_config
from sdseg_monai.planning.fingerprint import pair_files
from sdseg_monai.planning.proposal import KNOWN_CLASSES
from tests.makers.processes import run_process
from tests.makers.volumes import load_nifti, write_nifti
from tests.planning.folders import KINDS, SPEED, config, write_mr, write_pictures

RECOMMENDED = ("epochs", "val_interval", "batch_size", "warmup_steps")


@pytest.fixture(scope="module", params=list(KINDS))
def new_bundle(request, tmp_path_factory):
    """A bundle made of one kind of data; returns (plan, number of classes)."""
    write, num_classes = KINDS[request.param]
    folder = tmp_path_factory.mktemp("data")
    images, labels = write(folder)
    plan = init_bundle(images, labels, folder / "bundles" / "mine", seconds_per_slice=SPEED, progress=False)
    return plan, num_classes


def test_what_was_found_and_chosen(new_bundle):
    plan, num_classes = new_bundle
    train = config(plan, "train")
    assert train["num_classes"] == num_classes == plan.fingerprint.num_classes
    for name in RECOMMENDED:
        assert train[name] == plan.choices[name].value
    assert plan.choices["modality"].value == ("RGB" if plan.fingerprint.pictures else train_modality(plan))
    text = "\n".join(plan.lines)
    assert "4 " in plan.lines[0] and "monai.bundle run training" in text and "minutes" in text
    assert all(choice.reason for choice in plan.choices.values())
    readme = (plan.output / "docs" / "README.md").read_text()
    assert "Research use only" in readme and all(command in readme for command, _ in plan.commands)
    saved = json.loads((plan.output / "docs" / "plan.json").read_text())
    assert saved["found"]["cases"] == 4 and saved["chosen"]["size"]["value"] == train["size"]


def train_modality(plan):
    return "CT" if min(case.lowest for case in plan.fingerprint.cases) <= -1000 else "MR"


def test_only_knobs_differ_from_the_shipped_recipe(new_bundle):
    plan, _ = new_bundle
    recipe = recipe_of(plan.choices["network"].value)
    train, shipped = config(plan, "train"), shipped_config(recipe, "train.json")
    differ = {key for key in train.keys() | shipped.keys() if train.get(key) != shipped.get(key)}
    assert differ <= {
        *("bundle_root", "dataset_dir", "how_to_get_data", "num_classes", "slice_axis", "intensity_range", "size"),
        *(
            "context_mm",
            "mirror_probability",
            "rotation",
            "vision_encoder_weights",
            "learning_rate",
            "augmentation",
            "train",
            "validate",
            *RECOMMENDED,
        ),
    }
    steps = [step["_target_"] for step in train["train"]["preprocessing"]["transforms"]]
    expected = [step["_target_"] for step in shipped["train"]["preprocessing"]["transforms"]]
    assert [re.sub("Percentiles", "", name) for name in steps] == [re.sub("Percentiles", "", name) for name in expected]
    del train["train"]["preprocessing"], shipped["train"]["preprocessing"]
    assert train["train"] == shipped["train"]


def test_what_is_written_twice_is_equal(new_bundle):
    plan, _ = new_bundle
    train, inference, meta = (config(plan, name) for name in ("train", "inference", "metadata"))
    for key in ("network_def", "size", "slice_axis", "num_classes", "context_mm", "bundle_root"):
        assert train[key] == inference[key], key
    assert train.get("intensity_range") == inference.get("intensity_range")
    assert train["validate"]["inferer"] == inference["inferer"]
    scale = [t for t in train["train"]["preprocessing"]["transforms"] if "ScaleIntensity" in t["_target_"]]
    assert len(scale) == 1
    assert scale == [t for t in inference["preprocessing"]["transforms"] if "ScaleIntensity" in t["_target_"]]
    assert meta["network_data_format"]["inputs"]["image"]["spatial_shape"] == train["size"]
    autoencoder = config(plan, "train_autoencoder")
    assert autoencoder["network_def"] == train["network_def"]["autoencoder"]
    assert autoencoder["num_classes"] == train["num_classes"]


def test_metadata_and_weights_are_those_of_an_untrained_bundle(new_bundle, metadata_schema):
    plan, num_classes = new_bundle
    verify_metadata(plan.output / "configs" / "metadata.json", str(metadata_schema))
    described = Bundle.open(plan.output).describe()
    assert list(described["labels"].values()) == list(range(1, num_classes)) and described["weights"] is None
    audit = audit_folder(load_audit(plan.output, "cpu"), plan.fingerprint.cases[0].label.parent, progress=False)
    assert {row.label for row in audit} <= set(range(1, num_classes)) and max(row.dice for row in audit) > 0.7
    with pytest.raises(InputError, match="no weights in this bundle; train it first"):
        Segmenter(plan.output)


@pytest.mark.usefixtures("keep_global_state")
@pytest.mark.parametrize(
    ("kind", "names"), [("train", ("train",)), ("train", ("train", "evaluate")), ("infer", ("inference",))]
)
def test_properties_are_complete(new_bundle, kind, names):
    plan, _ = new_bundle
    workflow = ConfigWorkflow(
        [str(plan.output / "configs" / f"{name}.json") for name in names],
        meta_file=str(plan.output / "configs" / "metadata.json"),
        logging_file=False,
        workflow_type=kind,
        initialize=[],
        split="validation",
        output_dir=str(plan.output / "eval"),
    )
    workflow.initialize()
    assert workflow.check_properties() == []


def test_every_case_is_in_one_split_and_found(new_bundle):
    plan, _ = new_bundle
    train = config(plan, "train")
    datalist = plan.output / "configs" / "datalist.json"
    files = [
        item
        for split in ("training", "validation")
        for item in read_datalist(datalist, split, train["dataset_dir"], "")
    ]
    expected = {(str(case.image), str(case.label)) for case in plan.fingerprint.cases}
    assert {(item["image"], item["label"]) for item in files} == expected and len(files) == 4
    assert not plan.splits["test"] and any("too few for a test split" in note for note in plan.notes)


def test_nnunet_names_and_numbers_are_paired(tmp_path):
    for kind, stems in (("images", ("a_0000", "img007", "b")), ("labels", ("a", "label007", "b"))):
        (tmp_path / kind).mkdir()
        for stem in stems:
            (tmp_path / kind / f"{stem}.nii.gz").touch()
    pairs, faults = pair_files(tmp_path / "images", tmp_path / "labels")
    assert [(name, image.name) for name, image, _ in pairs] == [
        ("a", "a_0000.nii.gz"),
        ("b", "b.nii.gz"),
        ("label007", "img007.nii.gz"),
    ]
    assert not faults
    (tmp_path / "images" / "a_0001.nii.gz").touch()  # another channel
    (tmp_path / "labels" / "c.nii.gz").touch()
    _, faults = pair_files(tmp_path / "images", tmp_path / "labels")
    assert len(faults) == 2 and "a_0001.nii.gz" in faults[0] and "c.nii.gz" in faults[1]


def test_names_in_the_labels_headers_are_taken_where_they_agree(tmp_path):
    images, labels = write_mr(tmp_path, 3, classes=3)
    for path, second in zip(sorted(labels.iterdir()), ("tail", "tail", "end"), strict=True):
        label = load_nifti(path)
        segments = {1: Segment("head", (1, 2, 3), None), 2: Segment(second, (4, 5, 6), None)}
        label.header.extensions.append(label_extension(segments))
        nib.save(nib.Nifti1Image(np.asarray(label.dataobj), label.affine, label.header), path)
    plan = init_bundle(images, labels, tmp_path / "one", seconds_per_slice=SPEED, progress=False)
    assert plan.names == {1: "head", 2: "class 2"}
    plan = init_bundle(images, labels, tmp_path / "two", names={2: "rump"}, seconds_per_slice=SPEED, progress=False)
    assert plan.names == {1: "head", 2: "rump"} and Bundle.open(tmp_path / "two").describe()["labels"] == {
        "head": 1,
        "rump": 2,
    }


def test_a_single_value_beside_0_is_class_1(tmp_path):
    images, labels = write_mr(tmp_path, 2)
    for path in labels.iterdir():
        label = load_nifti(path)
        write_nifti(path, np.asarray(label.dataobj) * np.uint8(255), label.affine)
    plan = init_bundle(images, labels, tmp_path / "mine", seconds_per_slice=SPEED, progress=False)
    assert plan.fingerprint.values == (0, 255) and plan.fingerprint.num_classes == 2
    assert any("255 is class 1" in note for note in plan.notes)
    audit = audit_folder(load_audit(plan.output, "cpu"), labels, progress=False)
    assert {row.label for row in audit} == {1}


@pytest.mark.slow
def test_classes_that_no_shipped_autoencoder_knows_come_with_a_command_to_train_one(tmp_path):
    images, labels = write_mr(tmp_path, 2, classes=6)
    plan = init_bundle(images, labels, tmp_path / "mine", network="small", seconds_per_slice=SPEED, progress=False)
    assert "train_autoencoder.json" in plan.commands[0][0] and not (plan.output / "models" / "autoencoder.pt").exists()
    process = run_process(
        *("python", "-m", "monai.bundle", "run", "training", "--config_file"),
        *(plan.output / "configs" / "train_autoencoder.json", "--epochs", 1, "--masks_per_epoch", 32),
    )
    assert process.returncode == 0, process.stderr[-2000:]
    assert load_audit(plan.output, "cpu").num_classes == 6


@pytest.mark.parametrize(("network", "knows"), [("small", (2, 3)), ("pretrained", (2,)), ("paper", (2,))])
def test_the_autoencoder_is_shipped_where_it_knows_the_classes(network, knows, tmp_path):
    for classes in (2, 3):
        images, labels = write_mr(tmp_path / str(classes), 2, classes=classes)
        output = tmp_path / f"mine{classes}"
        plan = init_bundle(images, labels, output, network=network, seconds_per_slice=SPEED, progress=False)
        assert (output / "models" / "autoencoder.pt").is_file() == (classes in knows)
        train, shipped = config(plan, "train"), shipped_config(NETWORKS[network], "train.json")
        for part in ("autoencoder", "vision_encoder", "unet"):
            assert train["network_def"][part] == shipped["network_def"][part]
        assert train["network_def"]["start_noise"] == "zeros" and train["latent_weight"] == 0


def test_many_classes_take_the_first_channels_of_the_organs_autoencoder(tmp_path):
    images, labels = write_mr(tmp_path, 2, classes=6)
    plan = init_bundle(images, labels, tmp_path / "mine", seconds_per_slice=SPEED, progress=False)
    assert plan.choices["network"].value == "pretrained" and "audit" in plan.commands[0][0]
    assert shipped_config(GENERAL, ORGANS)["num_classes"] == KNOWN_CLASSES
    label = torch.zeros(1, 64, 64, 1)
    for value in range(1, 6):
        label[:, 8:56, 10 * value : 10 * value + 10] = value
    audit = load_audit(plan.output, "cpu")
    rows = audit_label(
        audit.autoencoder, label, "boxes", num_classes=6, size=(128, 128), slice_axis=2, latent_noise=(0,)
    )
    assert {row.label for row in rows} == {1, 2, 3, 4, 5} and min(row.dice for row in rows) > 0.95


def test_a_bundle_may_have_any_name_and_be_made_from_anywhere(tmp_path, monkeypatch):
    (tmp_path / "here it's").mkdir()
    write_mr(tmp_path / "here it's", 2)
    monkeypatch.chdir(tmp_path / "here it's")
    output = Path("$__import__('os')")
    plan = init_bundle(Path("../here it's/images"), Path("labels"), output, seconds_per_slice=SPEED, progress=False)
    train = config(plan, "train")
    assert train["bundle_root"] == f"./{output}" and train["dataset_dir"] == str(tmp_path / "here it's")
    assert load_audit(output.resolve(), "cpu").num_classes == 2
    items = json.loads((output / "configs" / "datalist.json").read_text())
    assert items["training"][0]["image"].startswith("images/case")
    for command, _ in plan.commands:
        words = shlex.split(command)
        assert all(str(output) in word for word in words if "$" in word) and any("$" in word for word in words)


def test_flat_volumes_and_empty_labels_are_no_faults(tmp_path):
    images, labels = write_mr(tmp_path, 3, shape=(40, 44, 1), affine=np.eye(4))
    for path in labels.iterdir():
        label = np.zeros((40, 44, 1), np.uint8)
        label[10:20, 10:20] = path.name != "case1.nii.gz"
        write_nifti(path, label)
    plan = init_bundle(images, labels, tmp_path / "mine", seconds_per_slice=SPEED, progress=False)
    assert plan.choices["slice_axis"].value == 2 and plan.choices["batch_size"].value <= 2
    assert plan.splits["validation"] != ["case1"]  # which would tell nothing


def test_pictures_start_from_weights_that_have_seen_photographs(tmp_path):
    images, labels = write_pictures(tmp_path)
    plan = init_bundle(images, labels, tmp_path / "mine", seconds_per_slice=SPEED, progress=False)
    assert plan.choices["network"].value == "pretrained"
    assert {path.name for path in (plan.output / "models").iterdir()} == {
        *("autoencoder.pt", "taef2.safetensors", "LICENSE.taef2")
    }
    parser = ConfigParser(config(plan, "train"))
    network = parser.get_parsed_content("network_def")
    before = network.vision_encoder.state_dict()["encoder.layers.0.weight"].clone()
    parser.get_parsed_content("load_pretrained")
    assert not torch.equal(network.vision_encoder.state_dict()["encoder.layers.0.weight"], before)
    assert config(plan, "inference")["preprocessing"]["transforms"][-1]["_target_"].endswith("WarnUnlikeTrainingd")


@pytest.mark.usefixtures("keep_global_state")
def test_a_unet_has_no_autoencoder_and_segments_like_any_bundle(tmp_path):
    images, labels = write_pictures(tmp_path)
    output = tmp_path / "mine"
    plan = init_bundle(images, labels, output, network="unet", seconds_per_slice=SPEED, progress=False)
    train = config(plan, "train")
    assert not set(SDSEG_KNOBS) & set(train) and "latent_channels" not in config(plan, "inference")
    assert list((plan.output / "models").iterdir()) == []
    assert not (plan.output / "configs" / "train_autoencoder.json").exists()
    assert not any("audit" in command for command, _ in plan.commands)
    workflow = ConfigWorkflow(
        str(plan.output / "configs" / "train.json"),
        run_id="training",
        workflow_type="train",
        meta_file=str(plan.output / "configs" / "metadata.json"),
        logging_file=False,
        **{"backbone_weights": "random", "size": [64, 64], "epochs": 1, "val_interval": 1, "batch_size": 2},
    )
    workflow.initialize()
    workflow.run()
    change = {"size": [64, 64]}
    (tmp_path / "size.json").write_text(json.dumps(change))
    result = segment(
        next(images.iterdir()), bundle=plan.output, device="cpu", overlays=tmp_path / "size.json", trust=True
    )
    assert result.labels.shape == (40, 48, 1)
