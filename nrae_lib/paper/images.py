"""Claims about test errors of image sets: Figure 10 of the paper; sections 2.2 to 2.4 of the supplement."""

from __future__ import annotations

from functools import partial
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from nrae_lib.data.catalogue import IMAGE_SETS
from nrae_lib.paper import rules
from nrae_lib.paper.printed import half_gap, spelled
from nrae_lib.paper.rules import below_most, higher, lower
from nrae_lib.paper.verdicts import BASELINES, NRAE, Claim, on_images

if TYPE_CHECKING:
    import pandas


def wide(frame: pandas.DataFrame, across: str, value: str, groups: dict | None = None) -> pandas.DataFrame:
    """One row for each condition, method and seed, one column ``value @ setting`` for each setting, for ``rules.below_most``.

    A setting that a condition does not vary is NaN in it; a number that should be there and is NaN becomes infinite.

    Arguments:
        frame: one row per run, with condition, method, seed, ``across`` and ``value``.
        across: the column whose values are the settings, such as the number of training points.
        groups: condition -> the condition that its rows come under.
    """
    if not len(frame):
        return frame
    frame = frame.assign(condition=frame.condition.map(groups)) if groups else frame
    table = frame.fillna({value: np.inf}).pivot(index=["condition", "method", "seed"], columns=across, values=value)
    table.columns = [f"{value} @ {setting:g}" for setting in table.columns]
    return table.reset_index()


_pictures = partial(on_images, "supp_fig3_fig4_reconstructions")
_table2 = partial(on_images, "supp_table2_fid_elbo", "supplement 2.4, Table 2")

_TABLE2 = tuple(name for name in BASELINES if name != "grae")  # supplement, Table 2 has no GRAE
_TABLE2_NO_CAE = tuple(name for name in _TABLE2 if name != "cae")  # CELEBA
_EXCEPTED = tuple(f"{name} {size}" for name in ("FMNIST", "KMNIST", "Omniglot") for size in "SL")

CLAIMS: tuple[Claim, ...] = (
    on_images(
        "fig10_sample_size", "4.3, Figure 10", "fig10-below-most", "NRAE-L and NRAE-Q have a lower test error than most of "
        "the baselines, whatever the number of training images (here: than at least four of the seven, at every number).",
        below_most("test_mse", NRAE, BASELINES)),
    on_images(
        "fig10_sample_size", "4.3, Figure 10", "fig10-falls", "The test errors of all methods decrease as the number of training "
        "images increases (here: the slope of their logarithms is below zero).",
        rules.falls("test_mse", (*BASELINES, *NRAE))),
    on_images(
        "supp_fig2_neighbors", "supplement 2.2, Figure 2", "supp-fig2-neighbors",
        "NRAE-L and NRAE-Q are mostly better than the other baselines, robustly to the number of neighbours k (here: at every k "
        "their test error is lower than that of at least four of the seven).",
        below_most("test_mse", NRAE, BASELINES)),
    on_images(
        "supp_sec23_neighborhood_batch", "supplement 2.3", "supp-sec23-batch", "The test errors of NRAE-L and NRAE-Q are "
        "robust to the neighbourhood batch size (here: within half of the printed gap between the best baseline and NRAE, "
        f"{half_gap('mnist', 'S', 'nrae_l'):.1%} of the error at size 2).",
        rules.steady("test_mse", {name: half_gap("mnist", "S", name) for name in NRAE})),
    _pictures(
        "supplement 2.4, Figure 3", "supp-fig3-better",
        "Images reconstructed by NRAE-L and NRAE-Q are much better than those of the other baselines on SVHN (S) and CIFAR10 (S) "
        "(here: their test error is lower than that of each of the six; the supplement has no GRAE).",
        lower("test_mse", NRAE, _TABLE2), ("SVHN S", "CIFAR10 S")),
    _pictures(
        "supplement 2.4, Figure 4", "supp-fig4-blurry", "On CELEBA (L) images reconstructed by NRAE-L and NRAE-Q are a "
        "little more blurry than the others' (here: less sharp than those of each of the five baselines).",
        lower("sharpness", NRAE, _TABLE2_NO_CAE), ("CELEBA L",)),
    _pictures(
        "supplement 2.4, Figure 4", "supp-fig4-alike", "On CIFAR10 (L) reconstructed images do not differ visibly (here: the "
        f"sharpness of NRAE-L's and NRAE-Q's is within {rules.MARGIN:.0%} of each of the six baselines').",
        rules.every(*(rules.equal("sharpness", *pair) for pair in product(NRAE, _TABLE2))), ("CIFAR10 L",)),
    *(
        _table2(
            f"supp-table2-elbo{suffix}", "NRAE-L and NRAE-Q mostly have a higher ELBO than the other baselines (here: than "
            f"at least four of the {count}; the paper itself excepts CAE and SPAE on FMNIST, KMNIST and Omniglot).",
            below_most("elbo", NRAE, rivals, sign=-1, least=4), tuple(f"{one.title} {size}" for one in sets for size in "SL"),
        )
        for *smaller, celeba in [IMAGE_SETS.values()]
        for suffix, rivals, count, sets in (("", _TABLE2, "six", smaller), ("-celeba", _TABLE2_NO_CAE, "five", [celeba]))
    ),
    *(
        _table2(
            f"supp-table2-elbo-mse{suffix}", "The ELBO is likely to be high if the error is low (here: their ranks among the "
            f"{count} methods go together).",
            rules.go_together("test_mse", "elbo", (*rivals, *NRAE)), tuple(f"{one.title} {size}" for one in sets for size in "SL"),
        )
        for *smaller, celeba in [IMAGE_SETS.values()]
        for suffix, rivals, count, sets in (("", _TABLE2, "eight", smaller), ("-celeba", _TABLE2_NO_CAE, "seven", [celeba]))
    ),
    *(
        _table2(
            f"supp-table2-elbo-{rival}", f"{rival.upper()} has a higher ELBO than {spelled(*beaten)}, as the table prints it.",
            higher("elbo", (rival,), beaten), conditions)
        for rival, beaten, conditions in (
            ("cae", NRAE, _EXCEPTED), ("spae", NRAE[:1], _EXCEPTED),
        )
    ),
    _table2(
        "supp-table2-fid-lower",
        "NRAE-L and NRAE-Q have a lower FID than the other baselines on SVHN, CIFAR10 (S) and CIFAR100 (S).",
        lower("fid", NRAE, _TABLE2), ("SVHN S", "SVHN L", "CIFAR10 S", "CIFAR100 S")),
    *(
        _table2(
            f"supp-table2-fid-higher-{condition.split()[0].lower()}",
            "FID does not always go with the error: NRAE-L and NRAE-Q have a lower error, yet a higher FID, than "
            f"{spelled(*rivals)}{remark}.",
            rules.every(lower("test_mse", NRAE, rivals), higher("fid", NRAE, rivals)), (condition,))
        for condition, rivals, remark in (
            ("CIFAR10 L", ("cae", "spae"), ", as the table prints it"), ("CELEBA L", _TABLE2_NO_CAE, ": the highest of all"),
        )
    ),
)  # fmt: skip
