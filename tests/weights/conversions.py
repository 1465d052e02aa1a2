"""Running ``sdseg convert``, and comparing weights."""

import torch

from sdseg_monai.cli import main
from tests.makers.places import ROOT

HIPPOCAMPUS = ROOT / "bundles" / "hippocampus_sdseg"


def equal_states(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def run(capsys, *arguments):
    """Return (exit code, stdout, stderr)."""
    code = main(["convert", *(str(a) for a in arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err
