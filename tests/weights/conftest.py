"""Fixtures: official checkpoints at very small size."""

import pytest
import torch

from sdseg_monai.weights import (
    load_official,
)
from tests.makers.compvis import tiny_official


@pytest.fixture
def checkpoint(tmp_path):
    torch.save({"state_dict": tiny_official()}, tmp_path / "a.ckpt")
    return tmp_path / "a.ckpt"


@pytest.fixture
def official(checkpoint):
    return load_official(checkpoint)
