"""What C++ libraries write to stderr past Python passes neither --quiet nor the default, but --verbose."""

import os
import shlex
import subprocess
import sys

import pytest

# a stand-in for a command whose library writes past Python, between lines of Python's
PROGRAM = """
import logging, os, sys
from sdseg_monai import cli

def run(options):
    os.write(2, b"a C++ library\\n")
    logging.getLogger("sdseg_monai").error("the log")
    sys.stderr.write("Python\\n")
    raise OSError("the end")

cli.COMMANDS["info"].run = run
code = cli.main(sys.argv[1:])
os.write(2, b"after\\n")
sys.exit(code)
"""


@pytest.mark.parametrize(
    ("options", "is_silent"),
    [(["--quiet"], True), ([], True), (["--verbose"], False)],
    ids=["quiet", "default", "verbose"],
)
def test_libraries_are_silent(options, is_silent):
    process = subprocess.run([sys.executable, "-c", PROGRAM, "info", *options], capture_output=True, text=True)
    assert process.returncode == 2
    lines = ["ERROR: the log", "Python", "error: the end", "after"]
    assert process.stderr.splitlines() == lines if is_silent else ["a C++ library", *lines]


def test_no_stderr():
    """As of a process that a service starts without one."""
    program = PROGRAM.replace("os.write(2", "os.write(1")
    command = f"exec {shlex.join([sys.executable, '-c', program, 'info'])} 2>&-"
    process = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert (process.returncode, process.stdout, process.stderr) == (2, "a C++ library\nafter\n", "")


def test_it_comes_back_in_a_program(capfd):
    from sdseg_monai.cli import main

    assert main(["info", "no such bundle", "-q"]) == 2
    os.write(2, b"after\n")
    error = capfd.readouterr().err
    assert error.startswith("error: no such bundle") and error.endswith("\nafter\n")
