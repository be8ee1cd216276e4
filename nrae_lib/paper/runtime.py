"""Claims about running time, Table 1 and Figure 1 of the supplement, and the numbers that they are about."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from nrae_lib.core.methods import CATALOGUE
from nrae_lib.paper.printed import spelled, values
from nrae_lib.paper.rules import MARGIN, about, between
from nrae_lib.paper.verdicts import NRAE, Claim

if TYPE_CHECKING:
    import pandas

_table1 = partial(Claim, "supp_table1_runtime", "supplement 2.1, Table 1", unit="round")
_fig1 = partial(Claim, "supp_fig1_runtime_scaling", "supplement 2.1, Figure 1", unit="round")

PLAIN, RELEASED_AE = "ae, plain", "ae, released"  # AE as PyTorch runs it, with the fused Adam and with its default one
_LIBRARY = ("library", "plain")
# Condition -> the AE that times are divided by, and the way the methods themselves are computed.
_WAYS = {"library": ("ae", ""), "plain": (PLAIN, ""), "released": (RELEASED_AE, ", released")}
SECONDS = {v.method: v.value for v in values("nrae", "supp_table1", "mnist")}

CLAIMS: tuple[Claim, ...] = (
    *(
        _table1(
            f"supp-table1-ratio-{method}",
            f"An epoch of {spelled(method)}{remark} takes {ratio:#.3g} times AE's ({seconds:g} against {SECONDS['ae']:g} s).",
            about("ratio", method, ratio), (*_LIBRARY, "released") if method in NRAE else _LIBRARY)
        for method, seconds in SECONDS.items()
        for ratio, remark in [(seconds / SECONDS["ae"], " (time quoted from its own paper)" * (method == "topoae"))]
        if method != "ae"
    ),
    _table1(
        "supp-table1-below-topoae",
        "TopoAE takes much longer than NRAE-L and NRAE-Q: 68 against 3.13 and 4.15 s (here: longer at all).",
        between("topoae_ratio", NRAE, low=1.0), _LIBRARY),
    _fig1(
        "supp-fig1-cae-dimension", "CAE's time rises rapidly with the input dimension D, because of the full Jacobian "
        "(here: relative to AE's it grows by more than 25 % from the smallest to the largest D).",
        between("d_growth", ("cae",), low=1 + MARGIN), ("exact", "estimate", "full_jacobian")),
    _fig1(
        "supp-fig1-nrae-dimension", "The times of NRAE-L and NRAE-Q stay comparable with those of existing methods at "
        "every D (here: at no D more than 25 % above the slowest of the others, without CAE).",
        between("d_ratio", NRAE, high=1 + MARGIN), ("library",)),
    _fig1(
        "supp-fig1-spae-neighbors", "SPAE's time grows linearly with the number of neighbours k (here: the exponent of k "
        "in what a step takes beyond AE's is 1 ± 25 %).",
        about("k_exponent", "spae", 1.0), ("library",)),
    _fig1(
        "supp-fig1-nrae-neighbors", "The times of NRAE-L and NRAE-Q do not depend on k (here: at the largest k they are "
        "those at the smallest, ± 25 %).",
        between("k_growth", NRAE, 1 - MARGIN, 1 + MARGIN), ("library",)),
)  # fmt: skip


def step_frame(times: pandas.DataFrame) -> pandas.DataFrame:
    """What the claims on Table 1 need: condition, method, seed (the round), ratio and topoae_ratio.

    Of ``times`` of a step, one row per round and one column per contender: a method, or "method, way to compute it".
    Condition "library" is over this library's AE, "plain" over AE as PyTorch runs it, "released" the released formulation
    over AE, both with PyTorch's default Adam. ``topoae_ratio`` is TopoAE's time over the method's.
    """
    import pandas

    found = []
    for condition, (below, suffix) in _WAYS.items():
        for method in (name for name in CATALOGUE if {below, name + suffix} <= {*times}):
            ours = times[method + suffix]
            ratios = {"ratio": ours / times[below], "topoae_ratio": times.get("topoae", np.nan) / ours}
            found.append(pandas.DataFrame({"condition": condition, "method": method, **ratios}))
    return pandas.concat(found).rename_axis("seed").reset_index()


def scaling_frame(measured: dict) -> pandas.DataFrame:
    """What the claims on Figure 1 need: condition, method, seed (the round), d_growth, d_ratio, k_growth and k_exponent.

    ``measured`` are "dimensions", "neighbors" and "full_jacobian" as :func:`nrae_lib.pages.timing.sweep` has them.
    Growth is the time at the largest value over that at the smallest, for D relative to AE's at the same D. The ratio
    is to the slowest of AE, GRAE and SPAE at the same D, where it is largest. The exponent is that of k in what a step
    takes beyond AE's, between the two largest k. Conditions: "library"; for CAE "exact", "estimate", "full_jacobian".
    """
    import pandas

    found = {}
    for part in ("dimensions", "neighbors", "full_jacobian"):
        times = {name: np.array(rounds) for name, rounds in measured.get(part, {}).get("milliseconds", {}).items()}
        for name, ms in ((name, ms) for name, ms in times.items() if name != "ae"):
            method, _, form = name.partition(", ")
            condition = part if part == "full_jacobian" else "library" if method != "cae" else form or "exact"
            columns = found.setdefault((condition, method), {})
            if part == "neighbors":
                columns["k_growth"] = ms[-1] / ms[0]
                extra, k = np.clip(ms - times["ae"], 1e-3, None), measured[part]["values"]
                columns["k_exponent"] = np.log(extra[-1] / extra[-2]) / np.log(k[-1] / k[-2])
            else:
                slowest = np.max([times[one] for one in ("ae", "grae", "spae") if one in times], axis=0)
                columns["d_ratio"] = (ms / slowest).max(0)
                columns["d_growth"] = ms[-1] / times["ae"][-1] / (ms[0] / times["ae"][0])
    frames = [pandas.DataFrame({"condition": c, "method": m, **columns}) for (c, m), columns in found.items()]
    return pandas.concat(frames).rename_axis("seed").reset_index()
