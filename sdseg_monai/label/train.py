"""Fine-tuning from the viewer: the bundle's own training, on the submitted labels."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from monai.bundle import ConfigWorkflow
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.train import TrainTask
from monailabel.utils.others.generic import device_list, name_to_device

from sdseg_monai.bundle import config_errors, literal_path
from sdseg_monai.data import write_datalist
from sdseg_monai.errors import InputError
from sdseg_monai.io.files import write_atomically
from sdseg_monai.io.temporary import remove_abandoned
from sdseg_monai.label.models import ServedModel
from sdseg_monai.label.names import check_labels
from sdseg_monai.label.options import WEIGHTS, read_option
from sdseg_monai.label.processes import server_runs
from sdseg_monai.label.splits import split_cases

logger = logging.getLogger(__name__)

MAX_EPOCHS = 10
VAL_SPLIT = 0.2
LEARNING_RATE_FACTOR = 0.1  # of the bundle's learning rate, which is for training from random weights
WARMUP_FRACTION = 0.1  # of all steps


class TrainOptions(NamedTuple):
    """The options of one training.

    Attributes:
        device: such as ``cuda:0``.
        epochs: number of epochs.
        val_split: expected fraction of validation cases.
        learning_rate: the largest one, after the warm-up.
        weights: file of the weights from which it starts.
    """

    device: str
    epochs: int
    val_split: float
    learning_rate: float
    weights: Path


class FineTuneTask(TrainTask):
    """Fine-tune a bundle from the weights in service, then put the weights of the best epoch into service.

    MONAI Label runs each training in its own process. A run writes into ``runs/TIME`` of the model's folder: the
    datalist, TensorBoard events in ``logs``, and the best epoch in ``model.pt``. Epoch 0, the weights from which it
    starts, is compared too, so that the new weights are never worse than those on the validation cases. Only a finished
    run replaces the weights in service, atomically; one that is stopped or fails leaves them unchanged.
    """

    def __init__(self, model: ServedModel) -> None:
        super().__init__(model.bundle.description)
        self.model = model
        self.train_config = model.bundle.config_file("train")

    def is_valid(self) -> bool:
        """Tell whether the bundle can be trained."""
        return self.train_config.is_file()

    def config(self) -> dict[str, Any]:
        """Return the options of the viewer's panel with their defaults."""
        return {
            "device": device_list(),
            "max_epochs": MAX_EPOCHS,
            "val_split": VAL_SPLIT,
            "learning_rate": self._learning_rate(),
            "weights": list(WEIGHTS),
        }

    def stats(self) -> dict[str, Any]:
        """Return the metrics, times and numbers of cases of the last finished training; empty where there was none."""
        path = self._stats_file()
        return json.loads(path.read_text()) if path.is_file() else {}

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Fine-tune on the final labels of ``datastore``.

        Args:
            request: ``device``, ``max_epochs``, ``val_split``, ``learning_rate`` and ``weights``, as in the panel.
            datastore: of the images and labels.

        Returns:
            What :meth:`stats` returns from now on.

        Raises:
            InputError: an option cannot be used, there are fewer than two labelled cases, one cannot be read, or its
                label has other classes than the model.
        """
        start_time = time.time()
        options = self.read_options(request)
        with config_errors(self.train_config):
            self.model.bundle.config("train", imports_modules=True)  # refuses code that is not trusted
        check_labels(datastore, self.model.bundle.segments)
        splits = split_cases(datastore.datalist(), options.val_split)
        run = self.model.work_dir / "runs" / time.strftime("%Y%m%d-%H%M%S")
        run.mkdir(parents=True)
        write_datalist(run / "datalist.json", splits, name=self.model.name)
        counts = {name: len(cases) for name, cases in splits.items()}
        logger.info("%s: fine-tuning on %s cases, %s, into %s", self.model.name, counts, options, run)
        overrides = {
            "bundle_root": literal_path(self.model.bundle.root),
            "dataset_dir": str(run),
            "datalist": str(run / "datalist.json"),
            "ckpt_dir": str(run),
            "log_dir": str(run / "logs"),
            "device": f"$torch.device({options.device!r})",
            "epochs": options.epochs,
            "learning_rate": options.learning_rate,
            "warmup_steps": f"$max(1, int({WARMUP_FRACTION} * @epochs * len(@train#dataloader)))",
            "val_interval": 1,
            "train#dataloader#drop_last": False,  # a few slices may not fill a batch
            "load_pretrained": {
                "_target_": "sdseg_monai.weights.load_weights",
                "network": "@network_def",
                "path": str(options.weights),
            },
        }
        for folder in run.parent.glob("*/"):  # left by runs that were stopped
            (folder / "checkpoint.pt").unlink(missing_ok=True)  # it is for resuming, but each run here is a new one
            remove_abandoned(folder)
        try:
            with config_errors(self.train_config):
                metrics = _train(self.train_config, overrides)
        finally:
            (run / "checkpoint.pt").unlink(missing_ok=True)
        if not server_runs():  # it was killed, and nobody would notice new weights in service
            raise InputError(f"the server that started this training is gone; its weights stay in {run}")
        stats = {
            **metrics,
            "total_epochs": options.epochs,
            "start_ts": int(start_time),
            "total_time": round(time.time() - start_time),
            "cases": counts,
            "run": str(run),
        }
        if metrics["epoch"] > 0 or options.weights != self.model.weights:
            write_atomically(self.model.tuned_weights, lambda temporary: shutil.copyfile(run / "model.pt", temporary))
        text = json.dumps(stats, indent=1) + "\n"
        write_atomically(self._stats_file(), lambda temporary: temporary.write_text(text))
        logger.info("%s: %s is in service: %s", self.model.name, self.model.weights, stats)
        return stats

    def read_options(self, request: Mapping[str, Any]) -> TrainOptions:
        """Return a request's options, with the panel's defaults where they are empty.

        Raises:
            InputError: an option cannot be used.
        """
        return TrainOptions(
            device=read_option(request, "device") or name_to_device(None),
            epochs=read_option(request, "max_epochs") or MAX_EPOCHS,
            val_split=read_option(request, "val_split") or VAL_SPLIT,
            learning_rate=read_option(request, "learning_rate") or self._learning_rate(),
            weights=self.model.chosen_weights(read_option(request, "weights")),
        )

    def _stats_file(self) -> Path:
        return self.model.work_dir / "train_stats.json"

    def _learning_rate(self) -> float:
        return LEARNING_RATE_FACTOR * float(self.model.bundle.config("train")["learning_rate"])


def _train(config: Path, overrides: dict[str, Any]) -> dict[str, float]:
    """Validate the weights from which the training starts, train, and return the metrics of both."""
    # no metadata: MONAI would run expressions in them
    workflow = ConfigWorkflow(str(config), meta_file=[], workflow_type="train", logging_file=False, **overrides)
    workflow.initialize()
    evaluator = workflow.parser.get_parsed_content("validate#evaluator")
    evaluator.run()
    state = evaluator.state
    state.best_metric_epoch = 0
    start_metric = float(state.best_metric)
    workflow.run()
    workflow.finalize()
    return {"start_metric": start_metric, "best_metric": float(state.best_metric), "epoch": state.best_metric_epoch}
