"""Verdicts on committed full-scale runs, kept for the scoreboard: one JSON file per page.

A page judges its claims itself, from its own runs and measures; the file holds what it found at preset "paper". Every later
build of the page judges the committed runs again and says so if the file no longer agrees.
"""

import json
from collections.abc import Iterable
from pathlib import Path

from nrae_lib.core.files import write_atomically
from nrae_lib.paper.verdicts import Claim, Verdict


def save(page: str, verdicts: Iterable[Verdict], folder: str | Path) -> None:
    """Write the verdicts of ``page`` to ``folder/<page>.json``, whole or not at all."""
    write_atomically(Path(folder) / f"{page}.json", (json.dumps(_plain(verdicts), indent=1) + "\n").encode())


def load(claims: Iterable[Claim], folder: str | Path) -> list[Verdict]:
    """The stored verdicts on ``claims``, in their order; of claims without one, nothing.

    Raises:
        ValueError: if a file is damaged, naming it.
    """
    claims, found = list(claims), {}
    for page in dict.fromkeys(claim.page for claim in claims):
        path = Path(folder) / f"{page}.json"
        if path.exists():
            try:
                for entry in json.loads(path.read_text(encoding="utf-8")):
                    found.setdefault(entry.pop("claim"), []).append(entry)
            except (ValueError, KeyError, AttributeError) as error:
                raise ValueError(
                    f"the verdicts in {path} cannot be read ({error}): run the page with preset paper"
                ) from error
    return [Verdict(claim, **entry) for claim in claims for entry in found.get(claim.identifier, ())]


def agree(verdicts: Iterable[Verdict], folder: str | Path) -> bool:
    """Whether each of ``verdicts`` is stored with this outcome."""
    verdicts = list(verdicts)
    stored = load(dict.fromkeys(verdict.claim for verdict in verdicts), folder)

    def outcomes(items: Iterable[Verdict]) -> set[tuple[str, str, str]]:
        return {(item.claim.identifier, item.recipe, item.status) for item in items}

    return outcomes(verdicts) <= outcomes(stored)


def _plain(verdicts: Iterable[Verdict]) -> list[dict[str, str]]:
    return [
        {"claim": item.claim.identifier, **{name: getattr(item, name) for name in ("recipe", "preset", "status", "statistics")}}
        for item in verdicts
    ]  # fmt: skip
