"""Small checkpoints in the official layout whose raw and averaged weights differ, with results of the official code."""

from __future__ import annotations

import json
import runpy
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import Dataset

from sdseg_monai.networks import sdseg
from sdseg_monai.seeding import seed_from
from tests.makers.places import SHARED

FIXTURE = SHARED / "fixtures" / "official_raw_ema"
KINDS = ("binary", "classes")
RESULTS = "expected.safetensors"


@dataclass(frozen=True)
class OfficialCase:
    """A checkpoint and what the executed official code made of it.

    Attributes:
        checkpoint: the Lightning file.
        config: its sizes.
        results: safetensors file of the inputs and results.
        expected: its content, by name.
    """

    checkpoint: Path
    config: dict[str, Any]
    results: Path
    expected: dict[str, torch.Tensor]

    @property
    def num_heads(self) -> int:
        """Return the heads of the U-Net's attention, which no checkpoint says."""
        return self.config["heads"]


def make_case(kind: str, folder: Path) -> OfficialCase:
    """Write the checkpoint of ``kind``, whose weights are a function of their names, to ``folder``."""
    source = FIXTURE / kind
    for name in ("config.json", "shapes.json"):
        (folder / name).write_bytes((source / name).read_bytes())
    with patch.object(sys, "argv", ["make_checkpoint.py", str(folder)]):
        runpy.run_path(str(FIXTURE / "make_checkpoint.py"))
    config, results = json.loads((folder / "config.json").read_text()), source / RESULTS
    return OfficialCase(folder / "made.ckpt", config, results, load_file(results))


def make_mask(expected: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the class of each pixel [B, 1, H, W]; the mask of the class that is drawn, if one is, is the case's."""
    mask = expected["mask"][:, None]
    return mask * expected["classes"].clamp(min=1).view(-1, 1, 1, 1) if "classes" in expected else mask


class OfficialSlices(Dataset):
    """The case's slices as training samples, whose seeds are their numbers.

    Args:
        data: their numbers.
        expected: file of the case's ``expected``.
    """

    def __init__(self, data: list[int], expected: str) -> None:
        self.data = data
        tensors = load_file(expected)
        self.image, self.label = tensors["image"], make_mask(tensors)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, draw: int) -> dict[str, torch.Tensor]:
        index = self.data[draw % len(self)]
        return {"image": self.image[index], "label": self.label[index], "seed": torch.tensor(index)}


def draw_as_the_official_code(case: OfficialCase, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the samples of the seeds 0, 1 and 2 in a training step the draws with which the official code was run."""
    values: dict[tuple[int, int | None], torch.Tensor] = {}
    for index in range(3):
        values[index, 1000] = case.expected["timesteps"][index]
        values[index, None] = case.expected["train_noise"][index]
        values[seed_from("posterior", index), None] = case.expected["posterior_noise"][index]
        if "classes" in case.expected:
            values[seed_from("class", index), case.config["classes"]] = case.expected["classes"][index]

    def look_up(seeds: torch.Tensor, high: int | None) -> torch.Tensor:
        return torch.stack([values[seed, high] for seed in seeds.tolist()])

    monkeypatch.setattr(sdseg, "seeded_integers", look_up)
    monkeypatch.setattr(sdseg, "seeded_normal", lambda seeds, shape: look_up(seeds, None))
