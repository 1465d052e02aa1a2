"""``sdseg info`` in a terminal: a table of the bundles."""

import json
import re
import sys

import pytest

from sdseg_monai.bundle import shipped_bundles
from sdseg_monai.cli.outputs import table_lines
from tests.cli.running import run
from tests.makers.bundles import METADATA, write_picture_bundle


@pytest.fixture
def terminal(monkeypatch, capsys):
    """Let the command believe that its output is a terminal of so many characters."""

    def set_width(width):
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)

    return set_width


def rows_of(table):
    head, *rows = (re.split(r"\s{2,}", line) for line in table.splitlines())
    return [dict(zip(head, row, strict=True)) for row in rows]


def test_a_terminal_gets_a_table_and_programs_get_json(capsys, terminal):
    _, out, _ = run(capsys, "info")
    described = json.loads(out)
    terminal(1000)
    code, out, err = run(capsys, "info")
    rows = {row["bundle"]: row for row in rows_of(out)}
    assert (code, err) == (0, "") and list(rows) == list(described) == shipped_bundles()
    assert rows["hippocampus_sdseg"] == {
        "bundle": "hippocampus_sdseg",
        "for": "MR volumes",
        "segments": "Anterior hippocampus, Posterior hippocampus",
        "trained on": json.loads(METADATA.read_text())["data_source"],
        "weights": rows["hippocampus_sdseg"]["weights"],
    }
    assert re.fullmatch(r"1[0-9]\.\d MiB", rows["hippocampus_sdseg"]["weights"])
    assert rows["sdseg"]["weights"] == "none, train it first" and rows["sdseg"]["for"] == "CT volumes"
    code, out, _ = run(capsys, "info", "--json")
    assert code == 0 and json.loads(out) == described


def test_a_narrow_terminal_gets_narrow_columns(capsys, terminal):
    terminal(80)
    code, out, _ = run(capsys, "info", "hippocampus_sdseg")
    lines = out.splitlines()
    assert code == 0 and max(map(len, lines)) <= 80 and len(lines) > 3
    assert lines[0].split() == ["bundle", "for", "segments", "trained", "on", "weights"]
    assert not any(line.endswith(" ") for line in lines)


def test_what_a_bundle_says_gives_no_commands_to_a_terminal(tmp_path, capsys, terminal):
    bundle = write_picture_bundle(tmp_path / "polyps")
    file = bundle / "configs" / "metadata.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "data_source": "a\x1b[2Jb\nc"}))
    config = bundle / "configs" / "inference.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "checkpoint": "$str(1)"}))
    terminal(1000)
    code, out, _ = run(capsys, "info", bundle)
    (row,) = rows_of(out)
    assert code == 0 and row["trained on"] == r"a\x1b[2Jb\nc" and row["for"] == "pictures"
    assert row["segments"] == "polyp" and row["weights"] == "only its config says where"


def test_the_widest_columns_give_way():
    rows = [["a", "one two three four five six", "seven eight nine ten"]]
    assert list(table_lines(["x", "words", "numbers"], rows, 1000)) == [
        "x  words                        numbers",
        "a  one two three four five six  seven eight nine ten",
    ]
    assert list(table_lines(["x", "words", "numbers"], rows, 31)) == [
        "x  words          numbers",
        "a  one two three  seven eight",
        "   four five six  nine ten",
    ]
