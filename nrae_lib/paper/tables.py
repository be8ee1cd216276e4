"""Claims about the convolutional networks: Tables 2 to 5, and Table 3 of the supplement."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from nrae_lib.data.catalogue import IMAGE_SETS
from nrae_lib.paper import rules
from nrae_lib.paper.printed import half_gap, spelled, values
from nrae_lib.paper.verdicts import BASELINES, NRAE, Claim, on_images

if TYPE_CHECKING:
    import pandas

ACROSS = "all sets"
AGAINST = ("svhn", "cifar10", "cifar100", "celeba")  # where the supplement compares NRAE on S with the baselines on L
_NEGLIGIBLE = 0.1

_table2 = partial(on_images, "table2_denoising", "4.1, Table 2")
_table3 = partial(Claim, "table3_generalization", "4.3, Table 3")
_table4 = partial(on_images, "table4_compatibility", "4.3, Table 4")
_table5 = partial(Claim, "table5_extended", "4.3, Table 5")
_supplement = partial(on_images, "supp_table3_standard_errors", "supplement 2.4, Table 3")


def across(frame: pandas.DataFrame) -> pandas.DataFrame:
    """One row for each method and image set, its mean test error over sizes and seeds, for tests across sets.

    The small and the large part of a set are no independent evidence, so they count once. The error of a method that lacks
    a run is infinite; of CAE on CELEBA, which the paper does not have, there is no row. Columns: condition ("all sets"
    everywhere), set, method, seed (the set's number) and test_mse.
    """
    runs = frame.pivot(index=["condition", "seed"], columns="method", values="test_mse").fillna(np.inf)
    means = runs.groupby(level="condition", sort=False).mean()
    means = means.groupby(means.index.str.replace(r" [SL]$", "", regex=True).rename("set"), sort=False).mean()
    rows = means.assign(seed=range(len(means))).reset_index().melt(["set", "seed"], value_name="test_mse")
    return rows[(rows.method != "cae") | (rows["set"] != "CELEBA")].assign(condition=ACROSS)


def against(frame: pandas.DataFrame) -> pandas.DataFrame:
    """NRAE trained on the small part of a set beside the baselines trained on the large one, under conditions "SVHN S
    against L". ``frame`` has one row per run, with condition, method, seed and test_mse."""
    names = {title(name, size): f"{title(name, 'S')} against L" for name in AGAINST for size in "SL"}
    ours = frame.method.isin(NRAE)
    rows = frame[(ours & frame.condition.str.endswith(" S")) | (~ours & frame.condition.str.endswith(" L"))]
    return rows.assign(condition=rows.condition.map(names)).dropna(subset="condition")


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
_HALF = "(here: they differ by less than half of the printed gap between the best baseline and NRAE)"


def _ratios(name: str) -> tuple[float, float]:
    """Printed times of an epoch of E-NRAE over NRAE's, linear and quadratic."""
    seconds = {v.method: v.value for v in values("nrae", "table5", name, "S") if v.metric == "seconds_per_epoch"}
    return tuple(seconds[f"e{name}"] / seconds[name] for name in NRAE)


CLAIMS: tuple[Claim, ...] = (
    *(
        _table2(
            f"table2-best-{images}",
            f"NRAE-L and NRAE-Q have a higher PSNR than all baselines, DAE among them (here: of noisy {images} images).",
            rules.higher(metric, NRAE, BASELINES), _NOISY)
        for metric, images in _PARTS
    ),
    *(
        _table2(
            f"table2-dae-third-{images}", f"DAE has the highest PSNR of the baselines (here: of noisy {images} images; the table "
            "itself says otherwise of CIFAR10 with noise 0.1).",
            rules.higher(metric, ("dae",), tuple(name for name in BASELINES if name != "dae")),
            tuple(name for name in _NOISY if name != "CIFAR10 noise 0.1"))
        for metric, images in _PARTS
    ),
    *_lowest(_table3, "table3", "SL"),
    _table3(
        "table3-across", "NRAE-L and NRAE-Q have a lower test error than most of the other baselines (here: than at least four of "
        "the seven, each on most image sets).",
        rules.every(*(rules.most(*(rules.sign("test_mse", name, rival, "set") for rival in BASELINES)) for name in NRAE)),
        (ACROSS,), "set"),
    *(
        Claim(
            "table3_generalization", "supplement 2.4, remark on Table 2", f"supp-table2-small-{name}",
            f"{title(name, 'S')} against L: NRAE-L and NRAE-Q, trained on the small set, are comparable to {spelled(*rivals)}, trained "
            f"on the large one (here: at most {margin:.1%} worse, half of the gap printed for S).",
            rules.lower("test_mse", NRAE, rivals, slack=margin), (f"{title(name, 'S')} against L",),
            fewest=rules.FEWEST_FOR_T_TESTS)
        for name in AGAINST
        # Supplement, Table 2 has no GRAE, and no CAE on CELEBA.
        for rivals in [tuple(each for each in BASELINES if each != "grae" and (name, each) != ("celeba", "cae"))]
        for margin in [half_gap(name, "S", "nrae_q")]
    ),
    *(
        _table4(
            f"table4-{base}", f"The neighbourhood loss improves {spelled(base)}: {spelled(*both)} have a lower test error.",
            rules.lower("test_mse", both, (base,)), _SMALL)
        for base in ("wae", "cae", "spae", "grae")
        for both in [(f"nr{base}_l", f"nr{base}_q")]
    ),
    *(
        _table4(
            f"table4-better-than-alone-{name}",
            f"A combination can be better than NRAE alone: {spelled(both)} has a lower test error than {spelled(alone)}.",
            rules.lower("test_mse", (both,), (alone,)), (title(name, "S"),))
        # Where one is printed below NRAE alone: the best one.
        for name, both, alone in (("mnist", "nrcae_l", "nrae_l"), ("cifar10", "nrwae_q", "nrae_q"))
    ),
    *(
        claim(
            f"{identifier}-{name}", f"{text} {_HALF}.",
            rules.every(*(rules.equal("test_mse", one, base, half_gap(name, "S", base)) for one, base in pairs)),
            (title(name, "S"),), fewest=rules.FEWEST_FOR_T_TESTS)
        for claim, identifier, pairs, text in (
            (_table4, "table4-vae", (("nrvae_l", "vae"), ("nrvae_q", "vae")), "The neighbourhood loss hardly changes VAE: NRVAE-L and "
             "NRVAE-Q have its test error"),
            (_table5, "table5-error", zip(_EXTENDED, NRAE, strict=True), "E-NRAE generalizes as well as NRAE: E-NRAE-L has NRAE-L's "
             "test error and E-NRAE-Q NRAE-Q's"),
        )
        for pairs in [tuple(pairs)]
        for name in ("mnist", "cifar10")
    ),
    _table5(
        "table5-time", "E-NRAE takes longer per epoch than NRAE: E-NRAE-L than NRAE-L, and E-NRAE-Q than NRAE-Q.",
        rules.between("ratio", _EXTENDED, low=1.0), tuple(f"{name}, times" for name in _SMALL), "round"),
    *(
        _table5(
            f"table5-ratio-{name}", f"An epoch of E-NRAE-L takes {linear:.2f} times NRAE-L's, one of E-NRAE-Q {quadratic:.2f} "
            f"times NRAE-Q's (here: within {rules.MARGIN:.0%}).",
            rules.every(*(rules.about("ratio", *each) for each in zip(_EXTENDED, (linear, quadratic), strict=True))),
            (f"{title(name, 'S')}, times",), "round")
        for name in ("mnist", "cifar10")
        for linear, quadratic in [_ratios(name)]
    ),
    *_lowest(_supplement, "supp_table3", "S"),
    *(
        _supplement(
            f"supp-table3-standard-errors{suffix}", f"The standard errors are negligible (here: below {_NEGLIGIBLE:.0%} of the "
            "mean, which holds for all that are printed).",
            rules.relative_error_below("test_mse", names, _NEGLIGIBLE), tuple(title(name, "S") for name in sets))
        for suffix, sets, names in (
            ("", tuple(IMAGE_SETS)[:-1], ("ae", "vae", "wae", "dae", "cae", "spae", *NRAE)),
            ("-celeba", ("celeba",), ("ae", "vae", "wae", "dae", "spae", *NRAE)),
        )
    ),
)  # fmt: skip
