"""A bundle from a folder of images and one of labels: what is proposed, what is refused, and that it trains."""

import json
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.bundle import ConfigWorkflow, verify_metadata
from PIL import Image

from sdseg_monai.bundle import describe_bundle
from sdseg_monai.data import read_datalist
from sdseg_monai.data.datalist import SPLITS
from sdseg_monai.data.splits import split_by_seed
from sdseg_monai.errors import InputError
from sdseg_monai.inference.segmenter import Segmenter
from sdseg_monai.io.nifti_labels import label_extension
from sdseg_monai.io.segments import Segment, class_colour
from sdseg_monai.planning import Choice, fingerprint_folders, init_bundle
from sdseg_monai.planning.audit import audit_folder, load_audit
from sdseg_monai.planning.configs import NETWORKS, RECIPE, shipped_config
from sdseg_monai.planning.fingerprint import pair_files
from sdseg_monai.planning.proposal import STEPS, propose_grid, propose_schedule
from tests.conftest import OBLIQUE, SHARED, run_process, write_case

SPEED = 0.05  # seconds a slice, so that proposals do not depend on the machine
FLAT = np.diag([0.8, 0.8, 4.0, 1.0])
RECOMMENDED = ("epochs", "val_interval", "batch_size", "warmup_steps")
ORGANS = (5, 87)  # of the example CT: liver and another


def write_ct(folder: Path, count=4, shape=(40, 44, 8), affine=FLAT):
    """Write volumes with air around a body, a ball of another density in it."""
    for i in range(count):
        write_case(folder, f"case{i}", shape=shape, affine=affine, seed=i)
        path = folder / "images" / f"case{i}.nii.gz"
        image = np.asarray(nib.load(path).dataobj).astype(np.int16)
        image[:6] = -1000
        nib.save(nib.Nifti1Image(image, affine), path)
    return folder / "images", folder / "labels"


def write_mr(folder: Path, count=4, shape=(24, 9, 26), affine=OBLIQUE, classes=2):
    """Write volumes without negative values; of three classes the upper half of the ball is another."""
    for i in range(count):
        write_case(folder, f"case{i}", shape=shape, affine=affine, seed=i)
        for kind in ("images", "labels"):
            path = folder / kind / f"case{i}.nii.gz"
            array = np.asarray(nib.load(path).dataobj).copy()
            if kind == "images":
                array += 200
            elif classes == 3:
                array[:, :, array.shape[2] // 2 :] *= 2
            nib.save(nib.Nifti1Image(array, affine), path)
    return folder / "images", folder / "labels"


def write_pictures(folder: Path, count=4, size=(40, 48)):
    rng = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for i in range(count):
        y, x = np.mgrid[: size[0], : size[1]]
        disc = np.hypot(y - size[0] / 2 - rng.uniform(-5, 5), x - size[1] / 2) < 12
        picture = rng.integers(0, 90, (*size, 3)) + 120 * disc[..., None]
        Image.fromarray(picture.astype(np.uint8)).save(folder / "images" / f"p{i}.png")
        Image.fromarray(disc.astype(np.uint8) * 255).save(folder / "masks" / f"p{i}.png")
    return folder / "images", folder / "masks"


KINDS = {
    "ct": (write_ct, 2),
    "mr": (write_mr, 2),
    "mr, three classes": (lambda folder: write_mr(folder, classes=3), 3),
    "pictures": (write_pictures, 2),
}


@pytest.fixture(scope="module", params=list(KINDS))
def made(request, tmp_path_factory):
    """A bundle made of one kind of data; returns (plan, number of classes)."""
    write, num_classes = KINDS[request.param]
    folder = tmp_path_factory.mktemp("data")
    images, labels = write(folder)
    plan = init_bundle(images, labels, folder / "bundles" / "mine", seconds_per_slice=SPEED, progress=False)
    return plan, num_classes


def config(plan, name):
    return json.loads((plan.output / "configs" / f"{name}.json").read_text())


def propose(fingerprint, names=None, **options):
    return propose_grid(fingerprint, names or {1: "organ"}, **options)


def look(images, labels):
    return fingerprint_folders(images, labels, progress=False)


def test_what_was_found_and_chosen(made):
    plan, num_classes = made
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


def test_only_knobs_differ_from_the_shipped_recipe(made):
    plan, _ = made
    train, shipped = config(plan, "train"), shipped_config(RECIPE, "train.json")
    differ = {key for key in train.keys() | shipped.keys() if train.get(key) != shipped.get(key)}
    assert differ <= {
        *("bundle_root", "dataset_dir", "how_to_get_data", "num_classes", "slice_axis", "intensity_range", "size"),
        *("context_mm", "mirror_probability", "learning_rate", "augmentation", "train", "validate", *RECOMMENDED),
    }
    steps = [step["_target_"] for step in train["train"]["preprocessing"]["transforms"]]
    expected = [step["_target_"] for step in shipped["train"]["preprocessing"]["transforms"]]
    assert [re.sub("Percentiles", "", name) for name in steps] == [re.sub("Percentiles", "", name) for name in expected]
    del train["train"]["preprocessing"], shipped["train"]["preprocessing"]
    assert train["train"] == shipped["train"]


def test_what_is_written_twice_is_equal(made):
    plan, _ = made
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


def test_metadata_and_weights_are_those_of_an_untrained_bundle(made, metadata_schema):
    plan, num_classes = made
    verify_metadata(plan.output / "configs" / "metadata.json", str(metadata_schema))
    described = describe_bundle(plan.output)
    assert list(described["labels"].values()) == list(range(1, num_classes)) and described["weights"] is None
    kept = audit_folder(load_audit(plan.output, "cpu"), plan.fingerprint.cases[0].label.parent, progress=False)
    assert {row.label for row in kept} <= set(range(1, num_classes)) and max(row.dice for row in kept) > 0.7
    with pytest.raises(InputError, match="no weights in this bundle; train it first"):
        Segmenter(plan.output)


@pytest.mark.usefixtures("keep_global_state")
@pytest.mark.parametrize(
    ("kind", "names"), [("train", ("train",)), ("train", ("train", "evaluate")), ("infer", ("inference",))]
)
def test_properties_are_complete(made, kind, names):
    plan, _ = made
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


def test_every_case_is_in_one_split_and_found(made):
    plan, _ = made
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


names = st.lists(st.text(min_size=1, max_size=8), min_size=2, max_size=60, unique=True)


@given(names, st.integers(0, 2**32), st.randoms())
@settings(max_examples=60, deadline=None)
def test_splits_are_disjoint_complete_seeded_and_do_not_depend_on_order(cases, seed, order):
    shuffled = list(cases)
    order.shuffle(shuffled)
    splits = split_by_seed(dict.fromkeys(cases, (0, 1)), seed)
    assert splits == split_by_seed(dict.fromkeys(shuffled, (0, 1)), seed)
    assert sorted(name for dealt in splits.values() for name in dealt) == sorted(cases)
    sizes = [len(splits[name]) for name in SPLITS]
    assert sizes[0] >= sizes[1] >= max(1, sizes[2]) and sizes[0] >= 0.5 * len(cases)
    assert bool(splits["test"]) == (len(cases) >= 7)


def test_another_seed_deals_otherwise_and_a_rare_class_is_spread():
    classes = {f"case{i:02}": (0, 1) for i in range(20)}
    deals = [split_by_seed(classes, seed) for seed in range(5)]
    assert len({tuple(deal["test"]) for deal in deals}) > 1
    classes |= {f"case{i:02}": (0, 1, 2) for i in (3, 4, 5, 6)}
    for seed in range(5):
        assert all(any(2 in classes[name] for name in dealt) for dealt in split_by_seed(classes, seed).values())


def test_the_slice_axis_is_that_of_the_anatomy_however_a_file_stores_it(tmp_path):
    for number, permutation in enumerate(((0, 1, 2), (2, 0, 1), (1, 2, 0))):
        folder = tmp_path / str(number)
        affine = np.eye(4)
        affine[:3, :3] = FLAT[:3, :3][:, permutation] * [-1, 1, -1]
        shape = tuple(np.array([40, 44, 8])[list(permutation)])
        fingerprint = look(*write_mr(folder, 2, shape, affine))
        grid = propose(fingerprint)
        assert grid.slice_axis.value == 2 and "5.0 times as far apart" in grid.slice_axis.reason
        assert fingerprint.cases[0].shape == (40, 44, 8)
        np.testing.assert_allclose(fingerprint.spacing, [0.8, 0.8, 4.0])
        assert grid.context_mm.value is None  # 5 pixels away


def test_grids_of_other_shapes(tmp_path):
    cube = look(*write_mr(tmp_path / "cube", 2, (30, 32, 31), np.eye(4)))
    assert propose(cube).slice_axis.value == 2 and propose(cube).context_mm.value == 1.0
    slab = look(*write_mr(tmp_path / "slab", 2, (8, 32, 31), np.eye(4)))
    assert propose(slab).slice_axis.value == 0 and propose(slab).mirror.value == 0  # front is not back
    assert propose(cube).size.value == (64, 64) and propose(cube, network="paper").size.value == (128, 128)
    wide = replace(cube, cases=tuple(replace(case, shape=(500, 500, 31)) for case in cube.cases))
    assert propose(wide).size.value == (128, 128) and propose(wide, cuda=True).size.value == (256, 256)
    assert propose(wide).network.value == propose(wide, cuda=True).network.value == "small"
    many = replace(cube, cases=tuple(replace(case, shape=(500, 500, 1000)) for case in cube.cases))
    assert propose(many, cuda=True).network.value == "paper"


@pytest.mark.parametrize(
    ("name", "mirrored"),
    [("kidney_left", False), ("Right lung", False), ("kidney L", False), ("colon", True), ("bright spot", True)],
)
def test_a_side_in_a_name_turns_mirror_images_off(name, mirrored, tmp_path):
    fingerprint = look(*write_ct(tmp_path, 2))
    assert (propose(fingerprint, {1: name}).mirror.value > 0) == mirrored


def test_the_window_of_ct_holds_the_foreground_with_a_margin_and_others_have_percentiles(tmp_path):
    fingerprint = look(*write_ct(tmp_path, 3))
    low, high = fingerprint.foreground_range
    window = propose(fingerprint).window.value
    assert window[0] < low - 50 and window[1] > high + 50 and 60 < low < 100 < high < 140
    assert propose(fingerprint, modality="MR").window.value is None
    assert propose(fingerprint, modality="MR").modality == Choice("MR", "as told")


@settings(max_examples=1000, deadline=None)
@given(
    st.integers(1, 50_000), st.integers(1, 5_000), st.floats(0.1, 1000), st.floats(1e-4, 5), st.sampled_from([4, 32])
)
def test_schedules_hold_the_time_and_are_runnable(training, validation, minutes, seconds, batch):
    options = {"minutes": minutes, "seconds_per_slice": seconds, "batch_size": batch, "learning_rate": 0.001}
    schedule = propose_schedule(training, validation, **options)
    value = {name: choice.value for name, choice in schedule.choices.items()}
    assert 1 <= value["batch_size"] <= min(batch, training)
    assert value["epochs"] % value["val_interval"] == 0 and value["epochs"] >= 1 and value["warmup_steps"] >= 1
    steps = value["epochs"] * (training // value["batch_size"])
    assert value["batch_size"] <= 4 or value["epochs"] * training >= STEPS * value["batch_size"]
    assert value["warmup_steps"] <= max(1, steps / 2) and 0 < value["learning_rate"] <= 0.001
    assert value["epochs"] // value["val_interval"] <= 10
    if value["epochs"] > 1:
        assert value["minutes"] <= minutes * 1.05 + 0.05
        assert value["epochs"] > 500 or value["minutes"] > 0.35 * minutes - 0.05
    elif value["minutes"] > 1.01 * minutes + 0.05:
        assert "takes longer than" in schedule.epochs.reason or validation * seconds > 60 * minutes / 2


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


def test_all_faults_are_named_in_one_line_and_nothing_is_written(tmp_path):
    images, labels = write_mr(tmp_path, 6, shape=(20, 22, 6))
    (images / "case0.nii.gz").write_bytes(b"no volume")
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 6), np.uint8), OBLIQUE), labels / "case1.nii.gz")
    rng = np.random.default_rng(0)
    nib.save(nib.Nifti1Image(rng.random((20, 22, 6)).astype(np.float32), OBLIQUE), labels / "case2.nii.gz")
    nib.save(nib.Nifti1Image(np.ones((20, 22, 6), np.uint8), OBLIQUE), images / "case3.nii.gz")
    shutil.move(labels / "case4.nii.gz", labels / "other.nii.gz")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError) as caught:
        init_bundle(images, labels, tmp_path / "mine", seconds_per_slice=SPEED, progress=False)
    message = str(caught.value)
    for text in ("case0.nii.gz", "case1.nii.gz: shape (4, 5, 6)", "are no class", "every voxel is 1", "case4.nii.gz"):
        assert text in message, text
    assert "other.nii.gz" in message and message.startswith("6 faults, nothing was written: ")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((0, 0), "hold nothing but 0"),
        ((1, 2), "hold the values 1, 2, expected 0 for the background"),
        ((0, 1, 4, 7), "hold the values 0, 1, 4, 7, expected 0 to 3 without gaps: renumber 4 to 2, 7 to 3"),
        (tuple(range(30)), "30 different values, expected 27 classes or fewer"),
        ((0, -1), "such as -1, expected whole numbers from 0"),
    ],
)
def test_labels_of_other_values_are_refused_with_what_to_do(values, message, tmp_path):
    images, labels = write_mr(tmp_path, 2, shape=(20, 22, 6))
    for path in labels.iterdir():
        array = np.resize(np.array(values, np.int16), (20, 22, 6))
        nib.save(nib.Nifti1Image(array, OBLIQUE), path)
    with pytest.raises(InputError, match=re.escape(message)):
        look(images, labels)


def test_names_in_the_labels_headers_are_taken_where_they_agree(tmp_path):
    images, labels = write_mr(tmp_path, 3, classes=3)
    for path, second in zip(sorted(labels.iterdir()), ("tail", "tail", "end"), strict=True):
        label = nib.load(path)
        segments = {1: Segment("head", (1, 2, 3), None), 2: Segment(second, (4, 5, 6), None)}
        label.header.extensions.append(label_extension(segments))
        nib.save(nib.Nifti1Image(np.asarray(label.dataobj), label.affine, label.header), path)
    plan = init_bundle(images, labels, tmp_path / "one", seconds_per_slice=SPEED, progress=False)
    assert plan.names == {1: "head", 2: "class 2"}
    plan = init_bundle(images, labels, tmp_path / "two", names={2: "rump"}, seconds_per_slice=SPEED, progress=False)
    assert plan.names == {1: "head", 2: "rump"} and describe_bundle(tmp_path / "two")["labels"] == {
        "head": 1,
        "rump": 2,
    }


def test_a_single_value_beside_0_is_class_1(tmp_path):
    images, labels = write_mr(tmp_path, 2)
    for path in labels.iterdir():
        label = nib.load(path)
        nib.save(nib.Nifti1Image(np.asarray(label.dataobj) * np.uint8(255), label.affine), path)
    plan = init_bundle(images, labels, tmp_path / "mine", seconds_per_slice=SPEED, progress=False)
    assert plan.fingerprint.values == (0, 255) and plan.fingerprint.num_classes == 2
    assert any("255 is class 1" in note for note in plan.notes)
    kept = audit_folder(load_audit(plan.output, "cpu"), labels, progress=False)
    assert {row.label for row in kept} == {1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"names": {3: "x"}}, "a name for class 3, but the labels have the classes 1 to 1"),
        ({"names": {1: "$__import__('os')"}}, "expected at most 64 letters"),
        ({"names": {1: "background"}}, "expected different ones"),
        ({"modality": "ct scan"}, "modality 'ct scan' is unknown"),
        ({"network": "large"}, "network 'large' is unknown: expected one of small, paper"),
        ({"minutes": 0}, "minutes=0"),
    ],
)
def test_options_that_cannot_be_used_are_refused(options, message, tmp_path):
    images, labels = write_mr(tmp_path, 2)
    with pytest.raises(InputError, match=re.escape(message)):
        init_bundle(images, labels, tmp_path / "mine", seconds_per_slice=SPEED, progress=False, **options)
    assert not (tmp_path / "mine").exists()


def test_one_case_an_existing_folder_and_images_as_labels_are_refused(tmp_path):
    images, labels = write_mr(tmp_path, 1)
    with pytest.raises(InputError, match="one case, expected two or more: one to train on, another to choose"):
        init_bundle(images, labels, tmp_path / "mine", progress=False)
    with pytest.raises(InputError, match="expected the name of a new folder"):
        init_bundle(images, labels, images, progress=False)
    with pytest.raises(InputError, match="the labels are the images"):
        init_bundle(images, images, tmp_path / "mine", progress=False)
    pictures, masks = write_pictures(tmp_path / "pictures", 2)
    with pytest.raises(InputError, match="modality CT: these are pictures"):
        init_bundle(pictures, masks, tmp_path / "mine", modality="CT", progress=False)
    for path in masks.iterdir():
        path.unlink()
        shutil.copy(labels / "case0.nii.gz", masks / f"{path.stem}.nii.gz")
    with pytest.raises(InputError, match=r"p1\.nii\.gz: is of another kind"):
        look(pictures, masks)


def test_an_image_in_two_splits_is_named(tmp_path):
    images, labels = write_mr(tmp_path, 2)
    shutil.copy(images / "case0.nii.gz", images / "case1.nii.gz")
    plan = init_bundle(images, labels, tmp_path / "mine", seconds_per_slice=SPEED, progress=False)
    assert any("case1.nii.gz" in note and "is the image case0.nii.gz" in note for note in plan.notes)


@pytest.mark.slow
def test_classes_that_no_shipped_autoencoder_knows_come_with_a_command_to_train_one(tmp_path):
    images, labels = write_mr(tmp_path, 2)
    for path in labels.iterdir():
        label = nib.load(path)
        array = np.asarray(label.dataobj) * (1 + np.arange(label.shape[2]) % 5).astype(np.uint8)
        nib.save(nib.Nifti1Image(array, label.affine), path)
    plan = init_bundle(images, labels, tmp_path / "mine", seconds_per_slice=SPEED, progress=False)
    assert "train_autoencoder.json" in plan.commands[0][0] and not (plan.output / "models" / "autoencoder.pt").exists()
    process = run_process(
        *("python", "-m", "monai.bundle", "run", "training", "--config_file"),
        *(plan.output / "configs" / "train_autoencoder.json", "--epochs", 1, "--masks_per_epoch", 32),
    )
    assert process.returncode == 0, process.stderr[-2000:]
    assert load_audit(plan.output, "cpu").num_classes == 6


@pytest.mark.parametrize(("network", "knows"), [("small", (2, 3)), ("paper", (2,))])
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
        nib.save(nib.Nifti1Image(label, np.eye(4)), path)
    plan = init_bundle(images, labels, tmp_path / "mine", seconds_per_slice=SPEED, progress=False)
    assert plan.choices["slice_axis"].value == 2 and plan.choices["batch_size"].value <= 2
    assert plan.splits["validation"] != ["case1"]  # which would tell nothing


def test_the_speed_of_this_machine_is_measured(tmp_path):
    images, labels = write_mr(tmp_path, 2)
    plan = init_bundle(images, labels, tmp_path / "mine", minutes=0.1, progress=False)
    assert 0 < plan.choices["minutes"].value < 5 and "ms a slice here" in plan.choices["minutes"].reason
    assert config(plan, "train")["run"] == shipped_config(RECIPE, "train.json")["run"]  # still as written


def test_colours_differ():
    lattice = np.array([class_colour(value) for value in range(1, 27)], float)
    distances = np.linalg.norm(lattice[:, None] - lattice[None], axis=-1) + 1000 * np.eye(26)
    assert distances.min() > 15 and lattice.min() >= 0 and lattice.max() <= 255


def train_and_segment(plan, folder, *options):
    """Train with the printed command, from another folder than ours, and look for the weights."""
    command = (
        "python",
        "-m",
        "monai.bundle",
        "run",
        "training",
        "--config_file",
        plan.output / "configs" / "train.json",
    )
    process = run_process(*command, *options, cwd=folder)
    assert process.returncode == 0, process.stderr[-3000:]
    assert (plan.output / "models" / "model.pt").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ct", "mr, three classes"])
def test_a_volume_bundle_trains_moves_and_segments(kind, tmp_path):
    write, num_classes = KINDS[kind]
    images, labels = write(tmp_path)
    plan = init_bundle(images, labels, tmp_path / "bundles" / "mine", seconds_per_slice=SPEED, progress=False)
    train_and_segment(plan, tmp_path, "--epochs", 1, "--batch_size", 4, "--val_interval", 1)
    moved = tmp_path / "elsewhere"
    shutil.move(plan.output, moved)
    result = Segmenter(moved, device="cpu").segment(images / "case0.nii.gz")
    assert result.labels.shape == nib.load(images / "case0.nii.gz").shape and result.labels.max() < num_classes
    assert len(result.scores) == num_classes - 1
    assert describe_bundle(moved)["weights"]["file"] == str(moved / "models" / "model.pt")


@pytest.mark.slow
def test_a_picture_bundle_trains_and_segments(tmp_path):
    images, labels = write_pictures(tmp_path)
    plan = init_bundle(images, labels, tmp_path / "mine", seconds_per_slice=SPEED, progress=False)
    train_and_segment(plan, tmp_path, "--epochs", 1, "--batch_size", 2, "--val_interval", 1)
    process = run_process(
        *("python", "-m", "monai.bundle", "run", "inference", "--config_file", plan.output / "configs/inference.json"),
        *("--output_dir", tmp_path / "out"),
    )
    assert process.returncode == 0, process.stderr[-2000:]
    masks = sorted((tmp_path / "out").iterdir())
    assert [path.name for path in masks] == [path.name for path in sorted(images.iterdir())]
    assert Image.open(masks[0]).size == (48, 40)


@pytest.mark.slow
@pytest.mark.shared
def test_on_photographs_of_kvasir(tmp_path):
    source = SHARED / "data" / "kvasir-seg-256"
    if not source.is_dir():
        pytest.skip(f"no data at {source}; set SDSEG_SHARED")
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
        for path in sorted((source / kind).iterdir())[:20]:
            shutil.copy(path, tmp_path / kind)
    plan = init_bundle(tmp_path / "images", tmp_path / "masks", tmp_path / "mine", progress=False)
    assert [len(plan.splits[name]) for name in SPLITS] == [14, 3, 3] and plan.choices["size"].value[0] in (128, 256)
    train_and_segment(plan, tmp_path, "--epochs", 1, "--batch_size", 4, "--val_interval", 1)
    process = run_process(
        *("python", "-m", "monai.bundle", "run", "evaluating", "--config_file"),
        f"['{plan.output}/configs/train.json','{plan.output}/configs/evaluate.json']",
    )
    assert process.returncode == 0, process.stderr[-2000:]
    assert len(list((plan.output / "eval").glob("*.png"))) == 3


@pytest.mark.slow
@pytest.mark.shared
def test_on_blocks_of_a_real_ct(tmp_path):
    source = SHARED / "data" / "totalsegmentator-example"
    if not source.is_dir():
        pytest.skip(f"no data at {source}; set SDSEG_SHARED")
    image = nib.load(source / "example_ct.nii.gz")
    labels = np.asarray(nib.load(source / "example_seg_fast_force_split.nii.gz").dataobj)
    volumes = {"images": np.asarray(image.dataobj), "labels": sum(i * (labels == v) for i, v in enumerate(ORGANS, 1))}
    for kind, volume in volumes.items():
        (tmp_path / kind).mkdir()
        for block, start in enumerate(range(0, 112, 14)):
            affine = image.affine.copy()
            affine[:3, 3] = (image.affine @ [0, 0, start, 1])[:3]
            part = nib.Nifti1Image(volume[..., start : start + 14].astype(np.int16), affine)
            nib.save(part, tmp_path / kind / f"block{block}.nii.gz")
    names = {1: "liver", 2: "other organ"}
    plan = init_bundle(tmp_path / "images", tmp_path / "labels", tmp_path / "mine", names=names, progress=False)
    assert plan.choices["modality"].value == "CT" and plan.choices["slice_axis"].value == 2
    train_and_segment(plan, tmp_path, "--epochs", 1, "--batch_size", 8, "--val_interval", 1)
    result = run_process(
        *("sdseg", "segment", tmp_path / "images" / "block6.nii.gz", "-o", tmp_path / "mask.nii.gz"),
        *("--bundle", plan.output),
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["labels"] == {"liver": 1, "other organ": 2}
    assert nib.load(tmp_path / "mask.nii.gz").shape == (122, 101, 14)
    checkpoint = torch.load(plan.output / "models" / "checkpoint.pt", weights_only=True)
    assert 0 <= checkpoint["best_metric"] <= 1
