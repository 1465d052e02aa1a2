"""The wheel in an empty environment, used as a researcher, a clinician and an engineer would use it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from functools import partial
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from PIL import Image

from sdseg_monai.demo.phantom import write_phantom
from sdseg_monai.evaluation import compare_masks
from sdseg_monai.inference.manifest import journal_of
from sdseg_monai.io.formats.nifti_labels import read_label_names
from sdseg_monai.io.volumes import read_volume
from tests.makers.browser import needs_browser, start_chromium
from tests.makers.dicom import write_mr_series
from tests.makers.places import ROOT, SHARED
from tests.makers.volumes import load_nifti

pytestmark = pytest.mark.slow
DCIODVFY = shutil.which("dciodvfy")
LABELS = {"Anterior hippocampus": 1, "Posterior hippocampus": 2}
DATALIST = ROOT / "bundles" / "hippocampus_sdseg" / "configs" / "datalist.json"
ENGINEER = """
import sys
from pathlib import Path
import nibabel as nib
import numpy as np
from sdseg_monai import Pipeline, segment
from sdseg_monai.errors import InputError

image = nib.load(sys.argv[1])
result = segment(image, bundle=sys.argv[2], device="cpu", seed=1)
result.save("from_memory.nii.gz")
pipeline = Pipeline("hippocampus_sdseg", device="cpu")
again = pipeline.segment((np.asarray(image.dataobj), image.affine))
np.testing.assert_array_equal(again.labels, result.labels)
np.testing.assert_array_equal(again.affine, image.affine)
assert again.names == {1: "Anterior hippocampus", 2: "Posterior hippocampus"} and again.scores.shape[0] == 2
assert len(again.manifest["settings"]["weights_sha256"][0]) == 64
try:
    pipeline.segment((np.full((8, 8, 8), np.nan), np.eye(4)))
except InputError as error:
    Path("error.txt").write_text(str(error))
"""


def run(*command, cwd, code=0):
    """Run ``command`` as a user does, outside the clone, and return its (stdout, stderr)."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([str(c) for c in command], cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == code, done.stderr[-3000:]
    return done.stdout, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    run("git", "clone", "-q", ROOT, folder / "clone", cwd=folder)
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, folder / "clone", cwd=folder)
    (wheel,) = folder.glob("*.whl")
    return wheel


def test_the_wheel_says_that_it_is_typed(wheel):
    assert "sdseg_monai/py.typed" in zipfile.ZipFile(wheel).namelist()


@pytest.fixture(scope="module")
def programs(wheel, tmp_path_factory):
    """The folder with ``python`` and ``sdseg`` of an environment that holds the wheel and nothing of the clone."""
    environment = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", environment, cwd=environment)
    pip = (environment / "bin" / "python", "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt")
    run(*pip, "torch==2.13.0", cwd=environment)
    run(*pip, wheel, cwd=environment)
    return environment / "bin"


@pytest.fixture(scope="module")
def programs_with_dicom(programs, wheel):
    """The same with what DICOM needs."""
    run(programs / "python", "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", f"{wheel}[dicom]", cwd="/")
    return programs


@pytest.fixture(scope="module")
def test_split(hippocampus):
    """Image and label of each case that the embedded network has not seen."""
    names = [Path(item["image"]).name for item in json.loads(DATALIST.read_text())["test"]]
    return [(hippocampus / "images" / name, hippocampus / "labels" / name) for name in names]


def test_the_wheel_carries_bundles_and_segments_with_one(wheel, programs, tmp_path):
    names = set(zipfile.ZipFile(wheel).namelist())
    for bundle in ("sdseg", "hippocampus_sdseg"):
        for name in ("LICENSE", "configs/metadata.json", "configs/train.json", "docs/data_license.txt"):
            assert f"sdseg_monai/bundles/{bundle}/{name}" in names
    assert "sdseg_monai/bundles/sdseg/configs/datasets/kvasir.json" in names
    assert {f"sdseg_monai/report/page.{kind}" for kind in ("html", "css", "js")} <= names
    assert not any(name.endswith("checkpoint.pt") or "tests" in name for name in names)
    write_phantom(tmp_path / "image.nii.gz", tmp_path / "label.nii.gz")
    run(programs / "sdseg", "segment", "image.nii.gz", "-o", "mask.nii.gz", "--report", "r.html", cwd=tmp_path)
    assert load_nifti(tmp_path / "mask.nii.gz").get_fdata().sum() > 0 and "<canvas" in (tmp_path / "r.html").read_text()
    write_mr_series(tmp_path / "image.nii.gz", tmp_path / "series")
    _, err = run(programs / "sdseg", "segment", "series", "-o", "seg.dcm", cwd=tmp_path, code=2)
    assert "pip install sdseg-monai[dicom]" in err and err.count("\n") == 1, "what DICOM needs is told, where it lacks"


def test_a_clinician_with_a_dicom_folder(programs_with_dicom, test_split, tmp_path):
    """A study with two series becomes a DICOM SEG and a page to look at; both say what the NIfTI's mask says."""
    (image, label), (second_image, _) = test_split[:2]
    files = write_mr_series(image, tmp_path / "study" / "T1", SeriesDescription="T1 cropped")
    write_mr_series(second_image, tmp_path / "study" / "scout", SeriesDescription="scout")
    sdseg = programs_with_dicom / "sdseg"
    uid = str(pydicom.dcmread(files[0]).SeriesInstanceUID)
    _, err = run(sdseg, "segment", "study", "-o", "seg.dcm", cwd=tmp_path, code=2)
    assert err.count("\n") == 1 and "2 image series" in err and "'T1 cropped'" in err and uid in err
    assert not (tmp_path / "seg.dcm").exists()

    command = (sdseg, "segment", "study", "--series", uid, "-o")
    out, _ = run(*command, "seg.dcm", "--report", "report.html", cwd=tmp_path)
    assert json.loads(out)["labels"] == LABELS
    run(*command, "mask.nii.gz", cwd=tmp_path)
    run(sdseg, "segment", image, "-o", "of_nifti.nii.gz", cwd=tmp_path)
    mask, of_nifti = (load_nifti(tmp_path / name) for name in ("mask.nii.gz", "of_nifti.nii.gz"))
    to_mask = np.linalg.inv(mask.affine) @ of_nifti.affine
    points = np.argwhere(np.ones(of_nifti.shape, bool))
    where = np.rint(points @ to_mask[:3, :3].T + to_mask[:3, 3]).astype(int)
    np.testing.assert_array_equal(np.asarray(mask.dataobj)[tuple(where.T)], np.asarray(of_nifti.dataobj).ravel())
    expected = read_volume(label).array
    dice = compare_masks("", *map(_tensor, (np.asarray(of_nifti.dataobj), expected))).dice
    assert dice > 0.8

    seg = hd.seg.segread(tmp_path / "seg.dcm")
    assert {seg.get_segment_description(n).segment_label: n for n in seg.segment_numbers} == LABELS
    assert {str(uid) for *_, uid in seg.get_source_image_uids()} == {pydicom.dcmread(f).SOPInstanceUID for f in files}
    frames = seg.get_volume(combine_segments=True)
    ras = np.diag([-1, -1, 1, 1]) @ frames.affine
    to_mask = np.linalg.inv(mask.affine) @ ras
    inside = np.argwhere(frames.array > 0)
    where = np.rint(inside @ to_mask[:3, :3].T + to_mask[:3, 3]).astype(int)
    painted = np.zeros(mask.shape, np.uint8)
    painted[tuple(where.T)] = frames.array[tuple(inside.T)]
    np.testing.assert_array_equal(painted, np.asarray(mask.dataobj))
    if DCIODVFY:
        checked = subprocess.run([DCIODVFY, tmp_path / "seg.dcm"], capture_output=True, text=True)
        assert "Error" not in checked.stderr + checked.stdout, checked.stderr
    assert "Research use only" in (tmp_path / "report.html").read_text()


def _tensor(array):
    import torch

    return torch.from_numpy(np.asarray(array, dtype=np.float32))


@needs_browser
def test_the_clinicians_page_opens_without_a_fault(programs, test_split, tmp_path):
    run(programs / "sdseg", "segment", test_split[0][0], "-o", "m.nii.gz", "--report", "r.html", cwd=tmp_path)
    with start_chromium() as browser:
        browser.get((tmp_path / "r.html").as_uri())
        assert "hippocampus_sdseg" in browser.title and browser.find_element("tag name", "canvas").is_displayed()
        assert "Anterior hippocampus" in browser.find_element("tag name", "body").text
        assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def test_a_clinicians_compressed_ct_is_refused_or_marked(programs_with_dicom, tmp_path):
    """A real JPEG 2000 series of another modality: refused; forced, its mask lies on its grid and says NOT TRUSTED."""
    series = SHARED / "data" / "totalsegmentator-example" / "ct_dicom"
    if not series.is_dir():
        pytest.skip(f"no data at {series}; set SDSEG_SHARED")
    command = (programs_with_dicom / "sdseg", "segment", series, "-o", tmp_path / "out")
    _, err = run(*command, cwd=tmp_path, code=2)
    assert "CT, but the network knows MR" in err and "--force" in err and not list(tmp_path.glob("out/*"))
    _, err = run(*command, "--force", cwd=tmp_path)
    assert "NOT TRUSTED: CT, but the network knows MR" in err
    (seg,) = (tmp_path / "out").glob("*.dcm")
    assert hd.seg.segread(seg).get_volume(combine_segments=True).spatial_shape[1:] == (512, 512)


@pytest.mark.parametrize("interrupt", [signal.SIGINT, signal.SIGTERM])
def test_a_researcher_with_a_folder_of_nifti_files(programs, test_split, tmp_path, interrupt):
    """The run is interrupted, goes on, survives a broken file, and is evaluated; the figures are the README's."""
    (tmp_path / "scans").mkdir()
    (tmp_path / "labels").mkdir()
    for image, label in test_split:
        shutil.copy(image, tmp_path / "scans")
        shutil.copy(label, tmp_path / "labels")
    (tmp_path / "scans" / "broken.nii.gz").write_bytes(b"no volume")
    command = [str(programs / "sdseg"), "segment", "scans", "-o", "masks", "--resume"]
    manifest = tmp_path / "masks" / "sdseg_manifest.json"
    interruptible = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # also where the tests run in the background
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, cwd=tmp_path, preexec_fn=interruptible, stderr=pipe, stdout=pipe, text=True)
    for _ in range(1200):
        if journal_of(manifest).exists() and journal_of(manifest).read_text().count("\n") > 4:
            break
        time.sleep(0.1)
    process.send_signal(interrupt)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "what was finished is kept" in err and "Traceback" not in err
    done = [name for name, case in json.loads(manifest.read_text())["cases"].items() if case["status"] == "done"]
    assert 0 < len(done) < len(test_split)
    times = {name: (tmp_path / "masks" / name).stat().st_mtime_ns for name in done}

    out, err = run(*command, "--report", "run.html", cwd=tmp_path, code=1)
    report = json.loads(out)
    assert (report["done"], report["failed"], report["skipped"]) == (len(test_split), 1, len(done))
    assert "error: " in err and "broken.nii.gz" in err and "Traceback" not in err
    assert times == {name: (tmp_path / "masks" / name).stat().st_mtime_ns for name in done}
    for image, _ in test_split:
        path = tmp_path / "masks" / image.name
        assert read_label_names(path) == {value: name for name, value in LABELS.items()}
        np.testing.assert_allclose(load_nifti(path).affine, load_nifti(image).affine, atol=1e-5)
        volumes = json.loads(manifest.read_text())["cases"][image.name]["volume_ml"]
        assert (
            volumes
            == json.loads((tmp_path / "masks" / f"{image.name.split('.')[0]}.json").read_text())["case"]["volume_ml"]
        )

    evaluate = (programs / "sdseg", "evaluate", "--predictions", "masks", "--labels", "labels", "-o", "metrics.csv")
    out, _ = run(*evaluate, "--report", "metrics.html", "--images", "scans", cwd=tmp_path)
    content = json.loads(out)
    low, high = content["dice_interval"]
    assert content["cases"] == 20 and low < content["dice"] < high and content["dice"] == pytest.approx(0.88, abs=0.002)
    assert content["foreground"]["dice"] == pytest.approx(0.9, abs=0.002)
    assert content["hd95"] < 1.5 and content["nsd"] > 0.95 and set(content["classes"]) == {"1", "2"}
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 22
    out, _ = run(*evaluate[:-1], "official.csv", "--protocol", "official", cwd=tmp_path)
    assert abs(json.loads(out)["dice"] - content["foreground"]["dice"]) < 0.01 and json.loads(out)["hd95"] is None


def test_an_engineer_with_a_pipeline(programs, test_split, tmp_path):
    """From Python: images in memory, one model for many, errors that can be caught, nothing on stdout."""
    image = test_split[0][0]
    installed = next((programs.parent / "lib").glob("python*/site-packages/sdseg_monai/bundles/hippocampus_sdseg"))
    shutil.make_archive(str(tmp_path / "bundle"), "zip", installed)
    (tmp_path / "script.py").write_text(ENGINEER)
    out, _ = run(programs / "python", "script.py", image, "bundle.zip", cwd=tmp_path)
    assert out == ""
    assert "512 of 512 voxels are NaN" in (tmp_path / "error.txt").read_text()
    run(programs / "sdseg", "segment", image, "-o", "by_command.nii.gz", cwd=tmp_path)
    from_memory, by_command = (read_volume(tmp_path / f"{name}.nii.gz") for name in ("from_memory", "by_command"))
    np.testing.assert_array_equal(from_memory.array, by_command.array)
    np.testing.assert_allclose(from_memory.affine, by_command.affine)


def test_a_researcher_trains_on_photographs(programs, tmp_path):
    """From two folders to a mask: init-bundle, a short training, segment; all outside the clone."""
    source = SHARED / "data" / "kvasir-seg-256"
    if not source.is_dir():
        pytest.skip(f"no data at {source}; set SDSEG_SHARED")
    names = sorted(path.name for path in (source / "images").iterdir())[:24]
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
        for name in names:
            path = next((source / kind).glob(f"{Path(name).stem}.*"))
            Image.open(path).resize((96, 96)).save(tmp_path / kind / f"{Path(name).stem}.png")
    command = ("init-bundle", "--images", "images", "--labels", "masks", "-o", "mine", "--name", "1=polyp")
    out, _ = run(programs / "sdseg", *command, "--minutes", "1", cwd=tmp_path)
    assert "polyp" in out and "python -m monai.bundle run training" in out
    training = ("-m", "monai.bundle", "run", "training", "--config_file", "mine/configs/train.json", "--epochs", "2")
    run(programs / "python", *training, "--val_interval", "1", cwd=tmp_path)
    out, _ = run(programs / "sdseg", "segment", "images", "-o", "out", "--bundle", "mine", cwd=tmp_path)
    assert json.loads(out)["done"] == 24 and json.loads(out)["labels"] == {"polyp": 1}
