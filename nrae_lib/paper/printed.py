"""The papers' own numbers, as printed."""

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PAPERS = ("nrae", "iae", "eae")


@dataclass(frozen=True)
class Value:
    """One printed number; ``error`` is the paper's own ± (its kind is in ``note``), None if it gives none."""

    method: str
    metric: str
    value: float
    error: float | None
    note: str


@cache
def values(paper: str, table: str, dataset: str, size: str = "") -> tuple[Value, ...]:
    """The numbers of one table, in its order.

    Arguments:
        paper: "nrae", "iae" or "eae".
        table, dataset, size: as in the first columns of the paper's csv file, for example "table1", "sine", "".

    Raises:
        ValueError: for an unknown paper, or a table that has no such rows, naming the valid choices.
    """
    if paper not in PAPERS:
        raise ValueError(f"unknown paper {paper!r}: choose one of {', '.join(PAPERS)}")
    with open(Path(__file__).parent / f"{paper}.csv", newline="", encoding="utf-8") as file:
        rows = [list(row.values()) for row in csv.DictReader(file)]
    found = tuple(
        Value(method, metric, float(value), float(error) if error else None, note)
        for where, what, which, method, metric, value, error, note in rows
        if (where, what, which) == (table, dataset, size)
    )
    if not found:
        tables = sorted({"/".join(filter(None, row[:3])) for row in rows})
        raise ValueError(f"no numbers for {table}/{dataset}/{size} in {paper}: choose among {', '.join(tables)}")
    return found
