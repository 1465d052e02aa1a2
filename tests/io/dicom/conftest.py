"""Fixtures: grids on which a reversed or swapped axis is always noticed."""

import numpy as np
import pytest

from tests.io.dicom.series import GRIDS


@pytest.fixture(params=GRIDS)
def grid(request) -> np.ndarray:
    return GRIDS[request.param]
