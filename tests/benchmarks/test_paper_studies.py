"""The studies of the paper's tables: parsed, counted on the meta device, and with the paper's numbers beside them."""

import json
import re

import pytest
import torch
from monai.bundle import ConfigParser

from lab import dry_run
from lab.citations import TABLES, add_citations, cited_table
from lab.measuring import gflop
from lab.study import read_study
from lab.tables import Table
from tests.makers.places import ROOT, SHARED
from tests.makers.processes import run_forked

STUDIES = ROOT / "benchmarks" / "studies"
PAPER = sorted(path.stem for path in STUDIES.glob("paper_*.json"))
TEXT = SHARED / "docs" / "sdseg-paper.txt"


def read(name, folder):
    return read_study(STUDIES / f"{name}.json", folder, None, folder, {}, None)


def test_all_datasets_of_the_paper_have_a_study():
    assert [f"paper_{name}" for name in ("btcv", "cvc", "kvasir", "refuge2", "sts")] == PAPER


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name == "paper_btcv")) for name in PAPER]
)
def test_a_study_is_counted_without_data_and_weights(name, tmp_path):
    study = read(name, tmp_path)
    table = dry_run.count_all(study, tflops=10.0)
    rows = {row[0]: row[1:] for row in table.rows}
    assert list(rows) == list(study.experiments) and study.main in rows
    assert study.without is None or study.without in rows
    parameters, trained, _, step, memory, hours = (float(str(cell)) for cell in rows["SDSeg"])
    assert (parameters, trained) == (412.8, 329.1)  # 83.7 + 34.2 + 295.0; without the mask autoencoder
    assert hours == pytest.approx(step * 100_000 / 10_000 / 3600, abs=0.06)
    assert 10 < hours < 16 and 10 < memory < 16  # the paper: about 12 hours, on a GPU of 16 GB


def test_what_is_counted_on_the_meta_device_is_what_is_computed(tmp_path):
    configs = ROOT / "bundles" / "sdseg" / "configs"
    parser = ConfigParser()
    parser.read_config([configs / f"{name}.json" for name in ("train", "smoke")])
    counted = dry_run.count(json.dumps({key: parser[key] for key in dry_run.COUNTED_KEYS} | dry_run.WEIGHT))
    network, loss = (parser.get_parsed_content(name) for name in ("network_def", "loss"))
    network.scale_factor.fill_(1)
    assert counted.parameters == sum(p.numel() for p in network.parameters())
    assert counted.trained == sum(p.numel() for p in network.trained_parts.parameters())
    image, mask = torch.zeros(4, 3, 64, 64), torch.zeros(4, 1, 64, 64)
    saved = dry_run.SavedTensors(network)

    def train():
        with torch.autograd.graph.saved_tensors_hooks(saved.add, lambda tensor: tensor):
            loss(network(image, mask=mask, seeds=torch.arange(4)), mask).backward()

    assert counted.step == gflop(train)
    states = dry_run.FLOAT32 * (counted.parameters + dry_run.STATES * counted.trained)
    assert counted.memory == pytest.approx((states + saved.bytes) / 2**30, rel=0.02)
    with torch.no_grad():
        assert counted.inference == gflop(lambda: network.eval()(image[:1]))


def test_the_command_needs_no_data():
    process = run_forked(
        "python", "benchmarks/paper.py", "--dry-run", "--study", STUDIES / "kvasir_cpu.json", "--tflops", 0.5
    )
    assert process.returncode == 0, process.stderr[-2000:]
    assert "| U-Net, ResNet-50 | 32.1 |" in process.stdout and "0.5 TFLOP/s" in process.stdout


def test_a_study_picks_experiments_of_its_base(tmp_path):
    study = read("paper_cvc", tmp_path)
    assert list(study.experiments) == ["SDSeg"]
    assert [path.rsplit("/configs/")[-1] for path in study.experiments["SDSeg"]] == [
        *("train.json", "datasets/cvc.json", "sd_autoencoder.json", "paper_weights.json")
    ]
    (tmp_path / "base.json").write_text((STUDIES / "base" / "paper.json").read_text())
    (tmp_path / "own.json").write_text(json.dumps({"base": "base.json", "name": "x", "experiments": ["SegSD"]}))
    with pytest.raises(SystemExit, match=r"own\.json: 'SegSD' is no experiment of base\.json"):
        read_study(tmp_path / "own.json", tmp_path, None, tmp_path, {}, None)


@pytest.mark.parametrize("name", PAPER)
def test_what_is_cited_stands_in_the_paper(name, tmp_path):
    study = read(name, tmp_path)
    networks = {score["network"] for score in json.loads(TABLES.read_text())["scores"]}
    assert {study.cited_as[experiment] for experiment in study.experiments} <= networks
    assert set(study.cited_as.values()) <= networks


@pytest.mark.shared
@pytest.mark.skipif(not TEXT.is_file(), reason=f"no file {TEXT}; set SDSEG_SHARED")
def test_the_cited_numbers_are_the_papers():
    content, text = json.loads(TABLES.read_text()), TEXT.read_text()
    sections = {int(part.split(".")[0]): part for part in re.split(r"\nTable ", text)[1:]}
    for score in content["scores"]:
        for measure in ("Dice", "IoU"):
            if measure in score:
                digits = 2 if score["table"] == 6 else 1
                assert f"{score[measure]:.{digits}f}" in sections[score["table"]], score
    for table in (content["efficiency"], content["stability"]):
        for _, *cells in table["rows"]:
            for cell in cells:
                if re.fullmatch(r"[\d.]+", cell):
                    assert cell in sections[table["table"]], cell


def test_the_papers_numbers_stand_beside_the_measured_ones(tmp_path):
    study = read("paper_btcv", tmp_path)
    table = Table("comparison", "Measured", ["network", "Dice"], [["SDSeg", "90.0"], ["U-Net", "70.0"]])
    cited = add_citations(study, table)
    rows = {row[0]: list(row[1:]) for row in cited.rows}
    assert rows["SDSeg"] == ["90.0", "92.8 (2); 92.76 (6)", "85.49 (6)"]
    assert rows["U-Net"] == ["70.0", "75.9 (2)", ""]
    assert rows["TransU-Net (in the paper only)"] == ["not here", "89.1 (2)", ""]
    assert "cited from Lin et al." in cited.title
    assert "| MedSegDiff-V1 | 48 |" in cited_table(study, "efficiency") and not cited_table(study, "comparison")
    other = read("paper_sts", tmp_path)
    assert not cited_table(other, "efficiency")
    plain = read("kvasir_cpu", tmp_path)
    assert add_citations(plain, table) is table
