"""A study: experiments that share data, split, budget and metric, and differ in the overlays that they chain.

A study is a JSON file; an experiment is ``train.json``, the dataset's overlay, the experiment's own, and last what the
study sets for all (the budget) and for this kind of network (its sizes).
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from tables import ROOT, commit

from sdseg_monai.data import read_datalist
from sdseg_monai.weights import load_weights, read_tensors

BUNDLE = ROOT / "bundles" / "sdseg"
STAMP = "trained_as.txt"


@dataclass(frozen=True)
class Study:
    """What is compared, on which data, and where its files go."""

    name: str
    experiments: dict[str, list[str]]  # configs by name of the experiment, without the last one
    settings: dict[str, dict[str, Any]]  # that last one's content
    dataset_dir: Path
    datalist: Path
    folder: Path
    options: dict[str, Any]  # top-level keys for all, as from the command line

    def configs(self, experiment: str) -> list[str]:
        """Return the chain of configs of ``experiment``."""
        return [*self.experiments[experiment], str(self.run_folder(experiment) / "settings.json")]

    def write_settings(self) -> None:
        """Write the last part of each experiment's chain to its folder, where the bundle's command can read it."""
        for experiment, settings in self.settings.items():
            folder = self.run_folder(experiment)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "settings.json").write_text(json.dumps(settings, indent=1))

    def run_folder(self, experiment: str) -> Path:
        """Return the folder of ``experiment``."""
        return self.folder / re.sub(r"\W+", "_", experiment).strip("_").lower()

    def parser(self, experiment: str) -> ConfigParser:
        """Return the parsed chain of ``experiment``, its weights not loaded."""
        parser = ConfigParser()
        parser.read_config(self.configs(experiment))
        for key, value in self.overrides().items():
            parser[key] = value
        return parser

    def overrides(self) -> dict[str, Any]:
        """Return the top-level keys that say where things are, and the study's options."""
        paths = {"bundle_root": BUNDLE, "dataset_dir": self.dataset_dir, "datalist": self.datalist}
        return {**{key: str(path) for key, path in paths.items()}, **self.options}

    def trained(self, experiment: str) -> ConfigParser:
        """Return the parsed chain of ``experiment``, with the weights that its training chose, in evaluation mode."""
        self.check_trained_as_configured(experiment)
        parser = self.parser(experiment)
        network = parser.get_parsed_content("network")
        load_weights(network, self.run_folder(experiment) / "model.pt")
        network.eval()
        return parser

    def items(self, split: str) -> list[dict[str, str]]:
        """Return the cases of ``split``."""
        return read_datalist(self.datalist, split, self.dataset_dir, "")

    def config_hash(self, experiment: str) -> str:
        """Return a hash of everything that ``experiment`` is configured by."""
        parser = ConfigParser()
        parser.read_config(self.configs(experiment))
        options = {key: Path(value).name if isinstance(value, str) else value for key, value in self.options.items()}
        content = {**parser.get(), **options}
        return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:12]

    def stamp(self, experiment: str) -> str:
        """Return what the weights of ``experiment`` depend on: the hashes of its configuration and of the split."""
        return f"configuration {self.config_hash(experiment)}, split {self.manifest()}"

    def check_trained_as_configured(self, experiment: str) -> None:
        """End with one line if the weights in the experiment's folder are of another configuration or split."""
        path = self.run_folder(experiment) / STAMP
        found = path.read_text().splitlines()[0] if path.is_file() else "nothing known"
        if found != self.stamp(experiment):
            raise SystemExit(
                f"{path}: trained with {found}; now it is {self.stamp(experiment)}: give the study another "
                "--output, or remove the folder to train anew"
            )

    def manifest(self) -> str:
        """Return the name of the split, as its datalist has it, and a hash."""
        content = self.datalist.read_bytes()
        return f"{json.loads(content).get('name', self.datalist.name)}, {hashlib.sha256(content).hexdigest()[:12]}"

    def seed(self) -> int:
        """Return the seed of the trainings, which all share."""
        return self.parser(next(iter(self.experiments)))["seed"]


def read_study(
    path: Path, dataset_dir: Path, datalist: Path, folder: Path, options: dict[str, Any], only: Sequence[str] | None
) -> Study:
    """Read a study file; ``only`` names the experiments to keep, None keeps all."""
    content = json.loads(path.read_text())
    unknown = set(only or ()) - set(content["experiments"])
    if unknown:
        raise SystemExit(f"{sorted(unknown)[0]!r}: no such experiment, expected {', '.join(content['experiments'])}")
    chosen = {k: v for k, v in content["experiments"].items() if only is None or k in only}
    configs = BUNDLE / "configs"
    study = Study(
        name=content["name"],
        experiments={
            name: [str(configs / f"{part}.json") for part in ("train", content["dataset"], *overlays)]
            for name, (_, *overlays) in chosen.items()
        },
        settings={name: {**content["budget"], **content["networks"][kind]} for name, (kind, *_) in chosen.items()},
        dataset_dir=dataset_dir.resolve(),
        datalist=datalist.resolve(),
        folder=folder.resolve(),
        options=options,
    )
    folders = [study.run_folder(experiment) for experiment in content["experiments"]]
    if len(set(folders)) < len(folders) or study.folder in folders:
        raise SystemExit(f"{path}: two experiments would share a folder, or one has no letters: {sorted(folders)}")
    study.write_settings()
    return study


def train(study: Study, experiment: str) -> None:
    """Run the bundle's training command for ``experiment``, from its last checkpoint if there is one."""
    folder = study.run_folder(experiment)
    epochs = study.parser(experiment)["epochs"]
    checkpoint = folder / "checkpoint.pt"
    if checkpoint.is_file():
        study.check_trained_as_configured(experiment)
    else:
        (folder / STAMP).write_text(f"{study.stamp(experiment)}\ncommit {commit()}\n")
    if checkpoint.is_file() and (folder / "model.pt").is_file() and read_tensors(checkpoint)["epoch"] >= epochs:
        return
    options = {**study.overrides(), "ckpt_dir": folder, "log_dir": folder / "logs"}
    command = [sys.executable, "-m", "monai.bundle", "run", "training", "--config_file", str(study.configs(experiment))]
    command += [text for key, value in options.items() for text in (f"--{key}", str(value))]
    with (folder / "training.log").open("a") as log:
        code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT).returncode
    if code:
        last = (folder / "training.log").read_text().strip().splitlines()[-1]
        raise SystemExit(f"{experiment}: training ended with exit code {code}: {last}")


def segment(parser: ConfigParser, case: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the score [X, Y, Z] of a case of :func:`load_volume`, on the CPU."""
    network, inferer = parser.get_parsed_content("network"), parser.get_parsed_content("validate#inferer")
    device = parser.get_parsed_content("device")
    return inferer(case["image"][None].to(device), network)[0, 0].cpu()


def load_volume(parser: ConfigParser, item: dict[str, str]) -> dict[str, torch.Tensor]:
    """Return ``image`` and ``label`` of a case as the network's bundle prepares them for validation."""
    return parser.get_parsed_content("validate#preprocessing")(item)
