"""Fixtures: a client of the real server, and datastores in the environment that has MONAI Label; both start once."""

import shutil

import pytest

from tests.label.client import CASE, CASES, Client
from tests.label.datastore_process import DatastoreProcess
from tests.makers.label_server import LabelServer


@pytest.fixture(scope="session")
def client(hippocampus, tmp_path_factory):
    """A client of a server on two real volumes, one of them labelled, in a folder of its own."""
    folder = tmp_path_factory.mktemp("safety")
    studies, labels = folder / "inside" / "studies", folder / "inside" / "studies" / "labels" / "final"
    labels.mkdir(parents=True)
    for case in CASES:
        shutil.copy(hippocampus / "images" / f"{case}.nii.gz", studies)
    shutil.copy(hippocampus / "labels" / f"{CASE}.nii.gz", labels)
    with LabelServer(studies, folder / "inside" / "work", MONAI_LABEL_AUTO_UPDATE_SCORING="false") as server:
        volume, label = (file.read_bytes() for file in (studies / f"{CASE}.nii.gz", labels / f"{CASE}.nii.gz"))
        client = Client(server, volume, label, folder, studies)
        client.mask = client.infer().content
        yield client


@pytest.fixture(scope="session")
def store():
    """A process that opens one datastore after another."""
    process = DatastoreProcess()
    yield process
    process.close()
