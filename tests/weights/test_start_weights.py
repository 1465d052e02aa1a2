"""``sdseg convert`` writes the overlay of an official checkpoint, and a training starts from its weights."""

import json

import pytest
from ignite.engine import Events
from monai.bundle import ConfigParser, ConfigWorkflow

from sdseg_monai.inference.segmenter import Segmenter
from sdseg_monai.weights import load_official
from sdseg_monai.weights.official import plan_official
from sdseg_monai.weights.overlay import start_overlay
from tests.makers.compvis import official as official_shapes
from tests.makers.official import FIXTURE, KINDS, draw_as_the_official_code, make_case
from tests.makers.places import ROOT
from tests.makers.volumes import write_case
from tests.weights.conversions import equal_states, run

CONFIGS = ROOT / "bundles" / "sdseg" / "configs"
START = ("+imports", "start_weights", "load_pretrained")
OFFICIAL_SIZES = ("block_out_channels", "layers_per_block", "norm_num_groups")


def convert(checkpoint, folder, capsys, *options):
    """Return the overlay that the command writes for ``checkpoint``."""
    code, out, err = run(
        capsys, checkpoint, "-o", folder / "official.pt", "--from", "official", "--to", "bundle", *options
    )
    assert code == 0, err
    assert json.loads(out)["overlay"] == str(folder / "official.json")
    return folder / "official.json"


def parse(*configs):
    parser = ConfigParser()
    parser.read_config([str(config) for config in configs])
    return parser


def test_the_overlay_of_a_full_size_checkpoint_holds_the_autoencoders_sizes_alone(tmp_path):
    overlay = start_overlay(plan_official(official_shapes()).network, tmp_path / "model.pt")
    assert set(overlay) == {*START, *(f"network_def#autoencoder#{name}" for name in OFFICIAL_SIZES)}
    assert overlay["start_weights"] == str(tmp_path / "model.pt")
    sizes = json.loads((CONFIGS / "sd_autoencoder.json").read_text())
    assert all(overlay[key] == value for key, value in sizes.items() if key.startswith("network_def"))
    overlay = start_overlay(plan_official(official_shapes({"classes": 9})).network, tmp_path / "model.pt")
    assert overlay["num_classes"] == overlay["network_def#unet#num_class_embeds"] == 9
    assert overlay["network_def#autoencoder#num_classes"] == 2  # each of the passes is binary
    assert "network_def#num_classes" not in overlay


@pytest.mark.parametrize("name", ["train", "inference"])
def test_the_overlay_builds_the_network_of_the_weights(checkpoint, official, tmp_path, capsys, name):
    parser = parse(CONFIGS / f"{name}.json", convert(checkpoint, tmp_path, capsys))
    parser.get_parsed_content("load_pretrained")
    network = parser.get_parsed_content("network_def")
    assert equal_states(network.state_dict(), official.state_dict())
    assert network.unet.config.dropout == network.vision_encoder.config.dropout == 0.2  # that of the bundle


def test_the_overlays_code_is_known(checkpoint, tmp_path, capsys):
    """So ``sdseg segment --overlay`` does not ask whether it is trusted."""
    overlay = convert(checkpoint, tmp_path, capsys)
    assert Segmenter("sdseg", tmp_path / "official.pt", overlays=overlay, device="cpu").num_classes == 2


def test_another_schedule_is_in_the_overlay(official, tmp_path):
    official.schedule.num_timesteps = 50
    overlay = start_overlay(official, tmp_path / "model.pt")
    assert overlay["network_def#schedule"]["num_timesteps"] == 50


def test_an_overlay_is_not_written_over_a_file(checkpoint, tmp_path, capsys):
    (tmp_path / "official.json").write_text("mine")
    code, out, err = run(capsys, checkpoint, "-o", tmp_path / "official.pt", "--from", "official", "--to", "bundle")
    assert (code, out) == (2, "") and "official.json: exists" in err
    assert (tmp_path / "official.json").read_text() == "mine" and not (tmp_path / "official.pt").exists()


@pytest.mark.shared
@pytest.mark.skipif(not FIXTURE.is_dir(), reason=f"no folder {FIXTURE}; set SDSEG_SHARED")
@pytest.mark.usefixtures("keep_global_state")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weights", ["raw", "ema"])
def test_the_first_loss_of_a_training_is_that_of_the_official_code(kind, weights, tmp_path, capsys, monkeypatch):
    case = make_case(kind, tmp_path)
    options = ("--num-heads", case.num_heads, *(["--raw"] if weights == "raw" else []))
    overlay = convert(case.checkpoint, tmp_path, capsys, *options)
    write_case(tmp_path, "v", shape=(48, 48, 2))
    datalist = {"training": [], "validation": [{"image": "images/v.nii.gz", "label": "labels/v.nii.gz"}]}
    (tmp_path / "datalist.json").write_text(json.dumps(datalist))
    small = {
        "size": [48, 48],
        "batch_size": 3,
        "epochs": 1,
        "network_def#mask_latent": "sample",
        "network_def#unet#dropout": 0.0,
        "network_def#vision_encoder#dropout": 0.0,
        "train#dataset": {
            "_target_": "tests.makers.official.OfficialSlices",
            "data": [0, 1, 2],
            "expected": str(case.results),
        },
    }
    (tmp_path / "small.json").write_text(json.dumps(small))
    training = ConfigWorkflow(
        [str(CONFIGS / "train.json"), str(overlay), str(tmp_path / "small.json")],
        run_id="training",
        workflow_type="train",
        logging_file=False,
        meta_file=str(CONFIGS / "metadata.json"),
        dataset_dir=str(tmp_path),
        datalist=str(tmp_path / "datalist.json"),
        ckpt_dir=str(tmp_path / "models"),
        log_dir=str(tmp_path / "logs"),
        device="cpu",
    )
    training.initialize()
    draw_as_the_official_code(case, monkeypatch)
    losses = []
    trainer = training.parser.get_parsed_content("train#trainer")
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda engine: losses.append(float(engine.state.output["loss"]))
    )
    training.run()
    assert losses == [pytest.approx(float(case.expected[f"{weights}.loss"]), rel=1e-5)]
    official = load_official(case.checkpoint, num_heads=case.num_heads, use_ema=weights == "ema")
    assert training.parser.get_parsed_content("network_def").scale_factor == official.scale_factor
