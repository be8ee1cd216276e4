"""Claims that the paper's drawings make, Figures 1 to 3, and what drives the method."""

from nrae_lib.paper.rules import FEWEST_FOR_T_TESTS, equal, higher, lower, rate
from nrae_lib.paper.verdicts import Claim

_ORDERS = {1: "linear", 2: "quadratic"}

CLAIMS: tuple[Claim, ...] = (
    Claim(
        "fig1-overfits", "fig1_failure_modes", "NRAE", "1, Figure 1 (our illustration)",
        "The vanilla autoencoder overfits noisy data: NRAE-L's and NRAE-Q's curves turn less.",
        higher("total_turning", ("ae",), ("nrae_l", "nrae_q")), ("ae", "nrae_l", "nrae_q"), ("noisy sine",),
    ),
    Claim(
        "fig1-wrong-geometry", "fig1_failure_modes", "NRAE", "1, Figure 1 (our illustration)",
        "The vanilla autoencoder learns a wrong local geometry.",
        rate(("ae",), succeed=False), ("ae",), ("Swiss roll",),
    ),
    Claim(
        "fig2-points", "fig2_neighborhood_reconstruction", "NRAE", "2.1, Figure 2 (our illustration)",
        "The vanilla autoencoder reconstructs the points almost perfectly (here: with a lower error than NRAE-L and "
        "NRAE-Q).",
        lower("train_mse", ("ae",), ("nrae_l", "nrae_q")), ("ae", "nrae_l", "nrae_q"),
    ),
    *(
        Claim(
            f"fig2-neighbourhoods-{name}", "fig2_neighborhood_reconstruction", "NRAE", "2.1, Figure 2 (our illustration)",
            "The vanilla autoencoder's reconstruction of neighbourhoods is considerably different from the "
            f"neighbourhoods (here: the error of the {name} one is higher than NRAE-{name[0].upper()}'s).",
            higher(f"neighborhood_{order}", ("ae",), (f"nrae_{name[0]}",)), ("ae", f"nrae_{name[0]}"),
        )
        for order, name in _ORDERS.items()
    ),
    *(
        Claim(
            f"fig3-ranks-{name}", "fig3_loss_cases", "NRAE", "2.1, Figure 3 (our illustration)",
            f"The right manifold has the smallest neighbourhood reconstruction loss ({name} approximation).",
            lower(f"neighborhood_{order}", ("right",), ("wrong order", "overfitting")),
            ("right", "wrong order", "overfitting"),
        )
        for order, name in _ORDERS.items()
    ),
    *(
        Claim(
            f"lambda-to-ae-{method}", "lambda_and_order", "NRAE", "2.1; supplement 3 (limit, our illustration)",
            f"NRAE converges to the vanilla autoencoder: at the smallest λ {title} has AE's error.",
            equal("test_mse", method, "ae"), ("ae", method), ("sine, ELU, λ = 0.0001", "Swiss roll, ELU, λ = 0.0001"),
            fewest=FEWEST_FOR_T_TESTS,
        )
        for method, title in (("nrae_l", "NRAE-L"), ("nrae_q", "NRAE-Q"))
    ),
)  # fmt: skip
