"""A file's name gives no commands to a terminal and hides nothing, in messages, tables and logs."""

import argparse
import io
import json
import logging
import sys

import pytest

from sdseg_monai.cli import main
from sdseg_monai.cli.outputs import note, report
from sdseg_monai.errors import InputError, PrintableFormatter, make_logs_printable, printable

HOSTILE = "a\x1b[31m\r\x00\x7f\x9b\u202egpj\u2066\u200f\u2028b\udcff"
SAFE = r"a\x1b[31m\r\x00\x7f\x9b\u202egpj\u2066\u200f\u2028b\udcff"


def test_printable():
    assert printable(HOSTILE) == SAFE
    for text in ("Größe 5 µm, 体積, ניסיון, می‌خواهم, 👩‍🔬", "C:\\a\\b", ""):
        assert printable(text) == text


def test_messages_are_printable():
    assert (
        str(InputError(f"{HOSTILE}:\n\tno such file"))
        == SAFE.replace(r"\r", " ").replace(r"\u2028", " ") + ": no such file"
    )


def log(formatter, text, *, error=None):
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    handler.emit(logging.LogRecord("a", logging.WARNING, "", 0, "%s: read", (text,), error))
    return stream.getvalue()


def test_logs_are_printable():
    assert (
        log(PrintableFormatter("%(levelname)s: %(message)s"), f"{HOSTILE}\nERROR: b")
        == f"WARNING: {SAFE}\\nERROR: b: read\n"
    )
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        lines = log(PrintableFormatter(), "a", error=sys.exc_info()).splitlines()
    assert lines[1].startswith("Traceback") and lines[-1] == f"ValueError: {SAFE}"


def test_logs_of_other_programs_become_printable():
    handler = logging.StreamHandler(io.StringIO())
    handler.setFormatter(logging.Formatter("%(name)s %(message)s"))
    logger = logging.getLogger("of_another_program")
    logger.addHandler(handler)
    make_logs_printable()
    logger.error("%s", HOSTILE)
    assert handler.stream.getvalue() == f"of_another_program {SAFE}\n"
    logger.removeHandler(handler)


def test_notes_are_printable(capsys):
    note(HOSTILE, argparse.Namespace(quiet=False))
    assert capsys.readouterr().err == f"{SAFE}\n"


@pytest.mark.parametrize(
    "command",
    [
        ("segment", "\x1b[2J\u202e.nii.gz", "-o", "a.nii.gz"),
        ("segment", "a", "-o", "b", "--seed", "\x1b[2J\u202e"),
        ("info", "\x1b[2J\u202e"),
        ("evaluate", "--predictions", "\x1b[2J\u202e", "--labels", "a", "-o", "a.csv"),
        ("audit", "--labels", "\x1b[2J\u202e"),
        ("convert", "\x1b[2J\u202e", "-o", "a.pt", "--from", "bundle", "--to", "bundle"),
        ("\x1b[2J\u202e",),
    ],
)
def test_commands_are_printable(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    try:
        assert main(command) == 2
    except SystemExit as error:  # argparse's
        assert error.code == 2
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1
    assert r"\x1b[2J\u202e" in err and "\x1b" not in err and "\u202e" not in err


def test_the_json_of_a_command_is_ascii(tmp_path, capsys):
    report({"mask": HOSTILE}, argparse.Namespace(quiet=True))
    out = capsys.readouterr().out
    assert out.isascii() and out[:-1].isprintable() and json.loads(out) == {"mask": HOSTILE}
