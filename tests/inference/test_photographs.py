"""Photographs give pictures of masks."""

import json

import numpy as np
import pytest
from PIL import Image

from sdseg_monai import Pipeline, segment
from sdseg_monai.cli import main
from sdseg_monai.errors import ArgumentError, InputError
from sdseg_monai.io.pictures import read_picture_mask
from tests.makers.bundles import write_picture_bundle


@pytest.fixture(scope="module")
def picture_bundle(tmp_path_factory):
    """A bundle for photographs with random weights, as a folder."""
    return write_picture_bundle(tmp_path_factory.mktemp("pictures") / "polyps")


@pytest.fixture
def photographs(tmp_path):
    folder = tmp_path / "photographs"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.jpg", "c.tif"):
        Image.fromarray(rng.integers(0, 255, (40, 56, 3), dtype=np.uint8)).save(folder / name)
    return folder


def test_photographs_become_black_and_white_pictures(picture_bundle, photographs, tmp_path, capsys):
    code = main(["segment", str(photographs), "-o", str(tmp_path / "out"), "--bundle", str(picture_bundle), "--quiet"])
    captured = capsys.readouterr()
    assert code == 0 and captured.err == "" and json.loads(captured.out)["done"] == 3
    pipeline = Pipeline(picture_bundle, device="cpu")
    manifest = json.loads((tmp_path / "out" / "sdseg_manifest.json").read_text())
    for path in photographs.iterdir():
        mask = read_picture_mask(tmp_path / "out" / f"{path.stem}.png")
        assert mask.shape == (40, 56)
        np.testing.assert_array_equal(mask, pipeline.segment(path).labels[..., 0] == 1)
        assert manifest["cases"][path.name]["pixels"] == {"polyp": int(mask.sum())}
    again = ["segment", str(photographs), "-o", str(tmp_path / "out"), "--bundle", str(picture_bundle), "--resume"]
    assert main(again) == 0 and json.loads(capsys.readouterr().out)["skipped"] == 3
    (tmp_path / "out" / "a.png").write_bytes(b"")
    assert main(again) == 0 and json.loads(capsys.readouterr().out)["skipped"] == 2


def test_one_photograph(picture_bundle, photographs, tmp_path, capsys):
    command = ["segment", str(photographs / "b.jpg"), "--bundle", str(picture_bundle), "-q", "-o"]
    assert main([*command, str(tmp_path / "m.png"), "--save-score"]) == 0
    assert {p.name for p in tmp_path.iterdir()} == {"photographs", "m.png", "m.json", "m_score.nii.gz"}
    assert main([*command, str(tmp_path / "m.nii.gz")]) == 2
    assert "expected a file ending in .png" in capsys.readouterr().err
    assert main([*command, str(tmp_path / "n.png"), "--abstain-below", "0.1"]) == 2
    assert "no value for an unsure pixel" in capsys.readouterr().err and not (tmp_path / "n.png").exists()
    assert main([*command, str(photographs / "c.png")]) == 0, "another name than any picture there"


def test_another_kind_of_image_than_the_bundles_is_refused(picture_bundle, photographs, volume, caplog):
    with pytest.raises(ArgumentError, match=r"a\.png: a picture, but the network knows MR; .* force=True"):
        segment(photographs / "a.png", device="cpu")
    with pytest.raises(InputError, match="expected a grey-value volume"):  # three colours are not one grey value
        segment(photographs / "a.png", device="cpu", force=True)
    with pytest.raises(ArgumentError, match="a volume, but the network knows RGB; "):
        segment(volume, bundle=picture_bundle, device="cpu")
    result = segment(volume, bundle=picture_bundle, device="cpu", force=True)
    assert result.not_trusted == "NOT TRUSTED: a volume, but the network knows RGB"
    assert "NOT TRUSTED: a volume, but the network knows RGB" in caplog.text
    caplog.clear()
    segment(photographs / "a.png", bundle=picture_bundle, device="cpu")
    assert not caplog.records
