"""The rules that decide about a claim.

A frame has one row per run, with method, seed and the measures. A run that is missing, or whose number is not finite, makes
every rule that compares its method "not run": it never helps a claim.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from scipy import special, stats

from nrae_lib.paper.printed import Value

if TYPE_CHECKING:
    import pandas

ALPHA = 0.05
MARGIN = 0.25  # of a printed value, or of the mean of two methods: what counts as the same
FEWEST_SEEDS = 6  # six of six successes have p = 0.016 (five: 0.03, but none may then fail to count)
FEWEST_FOR_T_TESTS = 3  # a test of fewer has no power to speak of
STATUSES = ("reproduced", "not reproduced", "inconclusive", "not run")

Names = tuple[str, ...]
_ROUNDING = 1e-12  # relative: numbers that differ by less are equal


class _Missing(Exception):
    """A number that a rule needs is not there."""


@dataclass(frozen=True)
class Rule:
    """A function of the frame of one condition, and the methods it ``needs``: (status, statistics in one sentence)."""

    needs: Names
    judge: Callable[[pandas.DataFrame], tuple[str, str]]

    def __call__(self, frame: pandas.DataFrame) -> tuple[str, str]:
        try:
            return self.judge(frame)
        except _Missing as missing:
            return "not run", f"{missing}."


def _of(frame: pandas.DataFrame, metric: str, *methods: str) -> dict[str, np.ndarray]:
    """The metric of every one of ``methods`` on the seeds of all their runs, in the same order."""
    if metric not in frame:
        raise _Missing(f"{metric} was not measured here")
    order = np.argsort(frame.seed.to_numpy())
    names, seeds, numbers = (frame[column].to_numpy()[order] for column in ("method", "seed", metric))
    found = {method: numbers[names == method].astype(float) for method in methods}
    count = len({seed for name, seed in zip(names, seeds, strict=True) if name in found})
    lacking = [name for name, each in found.items() if not each.size == count > 0 or not np.isfinite(each).all()]
    if lacking:
        raise _Missing(f"{metric} of {', '.join(lacking)} is missing in some run")
    return found


def _t_tests(ours: np.ndarray, theirs: np.ndarray | float) -> tuple[float, float]:
    """p-values that ``ours`` has a lower, and a higher, mean than ``theirs``, numbers (Welch's test) or one number."""
    rounding = _ROUNDING * max(np.abs(ours).max(), np.abs(theirs).max())
    if ours.std() + np.std(theirs) <= rounding:  # nothing to test: the means decide, and a tie decides nothing
        difference = ours.mean() - np.mean(theirs)
        return float(difference >= -rounding), float(difference <= rounding)
    test = partial(stats.ttest_ind, equal_var=False) if np.ndim(theirs) else stats.ttest_1samp
    found = test(ours, theirs)
    return tuple(float(special.stdtr(found.df, side * found.statistic)) for side in (1, -1))


def _counts(better: int, worse: int) -> tuple[float, float]:
    """p-values that successes are more, and less, frequent than failures (exact binomial tests)."""
    if better + worse == 0:
        return 1.0, 1.0
    return tuple(float(stats.binomtest(better, better + worse, 0.5, side).pvalue) for side in ("greater", "less"))


def _directional(tests: list[tuple[float, float]]) -> str:
    """Status from the p-values of every test, of the claimed direction and of the opposite one."""
    if all(p_value < ALPHA for p_value, _ in tests):  # an intersection-union test: α needs no correction
        return "reproduced"
    return "not reproduced" if min(reverse for _, reverse in tests) * len(tests) < ALPHA else "inconclusive"


def _within(difference: np.ndarray, margin: float) -> tuple[float, float]:
    """p-values that the mean difference is within ± ``margin`` (two one-sided t-tests), and that it is not zero."""
    equivalent = max(_t_tests(difference, margin)[0], _t_tests(difference, -margin)[1])
    return equivalent, min(1.0, 2 * min(_t_tests(difference, 0.0)))


def _equivalence(tests: list[tuple[float, float]]) -> str:
    """Status from the p-values of every test for equivalence and of that for a difference (Bonferroni for their number)."""
    if all(equivalent < ALPHA for equivalent, _ in tests):
        return "reproduced"
    differs = any(equivalent >= ALPHA and different * len(tests) < ALPHA for equivalent, different in tests)
    return "not reproduced" if differs else "inconclusive"


def every(*rules: Rule) -> Rule:
    """Rule: all ``rules`` hold; one that was "not run" decides, else one that is "not reproduced", else "inconclusive"."""

    def rule(frame):
        statuses, sentences = zip(*(each(frame) for each in rules), strict=True)
        status = next((one for one in ("not run", "not reproduced", "inconclusive") if one in statuses), "reproduced")
        return status, " ".join(sentences)

    return Rule(tuple(dict.fromkeys(name for each in rules for name in each.needs)), rule)


def higher(metric: str, methods: Names, rivals: Names) -> Rule:
    """Rule: every one of ``methods`` has a higher mean than every one of ``rivals``, see :func:`lower`."""
    return lower(metric, methods, rivals, sign=-1)


def lower(metric: str, methods: Names, rivals: Names, target: float | None = None, sign: int = 1) -> Rule:
    """Rule: every one of ``methods`` has a lower mean than every one of ``rivals`` (one-sided Welch t-tests).

    Arguments:
        target: the value without any error, if not zero: distances from it are compared.
        sign: 1, or -1 for the opposite direction.
    """
    what = metric if target is None else f"|{metric} - {target:g}|"

    def rule(frame):
        found = _of(frame, metric, *methods, *rivals)
        if target is not None:
            found = {method: abs(numbers - target) for method, numbers in found.items()}
        tests, parts = [], []
        for method, rival in product(methods, rivals):
            ours, theirs = found[method], found[rival]
            tests.append(_t_tests(sign * ours, sign * theirs))
            parts.append(f"{method} {ours.mean():.3g} against {rival} {theirs.mean():.3g}: p = {tests[-1][0]:.2g}")
        return _directional(tests), f"One-sided Welch tests of {what}: " + "; ".join(parts) + "."

    return Rule((*rivals, *methods), rule)


def _settings(frame: pandas.DataFrame, value: str, methods: Names) -> dict[str, str]:
    """Column -> setting, of those columns of ``images.wide`` that this condition varies."""
    rows = frame[frame.method.isin(methods)]
    columns = [name for name in frame if name.startswith(f"{value} @ ")]
    return {name: name.split(" @ ")[1] for name in columns if rows[name].notna().any()}


def below_most(value: str, methods: Names, rivals: Names, sign: int = 1, least: int | None = None) -> Rule:
    """Rule: at every setting each of ``methods`` has a lower mean than more than half of ``rivals``.

    For each method and setting the one-sided Welch tests against all n rivals are combined: that at least u of them, the
    smallest majority, are truly beaten has the p-value (n - u + 1) p_(u), with the u-th smallest p-value of the tests
    (Benjamini and Heller, *Screening for partial conjunction hypotheses*, 2008; Bonferroni's form). All combined tests must
    be significant; where a method's mean is above that of more than n - u rivals, the claim is not reproduced.

    Arguments:
        value: what stands before " @ " in the columns of ``images.wide``, or a column of that name.
        sign: 1, or -1 for a higher mean.
        least: u, if it is not the smallest majority.
    """

    def rule(frame):
        settings = _settings(frame, value, (*methods, *rivals))
        found = [_of(frame, column, *methods, *rivals) for column in settings or [value]]
        most, worst, lost, parts = least or len(rivals) // 2 + 1, 0.0, False, []
        for method in methods:
            beaten = []
            for numbers in found:
                ours, theirs = sign * numbers[method], [sign * numbers[rival] for rival in rivals]
                tests = sorted(_t_tests(ours, each)[0] for each in theirs)
                worst = max(worst, min(1.0, (len(rivals) - most + 1) * tests[most - 1]))
                beaten.append(sum(ours.mean() < each.mean() for each in theirs))
                lost |= sum(ours.mean() > each.mean() for each in theirs) > len(rivals) - most
            parts.append(
                f"{method}'s mean is {'lower' if sign > 0 else 'higher'} than that of {', '.join(map(str, beaten))} of "
                f"{len(rivals)} baselines"
            )
        shown = f" (settings: {', '.join(settings.values())})" if len(settings) > 1 else ""
        status = "reproduced" if worst < ALPHA else "not reproduced" if lost else "inconclusive"
        return status, "; ".join(parts) + f"{shown}; largest combined p = {worst:.2g}."

    return Rule((*rivals, *methods), rule)


def steady(value: str, methods: Names) -> Rule:
    """Rule: at every setting each of ``methods`` is within 25 % of the first setting, seed by seed (paired t-tests).

    ``value`` is as for :func:`below_most`.
    """

    def rule(frame):
        settings = _settings(frame, value, methods)
        if len(settings) < 2 or next(iter(settings)) != next(name for name in frame if name.startswith(f"{value} @ ")):
            return "inconclusive", f"{', '.join(methods)}: no other setting to compare with the first."
        base, *others = (_of(frame, column, *methods) for column in settings)
        tests, parts = [], []
        for method in methods:
            mean, differences = base[method].mean(), [numbers[method] - base[method] for numbers in others]
            tests += [_within(difference, MARGIN * mean) for difference in differences]
            parts.append(f"{method} changes by " + ", ".join(f"{each.mean() / mean:+.1%}" for each in differences))
        first, *after = settings.values()
        return _equivalence(tests), (
            f"{'; '.join(parts)} from setting {first} to {', '.join(after)}; paired t-tests: all within {MARGIN:.0%} "
            f"p = {max(equivalent for equivalent, _ in tests):.2g}."
        )

    return Rule(methods, rule)


def sign(metric: str, method: str, rival: str, within: str) -> Rule:
    """Rule: ``method`` has a lower value than ``rival`` on most of the conditions (one-sided sign test over them).

    Arguments:
        within: the column that names the conditions, such as image sets: one row for each method and condition, since the
            seeds of a condition are no independent evidence about others. One that knows only one of the two does not count.
    """

    def rule(frame):
        shared = set.intersection(*(set(frame[within][frame.method == name]) for name in (method, rival)))
        ours, theirs = _of(frame[frame[within].isin(shared)], metric, method, rival).values()
        better, worse = int((ours < theirs).sum()), int((ours > theirs).sum())
        tests = _counts(better, worse)
        return _directional([tests]), (
            f"{method} is better than {rival} in {metric} on {better} of {better + worse} values of {within}; sign test "
            f"p = {tests[0]:.2g}."
        )

    return Rule((rival, method), rule)


def trimmed(scores) -> np.ndarray:
    """Ten or more scores without the highest and the lowest, as Table 1 has them. Fewer, or scores of which one is not finite,
    are left as they are: dropping it would hide a run that failed."""
    scores = np.sort(np.asarray(scores, dtype=float))
    return scores[1:-1] if len(scores) >= 10 and np.isfinite(scores).all() else scores


# Standard error of the mean of the middle eight of ten normal draws, in units of the standard deviation of these
# eight (from 100,000 simulated tens). 1/√8 = 0.35 would be right for eight draws of which none was dropped.
_TRIMMED_ERROR = 0.4625


def printed_value(printed: Value, metric: str, scale: float) -> Rule:
    """Rule: the mean of ``metric`` times ``scale`` is within 25 % of the printed one (equivalence by two one-sided t-tests).

    For tables whose mean and standard deviation are over ten runs without the highest and the lowest.
    """
    method = printed.method

    def rule(frame):
        everything = _of(frame, metric, method)[method] * scale
        ours = trimmed(everything)
        deviation = ours.std(ddof=1)
        factor = _TRIMMED_ERROR if len(ours) < len(everything) else len(ours) ** -0.5
        error = ((deviation * factor) ** 2 + (printed.error * _TRIMMED_ERROR) ** 2) ** 0.5
        distance, margin, freedom = abs(ours.mean() - printed.value), MARGIN * printed.value, len(ours) - 1 + 7
        equivalent, different = (float(stats.t.sf(x / error, freedom)) for x in (margin - distance, distance))
        return _equivalence([(equivalent, 2 * different)]), (
            f"{method}: printed {printed.value:.2f} ± {printed.error:.2f}, ours {ours.mean():.2f} ± {deviation:.2f} ({len(ours)} "
            f"of {len(everything)} draws); within {MARGIN:.0%}: p = {equivalent:.2g}; different: p = {2 * different:.2g}."
        )

    return Rule((method,), rule)


def equal(metric: str, first: str, second: str) -> Rule:
    """Rule: ``first`` and ``second`` differ by less than 25 % of their mean, seed by seed (paired t-tests)."""

    def rule(frame):
        ours, theirs = _of(frame, metric, first, second).values()
        if (ours == theirs).all():
            return "reproduced", f"{first} and {second} agree exactly, bit for bit, on all {len(ours)} draws."
        equivalent, different = _within(ours - theirs, MARGIN * (ours.mean() + theirs.mean()) / 2)
        return _equivalence([(equivalent, different)]), (
            f"{first} {ours.mean():.3g}, {second} {theirs.mean():.3g} on {len(ours)} draws; paired t-tests: within "
            f"{MARGIN:.0%} p = {equivalent:.2g}, different p = {different:.2g}."
        )

    return Rule((second, first), rule)


_ORDERS = {"order_breaks": "the test points", "train_order_breaks": "the training points"}


def _by_all(needs: Names, judge: Callable, columns: dict[str, str]) -> Rule:
    """``judge`` of (frame, column of breaks) for each of ``columns``, with its name in a sentence; all must agree."""

    def rule(frame):
        found = {name: judge(frame, column) for column, name in columns.items()}
        statuses = {status for status, _ in found.values()}
        agreed = statuses.pop() if len(statuses) == 1 else "inconclusive"
        return agreed, " ".join(f"By {name}: {sentence}" for name, (_, sentence) in found.items())

    return Rule(needs, rule)


def rate(methods: Names, succeed: bool, columns: dict[str, str] = _ORDERS) -> Rule:
    """Rule: each method is right on more (or fewer) than half of the seeds (exact binomial tests).

    Arguments:
        columns: columns that count breaks (0: right), with what they were counted on; all must agree.
    """

    def rule(frame, column):
        parts, tests = [], []
        for method, breaks in _of(frame, column, *methods).items():
            right = int((breaks == 0).sum())
            tests.append(_counts(right, len(breaks) - right)[:: 1 if succeed else -1])
            parts.append(f"{method} is right on {right} of {len(breaks)} seeds (p = {tests[-1][0]:.2g})")
        direction = "above" if succeed else "below"
        return _directional(tests), f"binomial tests of a rate {direction} 1/2: " + "; ".join(parts) + "."

    return _by_all(methods, rule, columns)


def succeeds_where_other_fails(method: str, other: str, columns: dict[str, str] = _ORDERS) -> Rule:
    """Rule: ``method`` is right and ``other`` wrong on more seeds than the reverse (one-sided sign test), see :func:`rate`."""

    def rule(frame, column):
        ours, theirs = (breaks == 0 for breaks in _of(frame, column, method, other).values())
        better, worse = int((ours & ~theirs).sum()), int((~ours & theirs).sum())
        tests = _counts(better, worse)
        return _directional([tests]), (
            f"of {len(ours)} seeds {method} alone is right on {better}, {other} alone on {worse}; sign test p = {tests[0]:.2g}."
        )

    return _by_all((other, method), rule, columns)


def between(metric: str, methods: Names, low: float = 0.0, high: float = float("inf")) -> Rule:
    """Rule: for every one of ``methods`` the geometric mean of ``metric`` over rounds is above low and below high."""
    bounds = [(bound, side) for bound, side in ((low, "above"), (high, "below")) if 0 < bound < float("inf")]

    def rule(frame):
        parts, inside, outside = [], [], []
        for method, numbers in _of(frame, metric, *methods).items():
            logarithms = np.log(numbers)
            tests = [_t_tests(logarithms, np.log(bound))[:: 1 if side == "below" else -1] for bound, side in bounds]
            inside.append(max(held for held, _ in tests))
            outside.append(min(1.0, len(bounds) * min(broken for _, broken in tests)))
            found = f"(inside: p = {inside[-1]:.2g}, outside: p = {outside[-1]:.2g})"
            parts.append(f"{method} {np.exp(logarithms.mean()):.2f} {found}")
        limits = " and ".join(f"{side} {bound:.2f}" for bound, side in bounds)
        status = "reproduced" if max(inside) < ALPHA else "not reproduced" if min(outside) < ALPHA else "inconclusive"
        return status, f"t-tests of {metric} {limits}, geometric means over rounds: " + "; ".join(parts) + "."

    return Rule(methods, rule)


def about(metric: str, method: str, value: float) -> Rule:
    """Rule: the geometric mean of ``method``'s ``metric`` over rounds is ``value`` ± 25 %, see :func:`between`."""
    return between(metric, (method,), (1 - MARGIN) * value, (1 + MARGIN) * value)


def relative_error_below(metric: str, methods: Names, limit: float) -> Rule:
    """Rule: the standard error of every method's mean is below ``limit`` times the mean (χ² bounds of the largest one)."""

    def rule(frame):
        found = _of(frame, metric, *methods)
        relative = {name: each.std(ddof=1) / len(each) ** 0.5 / each.mean() for name, each in found.items()}
        worst = max(relative, key=relative.get)
        freedom = len(found[worst]) - 1
        # One-sided confidence bounds of a standard deviation, at level ALPHA.
        low, high = relative[worst] * (freedom / stats.chi2.ppf((1 - ALPHA, ALPHA), freedom)) ** 0.5
        status = "reproduced" if high < limit else "not reproduced" if low > limit else "inconclusive"
        return status, (
            f"The largest standard error is that of {worst}, {relative[worst]:.1%} of its mean ({low:.1%} to {high:.1%}, χ² "
            f"bounds at {ALPHA:.0%} each)."
        )

    return Rule(methods, rule)
