"""A study: experiments with the same data, split, budget and metric, and different overlays.

A study is a JSON file. An experiment is a chain of configs: ``train.json`` of the study's bundle, the overlay of the
dataset if there is one, the overlays of the experiment, and last the settings of the study: the budget of all
experiments and the sizes of this kind of network. Overlays are in the study's bundle or else in the sdseg bundle.

If a study has ``seeds``, each experiment is run once with each seed. A study may state a plan: ``images``, the number
of images that each network sees in its training, one number or one for each kind of network; and ``cpu_hours`` of all
trainings together. ``"show_cases": false`` is for data whose terms do not allow to show them in a document.

A study of the paper's experiments names the ``main`` one, of which cost, stability and figures are, and the one
``without`` the latent loss, with which a figure compares it; the ``parts`` of the report; the number of ``steps`` of a
training, by which its hours are estimated before there are data; and what of the paper it ``cites``, with the paper's
name of each experiment's network in ``cited_as``.

What several studies share stands in another file, which they name as their ``base``, relative to their own. A study
takes over every key that it does not have, in its ``budget`` too; its ``experiments`` are then a list of names from the
base's.
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
    """The experiments of a study, their data, and the folder of their files.

    Attributes:
        name: name of the study.
        bundle: folder of the bundle.
        runs: names of the runs of each experiment, one for each seed. The dictionaries below are by these names.
        experiments: configs of each run, without the last one.
        settings: content of the last config of each run.
        dataset_dir: folder that the paths in the datalist are relative to.
        datalist: file of the datalist.
        folder: folder for weights, tables, figures and report.
        options: top-level keys for all runs, in their last config: some runs may have no other use for a key.
        images: planned number of images that each run sees; empty if the study has no plan.
        cpu_hours: planned hours of all runs together; None if there is no plan.
        show_cases: whether a report may show images of the data.
        main: experiment of the cost, the stability and the figures; None where there is none.
        without: experiment that a figure compares with it; None where there is none.
        parts: parts of the report; None for all.
        steps: of each training, about; None where they are known from the data alone.
        cites: dataset in the paper's tables whose numbers a report cites; None where there is none.
        cited_as: the paper's names of the networks by experiment.
    """

    name: str
    bundle: Path
    runs: dict[str, list[str]]
    experiments: dict[str, list[str]]
    settings: dict[str, dict[str, Any]]
    dataset_dir: Path
    datalist: Path
    folder: Path
    options: dict[str, Any]
    images: dict[str, int]
    cpu_hours: float | None
    show_cases: bool
    main: str | None
    without: str | None
    parts: list[str] | None
    steps: int | None
    cites: str | None
    cited_as: dict[str, str]

    def configs(self, experiment: str) -> list[str]:
        """Return the chain of configs of ``experiment``."""
        return [*self.experiments[experiment], str(self.run_folder(experiment) / "settings.json")]

    def write_settings(self) -> None:
        """Write the last config of each run, its settings and the study's options, where MONAI's command reads it."""
        for experiment, settings in self.settings.items():
            folder = self.run_folder(experiment)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "settings.json").write_text(json.dumps({**settings, **self.options}, indent=1))

    def run_folder(self, experiment: str) -> Path:
        """Return the folder of ``experiment``."""
        return self.folder / re.sub(r"\W+", "_", experiment).strip("_").lower()

    def parser(self, experiment: str) -> ConfigParser:
        """Return the parsed configs of ``experiment``, without loading weights."""
        parser = ConfigParser()
        parser.read_config(self.configs(experiment))
        for key, value in self.overrides().items():
            parser[key] = value
        return parser

    def overrides(self) -> dict[str, Any]:
        """Return the top-level keys that the command line of each run changes: the folders and files."""
        paths = {"bundle_root": self.bundle, "dataset_dir": self.dataset_dir, "datalist": self.datalist}
        return {key: str(path) for key, path in paths.items()}

    def trained(self, experiment: str) -> ConfigParser:
        """Return the parsed configs of ``experiment``, with the best weights of its training, in evaluation mode."""
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
        """Return a hash of all configs and options of ``experiment``."""
        parser = ConfigParser()
        parser.read_config(self.configs(experiment))
        options = {key: Path(value).name if isinstance(value, str) else value for key, value in self.options.items()}
        content = {**parser.get(), **options}
        return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:12]

    def stamp(self, experiment: str) -> str:
        """Return a text with all that the weights depend on: the hashes of the configuration and of the split."""
        return f"configuration {self.config_hash(experiment)}, split {self.manifest()}"

    def trained_at(self, experiment: str) -> str:
        """Return the commit at which the training of ``experiment`` was started."""
        return (self.run_folder(experiment) / STAMP).read_text().splitlines()[1].removeprefix("commit ")

    def check_trained_as_configured(self, experiment: str) -> None:
        """Raise :class:`SystemExit` if the weights in the folder belong to another configuration or split."""
        path = self.run_folder(experiment) / STAMP
        stamp = path.read_text().splitlines()[0] if path.is_file() else "nothing known"
        if stamp != self.stamp(experiment):
            raise SystemExit(
                f"{path}: trained with {stamp}; now it is {self.stamp(experiment)}: give the study another "
                "--output, or remove the folder to train anew"
            )

    def manifest(self) -> str:
        """Return the name of the split, from its datalist, and the hash of that file."""
        content = self.datalist.read_bytes()
        return f"{json.loads(content).get('name', self.datalist.name)}, {hashlib.sha256(content).hexdigest()[:12]}"

    def seed(self) -> int:
        """Return the seed of the trainings, which is the same for all."""
        return self.parser(next(iter(self.experiments)))["seed"]


def parse_options(pairs: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Return options by key, their texts read as numbers or lists, as on MONAI's command line."""
    options: dict[str, Any] = {}
    for key, text in pairs:
        try:
            options[key] = ast.literal_eval(text)
        except (SyntaxError, ValueError):
            options[key] = text
    return options


def add_study_options(
    parser: argparse.ArgumentParser, datalist_required: bool = False, data_required: bool = True
) -> None:
    """Add the options of a command that trains and reports a study, or, without data, counts its networks."""
    parser.add_argument("--study", type=Path, required=True, help="JSON file of the study")
    parser.add_argument("--dataset_dir", type=Path, required=data_required)
    default = None if datalist_required else "default: the bundle's"
    parser.add_argument("--datalist", type=Path, required=data_required and datalist_required, help=default)
    output_help = "folder for weights, tables, figures and report"
    parser.add_argument("--output", type=Path, required=data_required, help=output_help)
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
    """Read a study file.

    Args:
        path: JSON file.
        dataset_dir: folder that the paths in the datalist are relative to.
        datalist: file of the datalist; None for the bundle's.
        folder: folder for weights, tables, figures and report.
        options: top-level keys for all runs.
        only: names of the experiments to run; None for all.

    Raises:
        SystemExit: the file cannot be used.
    """
    content = read_content(path)
    unknown_names = set(only or ()) - set(content["experiments"])
    if unknown_names:
        expected = ", ".join(content["experiments"])
        raise SystemExit(f"{sorted(unknown_names)[0]!r}: no such experiment, expected {expected}")
    bundle = BUNDLES / content.get("bundle", "sdseg")
    base = [bundle / "configs" / "train.json"]
    if "dataset" in content:
        base.append(find_overlay(bundle, content["dataset"]))
    plan = content.get("images", {})
    runs, experiments, settings, images = {}, {}, {}, {}
    for name, (kind, *overlays) in content["experiments"].items():
        seeds = {f"{name}, seed {seed}": {"seed": seed} for seed in content.get("seeds", [])} or {name: {}}
        runs[name] = list(seeds)
        for run, seed in seeds.items():
            experiments[run] = [*map(str, base), *(str(find_overlay(bundle, overlay)) for overlay in overlays)]
            settings[run] = {**content["budget"], **content["networks"][kind], **seed}
            images[run] = plan.get(kind) if isinstance(plan, dict) else plan
    missing_files = {config for configs in experiments.values() for config in configs if not Path(config).is_file()}
    if missing_files:
        raise SystemExit(f"{path}: {min(missing_files)}: no such file")
    chosen_runs = [run for name in runs if only is None or name in only for run in runs[name]]
    study = Study(
        name=content["name"],
        bundle=bundle,
        runs={name: names for name, names in runs.items() if names[0] in chosen_runs},
        experiments={run: experiments[run] for run in chosen_runs},
        settings={run: settings[run] for run in chosen_runs},
        dataset_dir=dataset_dir.resolve(),
        datalist=(datalist or bundle / "configs" / "datalist.json").resolve(),
        folder=folder.resolve(),
        options=options,
        images={run: number for run in chosen_runs if (number := images[run]) is not None},
        cpu_hours=content.get("cpu_hours"),
        show_cases=content.get("show_cases", True),
        **{key: content.get(key) for key in ("main", "without", "parts", "steps", "cites")},
        cited_as=content.get("cited_as", {}),
    )
    folders = [study.run_folder(run) for run in experiments]
    if len(set(folders)) < len(folders) or study.folder in folders:
        raise SystemExit(f"{path}: two experiments would share a folder, or one has no letters: {sorted(folders)}")
    study.write_settings()
    return study


def read_content(path: Path) -> dict[str, Any]:
    """Return what a study file says, with what it takes over from its base, if it has one.

    Raises:
        SystemExit: it picks an experiment that the base lacks.
    """
    content = json.loads(path.read_text())
    if "base" not in content:
        return content
    base = read_content(path.parent / content["base"])
    missing_names = set(content["experiments"]) - set(base["experiments"])
    if missing_names:
        raise SystemExit(f"{path}: {min(missing_names)!r} is no experiment of {content['base']}")
    picked_experiments = {name: base["experiments"][name] for name in content["experiments"]}
    budget = {**base.get("budget", {}), **content.get("budget", {})}
    return {**base, **content, "budget": budget, "experiments": picked_experiments}


def find_overlay(bundle: Path, name: str) -> Path:
    """Return the file of an overlay: from the study's bundle if it has one of this name, else from the sdseg bundle."""
    file = bundle / "configs" / f"{name}.json"
    return file if file.is_file() else OVERLAYS / f"{name}.json"


def train_all(study: Study, jobs: int = 1) -> list[str]:
    """Train all runs that are not trained yet; return one line for each run that failed, with the reason.

    Args:
        study: the study.
        jobs: number of runs at the same time. If there are several, or if the study counts CPU hours, each run has one
            thread.
    """
    for run in study.experiments:
        if (study.run_folder(run) / "checkpoint.pt").is_file():
            study.check_trained_as_configured(run)
    failures = []
    threads = None if jobs == 1 and study.cpu_hours is None else 1
    with ThreadPoolExecutor(jobs) as pool:
        futures = {pool.submit(train, study, run, threads) for run in study.experiments}
        for future in tqdm(as_completed(futures), desc="training", total=len(futures)):
            failure = future.result()
            if failure:
                tqdm.write(failure, file=sys.stderr)
                failures.append(failure)
    return failures


def train(study: Study, experiment: str, threads: int | None = None) -> str | None:
    """Run the training of ``experiment`` from its last checkpoint; return the reason if it failed, else None."""
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
    """Return the last error in the log of the training, or else its last line; None if there is no log."""
    path = study.run_folder(experiment) / "training.log"
    if not path.is_file():
        return None
    lines = path.read_text().strip().splitlines() or ["no output"]
    return next((line for line in reversed(lines) if "error" in line.lower()), lines[-1]).strip()


def is_trained(study: Study, experiment: str) -> bool:
    """Tell whether the training of ``experiment`` has run all its epochs."""
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
    """Return ``image`` and ``label`` of a case, after the preprocessing of the validation."""
    return parser.get_parsed_content("validate#preprocessing")(item)
