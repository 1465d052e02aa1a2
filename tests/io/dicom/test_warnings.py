"""Warnings of a series about files that were left out, and about slices that share a UID."""

import logging
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from sdseg_monai.errors import InputError
from sdseg_monai.io.dicom import choose_series, find_series, is_dicom
from tests.makers.dicom import write_mr_series


@pytest.fixture
def make_series(tmp_path):
    def make(name: str) -> list[Path]:
        volume = tmp_path / "volume.nii"
        nib.save(
            nib.Nifti1Image(np.random.default_rng(0).integers(0, 99, (6, 5, 4)).astype(np.int16), np.eye(4)), volume
        )
        return write_mr_series(volume, tmp_path / "in" / name)

    return make


def test_a_file_left_out_is_a_warning_of_the_series_beside_it(make_series, tmp_path, caplog):
    uid_of = {}
    for name in ("one", "two"):
        make_series(name)
        uid_of[name] = choose_series(tmp_path / "in" / name).uid
    (tmp_path / "in/two/bad.dcm").write_text("no DICOM")
    (tmp_path / "in/elsewhere").mkdir()
    (tmp_path / "in/elsewhere/cut.dcm").write_bytes(bytes(128) + b"DICM" + b"\x08\x00")
    with caplog.at_level(logging.DEBUG):
        by_uid = {series.uid: series.warnings for series in find_series(tmp_path / "in")}
    beside = f"{tmp_path / 'in/two/bad.dcm'}: not DICOM by its content, left out"
    assert len(by_uid[uid_of["two"]]) == 2 and beside in [warning.text for warning in by_uid[uid_of["two"]]]
    (everywhere,) = by_uid[uid_of["one"]]
    assert everywhere.text.startswith(f"{tmp_path / 'in/elsewhere/cut.dcm'}: ") and everywhere.text.endswith(
        ", left out"
    )
    assert {warning.kind for warnings in by_uid.values() for warning in warnings} == {"left_out"}
    assert not caplog.messages, "warnings are data, who segments a series says them"


def test_a_file_that_cannot_be_read_is_left_out(make_series, tmp_path, monkeypatch):
    files = make_series("one")
    opened = Path.open

    def refuse(path: Path, *args: Any, **kwargs: Any):
        if path == files[-1]:  # root may read all files
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)
    assert not is_dicom(files[-1])
    (warning,) = choose_series(tmp_path / "in").warnings
    assert warning.text == f"{files[-1]}: cannot be read (Permission denied), left out"


def test_copies_need_no_warning(make_series, tmp_path):
    files = make_series("one")
    shutil.copy(files[0], files[0].with_name("copy"))
    assert choose_series(tmp_path / "in").warnings == ()


def test_a_folder_without_series_says_what_was_left_out(tmp_path):
    (tmp_path / "a.dcm").write_text("text")
    with pytest.raises(InputError, match=r"no DICOM images there.*; left out: \S+a.dcm: not DICOM by its"):
        choose_series(tmp_path)
    (tmp_path / "a.dcm").unlink()
    with pytest.raises(InputError, match=r"expected a series of slices$"):
        choose_series(tmp_path)
