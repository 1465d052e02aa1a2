"""Running ``sdseg convert``, and comparing weights."""

import torch

from sdseg_monai.cli import main
from sdseg_monai.networks.trained_for import KEY
from sdseg_monai.weights import read_tensors
from tests.makers.places import ROOT

HIPPOCAMPUS = ROOT / "bundles" / "hippocampus_sdseg"


def equal_states(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def tensors_of(path):
    """Return the tensors of a file of weights, without what they were trained for."""
    return {name: value for name, value in read_tensors(path).items() if name != KEY}


def run(capsys, *arguments):
    """Return (exit code, stdout, stderr)."""
    code = main(["convert", *(str(a) for a in arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err
