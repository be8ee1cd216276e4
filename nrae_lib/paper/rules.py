"""The rules that decide about a claim.

A frame has one row per run, with method, seed and the measures. A run that is missing, or whose number is not finite, makes
every rule that compares its method "not run": it never helps a claim.

A rule gives two p-values, for the claim and against it; "reproduced" is the first below α = 0.05, "not reproduced" the second: either
is wrong in at most 5 % of cases. A claim of several parts holds if all do (the largest p-value, an intersection-union test) and fails
if one does (the smallest times their number, Bonferroni); one with a margin fails if the truth is *outside* the margin.

All methods of a seed share its draw, and errors have heavy tails. So what is tested is the mean over seeds of the logarithm of the
ratio of two methods' numbers, what a *typical* seed shows (of PSNR, ELBO and what else is a logarithm already, of the difference), by
Student's t. Ranks would assume less, but those of n seeds have no p-value below 2⁻ⁿ: nothing at three or four seeds, all must agree
at five, and then no correction for two parts is ever met. The t-test is exact for lognormal errors and below its level for heavy
symmetrical tails. Skewed logarithms break it: of exponential ones it calls a mean of zero negative in 16 %, positive in 1 %, at three,
five and ten seeds alike. Three seeds, the fewest, cannot show whether this is so.

Power of one test, for a mean that lies one standard deviation of these logarithms beyond the limit: 32 % at three, 58 % at five and 90 %
at ten seeds; of a count, for a rate of 0.9: 0 % at four, 53 % at six, 74 % at ten. A verdict that is inconclusive says it if below 80 %.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from nrae_lib.paper import pvalues
from nrae_lib.paper.printed import Value
from nrae_lib.paper.pvalues import ALPHA

if TYPE_CHECKING:
    import pandas

MARGIN = 0.25  # of a printed value, or of another method's: what counts as the same, but for errors of images
FEWEST_SEEDS = 6  # six of six successes have p = 0.016 (five: 0.03, but none may then fail to count)
FEWEST_FOR_T_TESTS = 3  # two have one degree of freedom
STATUSES = ("reproduced", "not reproduced", "inconclusive", "not run")

Names = tuple[str, ...]
_LOGARITHMS = ("psnr", "elbo", "log10", "k_exponent")  # how the names of metrics begin that are logarithms already


class _Missing(Exception):
    """A number that a rule needs is not there."""


@dataclass(frozen=True)
class Rule:
    """The methods that a rule ``needs``, and its judgement of the frame of one condition: (status, statistics in one sentence).

    Arguments:
        judge: frame -> (p-value for the claim, p-value against it, statistics), each corrected for all tests behind it.
        effect, power: what one test of it finds, in words, and seeds -> how often.
    """

    needs: Names
    judge: Callable[[pandas.DataFrame], tuple[float, float, str]]
    effect: str = "a mean one standard deviation beyond the limit"
    power: Callable[[int], float] = pvalues.t_power

    def __call__(self, frame: pandas.DataFrame) -> tuple[str, str]:
        try:
            held, refuted, sentence = self.judge(frame)
        except _Missing as missing:
            return "not run", f"{missing}."
        if min(held, refuted) < ALPHA:
            return "reproduced" if held < ALPHA else "not reproduced", sentence
        return "inconclusive", sentence + self.want(int(frame.method.isin(self.needs).sum() / len(self.needs)))

    def want(self, count: int) -> str:
        """Sentence that says the power of ``count`` repetitions, if it is below 80 %; else nothing."""
        power = self.power(count)
        return f" With {count} of each method one test finds {self.effect} in {power:.0%}." if power < 0.8 else ""


def _of(frame: pandas.DataFrame, metric: str, *methods: str) -> dict[str, np.ndarray]:
    """The metric of every one of ``methods`` on the seeds of all their runs, in the same order."""
    if metric not in frame:
        raise _Missing(f"{metric} was not measured here")
    order = np.argsort(frame.seed.to_numpy(), kind="stable")
    names, seeds, numbers = (frame[column].to_numpy()[order] for column in ("method", "seed", metric))
    found = {method: numbers[names == method].astype(float) for method in methods}
    drawn = {method: seeds[names == method] for method in methods}
    every = np.unique(np.concatenate(list(drawn.values())))
    lacking = [name for name in methods if not np.array_equal(drawn[name], every) or not np.isfinite(found[name]).all()]
    if not set.intersection(*(set(each) for each in drawn.values())):
        raise _Missing(f"{', '.join(methods)} share no seed, so that nothing in {metric} can be compared")
    if lacking:
        raise _Missing(f"{metric} of {', '.join(lacking)} is missing in some run")
    return found


def _logarithms(found: dict[str, np.ndarray], metric: str) -> dict[str, np.ndarray]:
    """Logarithms of the numbers of every method, or the numbers where they are logarithms already."""
    if metric.startswith(_LOGARITHMS):
        return found
    if wrong := [name for name, numbers in found.items() if (numbers <= 0).any()]:
        raise _Missing(f"{metric} of {', '.join(wrong)} is not above 0 in some run: it has no logarithm")
    return {name: np.log(numbers) for name, numbers in found.items()}


def _typical(logarithms: np.ndarray, metric: str) -> float:
    """The geometric mean of what :func:`_logarithms` was given."""
    return float(logarithms.mean() if metric.startswith(_LOGARITHMS) else np.exp(logarithms.mean()))


_OFTEN = ("a rate of 0.9", pvalues.binomial_power)


def every(*rules: Rule) -> Rule:
    """Rule: all ``rules`` hold; one that was "not run" decides. Wrongly "not reproduced" in at most 5 %, however many there are."""
    return most(*rules, least=len(rules))


def most(*rules: Rule, least: int = 0) -> Rule:
    """Rule: ``least`` of ``rules``, or the smallest majority, hold, see :func:`below_most`; one that was "not run" decides."""
    least = least or len(rules) // 2 + 1

    def judge(frame):
        *tests, sentences = zip(*(each.judge(frame) for each in rules), strict=True)
        tests = list(zip(*tests, strict=True))
        return *(pvalues.every(tests) if least == len(rules) else pvalues.most(tests, least)), " ".join(sentences)

    needs = tuple(dict.fromkeys(name for each in rules for name in each.needs))
    return Rule(needs, judge, rules[0].effect, rules[0].power)


def higher(metric: str, methods: Names, rivals: Names) -> Rule:
    """Rule: every one of ``methods`` is higher than every one of ``rivals``, see :func:`lower`."""
    return lower(metric, methods, rivals, sign=-1)


def lower(metric: str, methods: Names, rivals: Names, target: float | None = None, sign=1, slack=0.0) -> Rule:
    """Rule: every one of ``methods`` is lower than every one of ``rivals`` (one-sided paired t-tests of logarithms).

    Wrong in at most 5 % either way (simulated: normal logarithms and Student's, 3 degrees; 3, 5 and 10 seeds). Power if a run's
    logarithm has the deviation s and the rival is 1.5 s higher: 63 % at five, 94 % at ten seeds; of 2 methods against 7 rivals, all
    3 s apart: 88 % and 100 %; against them, one rival being 3 s lower than both: 70 % and 100 %.

    Arguments:
        target: the value without any error, if not zero: distances from it are compared.
        sign: 1, or -1 for the opposite direction.
        slack: how much higher, as a fraction of the rival, still counts as lower.
    """
    what = metric if target is None else f"|{metric} - {target:g}|"

    def judge(frame):
        found = _of(frame, metric, *methods, *rivals)
        if target is not None:
            found = {method: np.maximum(abs(numbers - target), pvalues.ROUNDING) for method, numbers in found.items()}
        logs, tests, parts = _logarithms(found, metric), [], []
        for method, rival in product(methods, rivals):
            tests.append(pvalues.below(sign * (logs[method] - logs[rival]), np.log1p(slack)))
            ours, theirs = (_typical(logs[name], metric) for name in (method, rival))
            parts.append(f"{method} {ours:.3g} against {rival} {theirs:.3g}: p = {tests[-1][0]:.2g}")
        more = f" (up to {slack:.1%} more)" if slack else ""
        return *pvalues.every(tests), f"One-sided paired tests of {what}{more}, typical seeds: {'; '.join(parts)}."

    return Rule((*rivals, *methods), judge)


def _settings(frame: pandas.DataFrame, value: str, methods: Names) -> dict[str, str]:
    """Column -> setting, of those columns of ``images.wide`` that this condition varies."""
    rows = frame[frame.method.isin(methods)]
    columns = [name for name in frame if name.startswith(f"{value} @ ")]
    return {name: name.split(" @ ")[1] for name in columns if rows[name].notna().any()}


def below_most(value: str, methods: Names, rivals: Names, sign: int = 1, least: int | None = None) -> Rule:
    """Rule: at every setting each of ``methods`` is lower than more than half of ``rivals``, by the tests of :func:`lower`.

    For each method and setting the tests against all n rivals are combined: that at least u of them, the smallest majority, are
    truly beaten, and against the claim that n - u + 1 or more truly are not (partial conjunction). All combinations must be significant
    for the claim; one against it, corrected for their number, is enough.

    Wrong in at most 5 % either way, as :func:`lower`. Power of two methods against seven rivals at one setting, where four are
    3 s higher and three equal: 37 % at five, 100 % at ten seeds; against them, where four are 3 s lower: 46 % and 100 %.

    Arguments:
        value: what stands before " @ " in the columns of ``images.wide``, or a column of that name.
        sign: 1, or -1 for a higher value.
        least: u, if it is not the smallest majority.
    """

    names, enough = (*methods, *rivals), least or len(rivals) // 2 + 1

    def judge(frame):
        settings = _settings(frame, value, names)
        found = [_logarithms(_of(frame, column, *names), value) for column in settings or [value]]
        tests, parts = [], []
        for method in methods:
            differences = [[sign * (logs[method] - logs[rival]) for rival in rivals] for logs in found]
            tests += [pvalues.most(list(map(pvalues.below, each)), enough) for each in differences]
            beaten = ", ".join(str(sum(one.mean() < 0 for one in each)) for each in differences)
            parts.append(f"{method} is {'lower' if sign > 0 else 'higher'} than {beaten} of {len(rivals)} baselines")
        shown = f" (settings: {', '.join(settings.values())})" if len(settings) > 1 else ""
        held, refuted = pvalues.every(tests)
        return held, refuted, f"{'; '.join(parts)}{shown}; combined p = {held:.2g}, against it {refuted:.2g}."

    return Rule((*rivals, *methods), judge)


def falls(value: str, methods: Names) -> Rule:
    """Rule: the value of every one of ``methods`` falls as the setting rises, a number above zero (one-sided t-tests of each seed's
    slope of logarithms; error rates and power as :func:`lower`, of slopes). ``value`` is as for :func:`below_most`."""

    def judge(frame):
        settings = _settings(frame, value, methods)
        if len(settings) < 2:
            raise _Missing(f"{', '.join(methods)}: a second setting of {value}")
        found = [_logarithms(_of(frame, column, *methods), value) for column in settings]
        x = np.log([float(setting) for setting in settings.values()])
        slopes = {name: np.polyfit(x, np.array([logs[name] for logs in found]), 1)[0] for name in methods}
        tests = [pvalues.below(each) for each in slopes.values()]
        parts = [f"{name} {each.mean():+.2f}" for name, each in slopes.items()]
        held, refuted = pvalues.every(tests)
        said = f"{value} changes with exponent {', '.join(parts)}; p = {held:.2g}, against it {refuted:.2g}."
        return held, refuted, said

    return Rule(methods, judge)


def steady(value: str, margins: dict[str, float]) -> Rule:
    """Rule: at every setting each method differs by less than its margin, a fraction, from the first one, see :func:`equal`; ``value``
    is as for :func:`below_most`."""
    methods = tuple(margins)

    def judge(frame):
        settings = _settings(frame, value, methods)
        if len(settings) < 2 or next(iter(settings)) != next(name for name in frame if name.startswith(f"{value} @ ")):
            raise _Missing(f"{', '.join(methods)}: the first or another setting of {value}")
        base, *others = (_logarithms(_of(frame, column, *methods), value) for column in settings)
        tests, parts = [], []
        for method, margin in margins.items():
            changes = [each[method] - base[method] for each in others]
            tests += [pvalues.within(change, -np.log1p(margin), np.log1p(margin)) for change in changes]
            shown = ", ".join(f"{np.expm1(change.mean()):+.1%}" for change in changes)
            parts.append(f"{method} changes by {shown} (margin {margin:.1%})")
        (held, refuted), (first, *after) = pvalues.every(tests), settings.values()
        said = f"{'; '.join(parts)} from setting {first} to {', '.join(after)}"
        return held, refuted, f"{said}; all within: p = {held:.2g}, some outside: p = {refuted:.2g}."

    return Rule(methods, judge)


def equal(metric: str, first: str, second: str, margin: float = MARGIN) -> Rule:
    """Rule: ``first`` and ``second`` differ by less than ``margin``, a fraction, on a typical seed (paired t-tests of
    logarithms). Wrong in at most 5 % either way, as :func:`lower`. Power where they do not differ and the margin is two
    deviations of the logarithm of their ratio: 95 % at five, 100 % at ten seeds."""

    def judge(frame):
        found = _of(frame, metric, first, second)
        ours, theirs = found.values()
        if (ours == theirs).all():
            return 0.0, 1.0, f"{first} and {second} agree exactly, bit for bit, on all {len(ours)} draws."
        logs = _logarithms(found, metric)
        held, refuted = pvalues.within(logs[first] - logs[second], -np.log1p(margin), np.log1p(margin))
        typical = ", ".join(f"{name} {_typical(numbers, metric):.3g}" for name, numbers in logs.items())
        said = f"{typical} on {len(ours)} draws; within {margin:.1%}: p = {held:.2g}, outside: p = {refuted:.2g}."
        return held, refuted, said

    return Rule((second, first), judge)


def between(metric: str, methods: Names, low: float = 0.0, high: float = float("inf")) -> Rule:
    """Rule: for every one of ``methods`` the typical ``metric`` over rounds is above low and below high (t-tests of
    logarithms). Error rates as :func:`lower`; power as :func:`equal` with two limits, as :func:`lower` with one."""

    def judge(frame):
        logs = _logarithms(_of(frame, metric, *methods), metric)
        bounds = low, high
        if not metric.startswith(_LOGARITHMS):
            bounds = [np.log(bound) if bound else -np.inf for bound in bounds]
        tests = [pvalues.within(numbers, *bounds) for numbers in logs.values()]
        parts = [
            f"{name} {_typical(numbers, metric):.2f} (inside: p = {held:.2g}, outside: p = {refuted:.2g})"
            for (name, numbers), (held, refuted) in zip(logs.items(), tests, strict=True)
        ]
        limits = " and ".join(f"{side} {x:.2f}" for x, side in ((low, "above"), (high, "below")) if 0 < x < np.inf)
        return *pvalues.every(tests), f"t-tests of {metric} {limits}, typical values over rounds: {'; '.join(parts)}."

    return Rule(methods, judge)


def about(metric: str, method: str, value: float) -> Rule:
    """Rule: ``method``'s typical ``metric`` over rounds is ``value`` ± 25 %, see :func:`between`."""
    return between(metric, (method,), (1 - MARGIN) * value, (1 + MARGIN) * value)


def trimmed(scores) -> np.ndarray:
    """Ten or more scores without the highest and the lowest, as Table 1 has them. Fewer, or scores of which one is not finite,
    are left as they are: dropping it would hide a run that failed."""
    scores = np.sort(np.asarray(scores, dtype=float))
    return scores[1:-1] if len(scores) >= 10 and np.isfinite(scores).all() else scores


def printed_value(printed: Value, metric: str, scale: float) -> Rule:
    """Rule: the typical ``metric`` times ``scale`` is the printed mean, within two printed deviations or 25 %, the larger (t-tests of
    logarithms). The printed mean itself has a standard error of 0.46 printed deviations (100,000 simulated tens without the highest
    and the lowest). Error rates as :func:`lower`, for a truth at the margin (10 % at the lower one for normal errors as wide as
    0.29 ± 0.06). Power of runs of the printed law, if lognormal: 69 % to 71 % at five, 97 % to 99 % at ten.
    """
    method, margin = printed.method, max(MARGIN * printed.value, 2 * printed.error)

    def judge(frame):
        found = {method: _of(frame, metric, method)[method] * scale}
        limits = np.log([printed.value - margin, printed.value + margin])
        held, refuted = pvalues.within(_logarithms(found, metric)[method], *limits)
        ours, count = trimmed(found[method]), len(found[method])
        theirs = f"{method}: printed {printed.value:.2f} ± {printed.error:.2f}"
        said = f"ours {ours.mean():.2f} ± {ours.std(ddof=1):.2f} ({len(ours)} of {count} draws); within ± {margin:.2f}"
        return held, refuted, f"{theirs}, {said}: p = {held:.2g}, outside: p = {refuted:.2g}."

    return Rule((method,), judge)


@cache
def _relative_errors(count: int, limit: float) -> list[np.ndarray]:
    """Estimates of a standard error over the mean, in rising order, where the truth is ``limit``: of ``count`` draws, 40,000 times,
    normal and Student's with 3 degrees of freedom."""
    draw = np.random.default_rng(0)
    laws = draw.standard_normal((40_000, count)), draw.standard_t(3, (40_000, count)) / 3**0.5
    samples = [1 + limit * count**0.5 * law for law in laws]
    return [np.sort(x.std(axis=1, ddof=1) / count**0.5 / abs(x.mean(axis=1))) for x in samples]


def relative_error_below(metric: str, methods: Names, limit: float) -> Rule:
    """Rule: the standard error of every method's mean is below ``limit`` times the mean.

    p-values by simulation of a truth at the limit; the larger of those for normal and for Student's errors (3 degrees), since a
    χ² test takes the small deviation of a heavy-tailed sample for proof. Wrong in at most 5 % either way. Power of eight methods
    with a fifth of the limit: 46 % at five, 100 % at ten seeds.
    """

    def power(seeds):
        small = _relative_errors(seeds, limit)
        return float(np.mean(small[0] / 4 < min(np.quantile(law, ALPHA) for law in small))) if seeds > 1 else 0.0

    def judge(frame):
        tests, found = [], {}
        for method, numbers in _of(frame, metric, *methods).items():
            found[method] = numbers.std(ddof=1) / len(numbers) ** 0.5 / abs(numbers.mean())
            below = [np.searchsorted(law, found[method]) / len(law) for law in _relative_errors(len(numbers), limit)]
            tests.append((float(max(below)), float(1 - min(below))))
        (held, refuted), worst = pvalues.every(tests), max(found, key=found.get)
        said = f"The largest standard error is that of {worst}, {found[worst]:.1%} of its mean"
        return held, refuted, f"{said}; all below {limit:.0%}: p = {held:.2g}, some above: p = {refuted:.2g}."

    return Rule(methods, judge, "a standard error of a quarter of the limit", power)


def go_together(metric: str, other: str, methods: Names) -> Rule:
    """Rule: of ``methods``, one with a lower ``metric`` has a higher ``other`` (exact one-sided test of Kendall's τ of
    their means). The methods are the evidence, as seeds say nothing about other methods: power does not grow with them.
    Exact, so wrong in at most 5 % either way; eight methods need τ of -0.57 or below."""

    def judge(frame):
        means = [[each.mean() for each in _of(frame, name, *methods).values()] for name in (metric, other)]
        tests = [stats.kendalltau(*means, alternative=side) for side in ("less", "greater")]
        held, refuted = (float(np.nan_to_num(each.pvalue, nan=1.0)) for each in tests)
        tau = f"Kendall's τ of {metric} and {other} over {len(methods)} methods is {tests[0].statistic:.2f}"
        return held, refuted, f"{tau}; p = {held:.2g}, against it {refuted:.2g}."

    return Rule(methods, judge, power=lambda seeds: 1.0)


def sign(metric: str, method: str, rival: str, within: str) -> Rule:
    """Rule: ``method`` has a lower value than ``rival`` on most of the conditions (one-sided sign test over them).

    Exact, so wrong in at most 5 % either way. Power at a rate of 0.9: 81 % at eight conditions. These stand in the
    column ``within``, such as image sets: one row for each method and condition, since the seeds of a condition are no
    independent evidence about others. One that knows only one of the two does not count.
    """

    def judge(frame):
        shared = set.intersection(*(set(frame[within][frame.method == name]) for name in (method, rival)))
        ours, theirs = _of(frame[frame[within].isin(shared)], metric, method, rival).values()
        better, worse = int((ours < theirs).sum()), int((ours > theirs).sum())
        held, refuted = pvalues.counts(better, worse)
        said = f"{method} is better than {rival} in {metric} on {better} of {better + worse} values of {within}"
        return held, refuted, f"{said}; sign test p = {held:.2g}."

    return Rule((rival, method), judge, *_OFTEN)


_ORDERS = {"order_breaks": "the test points", "train_order_breaks": "the training points"}


def _by_all(needs: Names, judge: Callable, columns: dict[str, str]) -> Rule:
    """``judge`` of (frame, column of breaks) for each of ``columns``, with its name in a sentence; all must agree."""

    def judge_all(frame):
        found = {name: judge(frame, column) for column, name in columns.items()}
        held, refuted, _ = zip(*found.values(), strict=True)
        return max(held), max(refuted), " ".join(f"By {name}: {sentence}" for name, (*_, sentence) in found.items())

    return Rule(needs, judge_all, *_OFTEN)


def rate(methods: Names, succeed: bool, columns: dict[str, str] = _ORDERS) -> Rule:
    """Rule: each method is right on more (or fewer) than half of the seeds (exact binomial tests). ``columns`` count
    breaks (0: right), with what they were counted on; all must agree. Wrong in at most 5 % either way. Power at a rate
    of 0.9, for or against the claim: 53 % at six seeds, the fewest, and 74 % at ten."""

    def judge(frame, column):
        parts, tests = [], []
        for method, breaks in _of(frame, column, *methods).items():
            right = int((breaks == 0).sum())
            tests.append(pvalues.counts(right, len(breaks) - right)[:: 1 if succeed else -1])
            parts.append(f"{method} is right on {right} of {len(breaks)} seeds (p = {tests[-1][0]:.2g})")
        direction = "above" if succeed else "below"
        return *pvalues.every(tests), f"binomial tests of a rate {direction} 1/2: " + "; ".join(parts) + "."

    return _by_all(methods, judge, columns)


def succeeds_where_other_fails(method: str, other: str, columns: dict[str, str] = _ORDERS) -> Rule:
    """Rule: ``method`` is right and ``other`` wrong on more seeds than the reverse (one-sided sign test), see
    :func:`rate`. Wrong in at most 5 % either way; power as :func:`rate`, of the seeds that tell the two apart."""

    def judge(frame, column):
        ours, theirs = (breaks == 0 for breaks in _of(frame, column, method, other).values())
        better, worse = int((ours & ~theirs).sum()), int((~ours & theirs).sum())
        held, refuted = pvalues.counts(better, worse)
        said = f"of {len(ours)} seeds {method} alone is right on {better}, {other} alone on {worse}"
        return held, refuted, f"{said}; sign test p = {held:.2g}."

    return _by_all((other, method), judge, columns)
