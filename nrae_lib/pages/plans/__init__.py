"""Plans that several pages share, one module each; a page shows the module it uses by ``pages.show_source``."""

from collections.abc import Callable

from nrae_lib.core import methods
from nrae_lib.data import datasets
from nrae_lib.runs import SCALES

HELD_OUT = tuple(range(1000, 1006))  # six seeds by which options are chosen, none of those reported
FAVOURABLE = ", favourable"  # ends the name of a condition whose options are chosen by the figure's own criterion
_BREAKS = ("order_breaks", "train_order_breaks", "circular_breaks", "train_circular_breaks")


def candidates(names: tuple[str, ...]) -> dict[str, dict]:
    """The catalogue's sixteen candidates for every one of ``names`` that has something to choose, and as many with smaller k
    for NRAE, whose released configurations have 2 to 4 neighbours of 30 points."""
    search = {name: methods.get(name).search for name in names if methods.get(name).search}
    nrae = [name for name in search if "neighbor_weight" in search[name]]
    return search | {name: search[name] | {"n_neighbors": (2, 3, 4, 8)} for name in nrae}


def wrong_order(metrics: dict[str, float]) -> tuple[float, float]:
    """The criterion of figures of order: whether the test or the training points have a break, then the test error."""
    return float(max(metrics[name] for name in _BREAKS if name in metrics) > 0), metrics["test_mse"]


def both_ways(preset: str, criterion: Callable, conditions: dict[str, dict]) -> dict[str, dict]:
    """``conditions``, and each again with its options chosen from the same runs of the search by ``criterion``, at presets that
    search: without a search both would be the same runs."""
    if preset not in SCALES:
        return conditions
    found = {}
    for name, content in conditions.items():
        found |= {name: content, name + FAVOURABLE: content | dict(search_as=name, criterion=criterion)}
    return found


def image_source(name: str, preset: str) -> str:
    """Where a preset takes an image set from: those with committed results from its real files alone, others from a stand-in
    without them."""
    return "official" if preset in SCALES else datasets.resolve(name)
