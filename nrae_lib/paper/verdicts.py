"""A claim, the verdict on it, and a file of each page's verdicts on committed runs, which its build writes."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from nrae_lib.core.files import write_atomically
from nrae_lib.paper.rules import ALPHA, FEWEST_FOR_T_TESTS, FEWEST_SEEDS, Rule

NRAE = ("nrae_l", "nrae_q")
BASELINES = ("ae", "vae", "wae", "dae", "cae", "grae", "spae")


@dataclass(frozen=True)
class Claim:
    """One statement of a paper and the rule that decides about it.

    Arguments:
        page, section: the notebook that tests it, and where in the paper it stands.
        identifier: short and stable, used in links.
        text: our wording of the claim.
        rule: frame of one condition (a row per run, see ``grid.frame``) -> (status, statistics in one sentence).
        conditions: those that it is tested under; empty for all.
        unit, fewest: what is repeated (a seed, a round of measurements), and how many of every method decide, at least.
    """

    page: str
    section: str
    identifier: str
    text: str
    rule: Rule
    conditions: tuple[str, ...] = ()
    unit: str = "seed"
    fewest: int = FEWEST_SEEDS
    paper: str = "NRAE"


on_images = partial(Claim, fewest=FEWEST_FOR_T_TESTS)  # five runs is what the paper has there


@dataclass(frozen=True)
class Verdict:
    """What a rule found about a claim under one condition, at one preset."""

    claim: Claim
    condition: str
    preset: str
    status: str
    statistics: str


def by_chance(verdicts: Iterable[Verdict]) -> float:
    """At most how many of ``verdicts`` come out "reproduced" by chance alone, on average, if no claim is true; and as many "not
    reproduced" if all are: α times the number of those that were tested."""
    return ALPHA * sum(one.status != "not run" for one in verdicts)


def save(page: str, verdicts: Iterable[Verdict], folder: str | Path) -> None:
    """Write the verdicts of ``page`` to ``folder/<page>.json``, whole or not at all."""
    entries = [vars(item) | {"claim": item.claim.identifier} for item in verdicts]
    write_atomically(Path(folder) / f"{page}.json", (json.dumps(entries, indent=1) + "\n").encode())


def load(claims: Iterable[Claim], folder: str | Path) -> list[Verdict]:
    """The stored verdicts on ``claims``, in their order; of claims without one, nothing. ValueError if a file is
    damaged, naming it."""
    known, found = {claim.identifier: claim for claim in claims}, []
    for page in dict.fromkeys(claim.page for claim in known.values()):
        path = Path(folder) / f"{page}.json"
        try:
            entries = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
            found += [Verdict(**one | {"claim": known[one["claim"]]}) for one in entries if one["claim"] in known]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"the verdicts in {path} cannot be read ({error}): run the page again") from error
    order = list(known.values())
    return sorted(found, key=lambda verdict: order.index(verdict.claim))
