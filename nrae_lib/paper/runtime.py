"""Claims about running time: Table 1 and Figure 1 of the supplement."""

from nrae_lib.paper.printed import values
from nrae_lib.paper.rules import MARGIN, between
from nrae_lib.paper.verdicts import Claim

_NRAE = ("nrae_l", "nrae_q")
_LIBRARY = ("library", "plain")  # this library over its own AE, and over AE as PyTorch runs it
_AE_SECONDS = next(v.value for v in values("nrae", "supp_table1", "mnist") if v.method == "ae")
# Method -> title, decimals of its ratio, recipes.
_PRINTED_TIMES = {
    "ae": ("AE", 2, ()),
    "vae": ("VAE", 2, _LIBRARY),
    "nrae_l": ("NRAE-L", 2, (*_LIBRARY, "released")),
    "nrae_q": ("NRAE-Q", 2, (*_LIBRARY, "released")),
    "topoae": ("TopoAE (time quoted from its own paper)", 0, _LIBRARY),
}

CLAIMS: tuple[Claim, ...] = (
    *(
        Claim(
            f"supp-table1-ratio-{printed.method}", "supp_table1_runtime", "NRAE", "supplement 2.1, Table 1",
            f"An epoch of {title} takes {printed.value / _AE_SECONDS:.{digits}f} times AE's ({printed.value:g} against "
            f"{_AE_SECONDS:g} s).",
            between(
                "ratio", (printed.method,), *((1 + sign * MARGIN) * printed.value / _AE_SECONDS for sign in (-1, 1))
            ),
            (printed.method,), recipes, "round",
        )
        for printed in values("nrae", "supp_table1", "mnist")
        for title, digits, recipes in [_PRINTED_TIMES[printed.method]]
        if printed.method != "ae"
    ),
    Claim(
        "supp-table1-below-topoae", "supp_table1_runtime", "NRAE", "supplement 2.1, Table 1",
        "TopoAE takes much longer than NRAE-L and NRAE-Q: 68 against 3.13 and 4.15 s (here: longer at all).",
        between("topoae_ratio", _NRAE, low=1.0), (*_NRAE, "topoae"), _LIBRARY, "round",
    ),
    Claim(
        "supp-fig1-cae-dimension", "supp_fig1_runtime_scaling", "NRAE", "supplement 2.1, Figure 1",
        "CAE's time rises rapidly with the input dimension D, because of the full Jacobian (here: relative to AE's it "
        "grows by more than 25 % from the smallest to the largest D).",
        between("d_growth", ("cae",), low=1 + MARGIN), ("cae",), ("exact", "estimate", "full_jacobian"), "round",
    ),
    Claim(
        "supp-fig1-nrae-dimension", "supp_fig1_runtime_scaling", "NRAE", "supplement 2.1, Figure 1",
        "The times of NRAE-L and NRAE-Q stay comparable with those of existing methods at every D (here: relative to AE's "
        "they grow by less than 25 % from the smallest to the largest D).",
        between("d_growth", _NRAE, high=1 + MARGIN), _NRAE, ("library",), "round",
    ),
    Claim(
        "supp-fig1-spae-neighbors", "supp_fig1_runtime_scaling", "NRAE", "supplement 2.1, Figure 1",
        "SPAE's time grows linearly with the number of neighbours k (here: the exponent of k in what a step takes beyond "
        "AE's is 1 ± 25 %).",
        between("k_exponent", ("spae",), 1 - MARGIN, 1 + MARGIN), ("spae",), ("library",), "round",
    ),
    Claim(
        "supp-fig1-nrae-neighbors", "supp_fig1_runtime_scaling", "NRAE", "supplement 2.1, Figure 1",
        "The times of NRAE-L and NRAE-Q do not depend on k (here: at the largest k they are those at the smallest, "
        "± 25 %).",
        between("k_growth", _NRAE, 1 - MARGIN, 1 + MARGIN), _NRAE, ("library",), "round",
    ),
)  # fmt: skip
