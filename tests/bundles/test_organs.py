"""The overlays for the organs of a CT, and for any number of classes."""

import json

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow

from sdseg_monai.errors import find_input_error
from tests.bundles.overlays import CONFIGS, ORGANS, infer, parse, train_and_evaluate
from tests.makers.volumes import load_nifti, write_nifti

pytestmark = pytest.mark.usefixtures("keep_global_state")


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
    evaluated, inferred = (load_nifti(tmp_path / folder / "t.nii.gz") for folder in ("eval", "masks"))
    assert inferred.shape == (30, 24, 8) and inferred.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(evaluated.get_fdata(), inferred.get_fdata())
    assert set(np.unique(inferred.get_fdata())) <= set(range(14))


def test_the_organs_mean_dice_is_over_the_organs(organs):
    """A mask that is right everywhere, one that swaps two organs and an empty one, by the evaluation's own metric."""
    parser = parse("classes/organs")
    metric = parser.get_parsed_content("validate#key_metric#val_mean_dice#metric_fn")
    label = torch.as_tensor(load_nifti(organs / "labels" / "t.nii.gz").get_fdata()).float()[None, None]
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
    label = load_nifti(organs / "labels" / "a.nii.gz")
    array = np.asarray(label.dataobj).copy()
    array[0, 0, 0] = 14
    write_nifti(tmp_path / "labels" / "a.nii.gz", array, label.affine)
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
    assert score.shape == (1, evaluation.parser["num_classes"], 64, 64)
