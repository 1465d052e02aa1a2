"""A study: experiments that share data, split, budget and metric, and differ in the overlays that they chain.

A study is a JSON file; an experiment is ``train.json``, the dataset's overlay, the experiment's own, and last what the
study sets for all (the budget) and for this kind of network (its sizes).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from tables import ROOT

from sdseg_monai.data import read_datalist
from sdseg_monai.weights import load_weights, read_tensors

BUNDLE = ROOT / "bundles" / "sdseg"


@dataclass(frozen=True)
class Study:
    """What is compared, on which data, and where its files go."""

    name: str
    manifest: str
    experiments: dict[str, list[str]]  # configs by name of the experiment, without the last one
    settings: dict[str, dict[str, Any]]  # that last one's content
    dataset_dir: Path
    datalist: Path
    folder: Path
    options: dict[str, Any]  # top-level keys for all, as from the command line

    def configs(self, experiment: str) -> list[str]:
        """Return the chain of configs of ``experiment``; its last part is written to the experiment's folder."""
        folder = self.run_folder(experiment)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "settings.json").write_text(json.dumps(self.settings[experiment], indent=1))
        return [*self.experiments[experiment], str(folder / "settings.json")]

    def run_folder(self, experiment: str) -> Path:
        """Return the folder of ``experiment``."""
        return self.folder / re.sub(r"\W+", "_", experiment).strip("_").lower()

    def parser(self, experiment: str) -> ConfigParser:
        """Return the parsed chain of ``experiment``, its weights not loaded."""
        parser = ConfigParser()
        parser.read_config(self.configs(experiment))
        paths = {"bundle_root": BUNDLE, "dataset_dir": self.dataset_dir, "datalist": self.datalist}
        for key, value in {**{key: str(path) for key, path in paths.items()}, **self.options}.items():
            parser[key] = value
        return parser

    def trained(self, experiment: str) -> ConfigParser:
        """Return the parsed chain of ``experiment``, with the weights that its training chose, in evaluation mode."""
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
        content = {**parser.get(), **self.options}
        return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:12]

    def manifest_hash(self) -> str:
        """Return a hash of the split."""
        return hashlib.sha256(self.datalist.read_bytes()).hexdigest()[:12]


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
    return Study(
        name=content["name"],
        manifest=content["manifest"],
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


def train(study: Study, experiment: str) -> None:
    """Run the bundle's training command for ``experiment``, from its last checkpoint if there is one."""
    folder = study.run_folder(experiment)
    epochs = study.parser(experiment)["epochs"]
    checkpoint = folder / "checkpoint.pt"
    if checkpoint.is_file() and (folder / "model.pt").is_file() and read_tensors(checkpoint)["epoch"] >= epochs:
        return
    options = {
        "bundle_root": BUNDLE,
        "dataset_dir": study.dataset_dir,
        "datalist": study.datalist,
        "ckpt_dir": folder,
        "log_dir": folder / "logs",
        **study.options,
    }
    command = [sys.executable, "-m", "monai.bundle", "run", "training", "--config_file", str(study.configs(experiment))]
    command += [text for key, value in options.items() for text in (f"--{key}", str(value))]
    with (folder / "training.log").open("a") as log:
        code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env=dict(os.environ)).returncode
    if code:
        last = (folder / "training.log").read_text().strip().splitlines()[-1]
        raise SystemExit(f"{experiment}: training ended with exit code {code}: {last}")


def load_volume(parser: ConfigParser, item: dict[str, str]) -> dict[str, torch.Tensor]:
    """Return ``image`` and ``label`` of a case as the network's bundle prepares them for validation."""
    return parser.get_parsed_content("validate#preprocessing")(item)
