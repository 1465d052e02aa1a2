"""The paper's own numbers, which stand beside what is measured here and are never mixed with it."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from lab.study import Study
from lab.tables import ROOT, Table, markdown_table

TABLES = ROOT / "benchmarks" / "paper_tables.json"
MEASURES = ("Dice", "IoU")


def add_citations(study: Study, table: Table) -> Table:
    """Return the table of a comparison with the paper's Dice and IoU as further columns, and its other networks' rows.

    Args:
        study: the table is returned as it is if the study cites nothing.
        table: each of its rows begins with the name of an experiment.
    """
    if study.cites is None:
        return table
    rows = [[*row, *_cells(study.cites, study.cited_as.get(str(row[0])))] for row in table.rows]
    absent = dict.fromkeys(score["network"] for score in _scores(study.cites))
    for network in absent:
        if network not in study.cited_as.values():
            empty = ["not here"] * (len(table.head) - 1)
            rows.append([f"{network} (in the paper only)", *empty, *_cells(study.cites, network)])
    title = f"{table.title}; the last two columns are cited from {_content()['source']}, with the number of its table"
    return Table(table.name, title, [*table.head, *(f"paper's {measure}" for measure in MEASURES)], rows)


def cited_table(study: Study, name: str) -> str:
    """Return the paper's table of the same name as a measured one; an empty text where the study cites none."""
    table = _content().get(name)
    if table is None or study.cites != table["dataset"]:
        return ""
    title = f"Table {table['table']} as it stands in the paper ({_content()['source']}), not measured here"
    return f"{title}:\n\n{markdown_table(table['head'], table['rows'])}"


def _cells(dataset: str, network: str | None) -> list[str]:
    """Return the cited values of each of :data:`MEASURES`, each with the number of its table."""
    scores = [score for score in _scores(dataset) if score["network"] == network]
    return [
        "; ".join(f"{score[measure]} ({score['table']})" for score in scores if measure in score)
        for measure in MEASURES
    ]


def _scores(dataset: str) -> list[dict[str, Any]]:
    return [score for score in _content()["scores"] if score["dataset"] == dataset]


@cache
def _content() -> dict[str, Any]:
    return json.loads(TABLES.read_text())
