"""The models that the label server offers, and errors at its start; these tests do not need MONAI Label."""

import importlib.util
import json
import shutil
from typing import Any

import pytest
import torch

from sdseg_monai.errors import InputError
from sdseg_monai.inference.segmenter import Segmenter
from sdseg_monai.io.segments import Segment
from sdseg_monai.label.models import ServedModel, open_models
from sdseg_monai.label.splits import split_cases
from tests.makers.places import ROOT
from tests.makers.processes import run_process

NAME = "hippocampus_sdseg"
BUNDLES = ROOT / "bundles"


@pytest.fixture
def bundle(tmp_path):
    """A copy of the embedded bundle that a test may change."""
    without_runs = shutil.ignore_patterns("logs", "eval", "*checkpoint.pt")
    return shutil.copytree(BUNDLES / NAME, tmp_path / "mine" / NAME, ignore=without_runs)


def test_installed_bundles_with_weights_are_offered(tmp_path):
    assert list(open_models([], tmp_path)) == [NAME, "left_ventricle_sdseg"], "of volumes, with weights"
    model = open_models([], tmp_path)[NAME]
    hippocampus = ("5366008", "SCT", "Hippocampus")
    assert model.bundle.segments == {
        1: Segment("Anterior hippocampus", (230, 159, 0), hippocampus),
        2: Segment("Posterior hippocampus", (0, 114, 178), hippocampus),
    }
    assert model.bundle.labels == {"Anterior hippocampus": 1, "Posterior hippocampus": 2}
    assert model.bundle.modality == "MR"
    assert model.signals == ["flips"], "a model that starts from zeros has no seeds to compare"


def test_seeds_are_a_signal_where_there_is_noise(bundle, tmp_path):
    config = bundle / "configs" / "inference.json"
    content = json.loads(config.read_text())
    content["network_def"]["start_noise"] = "shared"
    config.write_text(json.dumps(content))
    assert open_models([bundle], tmp_path)[NAME].signals == ["flips", "seeds"]


@pytest.mark.parametrize("name", ["sdseg", "hippocampus_sdseg"])
def test_metadata_names_each_segment(name, tmp_path):
    """The stock app takes the network's output for labels, ours what is written: they must agree."""
    formats = json.loads((BUNDLES / name / "configs" / "metadata.json").read_text())["network_data_format"]
    model = ServedModel.open(name, tmp_path)
    assert formats["outputs"]["pred"]["channel_def"] == formats["post_processed_outputs"]["pred"]["channel_def"]
    assert all(segment.code for segment in model.bundle.segments.values())
    assert len(set(model.bundle.labels)) == len(set(map(tuple, model.colours.values()))) == len(model.bundle.segments)


def test_tuned_weights_come_first(bundle, tmp_path):
    model = ServedModel.open(bundle, tmp_path)
    assert model.weights is not None and model.weights == bundle / "models" / "model.pt"
    state = torch.load(model.weights, weights_only=True)
    last = next(name for name in reversed(state) if name.startswith("unet."))
    state[last] = state[last] + 1
    model.tuned_weights.parent.mkdir()
    torch.save(state, model.tuned_weights)
    assert model.weights == model.tuned_weights
    assert model.chosen_weights("original") == bundle / "models" / "model.pt"
    tuned = model.pipeline(device="cpu").segmenter.network.state_dict()
    own = Segmenter(bundle, device="cpu").network.state_dict()
    assert [name for name in own if not torch.equal(tuned[name], own[name])] == [last]


def test_what_cannot_be_served(bundle, tmp_path):
    with pytest.raises(InputError, match="no weights to serve"):
        open_models(["sdseg"], tmp_path)
    with pytest.raises(InputError, match="two bundles of one name"):
        open_models([NAME, bundle], tmp_path)
    spaced = bundle.rename(bundle.with_name("my bundle"))
    with pytest.raises(InputError, match="becomes part of URLs"):
        ServedModel.open(spaced, tmp_path)
    (spaced / "configs" / "metadata.json").write_text("{}")
    with pytest.raises(InputError, match=r"metadata\.json: cannot be used"):
        ServedModel.open(spaced.rename(bundle), tmp_path)


@pytest.mark.skipif(importlib.util.find_spec("monailabel") is not None, reason="MONAI Label is installed here")
def test_command_without_monai_label(tmp_path):
    done = run_process("sdseg", "label", "--studies", str(tmp_path))
    assert done.returncode == 2 and done.stdout == ""
    assert "make label-env" in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("val_split", [0.01, 0.2, 0.99])
def test_a_case_keeps_its_side_when_more_are_labelled(val_split):
    cases: list[dict[str, Any]] = [
        {"image": f"/studies/case_{n}.nii.gz", "label": f"/labels/case_{n}.nii.gz", "more": n} for n in range(60)
    ]
    sides: dict[str, str] = {}
    for count in range(2, 61):
        splits = split_cases(cases[:count], val_split)
        assert splits["training"] and splits["validation"]
        assert sorted(case["image"] for side in splits.values() for case in side) == sorted(
            case["image"] for case in cases[:count]
        )
        if val_split == 0.2 and count >= 10:
            for side, members in splits.items():
                for case in members:
                    assert sides.setdefault(case["image"], side) == side
    assert all(case.keys() == {"image", "label"} for case in splits["training"])
    with pytest.raises(InputError, match="expected at least two"):
        split_cases(cases[:1], val_split)
