"""Claims about running time: Table 1 and Figure 1 of the supplement."""

from functools import partial

from nrae_lib.paper.printed import spelled, values
from nrae_lib.paper.rules import MARGIN, about, between
from nrae_lib.paper.verdicts import NRAE, Claim

_table1 = partial(Claim, "supp_table1_runtime", "supplement 2.1, Table 1", unit="round")
_fig1 = partial(Claim, "supp_fig1_runtime_scaling", "supplement 2.1, Figure 1", unit="round")

_LIBRARY = ("library", "plain")  # this library over its own AE, and over AE as PyTorch runs it
_SECONDS = {v.method: v.value for v in values("nrae", "supp_table1", "mnist")}

CLAIMS: tuple[Claim, ...] = (
    *(
        _table1(
            f"supp-table1-ratio-{method}",
            f"An epoch of {spelled(method)}{remark} takes {ratio:#.3g} times AE's ({seconds:g} against {_SECONDS['ae']:g} s).",
            about("ratio", method, ratio), (*_LIBRARY, "released") if method in NRAE else _LIBRARY,
        )
        for method, seconds in _SECONDS.items()
        for ratio, remark in [(seconds / _SECONDS["ae"], " (time quoted from its own paper)" * (method == "topoae"))]
        if method != "ae"
    ),
    _table1(
        "supp-table1-below-topoae",
        "TopoAE takes much longer than NRAE-L and NRAE-Q: 68 against 3.13 and 4.15 s (here: longer at all).",
        between("topoae_ratio", NRAE, low=1.0), _LIBRARY,
    ),
    _fig1(
        "supp-fig1-cae-dimension", "CAE's time rises rapidly with the input dimension D, because of the full Jacobian "
        "(here: relative to AE's it grows by more than 25 % from the smallest to the largest D).",
        between("d_growth", ("cae",), low=1 + MARGIN), ("exact", "estimate", "full_jacobian"),
    ),
    _fig1(
        "supp-fig1-nrae-dimension", "The times of NRAE-L and NRAE-Q stay comparable with those of existing methods at "
        "every D (here: relative to AE's they grow by less than 25 % from the smallest to the largest D).",
        between("d_growth", NRAE, high=1 + MARGIN), ("library",),
    ),
    _fig1(
        "supp-fig1-spae-neighbors", "SPAE's time grows linearly with the number of neighbours k (here: the exponent of k "
        "in what a step takes beyond AE's is 1 ± 25 %).",
        about("k_exponent", "spae", 1.0), ("library",),
    ),
    _fig1(
        "supp-fig1-nrae-neighbors", "The times of NRAE-L and NRAE-Q do not depend on k (here: at the largest k they are "
        "those at the smallest, ± 25 %).",
        between("k_growth", NRAE, 1 - MARGIN, 1 + MARGIN), ("library",),
    ),
)  # fmt: skip
