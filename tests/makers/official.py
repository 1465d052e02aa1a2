"""Small checkpoints in the official layout whose raw and averaged weights differ, with results of the official code."""

from __future__ import annotations

import json
import runpy
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from safetensors.torch import load_file

from tests.makers.places import SHARED

FIXTURE = SHARED / "fixtures" / "official_raw_ema"
KINDS = ("binary", "classes")


@dataclass(frozen=True)
class OfficialCase:
    """A checkpoint and what the executed official code made of it.

    Attributes:
        checkpoint: the Lightning file.
        config: its sizes.
        expected: inputs and results, by name.
    """

    checkpoint: Path
    config: dict[str, Any]
    expected: dict[str, torch.Tensor]

    @property
    def num_heads(self) -> int:
        """Return the heads of the U-Net's attention, which no checkpoint says."""
        return self.config["heads"]

    @property
    def mask(self) -> torch.Tensor:
        """Return the class of each pixel [B, 1, H, W] whose mask of the drawn class, if one is drawn, is the case's."""
        mask = self.expected["mask"][:, None]
        return mask * self.expected["classes"].clamp(min=1).view(-1, 1, 1, 1) if "classes" in self.expected else mask


def make_case(kind: str, folder: Path) -> OfficialCase:
    """Write the checkpoint of ``kind``, whose weights are a function of their names, to ``folder``."""
    source = FIXTURE / kind
    for name in ("config.json", "shapes.json"):
        (folder / name).write_bytes((source / name).read_bytes())
    with patch.object(sys, "argv", ["make_checkpoint.py", str(folder)]):
        runpy.run_path(str(FIXTURE / "make_checkpoint.py"))
    config = json.loads((folder / "config.json").read_text())
    return OfficialCase(folder / "made.ckpt", config, load_file(source / "expected.safetensors"))
