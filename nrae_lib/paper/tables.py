"""Claims about the convolutional networks: Tables 2 to 5, and Table 3 of the supplement."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from nrae_lib.data.catalogue import IMAGE_SETS
from nrae_lib.paper import rules
from nrae_lib.paper.printed import spelled, values
from nrae_lib.paper.verdicts import BASELINES, NRAE, Claim, on_images

if TYPE_CHECKING:
    import pandas

ACROSS = "all sets"
_NEGLIGIBLE = 0.1

_table2 = partial(on_images, "table2_denoising", "4.1, Table 2")
_table3 = partial(Claim, "table3_generalization", "4.3, Table 3")
_table4 = partial(on_images, "table4_compatibility", "4.3, Table 4")
_table5 = partial(Claim, "table5_extended", "4.3, Table 5")
_supplement = partial(on_images, "supp_table3_standard_errors", "supplement 2.4, Table 3")


def across(frame: pandas.DataFrame) -> pandas.DataFrame:
    """One row for each method and image set, its mean test error over sizes and seeds, for tests across sets.

    The small and the large part of a set are no independent evidence, so they count once. The error of a method that lacks
    a run is infinite; of CAE on CELEBA, which the paper does not have, there is no row.

    Returns:
        columns condition ("all sets" everywhere), set, method, seed (the set's number) and test_mse.
    """
    runs = frame.pivot(index=["condition", "seed"], columns="method", values="test_mse").fillna(np.inf)
    means = runs.groupby(level="condition", sort=False).mean()
    means = means.groupby(means.index.str.replace(r" [SL]$", "", regex=True).rename("set"), sort=False).mean()
    rows = means.assign(seed=range(len(means))).reset_index().melt(["set", "seed"], value_name="test_mse")
    return rows[(rows.method != "cae") | (rows["set"] != "CELEBA")].assign(condition=ACROSS)


def title(name: str, size: str) -> str:
    """A condition's name, such as "MNIST S"."""
    return f"{IMAGE_SETS[name].title} {size}"


def _lowest(claim: partial, table: str, sizes: str) -> Iterator[Claim]:
    """Per data set: which baselines each NRAE beats, as the table prints it. Those beaten by both share a claim."""
    for name, size in product(IMAGE_SETS, sizes):
        printed = {value.method: value.value for value in values("nrae", table, name, size)}
        beaten = {ours: tuple(rival for rival in BASELINES if printed.get(rival, 0) > printed[ours]) for ours in NRAE}
        for rivals in dict.fromkeys(beaten.values()):
            ours = tuple(method for method in NRAE if beaten[method] == rivals)
            yield claim(
                f"{table.replace('_', '-')}-{name}-{size.lower()}{'' if ours == NRAE else '-' + ours[0][-1]}",
                f"{title(name, size)}: {spelled(*ours)} {'have' if len(ours) > 1 else 'has'} a lower test error than "
                f"{spelled(*rivals)}.",
                rules.lower("test_mse", ours, rivals), (title(name, size),), fewest=rules.FEWEST_FOR_T_TESTS,
            )  # fmt: skip


_NOISY = tuple(f"{name} noise {noise}" for name in ("MNIST", "CIFAR10") for noise in ("0.1", "0.2"))
_PARTS = (("psnr_train", "training"), ("psnr_test", "test"))
_SMALL = ("MNIST S", "CIFAR10 S")
_EXTENDED = ("enrae_l", "enrae_q")


def _ratios(name: str) -> tuple[float, float]:
    """Printed times of an epoch of E-NRAE over NRAE's, linear and quadratic."""
    seconds = {v.method: v.value for v in values("nrae", "table5", name, "S") if v.metric == "seconds_per_epoch"}
    return tuple(seconds[f"e{name}"] / seconds[name] for name in NRAE)


CLAIMS: tuple[Claim, ...] = (
    *(
        _table2(
            f"table2-best-{images}",
            f"NRAE-L and NRAE-Q have a higher PSNR than all baselines, DAE among them (here: of noisy {images} images).",
            rules.higher(metric, NRAE, BASELINES), _NOISY,
        )
        for metric, images in _PARTS
    ),
    *(
        _table2(
            f"table2-dae-third-{images}", f"DAE has the highest PSNR of the baselines (here: of noisy {images} images; the table "
            "itself says otherwise of CIFAR10 with noise 0.1).",
            rules.higher(metric, ("dae",), tuple(name for name in BASELINES if name != "dae")),
            tuple(name for name in _NOISY if name != "CIFAR10 noise 0.1"),
        )
        for metric, images in _PARTS
    ),
    *_lowest(_table3, "table3", "SL"),
    _table3(
        "table3-across", "NRAE-L and NRAE-Q have a lower test error than each baseline on most image sets and sizes.",
        rules.every(*(rules.sign("test_mse", method, rival, "set") for method in NRAE for rival in BASELINES)),
        (ACROSS,), "set",
    ),
    *(
        _table4(
            f"table4-{base}", f"The neighbourhood loss improves {spelled(base)}: {spelled(*both)} have a lower test error.",
            rules.lower("test_mse", both, (base,)), _SMALL,
        )
        for base in ("wae", "cae", "spae", "grae")
        for both in [(f"nr{base}_l", f"nr{base}_q")]
    ),
    _table4(
        "table4-vae", "The neighbourhood loss hardly changes VAE: NRVAE-L and NRVAE-Q have its test error (here: within "
        f"{rules.MARGIN:.0%}; NRVAE-Q on MNIST is printed above VAE).",
        rules.every(*(rules.equal("test_mse", name, "vae") for name in ("nrvae_l", "nrvae_q"))), _SMALL,
    ),
    *(
        _table4(
            f"table4-better-than-alone-{name}",
            f"A combination can be better than NRAE alone: {spelled(both)} has a lower test error than {spelled(alone)}.",
            rules.lower("test_mse", (both,), (alone,)), (title(name, "S"),),
        )
        # Where one is printed below NRAE alone: the best one.
        for name, both, alone in (("mnist", "nrcae_l", "nrae_l"), ("cifar10", "nrwae_q", "nrae_q"))
    ),
    _table5(
        "table5-error", "E-NRAE generalizes as well as NRAE: E-NRAE-L has NRAE-L's test error and E-NRAE-Q NRAE-Q's (here: "
        f"within {rules.MARGIN:.0%}).",
        rules.every(*(rules.equal("test_mse", f"e{name}", name) for name in NRAE)), _SMALL, fewest=rules.FEWEST_FOR_T_TESTS,
    ),
    _table5(
        "table5-time", "E-NRAE takes longer per epoch than NRAE: E-NRAE-L than NRAE-L, and E-NRAE-Q than NRAE-Q.",
        rules.between("ratio", _EXTENDED, low=1.0), tuple(f"{name}, times" for name in _SMALL), "round",
    ),
    *(
        _table5(
            f"table5-ratio-{name}", f"An epoch of E-NRAE-L takes {linear:.2f} times NRAE-L's, one of E-NRAE-Q {quadratic:.2f} "
            f"times NRAE-Q's (here: within {rules.MARGIN:.0%}).",
            rules.every(*(rules.about("ratio", *each) for each in zip(_EXTENDED, (linear, quadratic), strict=True))),
            (f"{title(name, 'S')}, times",), "round",
        )
        for name in ("mnist", "cifar10")
        for linear, quadratic in [_ratios(name)]
    ),
    *_lowest(_supplement, "supp_table3", "S"),
    *(
        _supplement(
            f"supp-table3-standard-errors{suffix}", f"The standard errors are negligible (here: below {_NEGLIGIBLE:.0%} of the "
            "mean, which holds for all that are printed).",
            rules.relative_error_below("test_mse", names, _NEGLIGIBLE), tuple(title(name, "S") for name in sets),
        )
        for suffix, sets, names in (
            ("", tuple(IMAGE_SETS)[:-1], ("ae", "vae", "wae", "dae", "cae", "spae", *NRAE)),
            ("-celeba", ("celeba",), ("ae", "vae", "wae", "dae", "spae", *NRAE)),
        )
    ),
)  # fmt: skip
