"""The label server as its clients see it; every request goes over HTTP to the real server."""

import gzip
import importlib.util
import io
import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import highdicom
import nibabel as nib
import numpy as np
import psutil
import pydicom
import pytest
import requests
import SimpleITK as sitk
from pydicom.uid import generate_uid
from scipy.ndimage import binary_dilation, distance_transform_edt

from sdseg_monai.cli import main
from tests.label.client import CASE, MODEL, OTHER
from tests.makers.dicom import write_mr_series
from tests.makers.label_server import LabelServer, needs_label_env
from tests.makers.places import LABEL_BIN
from tests.makers.processes import run_process
from tests.makers.volumes import OBLIQUE, load_nifti, write_nifti

pytestmark = [needs_label_env, pytest.mark.shared]

LABELS = {"Anterior hippocampus": 1, "Posterior hippocampus": 2}
CASES = (CASE, OTHER, "hippocampus_004", "hippocampus_006", "hippocampus_008")


@pytest.fixture
def server(client):
    """A server on the first two of the volumes."""
    return client.server


def infer(server, model=MODEL, *, image=None, params=None, output="image", upload=None, **query):
    """Return the response to an inference, asked for as Slicer and OHIF do: a form with the options as JSON."""
    form = {"params": (None, json.dumps(params or {}))}
    if upload is not None:
        form["file"] = (upload.name, upload.read_bytes())
    query = {"image": image, "output": output, **query}
    return requests.post(f"{server.url}/infer/{model}", params=query, files=form, timeout=300)


def read_mask(response, folder, suffix=".nii.gz"):
    assert response.status_code == 200, response.text
    path = folder / f"mask{suffix}"
    path.write_bytes(response.content)
    return path


def test_info(server):
    info = requests.get(f"{server.url}/info/").json()
    served = {MODEL, "left_ventricle_sdseg"}
    assert set(info["models"]) == served, "a bundle without weights, or for photographs, is offered"
    model = info["models"][MODEL]
    assert model["type"] == "segmentation" and model["dimension"] == 3
    assert model["labels"] == LABELS and model["colors"].keys() == LABELS.keys()
    assert {"device", "seed", "batch_size", "weights"} <= model["config"].keys()
    assert set(info["trainers"]) == served and {"max_epochs", "val_split"} <= info["trainers"][MODEL]["config"].keys()
    assert "random" in info["strategies"] and f"{MODEL}_flips" in info["strategies"]
    assert set(LABELS) < set(info["labels"]) and info["datastore"]["total"] == 2


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd"])
def test_equals_segment(server, hippocampus, tmp_path, suffix):
    path = read_mask(infer(server, image=CASE, params={"result_extension": suffix}), tmp_path, suffix)
    assert main(["segment", str(hippocampus / "images" / f"{CASE}.nii.gz"), "-o", str(tmp_path / "own.nii.gz")]) == 0
    expected = sitk.ReadImage(str(tmp_path / "own.nii.gz"))
    mask = sitk.ReadImage(str(path))
    assert mask.GetPixelIDTypeAsString() == "8-bit unsigned integer"
    assert np.array_equal(sitk.GetArrayFromImage(mask), sitk.GetArrayFromImage(expected))
    assert set(np.unique(sitk.GetArrayFromImage(mask))) == {0, 1, 2}
    np.testing.assert_allclose(mask.GetOrigin(), expected.GetOrigin(), atol=1e-4)
    np.testing.assert_allclose(mask.GetSpacing(), expected.GetSpacing(), atol=1e-5)
    np.testing.assert_allclose(mask.GetDirection(), expected.GetDirection(), atol=1e-5)


def test_options_do_not_change_a_deterministic_model(server, tmp_path):
    params = {"device": "cpu", "seed": "7", "batch_size": 3, "weights": "original"}
    plain = infer(server, image=OTHER, params={"seed": "", "batch_size": ""})
    assert load_nifti(read_mask(plain, tmp_path)).get_fdata().any()
    assert infer(server, image=OTHER, params=params).content == plain.content


def test_multipart_holds_mask_and_names(server):
    response = infer(server, image=CASE, output="all")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("multipart/form-data")
    assert f'"label_names": {json.dumps(LABELS)}'.encode() in response.content
    only_json = infer(server, image=CASE, output="json").json()
    assert only_json["label_names"] == LABELS and only_json["latencies"]["total"] > 0


def test_upload_keeps_an_oblique_grid(server, hippocampus, tmp_path):
    image = load_nifti(hippocampus / "images" / f"{CASES[2]}.nii.gz")
    tilted = nib.Nifti1Image(np.asarray(image.dataobj)[::-1], OBLIQUE)
    nib.save(tilted, tmp_path / "tilted.nii.gz")
    mask = load_nifti(read_mask(infer(server, upload=tmp_path / "tilted.nii.gz"), tmp_path))
    assert mask.shape == tilted.shape
    np.testing.assert_allclose(mask.affine, OBLIQUE, atol=1e-5)
    deadline = time.monotonic() + 10  # files are removed after the response
    while list((server.work_dir / "uploads").iterdir()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not list((server.work_dir / "uploads").iterdir()), "an upload or a mask is left behind"


def test_slicer_client(server, hippocampus, tmp_path):
    """The client inside 3D Slicer's plugin, which cannot be installed here, makes its own calls."""
    path = LABEL_BIN.parent / "monailabel" / "plugins" / "slicer" / "MONAILabel" / "MONAILabelLib" / "client.py"
    spec = importlib.util.spec_from_file_location("slicer_client", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    client = module.MONAILabelClient(server.url, str(tmp_path))
    assert MODEL in client.info()["models"]
    sample = client.next_sample("random", {})
    assert sample["id"] in (CASE, OTHER)
    params = {"result_extension": ".nrrd", "result_dtype": "uint8", "device": "cpu", "seed": "", "batch_size": ""}
    file, answer = client.infer(MODEL, OTHER, params)
    assert sitk.GetArrayFromImage(sitk.ReadImage(file)).any() and answer["label_names"] == LABELS
    label = hippocampus / "labels" / f"{OTHER}.nii.gz"
    label_info = [{"name": name, "idx": value} for name, value in LABELS.items()]
    saved = client.save_label(OTHER, str(label), params={"label_info": label_info})
    assert saved["label"] == OTHER
    assert "final" in client.datastore()["objects"][OTHER]["labels"]
    session = client.create_session(str(hippocampus / "images" / f"{CASES[4]}.nii.gz"))
    assert sitk.ReadImage(client.infer(MODEL, "", params, session_id=session["session_id"])[0])
    client.remove_session(session["session_id"])
    assert client.train_start(MODEL, {"max_epochs": 1})["status"] in ("SUBMITTED", "RUNNING")
    assert client.train_status(False)["request"]["max_epochs"] == 1
    client.train_stop()
    assert wait_for_training(server)["status"] in ("STOPPED", "ERROR")
    assert "Traceback" not in requests.get(f"{server.url}/logs/", params={"text": True, "lines": 2000}).text
    assert requests.delete(f"{server.url}/datastore/label", params={"id": OTHER, "tag": "final"}).ok


@pytest.mark.slow
def test_ten_inferences_queue(server):
    """Memory grows by what ten responses take, not by ten inferences at once; the server answers meanwhile."""
    process = psutil.Process(server.process.pid)
    reference = infer(server, image=CASES[0]).content
    before = process.memory_info().rss
    with ThreadPoolExecutor(10) as pool:
        answers = [pool.submit(infer, server, image=CASES[0]) for _ in range(10)]
        start = time.monotonic()
        assert requests.get(f"{server.url}/info/", timeout=10).ok
        assert time.monotonic() - start < 5
        assert all(answer.result().content == reference for answer in answers)
    assert process.memory_info().rss - before < 500e6


def submit(server, case, path, label_info=()):
    """Submit ``path`` as the final label of ``case``."""
    files = {"params": (None, json.dumps({"label_info": list(label_info)})), "label": (path.name, path.read_bytes())}
    response = requests.put(f"{server.url}/datastore/label", params={"image": case, "tag": "final"}, files=files)
    assert response.status_code == 200, response.text


def wait_for_training(server, timeout=600):
    """Return the last training's state once none runs."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        state = requests.get(f"{server.url}/train/").json()
        if state["status"] in ("DONE", "ERROR", "STOPPED"):
            return state
        time.sleep(0.5)
    raise TimeoutError(state)


@pytest.mark.slow
def test_dicom_folder(hippocampus, tmp_path):
    """A study in a folder: segmented as the volume it was made of, and answered with a DICOM SEG."""
    study, volume, image = tmp_path / "study", hippocampus / "images" / f"{CASES[0]}.nii.gz", generate_uid()
    slices = write_mr_series(volume, study / "series", SeriesInstanceUID=image)
    assert run_process("sdseg", "segment", str(volume), "-o", str(tmp_path / "own.nii.gz")).returncode == 0
    own = sitk.ReadImage(str(tmp_path / "own.nii.gz"))
    with LabelServer(study, tmp_path / "work") as server:
        mask = sitk.ReadImage(str(read_mask(infer(server, image=image), tmp_path)))
        on_own_grid = sitk.Resample(mask, own, sitk.Transform(), sitk.sitkNearestNeighbor)
        assert np.array_equal(sitk.GetArrayFromImage(on_own_grid), sitk.GetArrayFromImage(own))

        response = infer(server, image=image, output="dicom_seg")
        assert response.status_code == 200 and response.headers["content-type"] == "application/dicom", response.text
        seg = highdicom.seg.Segmentation.from_dataset(pydicom.dcmread(io.BytesIO(response.content)))
        assert {item.SegmentLabel: item.SegmentNumber for item in seg.SegmentSequence} == LABELS
        assert {uid for _, _, uid in seg.get_source_image_uids()} <= {
            pydicom.dcmread(path).SOPInstanceUID for path in slices
        }
        assert seg.pixel_array.sum() == np.count_nonzero(sitk.GetArrayFromImage(own))

        label = tmp_path / "mask.nii.gz"
        submit(server, image, label)
        (stored,) = (study / "labels" / "final").glob("*.dcm")
        assert pydicom.dcmread(stored).Modality == "SEG"
        assert requests.post(f"{server.url}/activelearning/random", json={}).json() == {}, "it has its label"
        upload = infer(server, upload=volume, output="dicom_seg")
        assert upload.status_code == 422, upload.text


@pytest.mark.slow
def test_correct_retrain_and_go_on(hippocampus, tmp_path):
    """Infer, submit labels, train an epoch, infer again, next sample, stop: a clinician's afternoon."""
    studies, work = tmp_path / "studies", tmp_path / "work"
    studies.mkdir()
    for case in CASES:
        shutil.copy(hippocampus / "images" / f"{case}.nii.gz", studies)
    labelled, new = CASES[:4], CASES[4]
    for case in labelled:  # a reader who draws two voxels further out
        label = load_nifti(hippocampus / "labels" / f"{case}.nii.gz")
        classes = np.asarray(label.dataobj)
        wide = binary_dilation(classes > 0, iterations=2)
        nearest = distance_transform_edt(classes == 0, return_distances=False, return_indices=True)
        write_nifti(tmp_path / f"{case}.nii.gz", (classes[tuple(nearest)] * wide).astype(np.uint8), label.affine)
    with LabelServer(studies, work) as server:
        first = infer(server, image=new)
        assert first.status_code == 200
        for case in labelled:
            submit(server, case, tmp_path / f"{case}.nii.gz")
        assert (studies / "labels" / "final" / f"{labelled[0]}.nii.gz").is_file()

        params: dict[str, Any] = {"max_epochs": 1, "val_split": 0.25, "learning_rate": "0.002"}
        over = infer(server, image=labelled[0], params={"save_label": True, "label_tag": "final"})
        assert over.status_code == 422 and "a person's labels are final" in over.json()["detail"]
        assert requests.post(f"{server.url}/train/{MODEL}", json=params).status_code == 200
        assert requests.post(f"{server.url}/train/{MODEL}", json=params).status_code == 429, "two trainings at once"
        state = wait_for_training(server)
        assert state["status"] == "DONE", server.log
        stats = requests.get(f"{server.url}/info/").json()["train_stats"][MODEL]
        assert stats["epoch"] == 1 and stats["best_metric"] > stats["start_metric"]
        assert stats["cases"] == {"training": 3, "validation": 1}
        run = Path(stats["run"])
        assert list((run / "logs").glob("events.out.tfevents*")) and (run / "model.pt").is_file()

        second = infer(server, image=new)
        assert count(second) > count(first), "the next inference does not use what was trained"
        assert infer(server, image=new, params={"weights": "original"}).content == first.content

        in_service = work / "model" / MODEL / "model.pt"
        before = in_service.read_bytes()
        assert requests.post(f"{server.url}/train/{MODEL}", json={**params, "learning_rate": 1e-12}).ok
        assert wait_for_training(server)["status"] == "DONE", server.log
        stats = requests.get(f"{server.url}/info/").json()["train_stats"][MODEL]
        assert stats["epoch"] == 0 and stats["best_metric"] == stats["start_metric"], "no epoch was better"
        assert in_service.read_bytes() == before
        assert not list(in_service.parent.glob("runs/*/checkpoint.pt"))
        assert requests.post(f"{server.url}/train/{MODEL}", json={"max_epochs": 1000}).status_code == 200
        while len({path.parent for path in (work / "model" / MODEL / "runs").glob("*/logs/events*")}) < 3:
            assert requests.get(f"{server.url}/train/").json()["status"] in ("SUBMITTED", "RUNNING"), server.log
            time.sleep(0.2)
        assert requests.delete(f"{server.url}/train/").json()["status"] == "STOPPED"
        assert in_service.read_bytes() == before
        assert infer(server, image=new).content == second.content

        sample = wait_for_score(server, f"{MODEL}_flips")
        assert sample["id"] == new and 0 <= sample["score"] <= 1
        assert server.process.poll() is None
        assert server.stop() == 0, server.log
    assert not [p for p in psutil.process_iter(["cmdline"]) if str(work) in " ".join(p.info["cmdline"] or [])]


def count(response):
    """Return how many voxels a gzipped NIfTI mask holds."""
    assert response.status_code == 200, response.text
    return int(np.count_nonzero(nib.Nifti1Image.from_bytes(gzip.decompress(response.content)).dataobj))


def wait_for_score(server, strategy, timeout=300):
    """Return the next sample once the scoring, which runs on its own, has come to it."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        sample = requests.post(f"{server.url}/activelearning/{strategy}", json={}).json()
        if sample.get("score") is not None:
            return sample
        time.sleep(1)
    raise TimeoutError(sample)


@pytest.mark.slow
def test_dicom_is_retrained_on(hippocampus, tmp_path):
    """Two series of three get their labels; a training sees these, and a scoring the third."""
    study = tmp_path / "study"
    images = {case: generate_uid() for case in CASES[:3]}
    for case, image in images.items():
        write_mr_series(hippocampus / "images" / f"{case}.nii.gz", study / case, SeriesInstanceUID=image)
    with LabelServer(study, tmp_path / "work") as server:
        for case in CASES[:2]:
            mask = read_mask(infer(server, image=images[case]), tmp_path)
            submit(server, images[case], mask)
        assert requests.post(f"{server.url}/train/{MODEL}", json={"max_epochs": 1}).status_code == 200
        assert wait_for_training(server)["status"] == "DONE", server.log
        stats = requests.get(f"{server.url}/info/").json()["train_stats"][MODEL]
        assert stats["cases"] == {"training": 1, "validation": 1} and stats["start_metric"] == 1, "own masks are right"
        assert wait_for_score(server, f"{MODEL}_flips")["id"] == images[CASES[2]]


@pytest.mark.slow
def test_failed_training_leaves_the_weights(hippocampus, tmp_path):
    """One label is too few, and a damaged image fails the training; the bundle's weights stay in service."""
    studies = tmp_path / "studies"
    studies.mkdir()
    for case in CASES[:2]:
        shutil.copy(hippocampus / "images" / f"{case}.nii.gz", studies)
    with LabelServer(studies, tmp_path / "work") as server:
        first = infer(server, image=CASES[0])
        submit(server, CASES[0], hippocampus / "labels" / f"{CASES[0]}.nii.gz")
        requests.post(f"{server.url}/train/{MODEL}", json={"max_epochs": 1})
        state = wait_for_training(server)
        assert state["status"] == "ERROR"
        assert state["details"][-1].startswith("error: 1 labelled cases, expected at least two")
        label = load_nifti(hippocampus / "labels" / f"{CASES[1]}.nii.gz")
        for value, label_info, reason in (
            (1, [{"name": "hippocampus"}], "1 is called 'hippocampus', expected 1 Anterior hippocampus, 2 Post"),
            (255, [], "a value of 255, expected 1 Anterior hippocampus"),
        ):
            union = nib.Nifti1Image(value * (np.asarray(label.dataobj) > 0).astype(np.uint8), label.affine)
            nib.save(union, tmp_path / "union.nii.gz")
            submit(server, CASES[1], tmp_path / "union.nii.gz", label_info)
            requests.post(f"{server.url}/train/{MODEL}", json={"max_epochs": 1})
            state = wait_for_training(server)
            assert state["status"] == "ERROR"
            assert state["details"][-1].startswith(f"error: label of {CASES[1]}: {reason}")
        submit(server, CASES[1], hippocampus / "labels" / f"{CASES[1]}.nii.gz")
        image = studies / f"{CASES[1]}.nii.gz"
        image.write_bytes(image.read_bytes()[:1000])
        requests.post(f"{server.url}/train/{MODEL}", json={"max_epochs": 1})
        state = wait_for_training(server)
        assert state["status"] == "ERROR" and state["details"][-1].startswith(f"error: {image}")
        assert not (tmp_path / "work" / "model" / MODEL / "model.pt").exists()
        assert infer(server, image=CASES[0]).content == first.content
        bad = infer(server, image=CASES[1])
        assert bad.status_code == 422 and CASES[1] in bad.json()["detail"]


@pytest.mark.slow
def test_wrong_checkpoint_is_an_error(hippocampus, tmp_path):
    """Weights of another network are never loaded in part, and random ones never used."""
    import torch

    studies = tmp_path / "studies"
    studies.mkdir()
    shutil.copy(hippocampus / "images" / f"{CASES[0]}.nii.gz", studies)
    tuned = tmp_path / "work" / "model" / MODEL / "model.pt"
    tuned.parent.mkdir(parents=True)
    torch.save({"some.weight": torch.zeros(3)}, tuned)
    with LabelServer(studies, tmp_path / "work") as server:
        answer = infer(server, image=CASES[0])
        assert answer.status_code == 422 and "not the weights of this network" in answer.json()["detail"]
        assert infer(server, image=CASES[0], params={"weights": "original"}).status_code == 200
