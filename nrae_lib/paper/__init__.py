"""The papers' own numbers and claims, and the rules by which a claim is held to be reproduced.

The numbers are those printed in the papers, one row each, in ``nrae.csv``, ``iae.csv`` and ``eae.csv``.

A verdict needs at least six seeds (noise draws) of every method it compares, three where it rests on t-tests of images'
errors (five runs is what the paper has there), and uses the tests of ``paper.rules`` at level α = 0.05:

- *lower error*, *higher PSNR or ELBO*, *closer to the truth*: one-sided Welch t-tests against every rival.
- *lower than most*: that a majority of the Welch tests against the rivals point to real differences (partial conjunction), at
  every setting that was varied.
- *on most conditions*: one-sided sign test over conditions (data sets, sample sizes) of the means of two methods.
- *succeeds / fails*: exact one-sided binomial tests that the rate of success is above / below one half.
- *succeeds where another fails*: one-sided sign test on the seeds that tell the two apart. Success is no order break, once
  among the noise-free test points and once among the training points; where the two disagree, the claim is inconclusive.

  These are "reproduced" if all tests are significant, "not reproduced" if the opposite of one is significant (Bonferroni's
  correction for their number), and "inconclusive" otherwise.
- *the printed value*, *no difference*, *robust*: equivalence within 25 % by two one-sided t-tests. "Reproduced" if both are
  significant, "not reproduced" if instead the difference is significant, "inconclusive" otherwise.
- *negligible standard errors*: the largest one's χ² bounds lie below a tenth of its mean.
- *a ratio of running times*: one-sided t-tests of its logarithm over rounds, in each of which all methods took their
  turn: "reproduced" if every mean lies significantly within the claimed bounds (a printed ratio, or one: ± 25 %),
  "not reproduced" if one lies significantly outside, "inconclusive" otherwise.

A run that is missing or has diverged makes what needs it "not run". Without any spread the numbers decide, a tie nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nrae_lib.paper import figures, images, runtime, tables
from nrae_lib.paper.printed import Value, released_runs, values
from nrae_lib.paper.rules import STATUSES, trimmed
from nrae_lib.paper.verdicts import Claim, Verdict, agree, load, save

if TYPE_CHECKING:
    import pandas

__all__ = [
    "CLAIMS", "SCALES", "STATUSES", "Claim", "Value", "Verdict", "agree", "judge", "load", "released_runs", "save", "trimmed", "values",
]  # fmt: skip

SCALES = ("paper", "reduced")  # presets whose verdicts count, apart from each other
CLAIMS: tuple[Claim, ...] = (*figures.CLAIMS, *images.CLAIMS, *runtime.CLAIMS, *tables.CLAIMS)


def judge(page: str, frame: pandas.DataFrame, preset: str, conditions: tuple[str, ...]) -> list[Verdict]:
    """Verdicts on all claims of ``page`` under each of ``conditions``, in the catalogue's order.

    Arguments:
        frame: one row per run, with condition, method, seed and the measures; perhaps empty. Too few seeds make a verdict
            "inconclusive", missing methods or runs "not run".

    Raises:
        ValueError: if no claim is about ``page``, or a method has two rows for one condition and seed.
    """
    claims = [claim for claim in CLAIMS if claim.page == page]
    if not claims:
        raise ValueError(f"no claim is about {page!r}: the pages are {', '.join(sorted({one.page for one in CLAIMS}))}")
    if len(frame) and (twice := frame.duplicated(["condition", "method", "seed"])).any():
        one = frame[twice].iloc[0]
        raise ValueError(f"two results of {one.method}, condition {one.condition}, seed {one.seed}: which one counts?")
    verdicts = []
    for claim in claims:
        for condition in (name for name in conditions if name in (claim.conditions or conditions)):
            rows = frame[frame.condition == condition] if len(frame) else frame
            names = list(rows.method) if len(rows) else []
            counts = {method: names.count(method) for method in claim.rule.needs}
            if absent := [method for method, count in counts.items() if not count]:
                found = "not run", f"no runs of {', '.join(absent)} under this condition."
            elif (fewest := min(counts.values())) < claim.fewest:
                found = "inconclusive", f"{fewest} {claim.unit}(s); at least {claim.fewest} decide."
            else:
                found = claim.rule(rows)
            verdicts.append(Verdict(claim, condition, preset, *found))
    return verdicts
