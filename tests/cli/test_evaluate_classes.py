"""``sdseg evaluate`` with several classes, names in masks, masks that cannot be used, hostile names."""

import csv
import json

import nibabel as nib
import numpy as np
import pytest

from sdseg_monai.io.formats.nifti_labels import label_extension
from sdseg_monai.io.segments import Segment
from tests.cli.running import run
from tests.makers.volumes import OBLIQUE, write_nifti, write_seg_nrrd

LABEL = np.zeros((4, 5, 6), np.uint8)
LABEL[:2, :2, :2], LABEL[2:, :2, :2] = 1, 2
SWAPPED = np.array([0, 2, 1], np.uint8)[LABEL]


def save(path, array, affine=OBLIQUE, names=None):
    path.parent.mkdir(exist_ok=True)
    image = nib.Nifti1Image(array, affine)
    extension = label_extension({value: Segment(name, (1, 2, 3), None) for value, name in (names or {}).items()})
    if extension is not None:
        image.header.extensions.append(extension)
    nib.save(image, path)


@pytest.fixture
def evaluate(tmp_path, capsys):
    """Evaluate the folders; return the exit code, the summary (None without one), stderr and the rows of the table."""

    def evaluate_folders(*options):
        arguments = ("evaluate", "--predictions", tmp_path / "masks", "--labels", tmp_path / "labels")
        code, out, err = run(capsys, *arguments, "-o", tmp_path / "m.csv", *options)
        rows = {}
        if (tmp_path / "m.csv").exists():
            with (tmp_path / "m.csv").open(newline="") as file:
                rows = {row["case"]: row for row in csv.DictReader(file)}
        return code, json.loads(out) if out else None, err, rows

    return evaluate_folders


def test_exchanged_classes_are_the_worst_case_everywhere(tmp_path, evaluate):
    names = {1: "Head", 2: "<Tail>"}
    for case, mask in (("a_right", LABEL), ("swapped", SWAPPED)):
        save(tmp_path / "masks" / f"{case}.nii.gz", mask, names=names)
        save(tmp_path / "labels" / f"{case}.nii.gz", LABEL)
    code, summary, err, rows = evaluate("--report", tmp_path / "r.html")
    assert code == 0 and summary["dice"] == 0.5 and summary["foreground"]["dice"] == 1
    assert summary["zero_dice"] == {"swapped": [1, 2]} and summary["classes"]["2"]["name"] == "<Tail>"
    assert "Dice is 0 for a class of 1 cases: swapped (class 1 Head, class 2 <Tail>)" in err
    swapped = rows["swapped"]
    assert (float(swapped["dice"]), float(swapped["dice_2"]), float(swapped["dice_foreground"])) == (0, 0, 1)
    assert swapped["name_1"] == "Head" and list(rows) == ["a_right", "swapped", "mean"]
    page = (tmp_path / "r.html").read_text()
    assert page.index(">swapped</h2>") < page.index(">a_right</h2>") and "Dice 0: Head, &lt;Tail&gt;" in page
    for head in ("Dice, Foreground", "Dice, Head", "Dice, &lt;Tail&gt;"):
        assert f">{head}</button>" in page
    assert "Mean of the classes" in page and "overlap; 1 is best; mean of the classes" in page


def test_a_mask_that_cannot_be_used_does_not_stop_the_others(tmp_path, evaluate):
    for case, mask in (("a", LABEL), ("b", LABEL[:-1]), ("c", SWAPPED)):
        save(tmp_path / "masks" / f"{case}.nii.gz", mask)
        save(tmp_path / "labels" / f"{case}.nii.gz", LABEL)
    (tmp_path / "masks" / "d.nii.gz").write_bytes(b"no mask")
    save(tmp_path / "labels" / "d.nii.gz", LABEL)
    code, summary, err, rows = evaluate("--report", tmp_path / "r.html", "--quiet")
    assert code == 1 and list(rows) == ["a", "c", "mean"] and summary["cases"] == 2
    assert list(summary["failed"]) == ["b", "d"] and "shape (3, 5, 6)" in summary["failed"]["b"]
    assert [line.split(":")[0] for line in err.splitlines()] == ["error"] * 2 and "d.nii.gz: not a readable" in err
    page = (tmp_path / "r.html").read_text()
    assert "<b>2</b> failed" in page and page.index(">d</h2>") < page.index(">c</h2>")


def test_nothing_is_written_if_no_mask_can_be_used(tmp_path, evaluate):
    for case in "ab":
        save(tmp_path / "masks" / f"{case}.nii.gz", LABEL[:-1])
        save(tmp_path / "labels" / f"{case}.nii.gz", LABEL)
    code, summary, err, rows = evaluate("--report", tmp_path / "r.html")
    assert (code, summary, rows) == (2, None, {}) and err.count("error: ") == 2 and not (tmp_path / "r.html").exists()


@pytest.mark.parametrize("axes", [(2, 0, 1), (0, 1, 2)])
def test_the_order_of_the_voxels_does_not_matter(axes, tmp_path, evaluate):
    orientation = np.array([[axis, flip] for axis, flip in zip(axes, (-1, 1, -1), strict=True)])
    image = nib.Nifti1Image(LABEL, OBLIQUE).as_reoriented(orientation)
    save(tmp_path / "masks" / "a.nii.gz", np.asarray(image.dataobj), image.affine)
    save(tmp_path / "labels" / "a.nii.gz", LABEL)
    code, summary, _, rows = evaluate("--report", tmp_path / "r.html", "-q")
    assert code == 0 and summary["dice"] == 1 and float(rows["a"]["hd95"]) == 0
    assert "no pictures" not in (tmp_path / "r.html").read_text()


def test_names_on_which_masks_and_labels_disagree_are_told(tmp_path, evaluate):
    save(tmp_path / "masks" / "a.nii.gz", LABEL, names={1: "Head", 2: "Tail"})
    (tmp_path / "labels").mkdir()
    write_seg_nrrd(tmp_path / "labels" / "a.seg.nrrd", LABEL, OBLIQUE, {1: "Tail", 2: "Tail"})
    code, summary, err, rows = evaluate()
    assert code == 0 and "note: masks and labels call class 1 Head, Tail: if these are not one structure" in err
    assert "name" not in summary["classes"]["1"] and summary["classes"]["2"]["name"] == "Tail"
    assert "name_1" not in rows["a"] and rows["a"]["name_2"] == "Tail"


def test_hostile_names_run_in_no_spreadsheet_and_hide_nothing_on_the_page(tmp_path, evaluate):
    evil, names = "=1+1\x1b[2J\u202e", {1: "@SUM(1)", 2: "\r=2"}
    for folder in ("masks", "labels"):
        save(tmp_path / folder / f"{evil}.nii.gz", SWAPPED if folder == "masks" else LABEL, names=names)
    code, summary, _, rows = evaluate("--report", tmp_path / "r.html")
    assert code == 0 and summary["zero_dice"] == {evil: [1, 2]}, "JSON has escapes of its own"
    shown = r"'=1+1\x1b[2J\u202e"
    assert list(rows) == [shown, "mean"] and rows[shown]["name_1"] == "'@SUM(1)"
    assert float(rows[shown]["volume_difference"]) == 0
    for text in ((tmp_path / "m.csv").read_text(), (tmp_path / "r.html").read_text()):
        assert not set("\x1b\u202e\r") & set(text)
    assert f">{shown[1:]}</h2>" in (tmp_path / "r.html").read_text()


def test_a_single_class_has_the_columns_of_one(tmp_path, evaluate):
    for folder in ("masks", "labels"):
        (tmp_path / folder).mkdir()
        write_nifti(tmp_path / folder / "a.nii.gz", LABEL.clip(max=1))
    code, summary, _, rows = evaluate()
    assert code == 0 and list(rows["a"]) == ["case", "dice", "iou", "hd95", "nsd", "volume_difference"]
    assert not {"foreground", "classes", "zero_dice", "failed"} & summary.keys()
