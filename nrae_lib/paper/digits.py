"""Claims about images along a rotation or a shift: Figures 5, 6, 8 and 9."""

from nrae_lib.paper.rules import FEWEST_FOR_T_TESTS, lower, rate
from nrae_lib.paper.verdicts import Claim

_IMAGES = {"order_breaks": "the intermediate images", "train_order_breaks": "the training images"}
_RIGHT = ("spae", "nrae_l", "nrae_q")
_WRONG = ("ae", "vae", "wae", "dae", "cae", "grae")
_CIRCULAR = {"circular_breaks": "the 1,000 test images", "train_circular_breaks": "the training images"}
_NRAE = ("nrae_l", "nrae_q")
_BASELINES = ("ae", "vae", "wae", "dae", "cae", "grae", "spae")


def _smooth(identifier: str, metric: str, where: str) -> Claim:
    return Claim(
        identifier, "fig5_rotating_digits", "NRAE", "4.1, Figure 5",
        f"NRAE-L and NRAE-Q generate images that vary more smoothly than those of every baseline, {where}.",
        lower(metric, _NRAE, _BASELINES), (*_NRAE, *_BASELINES), fewest=FEWEST_FOR_T_TESTS,
    )  # fmt: skip


CLAIMS: tuple[Claim, ...] = (
    Claim(
        "fig8-right", "fig8_rotated_shifted", "NRAE", "4.2, Figure 8",
        "SPAE, NRAE-L and NRAE-Q learn the right order of the rotated and of the shifted digit.",
        rate(_RIGHT, succeed=True, columns=_IMAGES), _RIGHT,
    ),
    Claim(
        "fig8-baselines-wrong", "fig8_rotated_shifted", "NRAE", "4.2, Figure 8",
        "AE, VAE, WAE, DAE, CAE and GRAE do not learn the right order.",
        rate(_WRONG, succeed=False, columns=_IMAGES), _WRONG,
    ),
    Claim(
        "fig9-right", "fig9_circular", "NRAE", "4.2, Figure 9",
        "NRAE-Q learns a circular code with the correct local geometry.",
        rate(("nrae_q",), succeed=True, columns=_CIRCULAR), ("nrae_q",),
    ),
    Claim(
        "fig9-others-wrong", "fig9_circular", "NRAE", "4.2, Figure 9",
        "AE, DAE, CAE and NRAE-L do not.",
        rate(("ae", "dae", "cae", "nrae_l"), succeed=False, columns=_CIRCULAR), ("ae", "dae", "cae", "nrae_l"),
    ),
    _smooth("fig5-smooth", "grid_roughness", "over the whole latent grid"),
    _smooth("fig5-smooth-near-data", "data_roughness", "where the latent grid is near training codes"),
    Claim(
        "fig5-dae", "fig5_rotating_digits", "NRAE", "4.1, Figure 5",
        "The images that DAE generates do not vary smoothly: less so than those of NRAE-L and NRAE-Q.",
        lower("grid_roughness", _NRAE, ("dae",)), (*_NRAE, "dae"), fewest=FEWEST_FOR_T_TESTS,
    ),
    Claim(
        "fig6-flatter", "fig6_curvature", "NRAE", "4.1, Figure 6",
        "NRAE-L and NRAE-Q learn flatter surfaces than every baseline.",
        lower("log10_curvature", _NRAE, _BASELINES), (*_NRAE, *_BASELINES), fewest=FEWEST_FOR_T_TESTS,
    ),
)  # fmt: skip
