"""A mistake in the command ``monai.bundle run`` ends in one line before anything is trained."""

import shutil

import pytest
import torch
from monai.bundle import ConfigWorkflow, create_workflow

from sdseg_monai.errors import find_input_error
from tests.makers.places import ROOT
from tests.makers.processes import run_forked

pytestmark = [
    pytest.mark.usefixtures("keep_global_state"),
    pytest.mark.filterwarnings("ignore:parsing config_file:UserWarning"),
]

BUNDLE = ROOT / "bundles" / "hippocampus_sdseg"
TRAIN = BUNDLE / "configs" / "train.json"
CHAINS = {
    "training": [TRAIN],
    "evaluating": [TRAIN, BUNDLE / "configs" / "evaluate.json"],
    "inference": [BUNDLE / "configs" / "inference.json"],
    "autoencoder": [BUNDLE.with_name("sdseg") / "configs" / "train_autoencoder.json"],
    "processes": [TRAIN, BUNDLE / "configs" / "multi_gpu_train.json"],
}


def start(chain="training", **options):
    """Return the workflow that MONAI makes, with the bundle's own files."""
    files = [str(path) for path in CHAINS[chain]]
    options = {"run_id": "run", "bundle_root": str(BUNDLE), "device": "cpu", **options}
    return create_workflow(config_file=files, logging_file=False, **options)


def refusal(*arguments, **options):
    with pytest.raises(RuntimeError) as caught:
        start(*arguments, **options)
    error = find_input_error(caught.value)
    assert error is not None, caught.value
    return str(error)


@pytest.mark.parametrize(
    ("chain", "run_id", "expected"),
    [
        ("training", "trainig", "cannot run 'trainig', did you mean training?"),
        ("training", "train", "cannot run 'train', did you mean training?"),  # would only be built
        ("training", "epochs", "cannot run 'epochs', see the names"),
        ("training", "initialize", "cannot run 'initialize'"),
        ("evaluating", "evaluate", "cannot run 'evaluate', did you mean evaluating?"),
        ("inference", "inferense", "cannot run 'inferense', did you mean inference?"),
        ("autoencoder", "traning", "cannot run 'traning', did you mean training?"),
        ("processes", "trainig", "cannot run 'trainig', did you mean training?"),
    ],
)
def test_what_the_config_cannot_run(chain, run_id, expected):
    assert refusal(chain, run_id=run_id).startswith(expected)


OVERRIDES = {
    "epoch": (1, "--epoch: the config has no such value, did you mean --epochs?"),
    "batchsize": (1, "did you mean --batch_size"),
    "learningrate": (0.1, "did you mean --learning_rate"),
    "metafile": ("x.json", "did you mean --meta_file"),
    "xyzzy": (1, "--xyzzy: the config has no such value, see the names at its top"),
    "epochs": ("ten", "epochs='ten': expected a number, as 18 in the config"),
    "batch_size": (0, "batch_size=0: expected whole numbers from 1 on"),
    "val_interval": (-1, "val_interval=-1: expected whole numbers from 1 on"),
    "num_workers": (-1, "num_workers=-1: expected whole numbers from 0 on"),
    "seed": (1.5, "seed=1.5: expected whole numbers from 0 on"),
    "slice_axis": (3, "slice_axis=3: expected whole numbers from 0 to 2"),
    "latent_scale_masks": (True, "latent_scale_masks=True: expected a number, as 512 in the config"),
    "warmup_steps": ([1], "warmup_steps=[1]: expected a number, as 100 in the config"),
    "size": (64, "size=64: expected a list, as [64, 64] in the config"),
    "amp": ("false", "amp='false': expected True or False, as False in the config"),  # a text is true
    "context_mm": (None, "--context_mm None: MONAI leaves it out, and the config's value would count; write '$None'"),
    "network_def#unet#num_heads": ("two", "num_heads='two': expected a number, as 4 in the config"),
}


@pytest.mark.parametrize("name", OVERRIDES)
def test_an_override_that_is_a_mistake(name):
    value, expected = OVERRIDES[name]
    assert expected in refusal(**{name: value})


@pytest.mark.parametrize("value", [0, -64, 64.0, "64"])
def test_a_size_that_is_none(value):
    assert f"size={[64, value]!r}: expected" in refusal(size=[64, value])


without_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA here")


@pytest.mark.parametrize("chain", ["training", "evaluating", "inference", "autoencoder"])
@pytest.mark.parametrize(
    "device",
    [
        *("cuda:99", "cuda:256", "nonsense", "$torch.device('nonsense')", "$torch.device('cuda', 99)"),
        *(pytest.param(name, marks=without_cuda) for name in ("cuda", "cuda:0", "$torch.device('cuda')", "mps")),
    ],
)
def test_a_device_that_cannot_be_used(chain, device):
    assert "cannot be used (" in refusal(chain, device=device)


def test_a_device_of_a_process_that_is_none(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    message = refusal("processes", device="$torch.device('cuda', int(os.environ['LOCAL_RANK']))")
    assert "(KeyError: 'LOCAL_RANK')" in message


@pytest.mark.parametrize("chain", ["training", "evaluating", "processes"])
def test_data_that_are_missing(chain, tmp_path):
    assert "no dataset folder at" in refusal(chain, dataset_dir=str(tmp_path / "nowhere"))
    assert "no datalist at" in refusal(chain, dataset_dir=str(tmp_path), datalist=str(tmp_path / "nowhere.json"))


def test_a_config_workflow_of_python_is_checked_too():
    workflow = ConfigWorkflow(str(TRAIN), logging_file=False, run_id="trainig", device="cpu")
    with pytest.raises(RuntimeError) as caught:
        workflow.initialize()
    assert "did you mean training?" in str(find_input_error(caught.value))


def test_right_values_pass(tmp_path):
    """Expressions, references, names that only another override or an overlay uses, and MONAI's own arguments."""
    (tmp_path / "configs").mkdir()
    overlay = tmp_path / "configs" / "overlay.json"
    overlay.write_text('{"my_batch": 2, "batch_size": "@my_batch * 2 + @extra", "comment": "mine"}')
    shutil.copy(BUNDLE / "configs" / "inference.json", tmp_path / "configs")
    workflow = create_workflow(
        config_file=[str(tmp_path / "configs" / "inference.json"), str(overlay)],
        meta_file=str(BUNDLE / "configs" / "metadata.json"),
        logging_file=False,
        workflow_type="inference",
        run_id="inference",
        bundle_root=str(BUNDLE),
        extra=3,
        comment="yours",
        device="$torch.device('cpu')",
        size=(64, 64),
        amp=0,
        context_mm="$None",
        **{"inferer#batch_size": 5},
    )
    assert workflow.parser.get_parsed_content("context_mm") is None


def test_the_command_ends_with_one_line():
    process = run_forked("python", "-m", "monai.bundle", "run", "training", "--config_file", TRAIN, "--epoch", 1)
    assert process.returncode == 2 and "Traceback" not in process.stderr
    expected = "error: --epoch: the config has no such value, did you mean --epochs?"
    assert process.stderr.splitlines()[-1] == expected
