"""The papers' own numbers and claims, and the rules by which a claim is held to be reproduced.

The numbers are those printed in the papers, one row each, in ``nrae.csv``, ``iae.csv`` and ``eae.csv``.

A verdict uses a test at level α = 0.05 on the runs' seeds (noise draws), and needs at least five of them:

- *lower error*: one-sided Welch t-test against each rival; all must be significant.
- *equal to the printed value*: two-sided Welch t-test from means, standard deviations and counts; the value counts
  as reproduced when the difference is not significant.
- *succeeds / fails*: exact one-sided binomial test that the rate of success is above / below one half.
- *succeeds where another fails*: one-sided sign test on the seeds that tell the two apart.
"""

import csv
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas

ALPHA = 0.05
FEWEST_SEEDS = 5
PAPERS = ("nrae", "iae", "eae")
STATUSES = ("reproduced", "not reproduced", "inconclusive", "not run")


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


@dataclass(frozen=True)
class Claim:
    """One statement of a paper and the rule that decides about it.

    Arguments:
        identifier: short and stable, used in links.
        page: the notebook that tests it.
        paper, section, text: where and what; ``text`` is our wording of the claim.
        rule: frame of one recipe (a row per run, see ``grid.frame``) -> (status, statistics in one sentence).
        needs: methods without which the claim was not run.
        recipes: the recipes it is tested under; empty for all.
    """

    identifier: str
    page: str
    paper: str
    section: str
    text: str
    rule: Callable[["pandas.DataFrame"], tuple[str, str]]
    needs: tuple[str, ...]
    recipes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    claim: Claim
    recipe: str
    preset: str
    status: str
    statistics: str


def judge(page: str, frame: "pandas.DataFrame", preset: str, recipes: tuple[str, ...]) -> list[Verdict]:
    """Verdicts on all claims of ``page`` under each of ``recipes``, in the catalogue's order.

    Too few seeds make a verdict "inconclusive", missing methods "not run".
    """
    verdicts = []
    for claim in CLAIMS:
        for recipe in recipes:
            if claim.page != page or recipe not in (claim.recipes or recipes):
                continue
            rows = frame[frame.recipe == recipe] if len(frame) else frame
            counts = {method: int((rows.method == method).sum()) if len(rows) else 0 for method in claim.needs}
            absent = [method for method, count in counts.items() if count == 0]
            if absent:
                status, statistics = "not run", f"no runs of {', '.join(absent)} under this recipe."
            else:
                status, statistics = claim.rule(rows)
                if min(counts.values()) < FEWEST_SEEDS:
                    status = "inconclusive"
                    statistics += f" Only {min(counts.values())} seeds: at least {FEWEST_SEEDS} decide."
            verdicts.append(Verdict(claim, recipe, preset, status, statistics))
    return verdicts


def _of(frame: "pandas.DataFrame", method: str, metric: str):
    return frame[frame.method == method].sort_values("seed")[metric].to_numpy(dtype=float)


def lower(metric: str, methods: tuple[str, ...], rivals: tuple[str, ...]) -> Callable:
    """Rule: every one of ``methods`` has a lower mean than every one of ``rivals`` (one-sided Welch tests).

    An intersection-union test: all must be significant, so α needs no correction. Rivals without runs are passed
    over and named.
    """

    def rule(frame):
        from scipy.stats import ttest_ind

        present = [rival for rival in rivals if (frame.method == rival).any()]
        tests = {}
        for method in methods:
            for rival in present:
                ours, theirs = _of(frame, method, metric), _of(frame, rival, metric)
                same = ours.std() + theirs.std() == 0
                p_value = 1.0 if same else ttest_ind(ours, theirs, equal_var=False, alternative="less").pvalue
                tests[f"{method} {ours.mean():.3g} against {rival} {theirs.mean():.3g}: p = {p_value:.2g}"] = p_value
        sentence = f"One-sided Welch tests of {metric}: " + "; ".join(tests) + "."
        absent = [rival for rival in rivals if rival not in present]
        if absent:
            sentence += f" Not yet run: {', '.join(absent)}."
        return _status(all(p_value < ALPHA for p_value in tests.values())), sentence

    return rule


def printed_value(
    metric: str, method: str, table: tuple[str, str], paper_metric: str, scale: float, count: int
) -> Callable:
    """Rule: our mean does not differ significantly from the printed one (two-sided Welch test from summaries).

    Arguments:
        scale: ours times ``scale`` is in the paper's unit.
        count: how many runs the paper's mean and standard deviation are over.
    """

    def rule(frame):
        import numpy
        from scipy.stats import ttest_ind_from_stats

        printed = next(v for v in values("nrae", *table) if v.method == method and v.metric == paper_metric)
        ours = trimmed(_of(frame, method, metric) * scale, count)
        spread = ours.std(ddof=1) if len(ours) > 1 else numpy.nan
        p_value = ttest_ind_from_stats(
            ours.mean(), spread, len(ours), printed.value, printed.error, count, equal_var=False
        ).pvalue
        sentence = (
            f"{method}: printed {printed.value:.2f} ± {printed.error:.2f}, ours {ours.mean():.2f} ± {spread:.2f} "
            f"({len(ours)} draws); two-sided Welch test p = {p_value:.2g}."
        )
        return _status(p_value >= ALPHA), sentence

    return rule


def trimmed(scores, count: int = 8):
    """Scores without the highest and the lowest, as Table 1 has them; unchanged if that leaves fewer than ``count``."""
    import numpy

    scores = numpy.sort(numpy.asarray(scores, dtype=float))
    return scores[1:-1] if len(scores) - 2 >= count else scores


def equal(metric: str, first: str, second: str) -> Callable:
    """Rule: ``first`` and ``second`` do not differ, seed by seed (two-sided Wilcoxon signed-rank test)."""

    def rule(frame):
        import numpy
        from scipy.stats import wilcoxon

        ours, theirs = _of(frame, first, metric), _of(frame, second, metric)
        count = min(len(ours), len(theirs))
        difference = ours[:count] - theirs[:count]
        if not difference.any():
            return "reproduced", f"{first} and {second} agree exactly (bit for bit) on all {count} draws."
        p_value = wilcoxon(difference).pvalue
        largest = numpy.abs(difference).max()
        sentence = f"Largest difference of {metric} on one draw {largest:.2g}; Wilcoxon signed-rank p = {p_value:.2g}."
        return _status(p_value >= ALPHA), sentence

    return rule


def rate(methods: tuple[str, ...], succeed: bool) -> Callable:
    """Rule: each method learns the right order on more (or fewer) than half of the seeds (exact binomial tests)."""

    def rule(frame):
        from scipy.stats import binomtest

        parts, significant = [], []
        for method in methods:
            right = _of(frame, method, "order_breaks") == 0
            p_value = binomtest(int(right.sum()), len(right), 0.5, "greater" if succeed else "less").pvalue
            significant.append(p_value < ALPHA)
            parts.append(f"{method} is right on {int(right.sum())} of {len(right)} seeds (p = {p_value:.2g})")
        direction = "above" if succeed else "below"
        return _status(all(significant)), f"Binomial tests of a rate {direction} 1/2: " + "; ".join(parts) + "."

    return rule


def succeeds_where_other_fails(method: str, other: str) -> Callable:
    """Rule: ``method`` is right and ``other`` wrong on more seeds than the reverse (one-sided sign test)."""

    def rule(frame):
        from scipy.stats import binomtest

        right = {name: _of(frame, name, "order_breaks") == 0 for name in (method, other)}
        count = min(map(len, right.values()))
        better = int((right[method][:count] & ~right[other][:count]).sum())
        worse = int((~right[method][:count] & right[other][:count]).sum())
        p_value = binomtest(better, better + worse, 0.5, "greater").pvalue if better + worse else 1.0
        sentence = (
            f"Of {count} seeds {method} alone is right on {better}, {other} alone on {worse}; sign test "
            f"p = {p_value:.2g}."
        )
        return _status(p_value < ALPHA), sentence

    return rule


def _status(holds: bool) -> str:
    return "reproduced" if holds else "not reproduced"


_SINE_RIVALS = ("ae", "vae", "wae", "dae", "cae", "grae", "spae")
_NRAE = ("nrae_l", "nrae_q")

CLAIMS: tuple[Claim, ...] = (
    Claim(
        "fig4-smooth", "fig4_sine", "NRAE", "4.1, Figure 4",
        "NRAE-L and NRAE-Q reproduce smoother manifolds than the other methods (here: less total turning).",
        lower("total_turning", _NRAE, _SINE_RIVALS), ("ae", *_NRAE),
    ),
    Claim(
        "table1-best", "table1_sine", "NRAE", "4.1, Table 1",
        "NRAE-L and NRAE-Q have a lower error on clean points than every other method.",
        lower("test_mse", _NRAE, _SINE_RIVALS), ("ae", *_NRAE),
    ),
    Claim(
        "table1-l-is-q", "table1_sine", "NRAE", "4.1, Table 1",
        "NRAE-L (0.29 ± 0.06) and NRAE-Q (0.30 ± 0.07) do not differ.",
        equal("test_mse", *_NRAE), _NRAE,
    ),
    *(
        Claim(
            f"table1-value-{method}", "table1_sine", "NRAE", "4.1, Table 1",
            f"The error of {title} times 100 is {printed}.",
            printed_value("test_mse", method, ("table1", "sine"), "mse_x100", 100, 8), (method,), ("paper",),
        )
        for method, title, printed in (
            ("ae", "AE", "1.90 ± 0.23"), ("dae", "DAE", "1.09 ± 0.21"), ("nrae_l", "NRAE-L", "0.29 ± 0.06"),
            ("nrae_q", "NRAE-Q", "0.30 ± 0.07"),
        )
    ),
    Claim(
        "fig7-q-right", "fig7_swissroll", "NRAE", "4.2, Figure 7",
        "NRAE-Q learns the right local geometry of the Swiss roll.",
        rate(("nrae_q",), succeed=True), ("nrae_q",),
    ),
    Claim(
        "fig7-baselines-wrong", "fig7_swissroll", "NRAE", "4.2, Figure 7",
        "AE and DAE do not learn the right local geometry.",
        rate(("ae", "dae"), succeed=False), ("ae", "dae"),
    ),
    Claim(
        "fig7-l-fails", "fig7_swissroll", "NRAE", "4.2, Figure 7",
        "NRAE-L fails where NRAE-Q succeeds.",
        succeeds_where_other_fails("nrae_q", "nrae_l"), _NRAE,
    ),
)  # fmt: skip
