import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sdseg_monai.bundle import Bundle
from sdseg_monai.data.datalist import SPLITS
from sdseg_monai.errors import InputError, find_input_error
from sdseg_monai.inference.pipeline import Pipeline
from sdseg_monai.inference.segmenter import Segmenter
from sdseg_monai.losses import PixelLoss, SDSegLoss
from sdseg_monai.networks import MaskAutoencoder
from sdseg_monai.weights import load_weights
from tests.makers.bundles import read_metrics
from tests.makers.places import ROOT
from tests.makers.processes import run_forked, run_process
from tests.makers.volumes import load_nifti, write_case, write_crop

OWN_AUTOENCODER = ("sdseg", "hippocampus_sdseg", "skin_lesion_sdseg")
BUNDLES = (*OWN_AUTOENCODER, "fetal_head_sdseg", "left_ventricle_sdseg")
CONFIGS = ROOT / "bundles"
TRAIN = "bundles/sdseg/configs/train.json"
SMOKE = "bundles/sdseg/configs/smoke.json"


def config(bundle, name):
    return json.loads((CONFIGS / bundle / "configs" / f"{name}.json").read_text())


def make_btcv(folder: Path) -> Path:
    """Write four cases in BTCV's layout, with its datalist."""
    splits = {"training": ["0005", "0006"], "validation": ["0010"], "test": ["0001"]}
    datalist = {}
    for split, cases in splits.items():
        for case in cases:
            write_case(folder / "raw", case, shape=(20, 22, 5), seed=int(case))
        datalist[split] = [{"image": f"img/img{c}.nii.gz", "label": f"label/label{c}.nii.gz"} for c in cases]
    for kind, name in (("images", "img"), ("labels", "label")):
        (folder / name).mkdir()
        for path in (folder / "raw" / kind).iterdir():
            path.rename(folder / name / f"{name}{path.name}")
    (folder / "datalist.json").write_text(json.dumps(datalist))
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Run the promised command on a BTCV-shaped folder at the smoke size; returns (folder, process)."""
    folder = tmp_path_factory.mktemp("btcv")
    make_btcv(folder / "data")
    process = run_process(
        *("python", "-m", "monai.bundle", "run", "training", "--config_file", f"['{TRAIN}','{SMOKE}']"),
        *("--dataset_dir", folder / "data", "--ckpt_dir", folder / "models", "--log_dir", folder / "logs"),
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return folder, process


def test_training_command_trains_checkpoints_and_validates(trained):
    folder, process = trained
    assert {p.name for p in (folder / "models").iterdir()} == {"model.pt", "checkpoint.pt"}
    assert "val_mean_dice" in process.stdout
    state = torch.load(folder / "models" / "model.pt", weights_only=True)
    assert state.pop("trained_for") == {
        **{"num_classes": 2, "prediction_type": "epsilon", "start_noise": "shared"},
        **{"slice_axis": 2, "size": [64, 64], "context_mm": None},
    }
    assert torch.isfinite(state["scale_factor"]) and all(isinstance(v, torch.Tensor) for v in state.values())
    checkpoint = torch.load(folder / "models" / "checkpoint.pt", weights_only=True)
    assert checkpoint["epoch"] == 2


def test_tensorboard_has_losses_dice_and_panel(trained):
    folder, _ = trained
    tags: dict[str, set[str]] = {"scalars": set(), "images": set()}
    for path in (folder / "logs").rglob("events*"):
        events = EventAccumulator(str(path)).Reload().Tags()
        for kind in tags:
            tags[kind] |= set(events[kind])
    assert {"loss", "noise", "latent", "val_mean_dice"} <= tags["scalars"]
    assert "validation/image_label_prediction" in tags["images"]


@pytest.mark.slow
def test_evaluation_equals_sdseg_evaluate_on_the_saved_masks(trained):
    folder, _ = trained
    process = run_process(
        *("python", "-m", "monai.bundle", "run", "evaluating"),
        *("--config_file", f"['{TRAIN}','bundles/sdseg/configs/evaluate.json','{SMOKE}']"),
        *("--dataset_dir", folder / "data", "--ckpt_dir", folder / "models", "--output_dir", folder / "eval"),
    )
    assert process.returncode == 0, process.stderr[-3000:]
    reported = read_metrics(folder / "eval")["val_mean_dice"]
    result = run_process(
        *("sdseg", "evaluate", "--predictions", folder / "eval", "--labels", folder / "data" / "label"),
        *("-o", folder / "again.csv"),
    )
    assert result.returncode == 0, result.stderr
    row = (folder / "again.csv").read_text().splitlines()[1].split(",")
    assert row[0] == "img0001" and float(row[1]) == pytest.approx(reported, abs=1e-6)


@pytest.mark.slow
@pytest.mark.shared
def test_hippocampus_bundle_evaluates_and_infers_on_real_volumes(hippocampus, tmp_path):
    """The evaluator's Dice is the mean of the classes' from ``sdseg evaluate``; inference writes the same masks."""
    datalist = config("hippocampus_sdseg", "datalist")
    few = {split: datalist[split][:2] for split in SPLITS}
    (tmp_path / "datalist.json").write_text(json.dumps(few))
    configs = "bundles/hippocampus_sdseg/configs"
    process = run_process(
        *("python", "-m", "monai.bundle", "run", "evaluating"),
        *("--config_file", f"['{configs}/train.json','{configs}/evaluate.json']", "--split", "test"),
        *("--dataset_dir", hippocampus, "--datalist", tmp_path / "datalist.json", "--output_dir", tmp_path / "eval"),
    )
    assert process.returncode == 0, process.stderr[-3000:]
    reported = read_metrics(tmp_path / "eval")["val_mean_dice"]
    result = run_process(
        *("sdseg", "evaluate", "--predictions", tmp_path / "eval", "--labels", hippocampus / "labels"),
        *("-o", tmp_path / "again.csv"),
    )
    assert result.returncode == 0, result.stderr
    *_, mean = csv.DictReader((tmp_path / "again.csv").open())
    assert mean["case"] == "mean" and 0.7 < reported < 1
    assert (float(mean["dice_1"]) + float(mean["dice_2"])) / 2 == pytest.approx(reported, abs=1e-6)
    (tmp_path / "images").mkdir()
    for item in few["test"]:
        shutil.copy(hippocampus / item["image"], tmp_path / "images")
    process = run_process(
        *("python", "-m", "monai.bundle", "run", "inference", "--config_file", f"{configs}/inference.json"),
        *("--dataset_dir", tmp_path / "images", "--output_dir", tmp_path / "masks"),
    )
    assert process.returncode == 0, process.stderr[-3000:]
    assert run_process("sdseg", "segment", tmp_path / "images", "-o", tmp_path / "cli").returncode == 0
    for item in few["test"]:
        name = Path(item["image"]).name
        masks = [load_nifti(tmp_path / folder / name).get_fdata() for folder in ("eval", "masks", "cli")]
        np.testing.assert_array_equal(masks[0], masks[1])
        np.testing.assert_array_equal(masks[1], masks[2])


@pytest.mark.shared
@pytest.mark.slow
def test_hippocampus_bundle_trains_on_real_volumes(hippocampus, tmp_path):
    datalist = config("hippocampus_sdseg", "datalist")
    few = {"training": datalist["training"][:8], "validation": datalist["validation"][:2], "test": datalist["test"][:1]}
    (tmp_path / "datalist.json").write_text(json.dumps(few))
    models = CONFIGS / "hippocampus_sdseg" / "models"
    process = run_process(
        *("python", "-m", "monai.bundle", "run", "training"),
        *("--config_file", "bundles/hippocampus_sdseg/configs/train.json", "--dataset_dir", hippocampus),
        *("--datalist", tmp_path / "datalist.json", "--autoencoder_weights", models / "autoencoder.pt"),
        *("--ckpt_dir", tmp_path / "models", "--log_dir", tmp_path / "logs", "--epochs", 14, "--val_interval", 14),
    )
    assert process.returncode == 0, process.stderr[-3000:]
    state = torch.load(tmp_path / "models" / "checkpoint.pt", weights_only=True)
    assert state["best_metric"] > 0.4 and (tmp_path / "models" / "model.pt").is_file()


def test_inference_command_writes_masks_on_the_inputs_grids(trained):
    folder, _ = trained
    process = run_forked(
        *("python", "-m", "monai.bundle", "run", "inference"),
        *("--config_file", f"['bundles/sdseg/configs/inference.json','{SMOKE}']"),
        *("--dataset_dir", folder / "data" / "img", "--checkpoint", folder / "models" / "model.pt"),
        *("--output_dir", folder / "masks"),
    )
    assert process.returncode == 0, process.stderr[-3000:]
    assert {p.name for p in (folder / "masks").iterdir()} == {p.name for p in (folder / "data" / "img").iterdir()}


def test_a_missing_dataset_ends_with_one_line(tmp_path):
    # the promised command, word for word
    process = run_forked("python", "-m", "monai.bundle", "run", "training", "--config_file", TRAIN)
    assert process.returncode == 2
    assert "Traceback" not in process.stderr
    last = process.stderr.strip().splitlines()[-1]
    assert last.startswith("error: no dataset folder at ") and "data/BTCV/RawData/Training" in last
    assert "syn3193805" in last and "preprocessing/btcv.py" in last


def test_a_bad_case_ends_the_training_with_one_line(tmp_path):
    make_btcv(tmp_path)
    (tmp_path / "img" / "img0006.nii.gz").write_bytes(b"no volume")
    process = run_forked(
        *("python", "-m", "monai.bundle", "run", "training", "--config_file", f"['{TRAIN}','{SMOKE}']"),
        *("--dataset_dir", tmp_path, "--ckpt_dir", tmp_path / "models", "--log_dir", tmp_path / "logs"),
    )
    assert process.returncode == 2 and "Traceback" not in process.stderr
    assert "img0006.nii.gz" in process.stderr.strip().splitlines()[-1]
    assert not (tmp_path / "models").exists()


def test_without_autoencoder_weights_the_training_is_refused(tmp_path):
    make_btcv(tmp_path)
    process = run_forked(
        *("python", "-m", "monai.bundle", "run", "training", "--config_file", f"['{TRAIN}','{SMOKE}']"),
        *("--dataset_dir", tmp_path, "--autoencoder_weights", tmp_path / "autoencoder.pt"),
        *("--ckpt_dir", tmp_path / "models", "--log_dir", tmp_path / "logs"),
    )
    assert process.returncode == 2
    assert "autoencoder.pt: no such file, expected weights" in process.stderr.strip().splitlines()[-1]


def test_inside_the_bundle_the_root_is_a_dot(trained, tmp_path):
    process = run_forked(
        *("python", "-m", "monai.bundle", "run", "training", "--config_file", "configs/train.json"),
        *("--bundle_root", "."),
        cwd=CONFIGS / "hippocampus_sdseg",
    )
    assert process.returncode == 2
    assert "no dataset folder at" in process.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize("bundle", BUNDLES)
@pytest.mark.parametrize(
    ("kind", "names"), [("train", ("train",)), ("train", ("train", "evaluate")), ("infer", ("inference",))]
)
def test_properties_are_complete(bundle, kind, names, tmp_path):
    make_btcv(tmp_path)  # the check makes what it looks at, data included
    configs = CONFIGS / bundle / "configs"
    data = {
        "dataset_dir": str(tmp_path),
        "datalist": str(tmp_path / "datalist.json"),
        "ckpt_dir": str(tmp_path),
        "batch_size": 4,
    }
    if kind == "infer":
        data = {"dataset_dir": str(tmp_path / "img")}
    workflow = ConfigWorkflow(
        [*(str(configs / f"{name}.json") for name in names), *([str(ROOT / SMOKE)] if bundle == "sdseg" else [])],
        meta_file=str(configs / "metadata.json"),
        logging_file=False,
        workflow_type=kind,
        initialize=[],
        output_dir=str(tmp_path / "eval"),
        **data,
    )
    workflow.initialize()
    assert workflow.check_properties() == []


@pytest.mark.parametrize("bundle", BUNDLES)
def test_what_is_written_twice_is_equal(bundle):
    train, inference = config(bundle, "train"), config(bundle, "inference")
    assert train["network_def"] == inference["network_def"]
    for key in ("size", "slice_axis", "bundle_root"):
        assert train[key] == inference[key]
    assert train["validate"]["inferer"] == inference["inferer"]
    scale = [t for t in train["train"]["preprocessing"]["transforms"] if "ScaleIntensity" in t["_target_"]]
    assert scale == [t for t in inference["preprocessing"]["transforms"] if "ScaleIntensity" in t["_target_"]]
    parser = ConfigParser()
    parser.read_config(CONFIGS / "sdseg" / "configs" / "train_autoencoder.json")
    if bundle != "sdseg":
        parser.update(config(bundle if bundle in OWN_AUTOENCODER else "skin_lesion_sdseg", "train_autoencoder"))
    assert parser["network_def"] == train["network_def"]["autoencoder"]
    for name in ("evaluate", "multi_gpu_train", "multi_gpu_evaluate"):
        assert config(BUNDLES[0], name) == config(BUNDLES[1], name)


@pytest.mark.parametrize("bundle", BUNDLES)
def test_dice_over_the_batch_is_one_knob_of_sdseg_and_of_the_baselines(bundle):
    small = [ROOT / SMOKE] if bundle == "sdseg" else []
    baselines = CONFIGS / "sdseg" / "configs" / "baselines"
    for kind, overlays in (
        (SDSegLoss, small),
        (PixelLoss, [baselines / f"{name}.json" for name in ("baseline", "unet")]),
    ):
        for changes, expected in (({}, False), ({"batch_dice": True}, True)):
            parser = ConfigParser()
            parser.read_config([CONFIGS / bundle / "configs" / "train.json", *overlays])
            parser.update(changes)
            loss = parser.get_parsed_content("loss")
            terms = loss.segmentation_loss
            assert isinstance(loss, kind) and terms.binary.dice.batch == terms.multi_class.dice.batch == expected


@pytest.mark.parametrize("bundle", BUNDLES)
def test_a_decoder_that_nothing_would_train_is_refused(bundle):
    parser = ConfigParser()
    small = [ROOT / SMOKE] if bundle == "sdseg" else []
    parser.read_config([CONFIGS / bundle / "configs" / "train.json", *small])
    parser.update({"network_def#train_decoder": True, "segmentation_weight": 0.0})
    with pytest.raises(RuntimeError) as caught:
        parser.get_parsed_content("loss")
    assert "only the segmentation term trains the decoder" in str(find_input_error(caught.value))


@pytest.mark.parametrize("bundle", BUNDLES)
def test_metadata_tells_what_the_network_takes(bundle):
    meta, train = config(bundle, "metadata"), config(bundle, "train")
    assert meta["version"] in meta["changelog"]
    assert meta["network_data_format"]["inputs"]["image"]["spatial_shape"] == train["size"]
    assert "Research use only" in meta["intended_use"]
    assert "Research use only" in (CONFIGS / bundle / "docs" / "README.md").read_text()
    for name in ("LICENSE", "docs/data_license.txt", "configs/logging.conf"):
        assert (CONFIGS / bundle / name).is_file()


@pytest.mark.parametrize("bundle", BUNDLES)
def test_verify_metadata(bundle, metadata_schema):
    meta = CONFIGS / bundle / "configs" / "metadata.json"
    process = run_forked(
        *("python", "-m", "monai.bundle", "verify_metadata", "--meta_file", meta, "--filepath", metadata_schema)
    )
    assert process.returncode == 0 and "verified with no error" in process.stdout + process.stderr


@pytest.mark.parametrize("bundle", [pytest.param("sdseg", marks=pytest.mark.slow), *BUNDLES[1:]])
def test_verify_net_in_out(bundle):
    configs = CONFIGS / bundle / "configs"
    process = run_forked(
        *("python", "-m", "monai.bundle", "verify_net_in_out", "--net_id", "network_def"),
        *("--meta_file", configs / "metadata.json", "--config_file", configs / "inference.json"),
    )
    assert process.returncode == 0 and "verified with no error" in process.stdout + process.stderr


@pytest.mark.parametrize("bundle", BUNDLES)
def test_shipped_weights_are_plain_small_and_fit(bundle):
    models = CONFIGS / bundle / "models"
    for path in models.glob("*.pt"):
        if path.name in ("model.pt", "autoencoder.pt"):
            assert path.stat().st_size <= 16 * 2**20
    parser = ConfigParser(config(bundle, "train"))
    autoencoder = parser.get_parsed_content("network_def#autoencoder")
    assert isinstance(autoencoder, MaskAutoencoder)
    if bundle not in OWN_AUTOENCODER:
        models = CONFIGS / "skin_lesion_sdseg" / "models"
    load_weights(autoencoder, models / "autoencoder.pt")


def test_shipped_autoencoder_reconstructs_a_disc():
    parser = ConfigParser(config("sdseg", "train"))
    autoencoder = parser.get_parsed_content("network_def#autoencoder").eval()
    load_weights(autoencoder, CONFIGS / "sdseg" / "models" / "autoencoder.pt")
    y, x = torch.meshgrid(torch.arange(256), torch.arange(256), indexing="ij")
    disc = ((x - 100).square() + (y - 150).square() < 40**2)[None, None]
    with torch.no_grad():
        latent = autoencoder.encode((2.0 * disc - 1).expand(-1, 3, -1, -1)).latent_dist.mode()
        again = autoencoder.decode(latent).sample.mean(1, keepdim=True) > 0
    assert latent.shape == (1, 4, 32, 32)
    assert 2 * (again & disc).sum() / (again.sum() + disc.sum()) > 0.98


def test_embedded_datalist_is_the_committed_split():
    split = json.loads((ROOT / "preprocessing" / "splits" / "hippocampus_180_20_20.json").read_text())
    datalist = config("hippocampus_sdseg", "datalist")
    assert [len(split[name]) for name in SPLITS] == [180, 20, 20]
    for name in SPLITS:
        assert [Path(item["image"]).name for item in datalist[name]] == [f"{case}.nii.gz" for case in split[name]]


def test_bundles_are_found_by_name_and_folder(tmp_path):
    assert Bundle.open("sdseg").root == CONFIGS / "sdseg"
    assert Bundle.open(CONFIGS / "sdseg").root == CONFIGS / "sdseg"
    with pytest.raises(
        InputError, match="expected fetal_head_sdseg, hippocampus_sdseg, left_ventricle_sdseg, sdseg, skin_lesion_sdseg"
    ):
        Bundle.open("nothing")
    with pytest.raises(InputError, match=r"no configs/inference\.json"):
        Bundle.open(tmp_path)


def test_a_bundle_without_weights_refuses(tmp_path):
    shutil.copytree(CONFIGS / "sdseg" / "configs", tmp_path / "configs")
    with pytest.raises(InputError, match="no weights"):
        Segmenter(tmp_path)


def test_a_bundle_of_another_kind_is_refused(tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "inference.json").write_text('{"device": "cpu"}')
    with pytest.raises(InputError, match="no checkpoint, network"):
        Segmenter(tmp_path)
    for text in ("", "[1]", "{", '{"device": "$nonsense()", "checkpoint": null}'):
        (tmp_path / "configs" / "inference.json").write_text(text)
        with pytest.raises(InputError, match=r"inference\.json"):
            Segmenter(tmp_path, trust=True)


@pytest.mark.parametrize(
    ("change", "num_classes"), [({"num_classes": 4}, 4), ({"num_classes": None, "unet#num_class_embeds": 5}, 5)]
)
def test_a_network_of_other_classes_than_the_config_is_refused(change, num_classes, tmp_path):
    shutil.copytree(CONFIGS / "hippocampus_sdseg" / "configs", tmp_path / "configs")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "model.pt").touch()
    overlay = tmp_path / "overlay.json"
    overlay.write_text(json.dumps({f"network_def#{key}": value for key, value in change.items()}))
    with pytest.raises(
        InputError, match=f"has {num_classes} classes, num_classes is 3: set the config's num_classes to "
    ):
        Segmenter(tmp_path, device="cpu", overlays=[overlay])
    overlay.write_text(json.dumps({"network_def#unet#num_class_embeds": 5}))
    message = r"inference\.json: network: num_classes=3, but .* has 5: set the config's num_classes to 5$"
    with pytest.raises(InputError, match=message):
        Segmenter(tmp_path, device="cpu", overlays=[overlay])


def test_a_device_that_is_not_there_is_an_input_error():
    with pytest.raises(InputError, match="cannot be used"):
        Segmenter(device="nonsense")


def test_segmenter_does_not_depend_on_the_batch(tmp_path):
    write_crop(tmp_path, "a", shape=(35, 48, 33), affine=np.eye(4))
    path = tmp_path / "images" / "a.nii.gz"
    single, batched = (Pipeline(device="cpu", batch_size=n)(path) for n in (1, 16))
    assert single.scores.shape == (2, 35, 48, 33)
    np.testing.assert_allclose(single.scores, batched.scores, atol=5e-5)
    assert (batched.confidence[single.labels != batched.labels] <= 1e-4).all()
    assert single.labels.dtype == np.uint8 and single.scores.dtype == np.float32
