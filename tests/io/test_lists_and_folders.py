"""Folders and lists of images: what was left out, one bad line, and files that are no lists."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sdseg_monai.cli import main
from sdseg_monai.errors import InputError
from sdseg_monai.io.sources import (
    UnusableImage,
    hash_source,
    left_out_lines,
    left_out_of,
    list_sources,
    load_source,
    open_source,
    source_stem,
)
from tests.makers.dicom import write_mr_series
from tests.makers.volumes import write_crop, write_nifti

SECRET = "Mueller^Hans"


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder of two volumes and of what else lies in such folders."""
    for name in ("one.nii.gz", "two.nrrd"):
        (tmp_path / "in").mkdir(exist_ok=True)
        write_nifti(tmp_path / "in" / "x.nii.gz", np.zeros((4, 4, 4), np.int16)).rename(tmp_path / "in" / name)
    for name in ("a.mhd", "a.raw", "b.img", "b.hdr", "c.nii.bz2", "d.nhdr", "README.txt", "dataset.json", ".hidden"):
        (tmp_path / "in" / name).write_text("x")
    for name in ("patient_1", "patient_2", ".git"):
        (tmp_path / "in" / name).mkdir()
    Image.new("L", (3, 3)).save(tmp_path / "in" / "preview.png")
    (tmp_path / "in" / "gone").symlink_to(tmp_path / "nowhere")
    return tmp_path / "in"


def test_what_of_a_folder_was_left_out(folder):
    sources = list_sources(folder)
    assert sources == [folder / "one.nii.gz", folder / "two.nrrd"]
    reasons = left_out_of(folder, sources)
    names = {path.name for path in folder.iterdir() if path.name[0] != "."}
    assert set(reasons) == names - {"one.nii.gz", "two.nrrd"}, "every visible file once"
    assert left_out_lines(reasons) == [
        "left out: README.txt, dataset.json: other files",
        "left out: a.mhd, a.raw, b.hdr, b.img, c.nii.bz2 and 1 more: images of a kind that is not read, expected "
        ".nii.gz, .nii, .nrrd, .mha",
        "left out: gone: links that lead nowhere",
        "left out: patient_1, patient_2: folders, only the files of this folder itself are segmented",
        "left out: preview.png: pictures beside volumes",
    ]


def test_a_folder_without_images_says_what_is_there(tmp_path):
    for name in ("a.mhd", "a.raw", "README.txt"):
        (tmp_path / name).write_text("x")
    with pytest.raises(InputError, match=r"no volumes or pictures there.*; left out: a.mhd, a.raw: images of a kind"):
        list_sources(tmp_path)


def test_of_pictures_too(tmp_path):
    for name in ("a.png", "b.gif", "b.dcm"):
        Image.new("L", (3, 3)).save(tmp_path / name, format="PNG")
    (tmp_path / "study").mkdir()
    reasons = left_out_of(tmp_path, list_sources(tmp_path))
    assert sorted(reasons) == ["b.dcm", "b.gif", "study"] and "DICOM files beside pictures" in reasons["b.dcm"]


def test_a_series_and_a_file_leave_nothing_out(tmp_path):
    volume = write_nifti(tmp_path / "v.nii", np.zeros((4, 4, 3), np.int16))
    write_mr_series(volume, tmp_path / "study")
    (tmp_path / "study" / "README.txt").write_text("x")
    assert left_out_of(tmp_path / "study", list_sources(tmp_path / "study")) == {}, "its warnings say it"
    assert left_out_of(volume, list_sources(volume)) == {}


def test_the_command_shows_what_was_left_out(tmp_path, capsys):
    write_crop(tmp_path, "one")
    (tmp_path / "images" / "old.mhd").write_text("x")
    (tmp_path / "images" / "patient_2").mkdir()
    arguments = ["segment", str(tmp_path / "images"), "-o", str(tmp_path / "out"), "--device", "cpu"]
    assert main(arguments) == 0
    captured = capsys.readouterr()
    expected = {
        "old.mhd": "images of a kind that is not read, expected .nii.gz, .nii, .nrrd, .mha",
        "patient_2": "folders, only the files of this folder itself are segmented",
    }
    assert json.loads(captured.out)["left_out"] == expected
    assert json.loads((tmp_path / "out" / "sdseg_manifest.json").read_text())["left_out"] == expected
    assert "left out: old.mhd: " in captured.err and "left out: patient_2: " in captured.err


@pytest.fixture
def listed(tmp_path) -> Path:
    write_crop(tmp_path, "one")
    return tmp_path


def write_list(listed: Path, name: str, content: str | bytes) -> Path:
    path = listed / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_one_bad_line_does_not_stop_the_others(listed):
    lines = ["images/one.nii.gz", "images/gone.nii.gz", "images/a\0b.nii.gz", f"images/{'x' * 300}.nii.gz", "notes.txt"]
    (listed / "notes.txt").write_text("x")
    sources = list_sources(write_list(listed, "l.csv", "\n".join(["image", *lines])))
    assert sources[0] == listed / "images/one.nii.gz"
    unusable = [source for source in sources if isinstance(source, UnusableImage)]
    assert [source.name for source in unusable] == [
        "gone.nii.gz",
        "a\\x00b.nii.gz",
        f"{'x' * 300}.nii.gz",
        "notes.txt",
    ]
    reasons = ("no such file", "NUL character", "File name too long", "unknown kind of file")
    for source, reason in zip(unusable, reasons, strict=True):
        assert reason in source.reason and "\0" not in source.reason
        for use in (open_source, hash_source, load_source):
            with pytest.raises(InputError, match=reason):
                use(source)
    assert source_stem(unusable[0]) == "gone" and source_stem(unusable[3]) == "notes.txt"


def test_a_json_list_with_a_bad_line(listed):
    content = {"test": ["images/one.nii.gz", {"image": "images/gone.nii.gz"}]}
    first, second = list_sources(write_list(listed, "l.json", json.dumps(content)))
    assert first == listed / "images/one.nii.gz" and isinstance(second, UnusableImage)


def test_the_command_goes_on_and_says_what_failed(listed, capsys):
    write_crop(listed, "two")
    lines = ["studies/away", "images/gone.nii.gz", "images/one.nii.gz", "studies/lost", "images/two.nii.gz"]
    datalist = write_list(listed, "l.csv", "\n".join(["image", *lines]))
    arguments = ["segment", str(datalist), "-o", str(listed / "out"), "-q", "--device", "cpu"]
    arguments += ["--report", str(listed / "r.html")]
    assert main(arguments) == 1
    captured = capsys.readouterr()
    summary = json.loads(captured.out)
    assert (summary["done"], summary["failed"]) == (2, 3)
    assert f"error: {listed / 'images/gone.nii.gz'}: no such file or folder" in captured.err
    cases = json.loads((listed / "out" / "sdseg_manifest.json").read_text())["cases"]
    assert {name: case["status"] for name, case in cases.items()} == {
        "away": "failed",
        "gone.nii.gz": "failed",
        "one.nii.gz": "done",
        "lost": "failed",
        "two.nii.gz": "done",
    }
    assert {path.name for path in (listed / "out").iterdir() if path.suffix == ".gz"} == {"one.nii.gz", "two.nii.gz"}
    assert main([*arguments, "--resume"]) == 1
    assert json.loads(capsys.readouterr().out)["skipped"] == 2


def test_a_list_of_which_nothing_can_be_opened_is_one_line(listed):
    lines = "".join(f"gone_{index}.nii.gz\n" for index in range(9))
    with pytest.raises(InputError, match=r"gone_0.nii.gz: no such file or folder \(and 8 more images of .*l.csv"):
        list_sources(write_list(listed, "l.csv", "image\n" + lines))


def test_the_same_name_twice_though_one_is_missing(listed):
    content = "image\nimages/one.nii.gz\nother/one.nii.gz\n"
    with pytest.raises(InputError, match="have the same name"):
        list_sources(write_list(listed, "l.csv", content))


def test_nnunets_names(listed):
    shutil.copy(listed / "images/one.nii.gz", listed / "images/case_001_0000.nii.gz")
    with pytest.raises(InputError, match=r"case_001.nii.gz: no such file or folder; case_001_0000.nii.gz is there"):
        open_source(listed / "images/case_001.nii.gz")
    content = {"test": ["images/case_001.nii.gz", "images/one.nii.gz"]}
    first, _ = list_sources(write_list(listed, "dataset.json", json.dumps(content)))
    assert isinstance(first, UnusableImage) and "case_001_0000.nii.gz is there" in first.reason


def test_a_path_of_windows(listed):
    with pytest.raises(InputError, match="its name has backslashes, expected /"):
        open_source(listed / "images\\one.nii.gz")


def test_a_nul_byte(listed):
    with pytest.raises(InputError, match="NUL character") as caught:
        open_source(f"{listed}/a\0b.nii.gz")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("l.csv", f"image\n{SECRET}\n".encode("utf-16"), "text in UTF-16.: save it as UTF-8"),
        ("l.csv", f"image\n{SECRET}\n".encode("utf-16-be"), "text in UTF-16"),
        ("l.csv", f"im\0age\n{SECRET}\n", r"columns im.x00age, expected one called image"),
        ("l.csv", f"image,name\none.nii.gz,{SECRET} \xfc\n".encode("latin-1"), "line 2 is not UTF-8"),
        ("l.json", f'{{"test": ["{SECRET} \xfc"]}}'.encode("latin-1"), "line 1 is not UTF-8"),
        ("l.csv", f"image;name\none.nii.gz;{SECRET}\n", "columns are separated by semicolons, expected commas"),
        ("l.csv", f"image\tname\none.nii.gz\t{SECRET}\n", "columns are separated by tabs, expected commas"),
        ("l.csv", f"Image,name\none.nii.gz,{SECRET}\n", "a column 'Image', in small letters and without spaces"),
        ("l.csv", f"image , name\none.nii.gz , {SECRET}\n", "a column 'image ', in small letters and without spaces"),
        ("l.csv", f"picture\n{SECRET}\n", "columns picture, expected one called image"),
        ("l.csv", f'image\n"{SECRET}\n' + "x" * 200_000, "not a datalist"),
        ("l.json", f'{{"test": ["{SECRET}"', r"not a datalist \(Expecting ',' delimiter, line 1\)"),
        ("l.json", f'["{SECRET}"]', "not a datalist"),
        ("l.json", f'{{"test": [{{"label": "{SECRET}"}}]}}', "item 1 of test has no path as its image"),
        ("l.json", f'{{"test": [["{SECRET}"]]}}', "item 1 of test has no path as its image"),
        ("l.json", f'{{"channel_names": {{"0": "{SECRET}"}}}}', "has no list of images"),
        ("l.json", "9" * 5000, "not a datalist"),
    ],
)
def test_files_that_are_no_lists(listed, name, content, reason):
    with pytest.raises(InputError, match=reason) as caught:
        list_sources(write_list(listed, name, content))
    assert SECRET not in str(caught.value) and str(caught.value).isprintable()


def test_lists_that_are_read(listed):
    path = "images/one.nii.gz"
    for content in (f"image\n{path}\n", f"\ufeffimage,age\r\n{path},3\r\n\r\n", f'"age","image"\n3,"{path}"\n'):
        assert list_sources(write_list(listed, "l.csv", content)) == [listed / path]
    assert list_sources(write_list(listed, "l.csv", f"image\n{(listed / path).resolve()}\n")) == [listed / path]


def test_nothing_is_logged(folder, caplog):
    with caplog.at_level(logging.DEBUG):
        left_out_lines(left_out_of(folder, list_sources(folder)))
    assert not caplog.messages, "what was left out is data, who segments says it"
