"""p-values for a claim and against it, how the p-values of parts combine, and the power of the tests."""

import numpy as np
from scipy import special, stats

Tests = tuple[float, float]  # p-values for a claim and against it
ALPHA = 0.05
ROUNDING = 1e-12  # relative: numbers that differ by less are equal


def t_power(seeds: int) -> float:
    """Power of a one-sided t-test where the mean lies one standard deviation beyond the limit."""
    return float(stats.nct.sf(stats.t.isf(ALPHA, seeds - 1), seeds - 1, seeds**0.5)) if seeds > 1 else 0.0


def binomial_power(seeds: int) -> float:
    """Power of a one-sided binomial test of a rate above 1/2 where the rate is 0.9."""
    return float(stats.binom.sf(stats.binom.isf(ALPHA, seeds, 0.5), seeds, 0.9))


def below(numbers: np.ndarray, bound: float = 0.0) -> Tests:
    """p-values that the mean of ``numbers`` is below, and above, ``bound`` (t-tests)."""
    count, distance = len(numbers), numbers.mean() - bound
    if numbers.std() <= (rounding := ROUNDING * max(1.0, np.abs(numbers).max())):
        # The numbers decide, and a tie decides nothing.
        return float(distance >= -rounding), float(distance <= rounding)
    statistic = distance / numbers.std(ddof=1) * count**0.5
    return float(special.stdtr(count - 1, statistic)), float(special.stdtr(count - 1, -statistic))


def every(tests: list[Tests]) -> Tests:
    """All hold: an intersection-union test, and Bonferroni's correction against it."""
    held, refuted = zip(*tests, strict=True)
    return max(held), min(1.0, len(tests) * min(refuted))


def simes(p_values: list[float]) -> float:
    return min(len(p_values) / place * p_value for place, p_value in enumerate(sorted(p_values), 1))


def most(tests: list[Tests], least: int) -> Tests:
    """At least ``least`` of n hold, u, and the complement, that n - u + 1 do not: Simes' test without the smallest u - 1 (n - u)
    p-values (Benjamini and Heller, *Screening for partial conjunction hypotheses*, 2008). Unlike Bonferroni's it knows that what
    all n show, u show; valid for tests that share a method and so depend positively on each other."""
    held, refuted = zip(*tests, strict=True)
    return simes(sorted(held)[least - 1 :]), simes(sorted(refuted)[len(tests) - least :])


def within(numbers: np.ndarray, low: float, high: float) -> Tests:
    """p-values that the mean is between ``low`` and ``high``, and that it is outside; one of the two may be infinite."""
    tests = [below(numbers, low)[::-1]] if np.isfinite(low) else []
    return every([*tests, below(numbers, high)] if np.isfinite(high) else tests)


def counts(better: int, worse: int) -> Tests:
    """p-values that successes are more, and less, frequent than failures (exact binomial tests)."""
    return tuple(float(special.bdtr(count, better + worse, 0.5)) for count in (worse, better))
