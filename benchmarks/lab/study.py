"""A study: experiments that share data, split, budget and metric, and differ in the overlays that they chain.

A study is a JSON file; an experiment is ``train.json`` of the study's bundle, the dataset's overlay if it names one,
the experiment's own, and last what the study sets for all (the budget) and for this kind of network (its sizes). An
overlay is looked for in the study's bundle, then in the sdseg bundle. A study that names ``seeds`` runs each experiment
once with each of them. It may state what was planned: ``images``, seen by each network in its training, one number or
one for each kind of network; and ``cpu_hours`` for all trainings together. ``"show_cases": false`` is for data whose
terms do not let a document show them.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from tqdm import tqdm

from lab.tables import ROOT, commit
from sdseg_monai.data import read_datalist
from sdseg_monai.weights import load_weights, read_tensors

BUNDLES = ROOT / "bundles"
OVERLAYS = BUNDLES / "sdseg" / "configs"
STAMP = "trained_as.txt"


@dataclass(frozen=True)
class Study:
    """What is compared, on which data, and where its files go."""

    name: str
    bundle: Path
    runs: dict[str, list[str]]  # of each experiment, one per seed; all that follow are by run
    experiments: dict[str, list[str]]  # configs, without the last one
    settings: dict[str, dict[str, Any]]  # that last one's content
    dataset_dir: Path
    datalist: Path
    folder: Path
    options: dict[str, Any]  # top-level keys for all, as from the command line
    images: dict[str, int]  # stated, by run; empty where the study states none
    cpu_hours: float | None  # planned for all runs together
    show_cases: bool  # whether a report may show images of the data

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
        paths = {"bundle_root": self.bundle, "dataset_dir": self.dataset_dir, "datalist": self.datalist}
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

    def trained_at(self, experiment: str) -> str:
        """Return the commit at which the training of ``experiment`` was started."""
        return (self.run_folder(experiment) / STAMP).read_text().splitlines()[1].removeprefix("commit ")

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


def parse_options(pairs: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Return options by key, each the number or list that its text writes, as MONAI's command line reads it."""
    options: dict[str, Any] = {}
    for key, text in pairs:
        try:
            options[key] = ast.literal_eval(text)
        except (SyntaxError, ValueError):
            options[key] = text
    return options


def add_study_options(parser: argparse.ArgumentParser, datalist_required: bool = False) -> None:
    """Add what a command needs to find, train and report a study."""
    parser.add_argument("--study", type=Path, required=True, help="JSON file of the study")
    parser.add_argument("--dataset_dir", type=Path, required=True)
    default = None if datalist_required else "default: the bundle's"
    parser.add_argument("--datalist", type=Path, required=datalist_required, help=default)
    parser.add_argument("--output", type=Path, required=True, help="folder for weights, tables, figures and report")
    parser.add_argument("--only", nargs="+", metavar="EXPERIMENT", help="default: all of the study")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at once, each with one thread if several")
    parser.add_argument("--option", nargs=2, action="append", default=[], metavar=("KEY", "VALUE"), help="config key")
    parser.add_argument("--section", type=Path, help="document in which the section of the study becomes the report")


def open_study(options: argparse.Namespace) -> Study:
    """Return the study of a command's :func:`add_study_options`."""
    for path in (options.study, *([options.datalist] if options.datalist else [])):
        if not path.is_file():
            raise SystemExit(f"{path}: no such file")
    return read_study(
        *(options.study, options.dataset_dir, options.datalist, options.output),
        parse_options(options.option),
        options.only,
    )


def read_study(
    path: Path,
    dataset_dir: Path,
    datalist: Path | None,
    folder: Path,
    options: dict[str, Any],
    only: Sequence[str] | None,
) -> Study:
    """Read a study file; without ``datalist`` it is the bundle's; ``only`` names the experiments to keep, else all."""
    content = json.loads(path.read_text())
    unknown = set(only or ()) - set(content["experiments"])
    if unknown:
        raise SystemExit(f"{sorted(unknown)[0]!r}: no such experiment, expected {', '.join(content['experiments'])}")
    bundle = BUNDLES / content.get("bundle", "sdseg")
    base = [bundle / "configs" / "train.json"]
    if "dataset" in content:
        base.append(find_overlay(bundle, content["dataset"]))
    stated = content.get("images", {})
    runs, experiments, settings, images = {}, {}, {}, {}
    for name, (kind, *overlays) in content["experiments"].items():
        seeds = {f"{name}, seed {seed}": {"seed": seed} for seed in content.get("seeds", [])} or {name: {}}
        runs[name] = list(seeds)
        for run, seed in seeds.items():
            experiments[run] = [*map(str, base), *(str(find_overlay(bundle, overlay)) for overlay in overlays)]
            settings[run] = {**content["budget"], **content["networks"][kind], **seed}
            images[run] = stated.get(kind) if isinstance(stated, dict) else stated
    missing = {config for configs in experiments.values() for config in configs if not Path(config).is_file()}
    if missing:
        raise SystemExit(f"{path}: {min(missing)}: no such file")
    chosen = [run for name in runs if only is None or name in only for run in runs[name]]
    study = Study(
        name=content["name"],
        bundle=bundle,
        runs={name: names for name, names in runs.items() if names[0] in chosen},
        experiments={run: experiments[run] for run in chosen},
        settings={run: settings[run] for run in chosen},
        dataset_dir=dataset_dir.resolve(),
        datalist=(datalist or bundle / "configs" / "datalist.json").resolve(),
        folder=folder.resolve(),
        options=options,
        images={run: number for run in chosen if (number := images[run]) is not None},
        cpu_hours=content.get("cpu_hours"),
        show_cases=content.get("show_cases", True),
    )
    folders = [study.run_folder(run) for run in experiments]
    if len(set(folders)) < len(folders) or study.folder in folders:
        raise SystemExit(f"{path}: two experiments would share a folder, or one has no letters: {sorted(folders)}")
    study.write_settings()
    return study


def find_overlay(bundle: Path, name: str) -> Path:
    """Return the file of an overlay: the bundle's own where it has one of this name, else the sdseg bundle's."""
    own = bundle / "configs" / f"{name}.json"
    return own if own.is_file() else OVERLAYS / f"{name}.json"


def train_all(study: Study, jobs: int = 1) -> list[str]:
    """Train what is not trained yet, ``jobs`` runs at once; returns why runs failed, one line each.

    Each of several at once has one thread, and so has each run of a study that counts CPU hours.
    """
    for run in study.experiments:
        if (study.run_folder(run) / "checkpoint.pt").is_file():
            study.check_trained_as_configured(run)
    failures = []
    threads = None if jobs == 1 and study.cpu_hours is None else 1
    with ThreadPoolExecutor(jobs) as pool:
        pending = {pool.submit(train, study, run, threads) for run in study.experiments}
        for done in tqdm(as_completed(pending), desc="training", total=len(pending)):
            failure = done.result()
            if failure:
                tqdm.write(failure, file=sys.stderr)
                failures.append(failure)
    return failures


def train(study: Study, experiment: str, threads: int | None = None) -> str | None:
    """Run the bundle's training command for ``experiment``, from its last checkpoint; returns why it failed, if so."""
    folder = study.run_folder(experiment)
    checkpoint = folder / "checkpoint.pt"
    if not checkpoint.is_file():
        (folder / STAMP).write_text(f"{study.stamp(experiment)}\ncommit {commit()}\n")
    elif is_trained(study, experiment):
        return None
    options = {**study.overrides(), "ckpt_dir": folder, "log_dir": folder / "logs"}
    command = [sys.executable, "-m", "monai.bundle", "run", "training", "--config_file", str(study.configs(experiment))]
    command += [text for key, value in options.items() for text in (f"--{key}", str(value))]
    environment = os.environ if threads is None else {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with (folder / "training.log").open("a") as log:
        code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env=environment).returncode
    return f"{experiment}: training ended with exit code {code}: {last_words(study, experiment)}" if code else None


def last_words(study: Study, experiment: str) -> str | None:
    """Return the last error in what the training of ``experiment`` wrote, else its last line; None before it began."""
    path = study.run_folder(experiment) / "training.log"
    if not path.is_file():
        return None
    lines = path.read_text().strip().splitlines() or ["no output"]
    return next((line for line in reversed(lines) if "error" in line.lower()), lines[-1]).strip()


def is_trained(study: Study, experiment: str) -> bool:
    """Whether the training of ``experiment`` has run all its epochs."""
    folder = study.run_folder(experiment)
    if not ((folder / "checkpoint.pt").is_file() and (folder / "model.pt").is_file()):
        return False
    return read_tensors(folder / "checkpoint.pt")["epoch"] >= study.parser(experiment)["epochs"]


def segment(parser: ConfigParser, case: dict[str, MetaTensor]) -> torch.Tensor:
    """Return the class [X, Y, Z] of each voxel of a case of :func:`load_volume`, on the CPU."""
    network, inferer = parser.get_parsed_content("network"), parser.get_parsed_content("validate#inferer")
    device = parser.get_parsed_content("device")
    score = inferer(case["image"][None].to(device), network)[0].cpu()
    return parser.get_parsed_content("validate#postprocessing")({"pred": score})["pred"][0].as_subclass(torch.Tensor)


def load_volume(parser: ConfigParser, item: dict[str, str]) -> dict[str, MetaTensor]:
    """Return ``image`` and ``label`` of a case as the network's bundle prepares them for validation."""
    return parser.get_parsed_content("validate#preprocessing")(item)
