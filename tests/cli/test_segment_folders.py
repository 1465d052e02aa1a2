"""``sdseg segment`` of folders: a bad case, the manifest, and runs that are resumed."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from sdseg_monai import __version__
from sdseg_monai.inference.manifest import FILE_NAME
from tests.cli.running import run
from tests.makers.volumes import load_nifti, write_nifti, write_thick_phantom


def test_a_folder_of_masks_has_folders_of_maps(bundle, volume, tmp_path, capsys):
    arguments = ("--bundle", bundle, "--save-score", "--save-confidence")
    code, _, _ = run(capsys, "segment", volume.parent, "-o", tmp_path / "out", *arguments)
    scores = ["scores"] if "_2" in bundle.name else ["scores_1", "scores_2"]
    outputs = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*")}
    maps = {f"{folder}/a.nii.gz" for folder in (*scores, "confidence")}
    assert code == 0 and outputs == {"a.json", "a.nii.gz", FILE_NAME} | maps


def test_a_folder_goes_on_after_a_bad_case(volume, tmp_path, capsys):
    write_thick_phantom(volume.parent / "c.nii.gz", tmp_path / "label.nii.gz", seed=1)
    (volume.parent / "b.nii.gz").write_bytes(volume.read_bytes()[:2000])
    code, out, err = run(capsys, "segment", volume.parent, "-o", tmp_path / "out", "--save-score")
    assert code == 1
    report = json.loads(out)
    assert report["masks"] == str(tmp_path / "out") and (report["done"], report["failed"]) == (2, 1)
    assert "error: " in err and "b.nii.gz" in err
    assert {p.name for p in (tmp_path / "out").glob("*.nii.gz")} == {"a.nii.gz", "c.nii.gz"}
    for folder in ("scores_1", "scores_2"):
        assert {p.name for p in (tmp_path / "out" / folder).iterdir()} == {"a.nii.gz", "c.nii.gz"}


@pytest.fixture
def studies(volume, bundle, tmp_path, capsys):
    """What segments a folder of two volumes and a broken one, once already; returns (code, report, stderr)."""
    for name in ("c", "d"):
        shutil.copy(volume, volume.with_name(f"{name}.nii.gz"))
    volume.with_name("c.nii.gz").write_bytes(volume.read_bytes()[:2000])

    def segment(*options):
        arguments = (volume.parent, "-o", tmp_path / "out", "--bundle", bundle, "--device", "cpu", *options)
        code, out, err = run(capsys, "segment", *arguments)
        return code, json.loads(out) if out else {}, err

    assert segment("--save-confidence")[0] == 1
    return segment


def test_a_manifest_says_what_was_done_to_each_case(studies, bundle, tmp_path):
    manifest = json.loads((tmp_path / "out" / FILE_NAME).read_text())
    assert manifest["about"]["device"] == "cpu" and manifest["about"]["versions"]["sdseg-monai"] == __version__
    weights = hashlib.sha256((bundle / "models" / "model.pt").read_bytes()).hexdigest()
    assert manifest["settings"]["weights_sha256"] == [weights] and manifest["settings"]["maps"] == ["confidence"]
    assert {name: case["status"] for name, case in manifest["cases"].items()} == {
        **{"a.nii.gz": "done", "c.nii.gz": "failed", "d.nii.gz": "done"}
    }
    assert "c.nii.gz" in manifest["cases"]["c.nii.gz"]["error"]
    case, mask = manifest["cases"]["a.nii.gz"], load_nifti(tmp_path / "out" / "a.nii.gz").get_fdata()
    assert case["input_sha256"] == hashlib.sha256((tmp_path / "in" / "a.nii.gz").read_bytes()).hexdigest()
    volumes = [3 * (mask == value).sum() / 1000 for value in range(1, len(case["volume_ml"]) + 1)]
    assert list(case["volume_ml"].values()) == pytest.approx(volumes)
    assert case["seconds"] > 0 and case["warnings"] == []


def test_a_warning_is_kept_with_its_case(studies, volume, tmp_path):
    large = load_nifti(volume)
    write_nifti(volume.with_name("b.nii.gz"), large.get_fdata(), 4 * large.affine)
    assert studies()[0] == 1
    cases = json.loads((tmp_path / "out" / FILE_NAME).read_text())["cases"]
    assert [bool(cases[f"{name}.nii.gz"]["warnings"]) for name in "abd"] == [False, True, False]
    assert "mm" in cases["b.nii.gz"]["warnings"][0]["text"]


def test_a_run_is_resumed_where_it_stopped(studies, volume, tmp_path):
    """What is done and whole stays; what failed, was spoilt or has another input is done again."""
    out = tmp_path / "out"
    shutil.copy(volume, volume.with_name("c.nii.gz"))
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.nii.gz")}
    code, report, err = studies("--save-confidence", "--resume")
    assert code == 0 and (report["done"], report["failed"], report["skipped"]) == (3, 0, 2), err
    assert all(path.stat().st_mtime_ns == before for path, before in times.items())
    assert len(list(out.rglob("*.nii.gz"))) == 6
    spoilt = out / "confidence" / "a.nii.gz"
    whole = spoilt.read_bytes()
    spoilt.write_bytes(whole[:-100])
    write_thick_phantom(volume.with_name("d.nii.gz"), tmp_path / "label.nii.gz", seed=1)
    (out / "c.nii.gz").unlink()
    assert studies("--save-confidence", "--resume")[1]["skipped"] == 0
    assert spoilt.read_bytes() == whole
    assert studies("--save-confidence", "--resume")[1]["skipped"] == 3


def test_a_run_with_other_settings_is_not_resumed(studies, volume, tmp_path, capsys):
    manifest = tmp_path / "out" / FILE_NAME
    before = manifest.read_bytes()
    for options, message in (((), "with maps"), (("--save-confidence", "--seed", 3), "with seed None, now it is 3")):
        code, report, err = studies("--resume", *options)
        assert (code, report) == (2, {}) and message in err and err.count("\n") == 1
    assert manifest.read_bytes() == before
    for wrong in ("{}", "[", "[]", '{"settings": 1, "cases": {"a": 2}}'):
        manifest.write_text(wrong)
        code, _, err = studies("--resume", "--save-confidence")
        assert code == 2 and "no manifest of a run" in err and err.count("\n") == 1
    code, _, err = run(capsys, "segment", volume, "-o", tmp_path / "m.nii.gz", "--resume")
    assert code == 2 and "--resume goes on with several images" in err


def test_a_folder_in_which_every_case_fails_has_done_nothing(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.nii.gz").write_text("no volume")
    code, out, _ = run(capsys, "segment", tmp_path / "in", "-o", tmp_path / "out")
    assert code == 2 and json.loads(out)["done"] == 0


def test_a_link_to_itself_is_one_bad_case(volume, tmp_path, capsys):
    (volume.parent / "loop.nii.gz").symlink_to("loop.nii.gz")
    code, out, err = run(capsys, "segment", volume.parent, "-o", tmp_path / "out")
    assert code == 1 and json.loads(out)["done"] == 1 and "loop.nii.gz" in err


def test_parts_of_a_folder_give_the_masks_of_the_whole(bundle, volume, tmp_path, capsys):
    """Three parts of five images, of which one part has failed before: its second try is enough."""
    for seed, name in enumerate("abcde"):
        write_thick_phantom(tmp_path / "in" / f"{name}.nii.gz", tmp_path / "label.nii.gz", seed=seed)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    command = ("segment", tmp_path / "in", "--bundle", bundle, "-o")
    assert run(capsys, *command, whole)[0] == 0
    summaries = [json.loads(run(capsys, *command, parts, "--shard", f"{index}/3")[1]) for index in (1, 2, 3)]
    assert sum(summary["done"] for summary in summaries) == 5
    assert [Path(summary["manifest"]).name for summary in summaries][1:] == ["sdseg_manifest.2-of-3.json", FILE_NAME]
    manifests = [json.loads((folder / FILE_NAME).read_text()) for folder in (whole, parts)]
    for manifest in manifests:
        for case in manifest["cases"].values():
            case.pop("seconds")
    assert manifests[0]["cases"] == manifests[1]["cases"] and manifests[0]["settings"] == manifests[1]["settings"]
    for name in "abcde":
        assert (whole / f"{name}.nii.gz").read_bytes() == (parts / f"{name}.nii.gz").read_bytes()
    skipped = [
        json.loads(run(capsys, *command, parts, "--shard", f"{i}/3", "--resume")[1])["skipped"] for i in (1, 2, 3)
    ]
    assert sum(skipped) == 5
    code, out, _ = run(capsys, *command, tmp_path / "few", "--shard", "1/1000", "--report", tmp_path / "few.html")
    assert code == 0 and json.loads(out)["done"] == 0 and (tmp_path / "few.html").is_file()


def test_a_part_is_reported_where_another_one_has_other_settings(bundle, volume, tmp_path, capsys):
    write_thick_phantom(tmp_path / "in" / "a.nii.gz", tmp_path / "label.nii.gz")
    command = ("segment", tmp_path / "in", "--bundle", bundle, "-o", tmp_path / "out", "--shard")
    assert run(capsys, *command, "1/2", "--seed", 3)[0] == 0
    code, out, err = run(capsys, *command, "2/2")
    assert code == 1 and json.loads(out)["shard"] == "2/2" and "has other settings than" in err
    assert not (tmp_path / "out" / FILE_NAME).exists()


def test_a_part_is_one_of_several_images(bundle, volume, tmp_path, capsys):
    code, _, err = run(capsys, "segment", volume, "-o", tmp_path / "m.nii.gz", "--bundle", bundle, "--shard", "1/2")
    assert code == 2 and "--shard is a part of several images" in err
    for wrong in ("0/2", "3/2", "1", "a/b", "1/0"):
        with pytest.raises(SystemExit):
            run(capsys, "segment", volume, "-o", tmp_path / "m.nii.gz", "--shard", wrong)
        assert "expected such as 2/8" in capsys.readouterr().err
