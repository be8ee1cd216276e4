"""Claims about the synthetic curves: Figures 4 and 7, Table 1."""

from nrae_lib.paper.printed import values
from nrae_lib.paper.rules import equal, lower, printed_value, rate, succeeds_where_other_fails
from nrae_lib.paper.verdicts import Claim, spelled

_NRAE = ("nrae_l", "nrae_q")
_GEOMETRIC = ("grae", "spae")  # right in Figure 7, by the paper
# (suffix of the identifier, recipes, baselines): the released code has no settings for most of the baselines.
_SCOPES = (
    ("", ("paper", "paper_elu"), ("ae", "vae", "wae", "dae", "cae", *_GEOMETRIC)),
    ("-released", ("released",), ("ae", "dae")),
)


CLAIMS: tuple[Claim, ...] = (
    *(
        Claim(
            f"fig4-smooth{suffix}", "fig4_sine", "NRAE", "4.1, Figure 4",
            f"NRAE-L and NRAE-Q reproduce a smooth manifold better than {spelled(*rivals)} (here: the total turning of "
            "the learned curve is closer to the noise-free curve's, one half turn).",
            lower("total_turning", _NRAE, rivals, target=1.0), (*rivals, *_NRAE), recipes,
        )
        for suffix, recipes, rivals in _SCOPES
    ),
    *(
        Claim(
            f"table1-best{suffix}", "table1_sine", "NRAE", "4.1, Table 1",
            f"NRAE-L and NRAE-Q have a lower error on clean points than {spelled(*rivals)}.",
            lower("test_mse", _NRAE, rivals), (*rivals, *_NRAE), recipes,
        )
        for suffix, recipes, rivals in _SCOPES
    ),
    Claim(
        "table1-l-is-q", "table1_sine", "NRAE", "4.1, Table 1",
        "NRAE-L (0.29 ± 0.06) and NRAE-Q (0.30 ± 0.07) do not differ.",
        equal("test_mse", *_NRAE), _NRAE,
    ),
    *(
        Claim(
            f"table1-value-{printed.method}", "table1_sine", "NRAE", "4.1, Table 1",
            f"The error of {spelled(printed.method)} times 100 is {printed.value:.2f} ± {printed.error:.2f}.",
            printed_value(printed.method, ("table1", "sine"), "mse_x100", "test_mse", 100), (printed.method,),
            ("paper",),
        )
        for printed in values("nrae", "table1", "sine")
    ),
    Claim(
        "fig7-q-right", "fig7_swissroll", "NRAE", "4.2, Figure 7",
        "NRAE-Q learns the right local geometry of the Swiss roll.",
        rate(("nrae_q",), succeed=True), ("nrae_q",),
    ),
    Claim(
        "fig7-grae-spae-right", "fig7_swissroll", "NRAE", "4.2, Figure 7",
        "GRAE and SPAE learn the right local geometry of the Swiss roll.",
        rate(_GEOMETRIC, succeed=True), _GEOMETRIC, _SCOPES[0][1],
    ),
    *(
        Claim(
            f"fig7-baselines-wrong{suffix}", "fig7_swissroll", "NRAE", "4.2, Figure 7",
            f"{spelled(*wrong)} do not learn the right local geometry.",
            rate(wrong, succeed=False), wrong, recipes,
        )
        for suffix, recipes, rivals in _SCOPES
        for wrong in [tuple(name for name in rivals if name not in _GEOMETRIC)]
    ),
    Claim(
        "fig7-l-fails", "fig7_swissroll", "NRAE", "4.2, Figure 7",
        "NRAE-L fails where NRAE-Q succeeds.",
        succeeds_where_other_fails("nrae_q", "nrae_l"), _NRAE,
    ),
)  # fmt: skip
