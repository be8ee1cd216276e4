"""The papers' own numbers and claims, and the rules by which a claim is held to be reproduced.

The numbers are those printed in the papers, one row each, in ``nrae.csv``, ``iae.csv`` and ``eae.csv``.

A verdict needs at least six seeds (noise draws) of every method it compares, three where it rests on t-tests of images'
errors (five runs is what the paper has there), and uses tests at level α = 0.05:

- *lower error*, *higher PSNR or ELBO*, *closer to the truth*: one-sided Welch t-tests against every rival.
- *lower than most*: that a majority of the Welch tests against the rivals point to real differences (partial conjunction), at
  every setting that was varied.
- *on most conditions*: one-sided sign test over conditions (data sets, sample sizes) of the means of two methods.
- *succeeds / fails*: exact one-sided binomial tests that the rate of success is above / below one half.
- *succeeds where another fails*: one-sided sign test on the seeds that tell the two apart.
  Success is no order break, once among the noise-free test points and once among the training points; where the two
  lead to different verdicts, the claim is inconclusive.

  These are "reproduced" if all tests are significant, "not reproduced" if the opposite of one is significant (Bonferroni's
  correction for their number), and "inconclusive" otherwise.
- *the printed value*, *no difference*, *robust*: equivalence within 25 % by two one-sided t-tests. "Reproduced" if both are
  significant, "not reproduced" if instead the difference is significant, "inconclusive" otherwise. Without such a
  test, noise and few seeds would pass for agreement.
- *negligible standard errors*: the largest one's χ² bounds lie below a tenth of its mean.
- *a ratio of running times*: one-sided t-tests of its logarithm over rounds, in each of which all methods took their
  turn: "reproduced" if every mean lies significantly within the claimed bounds (a printed ratio, or one: ± 25 %),
  "not reproduced" if one lies significantly outside, "inconclusive" otherwise. Rounds of one run are not quite
  independent; the margins are many times wider than their spread.
"""

from typing import TYPE_CHECKING

from nrae_lib.paper import curves, digits, images, runtime, tables, toys
from nrae_lib.paper.printed import PAPERS, Value, values
from nrae_lib.paper.rules import (
    ALPHA,
    FEWEST_FOR_T_TESTS,
    FEWEST_SEEDS,
    MARGIN,
    STATUSES,
    between,
    equal,
    higher,
    lower,
    printed_value,
    rate,
    sign,
    succeeds_where_other_fails,
    trimmed,
)
from nrae_lib.paper.stored import agree, load, save
from nrae_lib.paper.verdicts import Claim, Verdict

if TYPE_CHECKING:
    import pandas

__all__ = [
    "ALPHA", "CLAIMS", "FEWEST_FOR_T_TESTS", "FEWEST_SEEDS", "MARGIN", "PAPERS", "STATUSES", "Claim", "Value", "Verdict", "agree",
    "between", "equal", "higher", "judge", "load", "lower", "printed_value", "rate", "save", "sign", "succeeds_where_other_fails",
    "trimmed", "values",
]  # fmt: skip

CLAIMS: tuple[Claim, ...] = (
    *curves.CLAIMS,
    *digits.CLAIMS,
    *images.CLAIMS,
    *runtime.CLAIMS,
    *toys.CLAIMS,
    *tables.CLAIMS,
)


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
            elif min(counts.values()) < claim.fewest:
                status, statistics = (
                    "inconclusive",
                    f"{min(counts.values())} {claim.unit}(s); at least {claim.fewest} decide.",
                )
            else:
                status, statistics = claim.rule(rows)
            verdicts.append(Verdict(claim, recipe, preset, status, statistics))
    return verdicts
