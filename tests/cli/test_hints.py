"""Which bundle was used, and which one is for an image that it cannot segment."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from sdseg_monai import bundle as bundle_module
from sdseg_monai.bundle import bundles_dir, shipped_code
from tests.cli.running import run
from tests.makers.bundles import write_picture_bundle
from tests.makers.dicom import write_mr_series
from tests.makers.volumes import write_crop, write_nifti, write_thick_phantom

REFUSED = "choose a bundle for such images, or --force for a mask that is NOT TRUSTED"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder of installed bundles: the embedded one, some for pictures, and one each for two modalities."""
    folder = tmp_path_factory.mktemp("installed")
    (folder / "hippocampus_sdseg").symlink_to(bundles_dir() / "hippocampus_sdseg")
    picture_bundle = write_picture_bundle(folder / "skin")
    for name in ("polyps", "untrained", "damaged"):
        shutil.copytree(picture_bundle, folder / name)
    for modality in ("CT", "OT"):
        write_picture_bundle(folder / f"of_{modality}", modality)
    (folder / "untrained" / "models" / "model.pt").unlink()
    (folder / "damaged" / "configs" / "metadata.json").write_text("{")
    return folder


@pytest.fixture(autouse=True)
def use_installed(installed, monkeypatch):
    shipped_code()  # known from the real folder
    monkeypatch.setattr(bundle_module, "bundles_dir", lambda: installed)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A photograph, an MR volume without a modality, and series of some modalities."""
    folder = tmp_path_factory.mktemp("images")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 56, 3), dtype=np.uint8)).save(folder / "a.png")
    write_thick_phantom(folder / "a.nii.gz", folder / "label.nii.gz")
    for modality in ("CT", "CR", "OT", "MR"):
        write_mr_series(folder / "a.nii.gz", folder / modality, Modality=modality)
    return folder


@pytest.mark.parametrize(
    ("image", "mask", "bundle", "hint"),
    [
        ("a.png", "m.png", "hippocampus_sdseg", "installed for pictures: polyps (polyp) and skin (polyp)"),
        ("a.png", "m.png", "of_CT", "installed for pictures: polyps (polyp) and skin (polyp)"),
        ("CT", "m.nii.gz", "hippocampus_sdseg", "installed for CT: of_CT (CT: polyp)"),
        ("CT", "m.nii.gz", "skin", "installed for CT: of_CT (CT: polyp)"),
        (
            "MR",
            "m.nii.gz",
            "of_CT",
            "installed for MR: hippocampus_sdseg (MR: Anterior hippocampus, Posterior hippocampus)",
        ),
        (
            "a.nii.gz",
            "m.nii.gz",
            "polyps",
            "installed for volumes: hippocampus_sdseg (MR: Anterior hippocampus, Posterior hippocampus) and of_CT (CT: "
            "polyp)",
        ),
        ("CR", "m.nii.gz", "hippocampus_sdseg", ""),
        ("OT", "m.nii.gz", "hippocampus_sdseg", ""),
    ],
)
def test_an_image_of_another_kind_is_refused_with_the_bundles_for_it(
    images, tmp_path, capsys, image, mask, bundle, hint
):
    code, out, err = run(capsys, "segment", images / image, "-o", tmp_path / mask, "--bundle", bundle)
    assert (code, out) == (2, "") and err.count("\n") == 1
    assert err.endswith(f"{REFUSED}; {hint}\n" if hint else f"{REFUSED}\n")
    assert list(tmp_path.iterdir()) == []


def test_the_bundle_whose_training_an_image_looks_like_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bundle_module, "bundles_dir", bundles_dir)
    write_crop(tmp_path, "a", (36, 52, 36))
    volume = tmp_path / "images" / "a.nii.gz"
    code, _, err = run(
        capsys, "segment", volume, "-o", tmp_path / "m.nii.gz", "--bundle", "left_ventricle_sdseg", "--device", "cpu"
    )
    name = "hippocampus_sdseg (MR: Anterior hippocampus, Posterior hippocampus)"
    assert code == 2 and err.endswith(f"{REFUSED}; it looks like the images of {name}\n") and err.count("\n") == 1
    assert not (tmp_path / "m.nii.gz").exists()


def test_another_contradiction_has_no_hint(tmp_path, capsys):
    """An MR network does not know from air whether this is a CT or what its user takes for one."""
    rng = np.random.default_rng(0)
    volume = write_nifti(tmp_path / "ct.nii.gz", rng.integers(-1000, 900, (36, 50, 36)).astype(np.int16), np.eye(4))
    code, _, err = run(capsys, "segment", volume, "-o", tmp_path / "m.nii.gz")
    assert code == 2 and "lowest intensity -1000" in err and "installed for" not in err and err.count("\n") == 1


def test_a_folder_names_the_bundles_at_each_image(images, tmp_path, capsys):
    (tmp_path / "photographs").mkdir()
    for name in ("a", "b"):
        shutil.copy(images / "a.png", tmp_path / "photographs" / f"{name}.png")
    code, _, err = run(capsys, "segment", tmp_path / "photographs", "-o", tmp_path / "masks")
    assert code == 2 and err.count("error: ") == 2
    cases = json.loads((tmp_path / "masks" / "sdseg_manifest.json").read_text())["cases"]
    assert all(
        case["error"].endswith("installed for pictures: polyps (polyp) and skin (polyp)") for case in cases.values()
    )


def test_the_default_bundle_is_named_where_no_other_is(images, tmp_path, capsys):
    command = ("segment", images / "a.nii.gz", "-o", tmp_path / "m.nii.gz")
    code, _, err = run(capsys, *command)
    line = "no --bundle was named: used hippocampus_sdseg (Anterior hippocampus, Posterior hippocampus); "
    assert code == 0 and err.count(line) == 1 and "sdseg info" in err
    for options in (("--bundle", "hippocampus_sdseg"), ("--quiet",)):
        code, _, err = run(capsys, *command, *options)
        assert code == 0 and line not in err
