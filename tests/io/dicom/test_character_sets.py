"""Texts in an unknown character set are one warning of the series, not pydicom's for each slice."""

from __future__ import annotations

from pathlib import Path

import pydicom
import pytest

from sdseg_monai.io.dicom import choose_series
from tests.io.dicom.series import make_series
from tests.makers.processes import run_process


def name_set(files: list[Path], character_set: str, description: bytes) -> None:
    """Change the character set, of 10 letters, and the bytes of the SeriesDescription, which are as many before."""
    for file in files:
        dataset = pydicom.dcmread(file)
        dataset.SpecificCharacterSet, dataset.SeriesDescription = "ISO_IR 100", "D" * len(description)
        dataset.save_as(file)
        content = file.read_bytes()
        assert content.count(b"ISO_IR 100") == 1
        file.write_bytes(
            content.replace(b"ISO_IR 100", character_set.encode()).replace(b"D" * len(description), description)
        )


@pytest.mark.parametrize(
    ("character_set", "description", "is_doubtful"),
    [
        ("ISO_IR 100", b"Sch\xe4del ", False),
        ("ISO_IR 192", b"Sch\xc3\xa4del", False),
        ("ISO_IR 192", b"Sch\xe4del ", True),
        ("ISO_IR 999", b"Schaedel", True),
        ("ISO-IR 100", b"Schaedel", True),
    ],
)
def test_a_series_has_one_warning(tmp_path, character_set, description, is_doubtful):
    name_set(make_series(tmp_path / "in"), character_set, description)
    warnings = choose_series(tmp_path / "in").warnings
    if not is_doubtful:
        assert warnings == ()
        return
    (warning,) = warnings
    assert warning.kind == "text" and not warning.contradiction
    assert f"({character_set}): names may be wrong, the voxels are not affected" in warning.text


def test_the_command_says_it_once(tmp_path):
    name_set(make_series(tmp_path / "in"), "ISO_IR 999", b"Schaedel")
    code = f"""
import logging, sys
from sdseg_monai import cli
from sdseg_monai.io.dicom import choose_series, read_series
def run(options):
    series = choose_series(cli.Path({str(tmp_path / "in")!r}))
    for warning in series.warnings:
        logging.getLogger("sdseg_monai").warning(warning.text)
    read_series(series)
    return 0
cli.COMMANDS["info"].run = run
sys.exit(cli.main(["info"]))
"""
    result = run_process("python", "-c", code)
    assert result.returncode == 0, result.stderr
    (line,) = result.stderr.splitlines()
    assert line.startswith("WARNING: its headers name a character set that is none of DICOM's")
