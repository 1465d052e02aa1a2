"""A training goes on only with the epochs that it was started with, at its place in the present schedule."""

import math
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from monai.data import CacheDataset
from monai.handlers import StatsHandler
from monai.optimizers import WarmupCosineSchedule
from torch.optim.lr_scheduler import LinearLR, LRScheduler
from torch.utils.data import DataLoader, Dataset

from sdseg_monai.data import DrawSampler, ProceduralMasks
from sdseg_monai.errors import InputError
from sdseg_monai.handlers import TrainingCheckpoint
from sdseg_monai.io.temporary import owned_prefix

CASES = [{"image": f"/data/images/{name}.nii.gz", "label": f"/data/labels/{name}.nii.gz"} for name in "abcdefgh"]
MOVED = [{key: path.replace("/data", "/elsewhere/again") for key, path in case.items()} for case in CASES]
SETTINGS = {"size": [16, 16], "seed": 0, "context_mm": None}


class Cases(Dataset):
    """Two samples a case."""

    def __init__(self, data=CASES, settings=SETTINGS):
        self.data, self.settings = data, settings

    def __len__(self):
        return 2 * len(self.data)

    def __getitem__(self, draw):
        return torch.tensor(draw)


def cosine(optimizer, steps):
    return WarmupCosineSchedule(optimizer, warmup_steps=2, t_total=steps)


class Training:
    """A training of one weight, whose steps it records: (epoch, draws of the batch, learning rate)."""

    def __init__(
        self,
        path,
        data=None,
        epochs=1,
        batch_size=4,
        replicas=1,
        rate=0.1,
        schedule=cosine,
        validation=CASES,
        optimizer=torch.optim.SGD,
    ):
        data = Cases() if data is None else data
        sampler = DrawSampler(data, num_replicas=replicas, rank=0, drop_last=True)
        loader = DataLoader(data, batch_size, sampler=sampler, drop_last=True)
        weight = torch.nn.Linear(1, 1)
        self.optimizer = optimizer(weight.parameters(), lr=rate)
        self.schedule: LRScheduler = schedule(self.optimizer, epochs * len(loader))
        self.steps: list[tuple[int, tuple[int, ...], float]] = []
        evaluator = Engine(lambda engine, batch: None)
        evaluator.state.best_metric, evaluator.state.best_metric_epoch = 0.5, 1
        evaluator.data_loader = DataLoader(CacheDataset(validation, None, progress=False))

        def step(engine, batch):
            draws = tuple(batch.tolist()) if isinstance(batch, torch.Tensor) else ()
            self.steps.append((engine.state.epoch, draws, self.optimizer.param_groups[0]["lr"]))
            self.optimizer.step()
            self.schedule.step()

        self.engine = Engine(step)
        self.engine.add_event_handler(Events.EPOCH_STARTED, lambda engine: sampler.set_epoch(engine.state.epoch))
        objects = {"network": weight, "optimizer": self.optimizer, "lr_scheduler": self.schedule}
        TrainingCheckpoint(path, objects, evaluator).attach(self.engine)
        StatsHandler(iteration_log=False, epoch_log=False).attach(self.engine)
        self.engine.run(loader, max_epochs=epochs)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "models" / "checkpoint.pt"


def test_it_goes_on_with_whole_epochs_wherever_the_data_lie(path):
    whole = Training(path.with_name("whole.pt"), epochs=3)
    Training(path, epochs=1, schedule=lambda optimizer, steps: cosine(optimizer, 12))
    rest = Training(path, epochs=3, data=Cases(MOVED), validation=MOVED)
    assert rest.steps == whole.steps[4:] and [epoch for epoch, _, _ in rest.steps] == [2] * 4 + [3] * 4


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "more of a batch": ({"batch_size": 8}, r"batches an epoch: 4, now 2; samples a batch: 4, now 8"),
    "fewer of a batch": ({"batch_size": 2}, r"batches an epoch: 4, now 8; samples a batch: 4, now 2"),
    "as many batches of fewer": ({"batch_size": 2, "replicas": 2, "data": Cases(CASES[:6])}, r"samples: 16, now 12"),
    "more processes": ({"replicas": 2}, r"samples a batch: 4, now 8"),
    "a case more": (
        {"data": Cases([*CASES, {"image": "/data/images/i.nii.gz", "label": "/data/labels/i.nii.gz"}])},
        r"training cases: 8, now 9 \(1 added, images/i\.nii\.gz labels/i\.nii\.gz\)",
    ),
    "a case less": ({"data": Cases(CASES[:-1])}, r"training cases: 8, now 7 \(1 missing, images/h\.nii\.gz"),
    "another case": (
        {"data": Cases([*CASES[:-1], {"image": "/data/images/x.nii.gz", "label": "/data/labels/x.nii.gz"}])},
        r"training cases: 8, now 8 \(1 added, images/x.* 1 missing, images/h",
    ),
    "another order": ({"data": Cases(CASES[::-1])}, r"training cases: in another order"),
    "other validation": ({"validation": CASES[:3]}, r"validation cases: 8, now 3 \(5 missing"),
    "another seed": ({"data": Cases(settings={**SETTINGS, "seed": 7})}, r"seed: 0, now 7"),
    "another size": ({"data": Cases(settings={**SETTINGS, "size": [32, 32]})}, r"size: \[16, 16\], now \[32, 32\]"),
    "context": ({"data": Cases(settings={**SETTINGS, "context_mm": 1.0})}, r"context_mm: None, now 1\.0"),
    "another optimizer": ({"optimizer": torch.optim.AdamW}, r"optimizer: SGD, now AdamW"),
    "another schedule": ({"schedule": lambda optimizer, steps: LinearLR(optimizer)}, r"WarmupCosineSchedule, now Lin"),
}


@pytest.mark.parametrize("change", REFUSED)
def test_other_epochs_are_refused(path, change, caplog):
    options, message = REFUSED[change]
    Training(path)
    before = path.read_bytes()
    with pytest.raises(InputError, match=rf"checkpoint\.pt: is of another training \(.*{message}.*values of before"):
        Training(path, epochs=2, **options)
    assert path.read_bytes() == before
    assert not [record for record in caplog.records if record.exc_info], "a traceback beside the line"


def test_processes_may_share_a_batch(path):
    Training(path)
    shared = Training(path, epochs=2, batch_size=2, replicas=2)
    assert [epoch for epoch, _, _ in shared.steps] == [2] * 4


def as_of_0_4_0(path):
    state = torch.load(path, weights_only=True)
    del state["epoch_contents"]
    torch.save(state, path)


def test_a_checkpoint_that_names_no_epoch_goes_on_where_its_batches_agree(path):
    """As version 0.4.0 wrote them."""
    Training(path)
    as_of_0_4_0(path)
    for batch_size in (8, 2):  # nothing would be trained, or two epochs under the name of one
        with pytest.raises(InputError, match=rf"\(4 batches an epoch, now {16 // batch_size}\)"):
            Training(path, epochs=2, batch_size=batch_size)
    assert [epoch for epoch, _, _ in Training(path, epochs=2).steps] == [2] * 4


def test_masks_that_are_drawn_have_settings(path):
    masks: dict[str, Any] = {"data": ProceduralMasks(16, 8), "validation": []}
    Training(path, **masks)
    with pytest.raises(InputError, match="seed: 0, now 1"):
        Training(path, epochs=2, **{**masks, "data": ProceduralMasks(16, 8, seed=1)})
    with pytest.raises(InputError, match="batches an epoch: 2, now 1; samples: 8, now 4"):
        Training(path, epochs=2, **{**masks, "data": ProceduralMasks(16, 4)})


@pytest.mark.parametrize("epochs", [1, 2])
def test_no_more_epochs_than_are_done_is_said(path, caplog, epochs):
    Training(path, epochs=2)
    before = path.read_bytes()
    assert Training(path, epochs=epochs).steps == [] and path.read_bytes() == before
    said = f"nothing is trained: 2 epochs are done, --epochs is {epochs}; set a higher one to go on from {path}"
    assert caplog.messages[-1] == said


def test_more_epochs_follow_the_longer_schedule_from_their_place(path, caplog):
    """A cosine that ends after an epoch would let the learning rate rise again in the next."""
    whole, _ = Training(path.with_name("whole.pt"), epochs=3), Training(path)
    more = Training(path, epochs=3)
    assert more.steps == whole.steps[4:]
    assert "checkpoint.pt: goes on with other options: lr_scheduler.t_total=12 (was 4)" in caplog.messages[-1]
    rates = [rate for _, _, rate in more.steps]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == pytest.approx(0.1 * 0.5 * (1 + math.cos(math.pi * 2 / 10)))


@pytest.mark.parametrize("schedule", [cosine, lambda optimizer, steps: LinearLR(optimizer, 0.1, total_iters=6)])
def test_another_learning_rate_counts_from_its_place(path, caplog, schedule):
    whole = Training(path.with_name("whole.pt"), epochs=2, schedule=schedule, rate=0.01)
    Training(path, schedule=lambda optimizer, steps: schedule(optimizer, 8))
    assert not caplog.messages
    assert Training(path, epochs=2, schedule=schedule, rate=0.01).steps == whole.steps[4:]
    assert "goes on with other options: optimizer.initial_lr=0.01 (was 0.1)" in caplog.messages[-1]


def test_what_a_killed_training_was_writing_is_removed(path):
    path.parent.mkdir()
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
    left = path.with_name(owned_prefix().replace(str(os.getpid()), str(ended.pid)) + "abc")
    left.write_bytes(b"half")
    Training(path, epochs=1)
    assert [p.name for p in path.parent.iterdir()] == ["checkpoint.pt"]
