"""Grids on which no axis can be turned or swapped unseen."""

import numpy as np
import pytest

from tests.io.dicom.series import GRIDS


@pytest.fixture(params=GRIDS)
def grid(request) -> np.ndarray:
    return GRIDS[request.param]
