"""The rules that decide about a claim: functions that return frame -> (status, statistics in one sentence)."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from nrae_lib.paper.printed import values

if TYPE_CHECKING:
    import pandas

ALPHA = 0.05
MARGIN = 0.25  # of a printed value, or of the mean of two methods: what counts as the same
# The least that can be significant: six of six successes have p = 0.016 (five: 0.03, but none may then fail to count);
# a t-test of fewer than three seeds has no power to speak of.
FEWEST_SEEDS = 6
FEWEST_FOR_T_TESTS = 3
STATUSES = ("reproduced", "not reproduced", "inconclusive", "not run")


def _of(frame: "pandas.DataFrame", method: str, metric: str):
    return frame[frame.method == method].sort_values("seed")[metric].to_numpy(dtype=float)


def _pairs(frame: "pandas.DataFrame", metric: str, first: str, second: str):
    """The metric of two methods on the seeds that both have, in the same order."""
    ours, theirs = (frame[frame.method == method].set_index("seed")[metric] for method in (first, second))
    shared = sorted(set(ours.index) & set(theirs.index))
    return ours[shared].to_numpy(dtype=float), theirs[shared].to_numpy(dtype=float)


def _directional(tests: list[tuple[float, float]]) -> str:
    """Status from the p-values of every test, of the claimed direction and of the opposite one.

    All must be significant for "reproduced" (an intersection-union test: α needs no correction), one reversal, corrected
    for their number (Bonferroni), for "not reproduced".
    """
    if all(p_value < ALPHA for p_value, _ in tests):
        return "reproduced"
    return "not reproduced" if min(reverse for _, reverse in tests) * len(tests) < ALPHA else "inconclusive"


def _counts(better: int, worse: int) -> tuple[float, float]:
    """p-values that successes are more, and less, frequent than failures (exact binomial tests)."""
    from scipy.stats import binomtest

    if better + worse == 0:
        return 1.0, 1.0
    return tuple(float(binomtest(better, better + worse, 0.5, side).pvalue) for side in ("greater", "less"))


def _equivalence(equivalent: float, different: float) -> str:
    """Status from the p-values of the equivalence test and of the test for a difference."""
    if equivalent < ALPHA:
        return "reproduced"
    return "not reproduced" if different < ALPHA else "inconclusive"


def higher(metric: str, methods: tuple[str, ...], rivals: tuple[str, ...]) -> Callable:
    """Rule: every one of ``methods`` has a higher mean than every one of ``rivals``, see :func:`lower`."""
    return lower(metric, methods, rivals, sign=-1)


def lower(
    metric: str, methods: tuple[str, ...], rivals: tuple[str, ...], target: float | None = None, sign: int = 1
) -> Callable:
    """Rule: every one of ``methods`` has a lower mean than every one of ``rivals`` (one-sided Welch t-tests).

    An intersection-union test: all must be significant, so α needs no correction.

    Arguments:
        target: the value without any error, if not zero: distances from it are compared.
        sign: 1, or -1 for the opposite direction.
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
                if not (math.isfinite(ours.sum()) and math.isfinite(theirs.sum())):
                    return "not run", f"{what} of {method} or {rival} is missing in some run."
                if ours.std() + theirs.std() > 0:
                    p_value = float(ttest_ind(sign * ours, sign * theirs, equal_var=False, alternative="less").pvalue)
                else:
                    p_value = 0.0 if sign * ours.mean() < sign * theirs.mean() else 1.0
                tests.append((p_value, 1 - p_value))
                parts.append(f"{method} {ours.mean():.3g} against {rival} {theirs.mean():.3g}: p = {p_value:.2g}")
        return _directional(tests), f"One-sided Welch tests of {what}: " + "; ".join(parts) + "."

    return rule


def sign(metric: str, method: str, rival: str, within: str, lower_is_better: bool = True) -> Callable:
    """Rule: ``method``'s mean is better than ``rival``'s on most of the conditions (one-sided sign test over them).

    Arguments:
        within: the column whose values are the conditions, such as a data set or a sample size. The seeds of a condition are
            averaged: they are no independent evidence about other conditions.
    """

    def rule(frame):
        means = frame[frame.method.isin([method, rival])].groupby([within, "method"])[metric].mean().unstack().dropna()
        difference = (means[method] - means[rival]) * (1 if lower_is_better else -1)
        better, worse = int((difference < 0).sum()), int((difference > 0).sum())
        tests = _counts(better, worse)
        return _directional([tests]), (
            f"{method} is better than {rival} in {metric} on {better} of {better + worse} values of {within}; sign test "
            f"p = {tests[0]:.2g}."
        )

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


_ORDERS = {"order_breaks": "the test points", "train_order_breaks": "the training points"}


def _by_all(rule: Callable, columns: dict[str, str]) -> Callable:
    """``rule`` of (frame, column of breaks) for each of ``columns`` (with its name in a sentence); all must agree."""

    def both(frame):
        found = {name: rule(frame, column) for column, name in columns.items()}
        statuses = {status for status, _ in found.values()}
        agreed = statuses.pop() if len(statuses) == 1 else "inconclusive"
        return agreed, " ".join(f"By {name}: {sentence}" for name, (_, sentence) in found.items())

    return both


def rate(methods: tuple[str, ...], succeed: bool, columns: dict[str, str] = _ORDERS) -> Callable:
    """Rule: each method is right on more (or fewer) than half of the seeds (exact binomial tests).

    Arguments:
        columns: columns that count breaks (0: right), with what they were counted on; all must agree.
    """

    def rule(frame, column):
        parts, tests = [], []
        for method in methods:
            right = _of(frame, method, column) == 0
            more, fewer = _counts(int(right.sum()), int((~right).sum()))
            tests.append((more, fewer) if succeed else (fewer, more))
            parts.append(f"{method} is right on {int(right.sum())} of {len(right)} seeds (p = {tests[-1][0]:.2g})")
        direction = "above" if succeed else "below"
        return _directional(tests), f"binomial tests of a rate {direction} 1/2: " + "; ".join(parts) + "."

    return _by_all(rule, columns)


def succeeds_where_other_fails(method: str, other: str, columns: dict[str, str] = _ORDERS) -> Callable:
    """Rule: ``method`` is right and ``other`` wrong on more seeds than the reverse (one-sided sign test).

    Arguments:
        columns: see :func:`rate`.
    """

    def rule(frame, column):
        ours, theirs = (breaks == 0 for breaks in _pairs(frame, column, method, other))
        better, worse = int((ours & ~theirs).sum()), int((~ours & theirs).sum())
        tests = _counts(better, worse)
        sentence = (
            f"of {len(ours)} seeds {method} alone is right on {better}, {other} alone on {worse}; sign test "
            f"p = {tests[0]:.2g}."
        )
        return _directional([tests]), sentence

    return _by_all(rule, columns)


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
