"""The papers' own numbers and claims, and the rules by which a claim is held to be reproduced.

The numbers are those printed in the papers, one row each, in ``nrae.csv``, ``iae.csv`` and ``eae.csv``.

A verdict needs at least six seeds (noise draws) of every method it compares, three where it rests on t-tests of images'
errors (five runs is what the paper has there), and uses the tests of :mod:`nrae_lib.paper.rules` at level α = 0.05:

- *lower error*, *higher PSNR or ELBO*, *closer to the truth*: one-sided t-tests of logarithms, paired by seed, against every
  rival. *Lower than most*: that a majority of them point to real differences (partial conjunction), at every setting.
- *falls*: t-tests of each seed's slope of logarithms. *Go together*: Kendall's τ over methods.
- *on most conditions*, *succeeds where another fails*: one-sided sign tests over data sets, or over the seeds that tell the two
  apart. *Succeeds / fails*: exact one-sided binomial tests that the rate of success is above / below one half. Success is no order
  break; where test and training points both count and disagree, the claim is inconclusive.
- *no difference*, *robust*, *a ratio of running times*: that the typical ratio lies within a margin (two one-sided t-tests of
  logarithms). The margin is 25 %, for errors of images half of the printed gap between the best baseline and NRAE of that row:
  1.9 % on MNIST (S), 34 % and 37 % on CIFAR10 (S). *The printed value*: within two printed deviations or 25 %, the larger.
- *negligible standard errors*: all lie below a tenth of the mean, by simulated samples.

"Reproduced" is a claim whose every part is significant, "not reproduced" one of which the opposite of a part is, corrected for
their number, or a truth outside a margin. All else is "inconclusive", with the power if it is small, or "not run", where a run that is
needed is missing or has diverged. Either wrong verdict has a probability of at most 5 % (16 % for means of strongly skewed
logarithms, see :mod:`nrae_lib.paper.rules`); :func:`by_chance` says what that means for many. Without any spread the numbers decide, a tie nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nrae_lib.paper import figures, images, runtime, tables
from nrae_lib.paper.printed import Value, released_runs, values
from nrae_lib.paper.rules import STATUSES, trimmed
from nrae_lib.paper.verdicts import Claim, Verdict, by_chance, load, save

if TYPE_CHECKING:
    import pandas

__all__ = [
    "CLAIMS", "STATUSES", "Claim", "Value", "Verdict", "by_chance", "judge", "load", "released_runs", "save", "trimmed", "values",
]  # fmt: skip

CLAIMS: tuple[Claim, ...] = (*figures.CLAIMS, *images.CLAIMS, *runtime.CLAIMS, *tables.CLAIMS)


def judge(page: str, frame: pandas.DataFrame, preset: str, conditions: tuple[str, ...]) -> list[Verdict]:
    """Verdicts on all claims of ``page`` under each of ``conditions``, in the catalogue's order. ValueError if no claim
    is about ``page``, or a method has two rows for one condition and seed.

    ``frame`` has one row per run, with condition, method, seed and the measures; it may be empty. Too few seeds make a
    verdict "inconclusive", missing methods or runs "not run".
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
                few = f"{fewest} {claim.unit}(s); at least {claim.fewest} decide.{claim.rule.want(fewest)}"
                found = "inconclusive", few
            else:
                found = claim.rule(rows)
            verdicts.append(Verdict(claim, condition, preset, *found))
    return verdicts
