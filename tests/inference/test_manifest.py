"""The journal of a run, and the manifest that is made of it."""

import json
import time
from pathlib import Path

import pytest

from sdseg_monai.errors import InputError
from sdseg_monai.inference.manifest import FILE_NAME, Manifest, Shard, journal_of, merge_shards, shard_manifest

SETTINGS = {"seed": 0, "overlays_sha256": []}


def start(path, cases=(), **settings):
    manifest = Manifest(path, {"device": "cpu"}, {**SETTINGS, **settings})
    for name in cases:
        manifest.record(Path(name), status="done", seconds=1.0)
    return manifest


@pytest.fixture
def path(tmp_path):
    return tmp_path / "masks" / FILE_NAME


def test_a_run_that_ends_leaves_the_manifest_alone(path):
    with start(path, ["a.nii.gz", "b.nii.gz"]) as manifest:
        manifest.left_out = {"x.txt": "other files"}
        assert journal_of(path).is_file() and not path.exists()
    content = json.loads(path.read_text())
    assert list(content["cases"]) == ["a.nii.gz", "b.nii.gz"] and content["left_out"] == {"x.txt": "other files"}
    assert [file.name for file in path.parent.iterdir()] == [FILE_NAME]


def test_an_error_ends_a_run_as_its_end_does(path):
    with pytest.raises(KeyboardInterrupt), start(path, ["a.nii.gz"]):
        raise KeyboardInterrupt
    assert list(json.loads(path.read_text())["cases"]) == ["a.nii.gz"] and not journal_of(path).exists()


@pytest.mark.parametrize("cut", [0, 1, 30])
def test_what_a_killed_run_has_done_is_known(path, cut):
    """A kill leaves the journal, perhaps with a part of a line."""
    start(path, ["a.nii.gz", "b.nii.gz"])
    content = journal_of(path).read_bytes()
    journal_of(path).write_bytes(content[: len(content) - cut])
    known = ["a.nii.gz", "b.nii.gz"] if cut == 0 else ["a.nii.gz"]
    with Manifest.resume(path, {}, SETTINGS) as resumed:
        assert list(resumed.cases) == known
        resumed.record(Path("c.nii.gz"), status="done")
        assert list(json.loads(path.read_text())["cases"]) == [*known, "c.nii.gz"], "the old journal is in the file"
    assert list(json.loads(path.read_text())["cases"]) == [*known, "c.nii.gz"] and not journal_of(path).exists()


def test_a_journal_that_was_killed_at_once_stops_nobody(path):
    path.parent.mkdir()
    journal_of(path).write_text('{"about": {')
    with Manifest.resume(path, {}, SETTINGS) as resumed:
        assert resumed.cases == {}


def test_a_journal_of_another_run_is_refused_and_kept(path):
    start(path, ["a.nii.gz"], seed=7)
    content = journal_of(path).read_bytes()
    with pytest.raises(InputError, match=r"jsonl: is of a run with seed 7, now it is 0"):
        Manifest.resume(path, {}, SETTINGS)
    for wrong in ("[]\n", "x\n", '{"settings": {"seed": 0, "overlays_sha256": []}}\n{"name": 1}\n'):
        journal_of(path).write_text(wrong)
        with pytest.raises(InputError, match="no manifest of a run"):
            Manifest.resume(path, {}, SETTINGS)
    assert content


def test_a_new_run_forgets_the_old_one(path):
    with start(path, ["a.nii.gz"]):
        pass
    start(path, ["b.nii.gz"], seed=3)  # and is killed
    with Manifest.resume(path, {}, {**SETTINGS, "seed": 3}) as resumed:
        assert list(resumed.cases) == ["b.nii.gz"]


def test_a_resumed_run_with_nothing_to_do_writes_nothing(path):
    with start(path, ["a.nii.gz"]):
        pass
    before = path.stat().st_mtime_ns
    with Manifest.resume(path, {}, SETTINGS):
        pass
    assert path.stat().st_mtime_ns == before


def test_many_cases_cost_linear_time(path):
    """Written anew after each case, 20,000 of them would be gigabytes."""
    before = time.process_time()
    with start(path, [f"{index}.nii.gz" for index in range(20_000)]):
        pass
    assert time.process_time() - before < 5 and len(json.loads(path.read_text())["cases"]) == 20_000


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_each_image_belongs_to_one_part(count):
    names = [f"case_{index}.nii.gz" for index in range(500)]
    parts = [[name for name in names if Shard(index, count).has(name)] for index in range(1, count + 1)]
    assert sorted(name for part in parts for name in part) == sorted(names)
    assert all(len(part) > 250 / count for part in parts), "of about the same size"


def test_the_last_part_to_end_writes_the_manifest(path):
    for index in (2, 1, 3):
        assert not merge_shards(path, 3) and not path.exists()
        file = shard_manifest(path, Shard(index, 3))
        with start(file, [f"{index}.nii.gz"] if index != 3 else []):
            assert not merge_shards(path, 3), "the journal of this part is still there"
    assert merge_shards(path, 3) and merge_shards(path, 3)
    content = json.loads(path.read_text())
    assert list(content["cases"]) == ["1.nii.gz", "2.nii.gz"] and content["settings"] == SETTINGS


def test_parts_with_other_settings_are_not_merged(path):
    for index in (1, 2):
        with start(shard_manifest(path, Shard(index, 2)), [f"{index}.nii.gz"], seed=index):
            pass
    with pytest.raises(InputError, match=r"2-of-2.json: has other settings than sdseg_manifest.1-of-2.json"):
        merge_shards(path, 2)
    shard_manifest(path, Shard(2, 2)).write_text("{")
    with pytest.raises(InputError, match=r"2-of-2.json: no manifest of a run"):
        merge_shards(path, 2)
