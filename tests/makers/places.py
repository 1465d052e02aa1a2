"""Paths of the project and of the data folder beside it."""

import os
from pathlib import Path

ROOT = Path(__file__).parents[2]
SHARED = Path(os.environ.get("SDSEG_SHARED", ROOT.parent / "shared"))
LABEL_BIN = ROOT / ".venv-label" / "bin"  # of the environment that make label-env makes
