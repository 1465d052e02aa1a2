"""An image that contradicts the model's training, as a viewer meets it: refused, or forced and marked."""

import io
import json
import re

import pydicom
import pytest
import requests
import SimpleITK as sitk

from sdseg_monai.demo.phantom import write_phantom
from tests.makers.dicom import write_mr_series
from tests.makers.label_server import LabelServer, needs_label_env

pytestmark = needs_label_env

MODEL = "hippocampus_sdseg"
UID = "1.2.826.0.1.3680043.8.498.1"
REASON = "PT, but the network knows MR"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server on a PET series, which it lists because it was told to."""
    folder = tmp_path_factory.mktemp("label")
    write_phantom(folder / "a.nii.gz", folder / "label.nii.gz")
    write_mr_series(folder / "a.nii.gz", folder / "study", Modality="PT", SeriesInstanceUID=UID)
    settings = {"MONAI_LABEL_DICOMWEB_SEARCH_FILTER": '{"Modality": "PT"}', "MONAI_LABEL_AUTO_UPDATE_SCORING": "false"}
    with LabelServer(folder / "study", folder / "work", "--bundle", MODEL, **settings) as running:
        yield running


def infer(server, output, **params):
    form = {"params": (None, json.dumps(params))}
    return requests.post(
        f"{server.url}/infer/{MODEL}", params={"image": UID, "output": output}, files=form, timeout=300
    )


@pytest.mark.parametrize("params", [{}, {"force": False}, {"force": []}])
def test_it_is_refused_with_the_reason(server, params):
    answer = infer(server, "image", **params)
    assert answer.status_code == 422 and REASON in answer.json()["detail"] and "force=True" in answer.json()["detail"]


def test_clients_cannot_say_another_modality(server):
    answer = infer(server, "image", modality="MR")
    assert answer.status_code == 422 and "not for clients" in answer.json()["detail"]


@pytest.mark.parametrize("force", ["yes", 1])
def test_force_is_true_or_false(server, force):
    assert infer(server, "image", force=force).status_code == 422


def test_the_panel_has_the_option_and_it_is_off(server):
    assert requests.get(f"{server.url}/info/").json()["models"][MODEL]["config"]["force"] is False


def test_a_forced_answer_says_so(server, tmp_path):
    """In its values, in the names that Slicer shows, and in the header of its mask."""
    answer = infer(server, "json", force=True).json()
    assert (answer["trusted"], answer["not_trusted"]) == (False, f"NOT TRUSTED: {REASON}")
    assert answer["label_names"] == {"NOT TRUSTED Anterior hippocampus": 1, "NOT TRUSTED Posterior hippocampus": 2}
    assert answer["label_colors"].keys() == answer["label_names"].keys()
    (tmp_path / "m.nrrd").write_bytes(infer(server, "image", force=True, result_extension=".nrrd").content)
    mask = sitk.ReadImage(str(tmp_path / "m.nrrd"))
    assert mask.GetMetaData("NRRD_content") == f"NOT TRUSTED: {REASON}"
    assert sitk.GetArrayFromImage(mask).any()


def test_a_forced_seg_says_so(server):
    assert infer(server, "dicom_seg").status_code == 422
    answer = infer(server, "dicom_seg", force=True)
    assert answer.status_code == 200, answer.text
    seg = pydicom.dcmread(io.BytesIO(answer.content))
    assert seg.SeriesDescription == f"NOT TRUSTED: {REASON}"
    for segment in seg.SegmentSequence:
        assert segment.SegmentDescription.startswith(f"NOT TRUSTED: {REASON}; ")
        assert not segment.SegmentLabel.startswith("NOT TRUSTED"), "the label is a name"


@pytest.mark.slow
def test_a_scoring_counts_it_as_failed_and_the_server_goes_on(server):
    requests.post(f"{server.url}/scoring/{MODEL}_flips", params={"run_sync": "false"}, json={})
    state = wait(server, "/scoring/")
    assert state["status"] == "DONE", state
    assert re.search(rf"{re.escape(UID)}: not scored .*{REASON}", "".join(server.output))
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
