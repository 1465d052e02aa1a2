"""Every command that reads volumes says once that a header does not say for certain where they lie."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest

from sdseg_monai.evaluation import evaluate_case
from sdseg_monai.io.volumes import read_volume
from tests.cli.running import run


@pytest.fixture
def folder(tmp_path):
    """Images, labels and masks of two cases; image and label of ``a`` have neither sform nor qform."""
    labels = np.zeros((16, 16, 16), np.uint8)
    labels[4:12, 4:12, 4:12] = 1
    image = np.arange(16**3, dtype=np.int16).reshape(16, 16, 16)
    arrays: dict[str, np.ndarray] = {"images": image, "labels": labels, "masks": labels}
    guess = nib.Nifti1Image(labels, None).header.get_base_affine()
    for kind, array in arrays.items():
        (tmp_path / kind).mkdir()
        for case in "ab":
            is_guess = case == "a" and kind != "masks"
            voxels = array + 1 if (kind, case) == ("images", "b") else array
            nib.save(nib.Nifti1Image(voxels, None if is_guess else guess), tmp_path / kind / f"{case}.nii.gz")
    return tmp_path


@pytest.fixture
def warned_files(caplog):
    """Return a function that returns the names of the files in the warnings, and forgets them."""

    def names():
        texts = [message.split(": ") for message in caplog.messages]
        caplog.clear()
        return sorted(name for name, *words in texts if words and words[0].startswith("neither sform nor qform"))

    return names


def test_evaluate_says_them_and_its_summary_and_page_hold_them(folder, capsys, warned_files):
    command = ("evaluate", "--predictions", folder / "masks", "--labels", folder / "labels")
    code, out, _ = run(capsys, *command, "-o", folder / "m.csv", "--report", folder / "r.html")
    texts = [warning.text for warning in read_volume(folder / "labels" / "a.nii.gz").warnings]
    assert code == 0 and warned_files() == ["labels/a.nii.gz"]
    assert json.loads(out)["warnings"] == {"a": [f"labels/a.nii.gz: {text}" for text in texts]}
    page = (folder / "r.html").read_text()
    assert texts and all(text in page for text in texts)


def test_the_page_of_an_evaluation_tells_of_the_images(folder, capsys, warned_files):
    command = ("evaluate", "--predictions", folder / "masks", "--labels", folder / "masks", "-o", folder / "m.csv")
    code, *_ = run(capsys, *command, "--images", folder / "images", "--report", folder / "r.html")
    assert code == 0 and warned_files() == ["images/a.nii.gz"]


def test_a_case_of_an_evaluation_holds_them(folder):
    label = folder / "labels" / "a.nii.gz"
    case = evaluate_case(folder / "masks" / "a.nii.gz", label)
    assert case.warnings == {label: read_volume(label).warnings}
    assert evaluate_case(folder / "masks" / "b.nii.gz", folder / "labels" / "b.nii.gz").warnings == {}


def test_init_bundle_says_them(folder, capsys, warned_files):
    options = ("--images", folder / "images", "--labels", folder / "labels", "-o", folder / "bundle", "--minutes", 0.01)
    code, *_ = run(capsys, "init-bundle", *options)
    assert code == 0 and warned_files() == ["images/a.nii.gz", "labels/a.nii.gz"]


def test_audit_says_them(folder, capsys, warned_files):
    code, *_ = run(capsys, "audit", "--labels", folder / "labels", "--device", "cpu")
    assert code == 0 and warned_files() == ["labels/a.nii.gz"]


def test_the_page_of_a_segmentation_does_not_repeat_them(folder, capsys, warned_files):
    images = folder / "images"
    (folder / "more").mkdir()
    for source in (images / "a.nii.gz", shutil.copytree(images, folder / "two")):
        target = folder / "more" / ("mask.nii.gz" if source.is_file() else "masks")
        options = ("--report", folder / "more" / "r.html", "--device", "cpu", "--force")
        code, *_ = run(capsys, "segment", source, "-o", target, *options)
        assert code == 0 and warned_files() == ["a.nii.gz"]
