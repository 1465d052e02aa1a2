"""Pages of real runs of the command agree with the other files of the run."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from sdseg_monai.bundle import bundles_dir
from sdseg_monai.cli import main
from tests.makers.volumes import write_crop, write_thick_phantom


@pytest.fixture
def study(tmp_path):
    for name, seed in (("a", 0), ("b", 1)):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "labels").mkdir(exist_ok=True)
        write_thick_phantom(tmp_path / "in" / f"{name}.nii.gz", tmp_path / "labels" / f"{name}.nii.gz", seed=seed)
    (tmp_path / "in" / "<i>c.nii.gz").write_bytes(b"no volume")
    return tmp_path


def run(*arguments):
    return main([*map(str, arguments), "--quiet"])


def test_a_runs_page_shows_every_case_failed_ones_first(study, capsys):
    assert run("segment", study / "in", "-o", study / "out", "--report", study / "r.html", "--device", "cpu") == 1
    assert json.loads(capsys.readouterr().out)["report"] == str(study / "r.html")
    page = (study / "r.html").read_text()
    manifest = json.loads((study / "out" / "sdseg_manifest.json").read_text())
    assert manifest["settings"]["weights_sha256"][0] in page and "uncertainty" not in page
    places = [page.index(f">{name}</h2>") for name in ("&lt;i&gt;c.nii.gz", "a.nii.gz", "b.nii.gz")]
    assert places == sorted(places)
    for case in ("a.nii.gz", "b.nii.gz"):
        for millilitres in manifest["cases"][case]["volume_ml"].values():
            assert f"{millilitres:.2f} ml" in page
    assert page.count("<canvas></canvas>") == 2


def test_an_evaluations_page_shows_the_worst_first(study, capsys):
    (study / "in" / "<i>c.nii.gz").unlink()
    assert run("segment", study / "in", "-o", study / "out", "--device", "cpu") == 0
    shutil.copy(study / "labels" / "a.nii.gz", study / "out" / "a.nii.gz")
    capsys.readouterr()
    command = ("evaluate", "--predictions", study / "out", "--labels", study / "labels", "-o", study / "m.csv")
    assert run(*command, "--report", study / "r.html", "--images", study / "in") == 0
    summary, page = json.loads(capsys.readouterr().out), (study / "r.html").read_text()
    assert f"{summary['dice']:.3f}" in page and page.index(">b</h2>") < page.index(">a</h2>")
    assert "Anterior hippocampus" in page, "the masks themselves name their values"
    assert run(*command, "--report", study / "alone.html") == 0
    for report, message in ((study / "in" / "a.nii.gz", "ending in .html"), (study / "m.htm", "ending in .html")):
        assert run(*command, "--report", report) == 2
        assert message in capsys.readouterr().err
    (study / "in" / "a.nii.gz").unlink()
    assert run(*command, "--report", study / "none.html", "--images", study / "in") == 2
    assert "no image of that name" in capsys.readouterr().err and not (study / "none.html").exists()
    assert run(*command, "--images", study / "in") == 2
    assert "--images are for --report" in capsys.readouterr().err


def test_pictures_without_images_are_shown_as_pictures(tmp_path, capsys):
    for kind, shift in (("masks", 0), ("labels", 3)):
        (tmp_path / kind).mkdir()
        mask = np.zeros((30, 40), np.uint8)
        mask[5 + shift : 15, 8:20] = 255
        Image.fromarray(mask).save(tmp_path / kind / "p.png")
    command = (
        "evaluate",
        "--predictions",
        tmp_path / "masks",
        "--labels",
        tmp_path / "labels",
        "-o",
        tmp_path / "m.csv",
    )
    assert run(*command, "--report", tmp_path / "r.html") == 0
    page = (tmp_path / "r.html").read_text()
    assert ">Photograph<" in page and ">Axial<" not in page


def test_one_image_has_a_page_too(tmp_path, capsys):
    write_crop(tmp_path, "a", affine=np.diag([1, 1, 2, 1]))
    overlay = tmp_path / "size.json"
    shutil.copy(bundles_dir() / "sdseg" / "configs" / "clean_mask.json", overlay)
    command = ("segment", tmp_path / "images" / "a.nii.gz", "--overlay", overlay, "-o", tmp_path / "m.nii.gz")
    assert run(*command, "--report", tmp_path / "r.html", "--abstain-below", "0.9", "--device", "cpu") == 0
    page = (tmp_path / "r.html").read_text()
    assert "unsure" in page and "the mask is not to be trusted" in page, "warnings are flags"
    assert run(*command, "--report", tmp_path / "nowhere.txt") == 2
