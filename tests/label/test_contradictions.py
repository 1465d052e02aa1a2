"""An image that contradicts the model's training, as a viewer meets it: refused, or forced and marked."""

import io
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import requests
import SimpleITK as sitk

from tests.label.client import MODEL
from tests.makers.dicom import write_mr_series
from tests.makers.label_server import LabelServer, needs_label_env
from tests.makers.volumes import load_nifti, write_nifti, write_thick_phantom

pytestmark = [needs_label_env, pytest.mark.shared]

UID = "1.2.826.0.1.3680043.8.498.1"


@dataclass(frozen=True)
class Contradiction:
    """An image on a server, and why it is refused."""

    url: str
    query: dict[str, str]
    reason: str
    file: Path | None = None  # to send with each request

    def infer(self, output, **params):
        form: dict[str, Any] = {"params": (None, json.dumps(params))}
        if self.file is not None:
            form["file"] = (self.file.name, self.file.read_bytes())
        query = {**self.query, "output": output}
        return requests.post(f"{self.url}/infer/{MODEL}", params=query, files=form, timeout=300)


@pytest.fixture(scope="module")
def upload(client, tmp_path_factory):
    """A phantom with the air of a CT, sent to a server on other volumes."""
    folder = tmp_path_factory.mktemp("upload")
    write_thick_phantom(folder / "a.nii.gz", folder / "label.nii.gz")
    image = load_nifti(folder / "a.nii.gz")
    array = image.get_fdata(dtype=np.float32)
    array[0, 0, 0] = -1000
    write_nifti(folder / "air.nii.gz", array, image.affine)
    reason = "lowest intensity -1000, expected at least -100: this looks like another modality (CT?)"
    return Contradiction(client.server.url, {}, reason, folder / "air.nii.gz")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server on a PET series, which it lists because it was told to."""
    folder = tmp_path_factory.mktemp("label")
    write_thick_phantom(folder / "a.nii.gz", folder / "label.nii.gz")
    write_mr_series(folder / "a.nii.gz", folder / "study", Modality="PT", SeriesInstanceUID=UID)
    settings = {"MONAI_LABEL_DICOMWEB_SEARCH_FILTER": '{"Modality": "PT"}', "MONAI_LABEL_AUTO_UPDATE_SCORING": "false"}
    with LabelServer(folder / "study", folder / "work", "--bundle", MODEL, **settings) as running:
        yield running


@pytest.fixture(scope="module")
def series(server):
    return Contradiction(server.url, {"image": UID}, "PT, but the network knows MR")


@pytest.fixture(params=["upload", pytest.param("series", marks=pytest.mark.slow)])
def image(request):
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("params", [{}, {"force": False}, {"force": []}])
def test_it_is_refused_with_the_reason(image, params):
    answer = image.infer("image", **params)
    assert answer.status_code == 422 and "force=True" in answer.json()["detail"]
    assert image.reason in answer.json()["detail"]


def test_clients_cannot_say_another_modality(image):
    answer = image.infer("image", modality="MR")
    assert answer.status_code == 422 and "not for clients" in answer.json()["detail"]


@pytest.mark.parametrize("force", ["yes", 1])
def test_force_is_true_or_false(image, force):
    assert image.infer("image", force=force).status_code == 422


def test_the_panel_has_the_option_and_it_is_off(image):
    assert requests.get(f"{image.url}/info/").json()["models"][MODEL]["config"]["force"] is False


def test_a_forced_answer_says_so(image, tmp_path):
    """In its values, in the names that Slicer shows, and in the header of its mask."""
    answer = image.infer("json", force=True).json()
    assert (answer["trusted"], answer["not_trusted"]) == (False, f"NOT TRUSTED: {image.reason}")
    assert answer["label_names"] == {"NOT TRUSTED Anterior hippocampus": 1, "NOT TRUSTED Posterior hippocampus": 2}
    assert answer["label_colors"].keys() == answer["label_names"].keys()
    (tmp_path / "m.nrrd").write_bytes(image.infer("image", force=True, result_extension=".nrrd").content)
    mask = sitk.ReadImage(str(tmp_path / "m.nrrd"))
    assert mask.GetMetaData("NRRD_content") == f"NOT TRUSTED: {image.reason}"
    assert sitk.GetArrayFromImage(mask).any()


@pytest.mark.slow
def test_a_forced_seg_says_so(series):
    assert series.infer("dicom_seg").status_code == 422
    answer = series.infer("dicom_seg", force=True)
    assert answer.status_code == 200, answer.text
    seg = pydicom.dcmread(io.BytesIO(answer.content))
    assert seg.SeriesDescription == f"NOT TRUSTED: {series.reason}"
    for segment in seg.SegmentSequence:
        assert segment.SegmentDescription.startswith(f"NOT TRUSTED: {series.reason}; ")
        assert not segment.SegmentLabel.startswith("NOT TRUSTED"), "the label is a name"


@pytest.mark.slow
def test_a_scoring_counts_it_as_failed_and_the_server_goes_on(server, series):
    requests.post(f"{server.url}/scoring/{MODEL}_flips", params={"run_sync": "false"}, json={})
    state = wait(server, "/scoring/")
    assert state["status"] == "DONE", state
    assert re.search(rf"{re.escape(UID)}: not scored .*{series.reason}", "".join(server.output))
    sample = requests.post(f"{server.url}/activelearning/{MODEL}_flips", json={}).json()
    assert sample["id"] == UID


def wait(server, path):
    import time

    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        state = requests.get(server.url + path).json()
        if state["status"] not in ("SUBMITTED", "RUNNING"):
            return state
        time.sleep(0.2)
    raise TimeoutError(state)
