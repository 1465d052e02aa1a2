"""Every table and figure of the paper from one command, on real photographs, at very small size."""

import csv
import hashlib
import json

import numpy as np
import pytest
from PIL import Image

from tests.makers.places import ROOT, SHARED
from tests.makers.processes import run_forked, run_process

KVASIR = SHARED / "data" / "kvasir-seg-256"
TAESD = SHARED / "weights" / "taesd-fp8" / "taesd_fp8_e4m3.safetensors"
LPIPS = SHARED / "weights" / "lpips-alexnet" / "lpips_alexnet.safetensors"
TAESD_ROW = "SDSeg, TAESD"
LAST_ABLATION = f"{TAESD_ROW}, no latent loss, frozen encoder, cross-attention"
NAMES = ("SDSeg", TAESD_ROW, f"{TAESD_ROW}, no latent loss", LAST_ABLATION, "U-Net")
UNET = {
    "network_def#unet#block_out_channels": [8, 16],
    "network_def#unet#attention_levels": [False, True],
    "network_def#unet#layers_per_block": 1,
    "network_def#unet#num_heads": 2,
    "network_def#unet#norm_num_groups": 4,
}


@pytest.fixture
def study(tmp_path):
    """A toy study of three experiments, of the same form as the committed ones."""
    committed = json.loads((ROOT / "benchmarks" / "studies" / "kvasir_cpu.json").read_text())
    names = NAMES
    tiny = {"network_def#vision_encoder#block_out_channels": [4] * 4, "network_def#vision_encoder#norm_num_groups": 4}
    networks = committed["networks"]
    toy = {
        **committed,
        "budget": {**committed["budget"], "epochs": 1, "val_interval": 1, "batch_size": 2},
        "networks": {
            "sdseg": {**networks["sdseg"], **UNET, **tiny},
            "sdseg_taesd": {**networks["sdseg_taesd"], **UNET},
            "basic_unet": {"network_def#backbone#features": [4, 4, 8, 8, 16, 4]},
        },
        "experiments": {name: committed["experiments"][name] for name in names},
    }
    (tmp_path / "study.json").write_text(json.dumps(toy))
    cases = sorted(path.stem for path in (KVASIR / "images").iterdir())[:8]
    splits = {"training": cases[:4], "validation": cases[4:5], "test": cases[5:8]}
    datalist = {k: [{"image": f"images/{c}.jpg", "label": f"masks/{c}.png"} for c in v] for k, v in splits.items()}
    (tmp_path / "datalist.json").write_text(json.dumps(datalist))
    return tmp_path


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.skipif(not KVASIR.is_dir(), reason=f"no data at {KVASIR}; set SDSEG_SHARED")
def test_one_command_writes_every_table_and_figure(study):
    output = study / "out"
    process = run_process(
        *("python", "benchmarks/paper.py", "--study", study / "study.json", "--dataset_dir", KVASIR),
        *("--datalist", study / "datalist.json", "--output", output, "--lpips", LPIPS, "--seeds", "2"),
        *("--option", "taesd_weights", TAESD),
    )
    assert process.returncode == 0, process.stderr[-3000:]
    report = (output / "report.md").read_text()
    digest = hashlib.sha256((study / "datalist.json").read_bytes()).hexdigest()[:12]
    assert "4 images seen by each network" in report and "commit" in report
    assert f"Split and its hash: datalist.json, {digest}; seed 0" in report
    for title in ("Tables 2, 3 and 6", "Table 4", "Table 5"):
        assert title in report

    def table(name):
        return list(csv.DictReader((output / f"{name}.csv").open()))

    rows = table("comparison")
    assert {row["split"] for row in rows} == {f"datalist.json, {digest}"} and all(row["hardware"] for row in rows)
    assert [row["network"] for row in rows] == list(NAMES)
    for row in rows:
        mean, low, high = (
            float(part) for part in row["test Dice"].replace("(", "").replace(")", "").split() if part != "to"
        )
        assert 0 <= low <= mean <= high <= 100
    per_case = list(csv.DictReader((output / "sdseg" / "test.csv").open()))
    assert float(rows[0]["test Dice"].split()[0]) == pytest.approx(
        100 * np.mean([float(row["dice"]) for row in per_case[:-1]]), abs=0.06
    )
    assert [row["steps x samples"] for row in table("efficiency")] == ["1 x 1", "10 x 1", "1 x 10"]
    assert {row["of"] for row in table("stability")} == {"mask", "score"}
    for name in ("reconstructions", "convergence", "reverse_process", "image_latents"):
        picture = np.asarray(Image.open(output / f"{name}.png").convert("L"))
        assert picture.std() > 5, name
    # given again, it trains nothing anew
    logs = {path: path.stat().st_mtime_ns for path in output.glob("*/training.log")}
    again = run_process(
        *("python", "benchmarks/paper.py", "--study", study / "study.json", "--dataset_dir", KVASIR),
        *("--datalist", study / "datalist.json", "--output", output, "--parts", "train"),
        *("--option", "taesd_weights", TAESD),
    )
    assert again.returncode == 0, again.stderr[-2000:]
    assert logs == {path: path.stat().st_mtime_ns for path in logs}
    failed_process = run_process(
        *("python", "benchmarks/paper.py", "--study", study / "study.json", "--dataset_dir", KVASIR),
        *("--datalist", study / "datalist.json", "--output", output, "--parts", "comparison", "--only", "SDSeg"),
        *("--option", "learning_rate", "0.9"),
    )
    assert (
        failed_process.returncode != 0
        and "trained with configuration" in failed_process.stderr
        and "Traceback" not in failed_process.stderr
    )
    splits = json.loads((study / "datalist.json").read_text())
    splits["training"], splits["test"] = splits["test"], splits["training"]
    (study / "datalist.json").write_text(json.dumps(splits))
    failed_process = run_process(
        *("python", "benchmarks/paper.py", "--study", study / "study.json", "--dataset_dir", KVASIR),
        *("--datalist", study / "datalist.json", "--output", output, "--parts", "train"),
        *("--option", "taesd_weights", TAESD),
    )
    assert (
        failed_process.returncode != 0
        and "trained with configuration" in failed_process.stderr
        and "Traceback" not in failed_process.stderr
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--only", "nothing"), "no such experiment"),
        pytest.param(("--parts", "stability"), "stability needs the weights of LPIPS", marks=pytest.mark.slow),
        pytest.param(("--parts", "figures", "--only", "SDSeg"), "figures needs 'SDSeg, TAESD'", marks=pytest.mark.slow),
        pytest.param(("--section", "nowhere.md"), "nowhere.md: no such file", marks=pytest.mark.slow),
    ],
)
def test_what_would_fail_after_hours_ends_at_once_with_one_line(tmp_path, options, message):
    (tmp_path / "d.json").write_text("{}")
    process = run_forked(
        *("python", "benchmarks/paper.py", "--study", "benchmarks/studies/kvasir_cpu.json", "--dataset_dir", tmp_path),
        *("--datalist", tmp_path / "d.json", "--output", tmp_path, *options),
    )
    assert process.returncode != 0 and "Traceback" not in process.stderr and message in process.stderr
