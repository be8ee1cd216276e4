"""The papers' own numbers and claims, and the rules by which a claim is held to be reproduced.

The numbers are those printed in the papers, one row each, in ``nrae.csv``, ``iae.csv`` and ``eae.csv``.

A verdict needs at least six seeds (noise draws) of every method it compares, and uses tests at level α = 0.05:

- *lower error*, *closer to the truth*: one-sided Welch t-tests against every rival.
- *succeeds / fails*: exact one-sided binomial tests that the rate of success is above / below one half.
- *succeeds where another fails*: one-sided sign test on the seeds that tell the two apart.
  Success is no order break, once among the noise-free test points and once among the training points; where the two
  lead to different verdicts, the claim is inconclusive.

  These are "reproduced" if all tests are significant, "not reproduced" if some observed effect is absent or points the
  other way, and "inconclusive" otherwise.
- *the printed value*, *no difference*: equivalence within 25 % by two one-sided t-tests. "Reproduced" if both are
  significant, "not reproduced" if instead the difference is significant, "inconclusive" otherwise. Without such a
  test, noise and few seeds would pass for agreement.
- *a ratio of running times*: one-sided t-tests of its logarithm over rounds, in each of which all methods took their
  turn: "reproduced" if every mean lies significantly within the claimed bounds (a printed ratio, or one: ± 25 %),
  "not reproduced" if one lies significantly outside, "inconclusive" otherwise. Rounds of one run are not quite
  independent; the margins are many times wider than their spread.
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
MARGIN = 0.25  # of a printed value, or of the mean of two methods: what counts as the same
FEWEST_SEEDS = 6
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
        unit: what is repeated: a seed, or a round of measurements.
    """

    identifier: str
    page: str
    paper: str
    section: str
    text: str
    rule: Callable[["pandas.DataFrame"], tuple[str, str]]
    needs: tuple[str, ...]
    recipes: tuple[str, ...] = ()
    unit: str = "seed"


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

    Raises:
        ValueError: if a method has two rows for one recipe and seed.
    """
    if len(frame) and frame.duplicated(["recipe", "method", "seed"]).any():
        twice = frame[frame.duplicated(["recipe", "method", "seed"])].iloc[0]
        raise ValueError(f"two results of {twice.method}, recipe {twice.recipe}, seed {twice.seed}: which one counts?")
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
            elif min(counts.values()) < FEWEST_SEEDS:
                status, statistics = (
                    "inconclusive",
                    f"{min(counts.values())} {claim.unit}(s); at least {FEWEST_SEEDS} decide.",
                )
            else:
                status, statistics = claim.rule(rows)
            verdicts.append(Verdict(claim, recipe, preset, status, statistics))
    return verdicts


def _of(frame: "pandas.DataFrame", method: str, metric: str):
    return frame[frame.method == method].sort_values("seed")[metric].to_numpy(dtype=float)


def _pairs(frame: "pandas.DataFrame", metric: str, first: str, second: str):
    """The metric of two methods on the seeds that both have, in the same order."""
    ours, theirs = (frame[frame.method == method].set_index("seed")[metric] for method in (first, second))
    shared = sorted(set(ours.index) & set(theirs.index))
    return ours[shared].to_numpy(dtype=float), theirs[shared].to_numpy(dtype=float)


def _directional(tests: list[tuple[float, bool]]) -> str:
    """Status from (p-value, whether the observed effect points the claimed way) of every test."""
    if all(p_value < ALPHA for p_value, _ in tests):
        return "reproduced"
    return "inconclusive" if all(points_right for _, points_right in tests) else "not reproduced"


def _equivalence(equivalent: float, different: float) -> str:
    """Status from the p-values of the equivalence test and of the test for a difference."""
    if equivalent < ALPHA:
        return "reproduced"
    return "not reproduced" if different < ALPHA else "inconclusive"


def lower(metric: str, methods: tuple[str, ...], rivals: tuple[str, ...], target: float | None = None) -> Callable:
    """Rule: every one of ``methods`` has a lower mean than every one of ``rivals`` (one-sided Welch t-tests).

    An intersection-union test: all must be significant, so α needs no correction.

    Arguments:
        target: the value without any error, if not zero: distances from it are compared.
    """
    what = metric if target is None else f"|{metric} - {target:g}|"

    def rule(frame):
        from scipy.stats import ttest_ind

        tests, parts = [], []
        for method in methods:
            for rival in rivals:
                ours, theirs = _of(frame, method, metric), _of(frame, rival, metric)
                if target is not None:
                    ours, theirs = abs(ours - target), abs(theirs - target)
                right = ours.mean() < theirs.mean()
                if ours.std() + theirs.std() > 0:
                    p_value = float(ttest_ind(ours, theirs, equal_var=False, alternative="less").pvalue)
                else:
                    p_value = 0.0 if right else 1.0
                tests.append((p_value, right))
                parts.append(f"{method} {ours.mean():.3g} against {rival} {theirs.mean():.3g}: p = {p_value:.2g}")
        return _directional(tests), f"One-sided Welch tests of {what}: " + "; ".join(parts) + "."

    return rule


def trimmed(scores):
    """Ten or more scores without the highest and the lowest, as Table 1 has them; fewer are left as they are."""
    import numpy

    scores = numpy.sort(numpy.asarray(scores, dtype=float))
    return scores[1:-1] if len(scores) >= 10 else scores


# Standard error of the mean of the middle eight of ten normal draws, in units of the standard deviation of these
# eight (from 100,000 simulated tens). 1/√8 = 0.35 would be right for eight draws of which none was dropped.
_TRIMMED_ERROR = 0.4625


def printed_value(method: str, table: tuple[str, str], paper_metric: str, metric: str, scale: float) -> Callable:
    """Rule: our mean is within 25 % of the printed one (equivalence by two one-sided t-tests).

    For tables whose mean and standard deviation are over ten runs without the highest and the lowest.

    Arguments:
        scale: ours times ``scale`` is in the paper's unit.
    """

    def rule(frame):
        from scipy.stats import t

        printed = next(v for v in values("nrae", *table) if v.method == method and v.metric == paper_metric)
        everything = _of(frame, method, metric) * scale
        ours = trimmed(everything)
        deviation = ours.std(ddof=1)
        factor = _TRIMMED_ERROR if len(ours) < len(everything) else len(ours) ** -0.5
        error = ((deviation * factor) ** 2 + (printed.error * _TRIMMED_ERROR) ** 2) ** 0.5
        distance, margin, freedom = abs(ours.mean() - printed.value), MARGIN * printed.value, len(ours) - 1 + 7
        equivalent, different = t.sf((margin - distance) / error, freedom), 2 * t.sf(distance / error, freedom)
        sentence = (
            f"{method}: printed {printed.value:.2f} ± {printed.error:.2f}, ours {ours.mean():.2f} ± {deviation:.2f} "
            f"({len(ours)} of {len(everything)} draws); within {MARGIN:.0%}: p = {equivalent:.2g}; different: "
            f"p = {different:.2g}."
        )
        return _equivalence(equivalent, different), sentence

    return rule


def equal(metric: str, first: str, second: str) -> Callable:
    """Rule: ``first`` and ``second`` differ by less than 25 % of their mean, seed by seed (paired t-tests)."""

    def rule(frame):
        from scipy.stats import ttest_1samp

        ours, theirs = _pairs(frame, metric, first, second)
        difference = ours - theirs
        if not difference.any():
            return "reproduced", f"{first} and {second} agree exactly, bit for bit, on all {len(ours)} draws."
        if difference.std() == 0:
            return "not reproduced", f"{first} and {second} differ by {difference[0]:.2g} on every draw."
        margin = MARGIN * (ours.mean() + theirs.mean()) / 2
        equivalent = max(
            ttest_1samp(difference, -margin, alternative="greater").pvalue,
            ttest_1samp(difference, margin, alternative="less").pvalue,
        )
        different = ttest_1samp(difference, 0).pvalue
        sentence = (
            f"{first} {ours.mean():.3g}, {second} {theirs.mean():.3g} on {len(ours)} draws; paired t-tests: within "
            f"{MARGIN:.0%} p = {equivalent:.2g}, different p = {different:.2g}."
        )
        return _equivalence(equivalent, different), sentence

    return rule


def _by_both_orders(rule: Callable) -> Callable:
    """``rule`` of (frame, column of order breaks) for test points and for training points; both must agree."""

    def both(frame):
        (status, sentence), (train_status, train_sentence) = (
            rule(frame, column) for column in ("order_breaks", "train_order_breaks")
        )
        agreed = status if status == train_status else "inconclusive"
        return agreed, f"By the test points: {sentence} By the training points: {train_sentence}"

    return both


def rate(methods: tuple[str, ...], succeed: bool) -> Callable:
    """Rule: each method learns the right order on more (or fewer) than half of the seeds (exact binomial tests)."""

    def rule(frame, column):
        from scipy.stats import binomtest

        parts, tests = [], []
        for method in methods:
            right = _of(frame, method, column) == 0
            p_value = binomtest(int(right.sum()), len(right), 0.5, "greater" if succeed else "less").pvalue
            tests.append((p_value, right.mean() > 0.5 if succeed else right.mean() < 0.5))
            parts.append(f"{method} is right on {int(right.sum())} of {len(right)} seeds (p = {p_value:.2g})")
        direction = "above" if succeed else "below"
        return _directional(tests), f"binomial tests of a rate {direction} 1/2: " + "; ".join(parts) + "."

    return _by_both_orders(rule)


def succeeds_where_other_fails(method: str, other: str) -> Callable:
    """Rule: ``method`` is right and ``other`` wrong on more seeds than the reverse (one-sided sign test)."""

    def rule(frame, column):
        from scipy.stats import binomtest

        ours, theirs = (breaks == 0 for breaks in _pairs(frame, column, method, other))
        better, worse = int((ours & ~theirs).sum()), int((~ours & theirs).sum())
        p_value = binomtest(better, better + worse, 0.5, "greater").pvalue if better + worse else 1.0
        sentence = (
            f"of {len(ours)} seeds {method} alone is right on {better}, {other} alone on {worse}; sign test "
            f"p = {p_value:.2g}."
        )
        return _directional([(p_value, better > worse)]), sentence

    return _by_both_orders(rule)


def between(metric: str, methods: tuple[str, ...], low: float = 0.0, high: float = float("inf")) -> Callable:
    """Rule: for every one of ``methods`` the geometric mean of ``metric`` over rounds is above low and below high."""

    def rule(frame):
        import numpy
        from scipy.stats import ttest_1samp

        bounds = [(bound, side) for bound, side in ((low, "greater"), (high, "less")) if 0 < bound < float("inf")]
        other, parts, inside, outside = {"greater": "less", "less": "greater"}, [], [], []
        for method in methods:
            logarithms = numpy.log(_of(frame, method, metric))
            logarithms = logarithms[numpy.isfinite(logarithms)]
            if len(logarithms) < FEWEST_SEEDS:
                return "not run", f"{metric} of {method} was not measured."

            def p_value(bound, side, logarithms=logarithms):
                if logarithms.std() < 1e-12:
                    return float((logarithms[0] <= numpy.log(bound)) == (side == "greater"))
                return float(ttest_1samp(logarithms, numpy.log(bound), alternative=side).pvalue)

            inside.append(max(p_value(bound, side) for bound, side in bounds))
            outside.append(len(bounds) * min(p_value(bound, other[side]) for bound, side in bounds))
            parts.append(
                f"{method} {numpy.exp(logarithms.mean()):.2f} (inside: p = {inside[-1]:.2g}, outside: "
                f"p = {min(1, outside[-1]):.2g})"
            )
        limits = " and ".join(f"{'above' if side == 'greater' else 'below'} {bound:.2f}" for bound, side in bounds)
        status = "reproduced" if max(inside) < ALPHA else "not reproduced" if min(outside) < ALPHA else "inconclusive"
        return status, f"t-tests of {metric} {limits}, geometric means over rounds: " + "; ".join(parts) + "."

    return rule


_NRAE = ("nrae_l", "nrae_q")
_GEOMETRIC = ("grae", "spae")  # right in Figure 7, by the paper
# (suffix of the identifier, recipes, baselines): the released code has no settings for most of the baselines.
_SCOPES = (
    ("", ("paper", "paper_elu"), ("ae", "vae", "wae", "dae", "cae", *_GEOMETRIC)),
    ("-released", ("released",), ("ae", "dae")),
)


def _title(*names: str) -> str:
    """The paper's spelling: "NRAE-L" of "nrae_l", "AE and DAE" of two."""
    *first, last = (name.upper().replace("_", "-") for name in names)
    return " and ".join([", ".join(first), last]) if first else last


_LIBRARY = ("library", "plain")  # this library over its own AE, and over AE as PyTorch runs it
_AE_SECONDS = next(v.value for v in values("nrae", "supp_table1", "mnist") if v.method == "ae")
# Method -> title, decimals of its ratio, recipes.
_PRINTED_TIMES = {
    "ae": ("AE", 2, ()),
    "vae": ("VAE", 2, _LIBRARY),
    "nrae_l": ("NRAE-L", 2, (*_LIBRARY, "released")),
    "nrae_q": ("NRAE-Q", 2, (*_LIBRARY, "released")),
    "topoae": ("TopoAE (time quoted from its own paper)", 0, _LIBRARY),
}

CLAIMS: tuple[Claim, ...] = (
    *(
        Claim(
            f"fig4-smooth{suffix}", "fig4_sine", "NRAE", "4.1, Figure 4",
            f"NRAE-L and NRAE-Q reproduce a smooth manifold better than {_title(*rivals)} (here: the total turning of "
            "the learned curve is closer to the noise-free curve's, one half turn).",
            lower("total_turning", _NRAE, rivals, target=1.0), (*rivals, *_NRAE), recipes,
        )
        for suffix, recipes, rivals in _SCOPES
    ),
    *(
        Claim(
            f"table1-best{suffix}", "table1_sine", "NRAE", "4.1, Table 1",
            f"NRAE-L and NRAE-Q have a lower error on clean points than {_title(*rivals)}.",
            lower("test_mse", _NRAE, rivals), (*rivals, *_NRAE), recipes,
        )
        for suffix, recipes, rivals in _SCOPES
    ),
    Claim(
        "table1-l-is-q", "table1_sine", "NRAE", "4.1, Table 1",
        "NRAE-L (0.29 ± 0.06) and NRAE-Q (0.30 ± 0.07) do not differ.",
        equal("test_mse", *_NRAE), _NRAE,
    ),
    *(
        Claim(
            f"table1-value-{printed.method}", "table1_sine", "NRAE", "4.1, Table 1",
            f"The error of {_title(printed.method)} times 100 is {printed.value:.2f} ± {printed.error:.2f}.",
            printed_value(printed.method, ("table1", "sine"), "mse_x100", "test_mse", 100), (printed.method,),
            ("paper",),
        )
        for printed in values("nrae", "table1", "sine")
    ),
    Claim(
        "fig7-q-right", "fig7_swissroll", "NRAE", "4.2, Figure 7",
        "NRAE-Q learns the right local geometry of the Swiss roll.",
        rate(("nrae_q",), succeed=True), ("nrae_q",),
    ),
    Claim(
        "fig7-grae-spae-right", "fig7_swissroll", "NRAE", "4.2, Figure 7",
        "GRAE and SPAE learn the right local geometry of the Swiss roll.",
        rate(_GEOMETRIC, succeed=True), _GEOMETRIC, _SCOPES[0][1],
    ),
    *(
        Claim(
            f"fig7-baselines-wrong{suffix}", "fig7_swissroll", "NRAE", "4.2, Figure 7",
            f"{_title(*wrong)} do not learn the right local geometry.",
            rate(wrong, succeed=False), wrong, recipes,
        )
        for suffix, recipes, rivals in _SCOPES
        for wrong in [tuple(name for name in rivals if name not in _GEOMETRIC)]
    ),
    Claim(
        "fig7-l-fails", "fig7_swissroll", "NRAE", "4.2, Figure 7",
        "NRAE-L fails where NRAE-Q succeeds.",
        succeeds_where_other_fails("nrae_q", "nrae_l"), _NRAE,
    ),
    *(
        Claim(
            f"supp-table1-ratio-{printed.method}", "supp_table1_runtime", "NRAE", "supplement 2.1, Table 1",
            f"An epoch of {title} takes {printed.value / _AE_SECONDS:.{digits}f} times AE's ({printed.value:g} against "
            f"{_AE_SECONDS:g} s).",
            between(
                "ratio", (printed.method,), *((1 + sign * MARGIN) * printed.value / _AE_SECONDS for sign in (-1, 1))
            ),
            (printed.method,), recipes, "round",
        )
        for printed in values("nrae", "supp_table1", "mnist")
        for title, digits, recipes in [_PRINTED_TIMES[printed.method]]
        if printed.method != "ae"
    ),
    Claim(
        "supp-table1-below-topoae", "supp_table1_runtime", "NRAE", "supplement 2.1, Table 1",
        "TopoAE takes much longer than NRAE-L and NRAE-Q: 68 against 3.13 and 4.15 s (here: longer at all).",
        between("topoae_ratio", _NRAE, low=1.0), (*_NRAE, "topoae"), _LIBRARY, "round",
    ),
    Claim(
        "supp-fig1-cae-dimension", "supp_fig1_runtime_scaling", "NRAE", "supplement 2.1, Figure 1",
        "CAE's time rises rapidly with the input dimension D, because of the full Jacobian (here: relative to AE's it "
        "grows by more than 25 % from the smallest to the largest D).",
        between("d_growth", ("cae",), low=1 + MARGIN), ("cae",), ("exact", "estimate", "full_jacobian"), "round",
    ),
    Claim(
        "supp-fig1-nrae-dimension", "supp_fig1_runtime_scaling", "NRAE", "supplement 2.1, Figure 1",
        "The times of NRAE-L and NRAE-Q stay comparable with those of existing methods at every D (here: relative to AE's "
        "they grow by less than 25 % from the smallest to the largest D).",
        between("d_growth", _NRAE, high=1 + MARGIN), _NRAE, ("library",), "round",
    ),
    Claim(
        "supp-fig1-spae-neighbors", "supp_fig1_runtime_scaling", "NRAE", "supplement 2.1, Figure 1",
        "SPAE's time grows linearly with the number of neighbours k (here: the exponent of k in what a step takes beyond "
        "AE's is 1 ± 25 %).",
        between("k_exponent", ("spae",), 1 - MARGIN, 1 + MARGIN), ("spae",), ("library",), "round",
    ),
    Claim(
        "supp-fig1-nrae-neighbors", "supp_fig1_runtime_scaling", "NRAE", "supplement 2.1, Figure 1",
        "The times of NRAE-L and NRAE-Q do not depend on k (here: at the largest k they are those at the smallest, "
        "± 25 %).",
        between("k_growth", _NRAE, 1 - MARGIN, 1 + MARGIN), _NRAE, ("library",), "round",
    ),
)  # fmt: skip
