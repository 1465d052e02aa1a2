"""Fixtures: datastores in the environment that has MONAI Label."""

from __future__ import annotations

import pytest

from tests.label.datastore_process import DatastoreProcess


@pytest.fixture(scope="module")
def store():
    process = DatastoreProcess()
    yield process
    process.close()
