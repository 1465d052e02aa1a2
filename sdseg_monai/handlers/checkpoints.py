"""The files that a training writes: its checkpoint, to resume it, and the network's weights."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from sdseg_monai.errors import InputError
from sdseg_monai.handlers.average import WeightAverage
from sdseg_monai.handlers.contents import check_contents, check_position, epoch_contents
from sdseg_monai.handlers.schedules import load_schedules
from sdseg_monai.io.files import check_folder
from sdseg_monai.networks import SDSeg
from sdseg_monai.weights import read_tensors, save_network, save_tensors

logger = logging.getLogger(__name__)

OPTIONS_KEY = "meaning"  # of the networks' training options; checkpoints of version 0.4.0 have this key
CONTENTS_KEY = "epoch_contents"  # checkpoints of version 0.4.0 lack it


class TrainingCheckpoint:
    """Write the whole state of the training after each epoch, atomically; load it when the training starts.

    All randomness is a function of (seed, epoch, draw). A training that was stopped at any step and started again with
    the same command repeats the epoch in which it was stopped, and ends with the weights of an uninterrupted one.

    A training goes on only with the same epochs: the same batches of the same cases, size, seed and so on, see
    :func:`sdseg_monai.handlers.contents.epoch_contents`. The number of epochs and the options of optimizer and learning
    rate may change: the present ones count, and the log says so. The folder is made at the start, if it is missing, and
    what a killed training was writing there is removed.

    Args:
        path: the file.
        objects: objects with ``state_dict`` and ``load_state_dict``, by name: networks, optimizers, learning rate
            schedulers, averages.
        evaluator: its best metric is stored as well; None if the training does not validate.

    Raises:
        InputError: on :meth:`attach`, if the training data are too few for one batch; when the training starts, if the
            checkpoint is of another training or its folder cannot be written; when it ends, if no validation took
            place, so that no model was chosen.
    """

    def __init__(
        self,
        path: str | Path,
        objects: dict[str, nn.Module | Optimizer | LRScheduler | WeightAverage],
        evaluator: Engine | None = None,
    ) -> None:
        self.path = Path(path)
        self.objects = objects
        self.evaluator = evaluator

    def attach(self, engine: Engine) -> None:
        """Attach to the trainer: after the validation, before the handlers that need the loaded state."""
        if engine.state.epoch_length == 0:
            raise InputError("the training data are fewer than batch_size, which makes no batch: set it lower")
        engine.add_event_handler(Events.STARTED, self.load)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)
        engine.add_event_handler(Events.COMPLETED, self.check)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self.stop)

    def stop(self, engine: Engine, error: BaseException) -> None:
        """Raise ``error`` before MONAI's StatsHandler, attached later, logs a user's mistake with its traceback."""
        raise error

    def load(self, engine: Engine) -> None:
        """Load the checkpoint if there is one.

        Raises:
            InputError: the file cannot be read, or is of another training, or the folder cannot be written.
        """
        check_folder(self.path.parent)
        if not self.path.is_file():
            return
        state = read_tensors(self.path)
        steps = {k: v for k, v in self.objects.items() if isinstance(v, Optimizer | LRScheduler)}
        try:
            self._check(state, engine)
            for name, item in self.objects.items():
                if name not in steps:
                    item.load_state_dict(state[name])
            changes = load_schedules(steps, state)
            engine.state.epoch, engine.state.iteration = state["epoch"], state["iteration"]
            if self.evaluator is not None:
                self.evaluator.state.best_metric = state["best_metric"]
                self.evaluator.state.best_metric_epoch = state["best_metric_epoch"]
        except (KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(
                f"{self.path}: is of another training ({reason}); start it with the values of before to go on, remove "
                "the file to start anew, or set another --ckpt_dir"
            ) from error
        if changes:
            logger.warning("%s: goes on with other options: %s", self.path, ", ".join(changes))
        epochs, max_epochs = engine.state.epoch, engine.state.max_epochs
        if max_epochs is not None and epochs >= max_epochs:
            logger.warning(
                "nothing is trained: %d epochs are done, --epochs is %d; set a higher one to go on from %s",
                epochs,
                max_epochs,
                self.path,
            )
        else:
            logger.info("continuing after epoch %d from %s", epochs, self.path)

    def _check(self, state: dict[str, Any], engine: Engine) -> None:
        """Raise ValueError or KeyError unless ``state`` is of a training of the same networks and epochs."""
        for name, item in self.objects.items():
            options, saved_options = _training_options(item), state[OPTIONS_KEY].get(name)
            if options != saved_options:
                raise ValueError(f"{name} was trained with {saved_options}, now it has {options}")
        check_contents(state.get(CONTENTS_KEY, {}), epoch_contents(engine, self.evaluator, self.objects))
        check_position(state["epoch"], state["iteration"], engine)

    def save(self, engine: Engine) -> None:
        """Write the state at the end of an epoch."""
        if getattr(engine.state, "rank", 0) != 0:
            return
        state: dict[str, Any] = {name: item.state_dict() for name, item in self.objects.items()}
        state[OPTIONS_KEY] = {name: _training_options(item) for name, item in self.objects.items()}
        state[CONTENTS_KEY] = epoch_contents(engine, self.evaluator, self.objects)
        state["epoch"], state["iteration"] = engine.state.epoch, engine.state.iteration
        if self.evaluator is not None:
            state["best_metric"] = float(self.evaluator.state.best_metric)
            state["best_metric_epoch"] = self.evaluator.state.best_metric_epoch
        save_tensors(self.path, state)

    def check(self, engine: Engine) -> None:
        """Raise :class:`InputError` if the training ended without a validation."""
        if self.evaluator is not None and self.evaluator.state.best_metric_epoch < 0:
            raise InputError(
                f"no model was chosen, because no validation took place in {engine.state.max_epochs} epochs: set "
                f"--val_interval to at most --epochs and a higher --epochs to go on from {self.path}"
            )


Checkpoint = TrainingCheckpoint  # its name in bundles of version 0.4.0


def _training_options(item: Any) -> dict[str, str] | None:
    return item.training_options if isinstance(item, SDSeg) else None


class BestModel:
    """Write the weights of the evaluated network, and what they are for, whenever the key metric is the best so far.

    Args:
        path: the file, a bundle's ``models/model.pt``.
        network: network that the evaluator evaluates.
    """

    def __init__(self, path: str | Path, network: nn.Module) -> None:
        self.path = Path(path)
        self.network = network

    def attach(self, engine: Engine) -> None:
        """Attach to the evaluator."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Write the file if this evaluation was the best."""
        state = engine.state
        if getattr(state, "rank", 0) == 0 and state.best_metric_epoch == state.epoch:
            save_network(self.network, self.path, getattr(engine, "inferer", None))
            logger.info("%s: epoch %d, %s %.4f", self.path, state.epoch, state.key_metric_name, state.best_metric)


class LastModel(BestModel):
    """Write the state dict of the network after the last epoch, for a training that does not validate.

    Args:
        path: the file.
        network: network that is trained.
        half: write float16. A distilled decoder stays in float32: its encoder must be its teacher's, bit for bit.
    """

    def __init__(self, path: str | Path, network: nn.Module, half: bool = False) -> None:
        super().__init__(path, network)
        self.half = half

    def attach(self, engine: Engine) -> None:
        """Attach to the trainer."""
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Write the file."""
        if getattr(engine.state, "rank", 0) == 0:
            save_network(self.network, self.path, half=self.half)
