"""A clinician's steps in OHIF, as MONAI Label ships it, on a real Orthanc: open, segment, submit, next study.

``SDSEG_PICTURES=docs/images`` also saves the pictures of the documentation.
"""

from __future__ import annotations

import ast
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import pytest
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from scipy.spatial.transform import Rotation

from tests.label.ohif import Ohif, View
from tests.makers.browser import needs_browser
from tests.makers.dicom import write_mr_series
from tests.makers.label_server import LabelServer, needs_label_env
from tests.makers.orthanc import HAS_ORTHANC, NO_ORTHANC, OrthancServer
from tests.makers.places import ROOT
from tests.makers.processes import run_process
from tests.makers.volumes import load_nifti, write_nifti

pytestmark = [
    needs_label_env,
    needs_browser,
    pytest.mark.skipif(not HAS_ORTHANC, reason=NO_ORTHANC),
    pytest.mark.shared,
    pytest.mark.slow,
]

MODEL = "hippocampus_sdseg"
PICTURES = os.environ.get("SDSEG_PICTURES")
BLEND = 60  # of 3 x 255: what an outline takes of the other segment's colour
NEAR = 0.3  # mm from a voxel's centre to the plane that is shown; voxels have 1 mm
MRN_FILTER = "(//input)[2]"
OPTIONS, CONFIRM = "//a[text()='Options / Configurations']", "//button[contains(., 'Confirm')]"
FONTS = "fonts.googleapis.com"  # OHIF's page asks there for a font, and does without
EXPECTED_ERRORS = {
    "404 /assets/android-chrome-144x144.png",  # OHIF's manifest looks beside /ohif
    "404 /train/",  # MONAI Label's answer where no training runs
}


@dataclass(frozen=True)
class Case:
    """A study of one series, and what ``sdseg segment`` makes of the volume [X, Y, Z] that it was written from."""

    patient: str
    date: str  # of the study, as OHIF shows it
    study: str
    series: str
    slices: list[str]  # SOPInstanceUIDs along Z
    affine: np.ndarray  # indices to mm, LPS
    mask: np.ndarray
    label: np.ndarray


def write_volume(source: Path, target: Path, axes: str, angles: tuple[float, float, float]) -> np.ndarray:
    """Write a volume with other axes and turned, in whole numbers as DICOM has them; return its voxels."""
    volume = load_nifti(source)
    turned = volume.as_reoriented(ornt_transform(io_orientation(volume.affine), axcodes2ornt(axes)))
    rotation = np.eye(4)
    rotation[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    array = np.rint(np.asarray(turned.dataobj)).astype(np.uint16)
    write_nifti(target, array, rotation @ turned.affine)
    return array


@pytest.fixture(scope="module")
def orthanc():
    with OrthancServer() as server:
        yield server


@pytest.fixture(scope="module")
def cases(orthanc, hippocampus, tmp_path_factory) -> dict[str, Case]:
    """Three patients of the test split: axial slices; left-handed sagittal ones of a turned head; axial again."""
    folder = tmp_path_factory.mktemp("cases")
    ways = {"axial": ("RAS", (0, 0, 0)), "oblique": ("PSL", (10, -5, 20)), "other": ("RAS", (0, 0, 0))}
    test = json.loads((ROOT / "bundles" / MODEL / "configs" / "datalist.json").read_text())["test"]
    files = {way: folder / "images" / Path(item["image"]).name for way, item in zip(ways, test, strict=False)}
    (folder / "images").mkdir()
    labels = {}
    for way, file in files.items():
        labels[way] = write_volume(hippocampus / "labels" / file.name, folder / "label.nii.gz", *ways[way])
        write_volume(hippocampus / "images" / file.name, file, *ways[way])
    command = ("sdseg", "segment", str(folder / "images"), "-o", str(folder / "masks"))
    assert run_process(*command).returncode == 0
    cases = {}
    for day, (way, file) in enumerate(files.items(), 11):
        number = file.name.removesuffix(".nii.gz").rpartition("_")[2]
        header = {"PatientID": f"MSD-{number}", "PatientName": f"Hippocampus^{number}", "StudyDate": f"202401{day}"}
        series = write_mr_series(file, folder / number, **header)
        orthanc.upload(series)
        slices = [pydicom.dcmread(path) for path in series]
        cases[way] = Case(
            patient=f"MSD-{number}",
            date=f"{day}-Jan-2024",
            study=slices[0].StudyInstanceUID,
            series=slices[0].SeriesInstanceUID,
            slices=[item.SOPInstanceUID for item in slices],
            affine=np.diag([-1, -1, 1, 1]) @ load_nifti(file).affine,
            mask=np.asarray(load_nifti(folder / "masks" / file.name).dataobj),
            label=labels[way],
        )
    return cases


@pytest.fixture(scope="module")
def server(orthanc, cases, tmp_path_factory):
    usual_port = ("--port", "8000") if PICTURES else ()
    with LabelServer(orthanc.dicomweb_url, tmp_path_factory.mktemp("label") / "work", *usual_port) as server:
        yield server


@pytest.fixture(scope="module")
def browser(server):
    with Ohif(server.url) as browser:
        browser.open_list()
        browser.hide_notice()
        yield browser


@pytest.fixture
def ohif(browser, tmp_path):
    """The browser; at the end no script and no request of the page has failed that should not."""
    yield browser
    browser.driver.save_screenshot(str(tmp_path / "ohif.png"))
    hosts, errors = browser.requests()
    assert hosts <= {"127.0.0.1", FONTS}
    assert errors <= EXPECTED_ERRORS
    assert not browser.script_errors()


def save_picture(ohif: Ohif, name: str) -> None:
    if PICTURES:
        ohif.save_picture(Path(PICTURES, f"label_{name}.png"))


def assert_drawn(before: list[View], after: list[View], case: Case) -> None:
    """The mask's voxels, and no others, have taken on their segment's colour, each where it lies in the patient."""
    points = np.argwhere(np.ones_like(case.mask)) @ case.affine[:3, :3].T + case.affine[:3, 3]
    for old, new in zip(before, after, strict=True):
        visible = new.depth(points) < NEAR
        was, now, expected = old.sample(points[visible]), new.sample(points[visible]), case.mask.ravel()[visible]
        assert (expected > 0).sum() > 20, f"{new.id}: the hippocampus is not in the picture"
        has_changed = np.abs(now - was).max(axis=1) > 0
        assert np.array_equal(has_changed, expected > 0), new.id
        for value, colour in enumerate(new.colours, 1):
            old_distance, new_distance = (np.abs(pixels - colour).sum(axis=1) for pixels in (was, now))
            assert (new_distance < old_distance)[(expected == value) & (old_distance > BLEND)].all(), (new.id, value)


def holds(ohif: Ohif, case: Case) -> bool:
    """Say whether the labelmap in OHIF is the case's mask, in each slice."""
    labelmap = ohif.labelmap()
    expected = {uid: case.mask[..., index].T for index, uid in enumerate(case.slices)}
    return labelmap.keys() == expected.keys() and all(np.array_equal(labelmap[uid], expected[uid]) for uid in expected)


def test_list_of_studies(ohif, cases):
    """Every patient is in the list, and a filter leaves those that match."""
    patient, other_patient = cases["axial"].patient, cases["oblique"].patient
    ohif.open_list()
    for case in cases.values():
        ohif.wait_for_text(case.patient)
    ohif.click(f"//*[text()='{patient}']")
    ohif.wait_for_text("MONAI Label")
    save_picture(ohif, "studies")
    ohif.type(MRN_FILTER, other_patient)
    ohif.wait(lambda: patient not in ohif.text, "the filter of the list of studies")
    assert other_patient in ohif.text


@pytest.mark.parametrize("way", ["axial", "oblique"])
def test_segmentation_is_drawn(ohif, cases, way):
    """OHIF holds the mask of ``sdseg segment``, slice by slice, and draws it where it lies in the patient."""
    case = cases[way]
    ohif.open_study(case.study)
    assert [listed.date for listed in cases.values() if listed.date in ohif.text] == [case.date], "others' studies"
    ohif.connect()
    assert not any(voxels.any() for voxels in ohif.labelmap().values())
    before = ohif.views()
    assert len(before) == 3  # axial, sagittal, coronal
    ohif.run_model()
    ohif.wait(lambda: holds(ohif, case), "the mask of sdseg segment")
    for value in (1, 2):
        mask, label = case.mask == value, case.label == value
        overlap = 2 * (mask & label).sum() / (mask.sum() + label.sum())
        assert overlap > 0.7, "the mask is not that of the hippocampus"
    ohif.wait(
        lambda: all(np.any(old.pixels != new.pixels) for old, new in zip(before, ohif.views(), strict=True)),
        "a drawing",
    )
    assert_drawn(before, ohif.views(), case)
    if way == "axial":
        save_picture(ohif, "ohif")


def test_options(ohif, cases, server):
    """The panel shows the model's options and sends those that were changed; a bad one is refused and said so."""
    case = cases["axial"]
    ohif.open_study(case.study)
    ohif.connect()
    ohif.click(OPTIONS)
    fields = ohif.wait(lambda: ohif.ids(".optionsConfig"), "the options")
    assert fields == [f"infer{MODEL}{name}" for name in ("device", "seed", "batch_size", "weights", "force")]
    ohif.type(f"//input[@id='infer{MODEL}seed']", "7")
    ohif.type(f"//input[@id='infer{MODEL}batch_size']", "2")
    ohif.select(f"infer{MODEL}weights", "original")
    save_picture(ohif, "options")
    ohif.click(CONFIRM)
    ohif.run_model()
    ohif.wait(lambda: holds(ohif, case), "the mask of sdseg segment")
    request = ast.literal_eval(re.findall(r"Infer Request: (.*)", server.log)[-1])
    assert (request["seed"], request["batch_size"], request["weights"]) == ("7", "2", "original")

    ohif.click(OPTIONS)
    ohif.type(f"//input[@id='infer{MODEL}batch_size']", "0")
    ohif.click(CONFIRM)
    ohif.run_model()
    ohif.wait_for_text("Failed to Run Segmentation")
    assert holds(ohif, case)
    assert ohif.requests()[1] - EXPECTED_ERRORS == {f"422 /infer/{MODEL}"}
    ohif.wait(lambda: re.search("refused POST .*batch_size='?0'?: expected", server.log), "the reason in the log")


def test_submit_and_go_on(ohif, cases, orthanc):
    """The submitted label is a DICOM SEG in the archive, another patient is next, and OHIF draws the SEG as it was."""
    case = cases["axial"]
    ohif.open_study(case.study)
    ohif.connect()
    ohif.run_model()
    ohif.wait(lambda: holds(ohif, case), "the mask of sdseg segment")
    names = ["Anterior hippocampus", "Posterior hippocampus"]
    assert ohif.submit(case.series, [{"name": name} for name in names]) == 200
    (seg,) = orthanc.instances(Modality="SEG")
    assert (seg.PatientID, seg.StudyInstanceUID) == (case.patient, case.study)
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == case.series
    assert [segment.SegmentLabel for segment in seg.SegmentSequence] == names

    ohif.click("//label[contains(., 'Active Learning')]")
    ohif.click("//button[contains(., 'Next Sample')]")
    ohif.wait_for_text("Study Instance UID")
    (following,) = [candidate for candidate in cases.values() if candidate.study in ohif.text]
    assert following.patient != case.patient
    ohif.click("//*[@class='nextSampleForm']//button")
    ohif.accept_question()
    ohif.wait(lambda: ohif.driver.current_url.endswith(following.study), "the next study")
    ohif.wait_for_images()

    ohif.open_study(case.study, "segmentation")
    ohif.double_click("//div[text()='SEG']")
    ohif.click("//button[contains(., 'Yes')]")
    ohif.wait(lambda: holds(ohif, case), "the mask in the SEG")
    ohif.show_slice(int((case.mask > 0).sum(axis=(0, 1)).argmax()))
    save_picture(ohif, "seg")
