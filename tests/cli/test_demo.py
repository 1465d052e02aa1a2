"""The demo segments an image with each bundle that has weights, and writes one page."""

import json
import re

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import binary_dilation, binary_erosion

from sdseg_monai import bundle as bundle_module
from sdseg_monai.bundle import DEFAULT_BUNDLE, Bundle, bundles_dir, shipped_bundles, shipped_code
from sdseg_monai.demo.heart import SHAPE, make_heart
from sdseg_monai.demo.pictures import make_fetal_head, make_skin_lesion
from sdseg_monai.demo.run import MAKERS
from tests.cli.running import run
from tests.makers.bundles import write_picture_bundle
from tests.makers.volumes import load_nifti


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Bundles with weights of the names for which there are images, one of another name, and one without weights."""
    folder = tmp_path / "installed"
    shipped_code()  # known from the real folder
    write_picture_bundle(folder / "skin_lesion_sdseg")
    write_picture_bundle(folder / "left_ventricle_sdseg", "MR")
    write_picture_bundle(folder / "mine")
    write_picture_bundle(folder / "fetal_head_sdseg")
    (folder / "fetal_head_sdseg" / "models" / "model.pt").unlink()
    (folder / "hippocampus_sdseg").symlink_to(bundles_dir() / "hippocampus_sdseg")
    monkeypatch.setattr(bundle_module, "bundles_dir", lambda: folder)


def test_each_bundle_with_weights_has_its_image_on_the_page(installed, tmp_path, capsys):
    output = tmp_path / "demo"
    code, out, _ = run(capsys, "demo", "--offline", "-o", output)
    assert code == 0
    assert "left out the bundle fetal_head_sdseg: it has no weights\n" in out
    assert "left out the bundle mine: there is no image for it here\n" in out
    assert "polyp: " in out and " pixels; Dice against the label 0." in out and "polyp: volume " in out
    folders = {path.name for path in output.iterdir() if path.is_dir()}
    assert folders == {"skin_lesion_sdseg", "left_ventricle_sdseg"}
    for name, suffix in (("skin_lesion_sdseg", ".png"), ("left_ventricle_sdseg", ".nii.gz")):
        files = {path.name for path in (output / name).iterdir()}
        assert files == {f"image{suffix}", f"label{suffix}", f"mask{suffix}", "mask.json"}
        assert json.loads((output / name / "mask.json").read_text())["settings"]["bundle"] == name
    sections = re.split(r'<section class="panel case"', (output / "report.html").read_text())[1:]
    by_name = {re.findall(r'<h2 id="name-\d">(\w+)</h2>', section)[0]: section for section in sections}
    assert set(by_name) == {"hippocampus_sdseg", *folders}
    for name, section in by_name.items():
        assert ("Anterior hippocampus" in section) == (name == "hippocampus_sdseg"), "each has the names of its own"
        assert ("polyp" in section) != (name == "hippocampus_sdseg") and "no pictures" not in section


def test_every_shipped_bundle_with_weights_has_its_image():
    names = [name for name in shipped_bundles() if Bundle.open(name).weights is not None]
    assert DEFAULT_BUNDLE in names and set(names) <= {DEFAULT_BUNDLE, *MAKERS}


@pytest.mark.parametrize("name", MAKERS)
def test_an_image_is_of_the_kind_that_its_bundle_takes(name, tmp_path):
    image, label = MAKERS[name](tmp_path)
    if name in shipped_bundles() and Bundle.open(name).config_file("metadata").is_file():
        assert (image.suffix == ".png") == (Bundle.open(name).modality == "RGB")
    if image.suffix == ".png":
        shapes = [np.asarray(Image.open(path)).shape[:2] for path in (image, label)]
    else:
        shapes = [load_nifti(path).shape for path in (image, label)]
        np.testing.assert_allclose(np.diag(load_nifti(image).affine), [1.4, 1.4, 10, 1])
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("make", [make_skin_lesion, make_fetal_head, make_heart])
def test_an_image_depends_on_its_seed_alone(make):
    image, label = make()
    assert all(np.array_equal(*pair) for pair in zip((image, label), make(0), strict=True))
    assert not np.array_equal(image, make(1)[0]) and 0.01 < label.mean() < 0.5


def test_images_show_what_their_labels_say():
    photograph, spot = make_skin_lesion()
    assert photograph[binary_erosion(spot, iterations=6)].mean() < photograph[~spot].mean() - 40
    ultrasound, head = make_fetal_head()
    skull = head & ~binary_erosion(head, iterations=6)
    assert ultrasound[skull].mean() > 1.5 * ultrasound[~skull & (ultrasound[..., 0] > 0)].mean()
    volume, cavity = make_heart()
    for z in range(SHAPE[2]):
        blood = cavity[..., z] == 1
        wall = binary_dilation(blood, iterations=5) & ~binary_dilation(blood, iterations=2)
        assert volume[..., z][blood].mean() > 2 * volume[..., z][wall].mean()
