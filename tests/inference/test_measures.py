"""Measures that a bundle declares of a segment, and the size of a photograph's pixels."""

import json
from dataclasses import replace

import numpy as np
import pytest

from sdseg_monai import Pipeline, segment
from sdseg_monai.bundle import Bundle
from sdseg_monai.cli import main
from sdseg_monai.errors import ArgumentError, InputError
from sdseg_monai.inference.measures import measure_texts
from tests.makers.bundles import write_picture_bundle
from tests.makers.photographs import write_photograph

MEASURE = "ellipse_circumference"
NAME = "Fetal head"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_picture_bundle(tmp_path_factory.mktemp("measures") / "head", name=NAME, measures=[MEASURE])


@pytest.fixture(scope="module")
def pipeline(bundle):
    return Pipeline(bundle, device="cpu")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for seed, name in enumerate("ab"):
        write_photograph(folder, name, seed)
    return folder / "images"


def with_disc(result, radius, centre=(20, 28)):
    rows, columns = np.indices(result.labels.shape[:2])
    disc = np.hypot(rows - centre[0], columns - centre[1]) <= radius
    return replace(result, labels=disc[..., None].astype(np.uint8))


@pytest.mark.parametrize("measures", ["ellipse_circumference", ["volume"], [["ellipse_circumference"]], {}], ids=str)
def test_a_measure_that_is_not_known_is_refused(tmp_path, measures):
    root = write_picture_bundle(tmp_path / "head", name=NAME, measures=measures)
    with pytest.raises(InputError, match=r"segments#1#measures is .*, expected a list of measures, .*: ellipse_circum"):
        Bundle.open(root).segments  # noqa: B018


def test_the_circumference_of_a_disc(pipeline, pictures):
    result = pipeline(pictures / "a.png", pixel_mm=0.5)
    disc = with_disc(result, 12)
    assert disc.measures[NAME]["circumference_mm"] == pytest.approx(2 * np.pi * 12 * 0.5, rel=0.02)
    assert replace(disc, pixel_mm=None).measures[NAME]["circumference_pixels"] == pytest.approx(24 * np.pi, rel=0.02)
    assert [measurement.doubt for measurement in disc.measurements] == [""]
    area = int((disc.labels == 1).sum())
    assert disc.sizes == {"pixels": {NAME: area}, "area_mm2": {NAME: area / 4}}
    assert f"{NAME} circumference 37." in repr(disc) and repr(disc).count("mm") == 1
    empty = replace(disc, labels=np.zeros_like(disc.labels))
    assert empty.measures == {NAME: {"circumference_mm": None}} and not empty.measurements[0].doubt
    assert measure_texts({"measures": empty.measures}) == {f"{NAME} circumference": "none"}


def test_what_makes_a_circumference_doubtful(pipeline, pictures):
    disc = with_disc(pipeline(pictures / "a.png"), 15, (5, 28))
    (measurement,) = disc.measurements
    assert measurement.doubt.startswith("it touches the edge of the picture") and "means little" in measurement.doubt
    bars = np.zeros_like(disc.labels)
    bars[8:30, 10:40], bars[12:30, 18:40] = 1, 0  # an angle
    (measurement,) = replace(disc, labels=bars).measurements
    assert measurement.doubt.startswith("it is no ellipse (Dice of the mask and the fitted ellipse: 0.")


def test_doubts_are_warnings_of_the_result(pipeline, pictures, caplog):
    result = pipeline(pictures / "a.png")
    assert result.labels.any() and (result.labels[0].any() or result.labels[-1].any()), "random weights"
    (warning,) = result.warnings
    assert warning.kind == "measure" and warning.text.startswith(f"{NAME}: it touches the edge")
    assert not warning.contradiction and result.trusted and f"a.png: {warning.text}" in caplog.text
    case = result.manifest["case"]
    assert case["warnings"] == [vars(warning)] and case["measures"] == result.measures and "pixel_mm" not in case
    assert list(case["measures"][NAME]) == ["circumference_pixels"] and "area_mm2" not in case


def test_a_volume_has_no_circumference_of_its_many_slices(bundle, volume):
    result = segment(volume, bundle=bundle, device="cpu", force=True)
    assert result.measures == {NAME: {"circumference_mm": None}}
    assert "slices, and an ellipse is fitted to a single one" in result.warnings[-1].text


def test_the_command_on_one_picture(bundle, pictures, tmp_path, capsys):
    output = tmp_path / "mask.png"
    command = ["segment", str(pictures / "a.png"), "-o", str(output), "--bundle", str(bundle), "-q"]
    assert main([*command, "--pixel-mm", "0.25", "--report", str(tmp_path / "page.html")]) == 0
    line = json.loads(capsys.readouterr().out)
    case = json.loads(output.with_suffix(".json").read_text())["case"]
    assert case["pixel_mm"] == 0.25 and line["measures"] == case["measures"] and line["area_mm2"] == case["area_mm2"]
    value = line["measures"][NAME]["circumference_mm"]
    page = (tmp_path / "page.html").read_text()
    assert f"{value:.1f} mm" in page and f"{line['area_mm2'][NAME]:.1f} mm²" in page
    assert line["warnings"][0]["kind"] == "measure" and line["warnings"][0]["text"] in page


def test_the_command_on_a_folder_does_not_mix_sizes(bundle, pictures, tmp_path, capsys):
    command = ["segment", str(pictures), "-o", str(tmp_path / "out"), "--bundle", str(bundle), "--pixel-mm"]
    assert main([*command, "0.25"]) == 0
    out, err = capsys.readouterr()
    cases = json.loads((tmp_path / "out" / "sdseg_manifest.json").read_text())["cases"]
    for name, case in cases.items():
        assert json.loads(out)["cases"][name]["measures"] == case["measures"] and case["pixel_mm"] == 0.25
        assert f"{NAME} circumference {case['measures'][NAME]['circumference_mm']:.1f} mm" in err
    for pixel_mm, count in (("0.25", 2), ("0.5", 0)):
        assert main([*command, pixel_mm, "--resume", "-q"]) == 0
        assert json.loads(capsys.readouterr().out)["skipped"] == count
    new_cases = json.loads((tmp_path / "out" / "sdseg_manifest.json").read_text())["cases"]
    for name, case in new_cases.items():
        old_value = cases[name]["measures"][NAME]["circumference_mm"]
        assert case["measures"][NAME]["circumference_mm"] == pytest.approx(2 * old_value, abs=1e-3)


def test_a_list_gives_each_picture_its_size(bundle, pictures, tmp_path, capsys):
    (tmp_path / "list.csv").write_text(f"image,pixel_mm\n{pictures / 'a.png'},0.2\n{pictures / 'b.png'},\n")
    items = [{"image": str(pictures / "a.png"), "pixel_mm": 0.2}, str(pictures / "b.png")]
    (tmp_path / "list.json").write_text(json.dumps({"test": items}))
    for name in ("list.csv", "list.json"):
        command = ["segment", str(tmp_path / name), "-o", str(tmp_path / "out"), "--bundle", str(bundle), "-q"]
        assert main(command) == 0
        cases = json.loads(capsys.readouterr().out)["cases"]
        assert [list(case["measures"][NAME]) for case in cases.values()] == [
            ["circumference_mm"],
            ["circumference_pixels"],
        ]
        assert main([*command, "--pixel-mm", "0.3"]) == 2
        assert f"--pixel-mm 0.3: {tmp_path / name} has pixel_mm of its own" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["0", "-0.2", "nan", "inf", "0,2", "wide", "1e999"])
def test_sizes_that_are_none_are_refused(pictures, tmp_path, capsys, value):
    (tmp_path / "list.csv").write_text(f'image,pixel_mm\n{pictures / "a.png"},0.2\n{pictures / "b.png"},"{value}"\n')
    assert main(["segment", str(tmp_path / "list.csv"), "-o", str(tmp_path / "out")]) == 2
    assert "pixel_mm of image 2 is no finite number above 0" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["segment", str(pictures / "a.png"), "-o", str(tmp_path / "m.png"), f"--pixel-mm={value}"])
    assert "--pixel-mm: " in capsys.readouterr().err
    number = float(value) if value not in ("0,2", "wide") else value
    with pytest.raises(ArgumentError, match=r"pixel_mm=.*: expected the edge of a pixel in mm"):
        segment(pictures / "a.png", pixel_mm=number)


def test_a_volume_takes_no_size_of_pixels(volume, tmp_path, capsys):
    with pytest.raises(ArgumentError, match=r"pixel_mm=0\.3: a\.nii\.gz is no picture"):
        segment(volume, pixel_mm=0.3)
    for source in (volume, volume.parent):
        assert main(["segment", str(source), "-o", str(tmp_path / "out"), "--pixel-mm", "0.3"]) == 2
        assert "error: --pixel-mm 0.3: a.nii.gz is no picture, and a volume knows" in capsys.readouterr().err


def test_without_measures_nothing_is_added(tmp_path, pictures):
    result = segment(pictures / "a.png", bundle=write_picture_bundle(tmp_path / "head", name=NAME), device="cpu")
    assert result.measures == {} and not result.warnings
    assert {"measures", "pixel_mm", "area_mm2"}.isdisjoint(result.manifest["case"])
