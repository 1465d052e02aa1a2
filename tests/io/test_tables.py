"""Tables as CSV: texts that a spreadsheet would run are shown, numbers stay numbers."""

import csv

import pytest

from sdseg_monai.io.tables import text_cell, write_table


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", " =1", "\uff1d1", "=HYPERLINK(0)"])
def test_a_text_that_is_a_formula_gets_an_apostrophe(text, tmp_path):
    assert text_cell(text) == f"'{text}"
    write_table(tmp_path / "t.csv", [["case", "dice"], [text, -0.5]])
    with (tmp_path / "t.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["case", "dice"], [f"'{text}", "-0.50000000"]]


@pytest.mark.parametrize("start", ["\t", "\r", "\n", "\x1b[2J", "\u202e", "\udcff"])
def test_control_characters_are_shown_and_begin_neither_a_row_nor_a_formula(start, tmp_path):
    write_table(tmp_path / "t.csv", [[f"{start}=1", -0.5]])
    (line,) = (tmp_path / "t.csv").read_bytes().decode().splitlines()
    assert line.startswith("\\") and line.endswith("=1,-0.50000000") and line.isprintable()


@pytest.mark.parametrize("text", ["case_0", "a=b", "1-2", "", "'quoted'", "x,y", 'say "a"'])
def test_other_texts_stay_as_they_are(text, tmp_path):
    write_table(tmp_path / "t.csv", [[text, "end"]])
    with (tmp_path / "t.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [[text, "end"]]


def test_numbers_have_eight_decimals_or_none(tmp_path):
    write_table(tmp_path / "t.csv", [["a", -3, 0.1, float("nan"), None, 7]])
    assert (tmp_path / "t.csv").read_text() == "a,-3,0.10000000,nan,,7\n"
