"""A claim, and the verdict on it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nrae_lib.paper.rules import FEWEST_SEEDS

if TYPE_CHECKING:
    import pandas


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
        fewest: how many of them decide, at least, for every method in ``needs``.
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
    fewest: int = FEWEST_SEEDS


@dataclass(frozen=True)
class Verdict:
    claim: Claim
    recipe: str
    preset: str
    status: str
    statistics: str


def spelled(*names: str) -> str:
    """The paper's spelling: "NRAE-L" of "nrae_l", "AE and DAE" of two."""
    *first, last = (name.upper().replace("_", "-") for name in names)
    return " and ".join([", ".join(first), last]) if first else last
