"""The papers' own numbers and names, as printed, and what their released code gives."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from nrae_lib.core import methods

if TYPE_CHECKING:
    import pandas

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
    """The numbers of one table, in its order. ValueError for a paper or a table that is not there, naming what is.

    ``paper`` is "nrae", "iae" or "eae"; ``table``, ``dataset`` and ``size`` stand in the first columns of its csv file,
    such as "table1", "sine", "".
    """
    if paper not in PAPERS:
        raise ValueError(f"unknown paper {paper!r}: choose one of {', '.join(PAPERS)}")
    with open(Path(__file__).parent / f"{paper}.csv", newline="", encoding="utf-8") as file:
        _, *rows = csv.reader(file)
    found = tuple(
        Value(method, metric, float(value), float(error) if error else None, note)
        for *where, method, metric, value, error, note in rows
        if where == [table, dataset, size]
    )
    if not found:
        tables = sorted({"/".join(filter(None, row[:3])) for row in rows})
        raise ValueError(f"no numbers for {table}/{dataset}/{size} in {paper}: choose among {', '.join(tables)}")
    return found


def half_gap(name: str, size: str, method: str) -> float:
    """Half of the printed gap between the lowest error of a baseline and of NRAE in a row of the tables on images, as a fraction of
    the printed error of ``method``: what counts as the same there, as 25 % is more than all methods of a row differ by."""
    errors = {v.method: v.value for v in values("nrae", "table3", name, size)}
    ours, theirs = (min(v for key, v in errors.items() if key.startswith("nrae") == mine) for mine in (True, False))
    return (theirs - ours) / 2 / errors[method]


def spelled(*names: str) -> str:
    """Methods in the paper's spelling: "NRAE-L" of "nrae_l", "AE and DAE" of two."""
    *first, last = (methods.get(name).title for name in names)
    return " and ".join([", ".join(first), last]) if first else last


def released_runs() -> pandas.DataFrame:
    """What the authors' released classes give on their released Swiss-roll configurations, run as released on a CPU: method, seed
    (1 to 6), test_order_breaks and train_order_breaks (:func:`nrae_lib.core.measures.order_breaks` as it was when a fold of small
    steps was no break yet), test_mse of 1,000 points."""
    import pandas

    return pandas.read_csv(Path(__file__).parent / "released_runs.csv", comment="#")
