"""Claims about the convolutional networks: Tables 2 to 5, and Table 3 of the supplement."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from nrae_lib.paper.printed import values
from nrae_lib.paper.rules import (
    ALPHA,
    FEWEST_FOR_T_TESTS,
    FEWEST_SEEDS,
    MARGIN,
    _of,
    between,
    equal,
    higher,
    lower,
    sign,
)
from nrae_lib.paper.verdicts import Claim, spelled

if TYPE_CHECKING:
    import pandas

_NRAE = ("nrae_l", "nrae_q")
_BASELINES = ("ae", "vae", "wae", "dae", "cae", "grae", "spae")
_TITLES = {"omniglot": "Omniglot"}  # the others in capitals
_SETS = ("mnist", "fmnist", "kmnist", "omniglot", "svhn", "cifar10", "cifar100", "celeba")
ACROSS = "all sets"
_NEGLIGIBLE = 0.1


def _condition(name: str, size: str) -> str:
    return f"{_TITLES.get(name, name.upper())} {size}"


def across(frame: "pandas.DataFrame") -> "pandas.DataFrame":
    """One row for each method and image set, its mean test error over sizes and seeds, for tests across sets.

    The small and the large part of a set are no independent evidence, so they count once.

    Arguments:
        frame: one row per run, with recipe (the condition), method and test_mse.

    Returns:
        columns recipe ("all sets" everywhere), condition, method, seed (the condition's number) and test_mse.
    """
    means = frame.groupby(["recipe", "method"], sort=False).test_mse.mean().reset_index()
    means = means.assign(recipe=means.recipe.str.replace(r" [SL]$", "", regex=True))
    means = means.groupby(["recipe", "method"], sort=False).test_mse.mean().reset_index()
    means = means.rename(columns={"recipe": "condition"})
    places = {condition: place for place, condition in enumerate(dict.fromkeys(means.condition))}
    return means.assign(recipe=ACROSS, seed=means.condition.map(places))


def every(*rules: Callable) -> Callable:
    """Rule: all ``rules`` hold; one that is "not reproduced" decides, else one that is "inconclusive"."""

    def rule(frame):
        found = [each(frame) for each in rules]
        statuses = {status for status, _ in found}
        status = next((one for one in ("not run", "not reproduced", "inconclusive") if one in statuses), "reproduced")
        return status, " ".join(sentence for _, sentence in found)

    return rule


def _relative_error_below(methods: tuple[str, ...], limit: float) -> Callable:
    """Rule: the standard error of every method's mean test error is below ``limit`` times the mean."""

    def rule(frame):
        errors = [_of(frame, method, "test_mse") for method in methods]
        relative = {
            method: each.std(ddof=1) / len(each) ** 0.5 / each.mean()
            for method, each in zip(methods, errors, strict=True)
        }
        from scipy.stats import chi2

        worst = max(relative, key=relative.get)
        freedom = min(map(len, errors)) - 1
        # One-sided confidence bounds of a standard deviation, at level ALPHA.
        low, high = (relative[worst] * (freedom / chi2.ppf(level, freedom)) ** 0.5 for level in (1 - ALPHA, ALPHA))
        status = "reproduced" if high < limit else "not reproduced" if low > limit else "inconclusive"
        return status, (
            f"The largest standard error is that of {worst}, {relative[worst]:.1%} of its mean ({low:.1%} to {high:.1%}, χ² "
            f"bounds at {ALPHA:.0%} each)."
        )

    return rule


def _lowest(page: str, table: str, section: str) -> tuple[Claim, ...]:
    """Per data set: which baselines each NRAE beats, as the table prints it. Those beaten by both share a claim."""
    claims = []
    for name in _SETS:
        for size in ("S", "L") if table == "table3" else ("S",):
            printed = {value.method: value.value for value in values("nrae", table, name, size)}
            beaten: dict[tuple[str, ...], list[str]] = {}
            for method in _NRAE:
                rivals = tuple(rival for rival in _BASELINES if printed.get(rival, 0) > printed[method])
                beaten.setdefault(rivals, []).append(method)
            claims += [
                Claim(
                    f"{table.replace('_', '-')}-{name}-{size.lower()}{'' if len(beaten) == 1 else '-' + ours[0][-1]}",
                    page, "NRAE", section,
                    f"{_condition(name, size)}: {spelled(*ours)} {'have' if len(ours) > 1 else 'has'} a lower test error than "
                    f"{spelled(*rivals)}.",
                    lower("test_mse", tuple(ours), rivals), (*rivals, *ours), (_condition(name, size),),
                    fewest=FEWEST_FOR_T_TESTS,
                )
                for rivals, ours in beaten.items()
            ]  # fmt: skip
    return tuple(claims)


_NOISY = tuple(f"{name} noise {noise}" for name in ("MNIST", "CIFAR10") for noise in ("0.1", "0.2"))
_IMAGES = {"psnr_train": "training", "psnr_test": "test"}
_PARTS = {"wae": "NRWAE", "cae": "NRCAE", "spae": "NRSPAE", "grae": "NRGRAE"}
# Where a combination is printed below NRAE alone: the best one.
_BETTER_THAN_ALONE = {"MNIST S": ("nrcae_l", "nrae_l"), "CIFAR10 S": ("nrwae_q", "nrae_q")}
_SMALL = ("MNIST S", "CIFAR10 S")
_TABLE3, _TABLE4, _TABLE5 = "4.3, Table 3", "4.3, Table 4", "4.3, Table 5"

_EXTENDED = ("enrae_l", "enrae_q")


def _ratios(name: str) -> tuple[float, float]:
    """Printed times of an epoch of E-NRAE over NRAE's, linear and quadratic."""
    seconds = {v.method: v.value for v in values("nrae", "table5", name, "S") if v.metric == "seconds_per_epoch"}
    return seconds["enrae_l"] / seconds["nrae_l"], seconds["enrae_q"] / seconds["nrae_q"]


CLAIMS: tuple[Claim, ...] = (
    *(
        Claim(
            f"table2-best-{images}", "table2_denoising", "NRAE", "4.1, Table 2",
            f"NRAE-L and NRAE-Q have a higher PSNR than all baselines, DAE among them (here: of noisy {images} images).",
            higher(metric, _NRAE, _BASELINES), (*_BASELINES, *_NRAE), _NOISY, fewest=FEWEST_FOR_T_TESTS,
        )
        for metric, images in _IMAGES.items()
    ),
    *(
        Claim(
            f"table2-dae-third-{images}", "table2_denoising", "NRAE", "4.1, Table 2",
            f"DAE has the highest PSNR of the baselines (here: of noisy {images} images; the table itself says otherwise of "
            "CIFAR10 with noise 0.1).",
            higher(metric, ("dae",), tuple(name for name in _BASELINES if name != "dae")), _BASELINES,
            tuple(name for name in _NOISY if name != "CIFAR10 noise 0.1"), fewest=FEWEST_FOR_T_TESTS,
        )
        for metric, images in _IMAGES.items()
    ),
    *_lowest("table3_generalization", "table3", _TABLE3),
    Claim(
        "table3-across", "table3_generalization", "NRAE", _TABLE3,
        "NRAE-L and NRAE-Q have a lower test error than each baseline on most image sets and sizes.",
        every(*(sign("test_mse", method, rival, "condition") for method in _NRAE for rival in _BASELINES)),
        (*_BASELINES, *_NRAE), (ACROSS,), "condition", FEWEST_SEEDS,
    ),
    *(
        Claim(
            f"table4-{base}", "table4_compatibility", "NRAE", _TABLE4,
            f"The neighbourhood loss improves {base.upper()}: {title}-L and {title}-Q have a lower test error.",
            lower("test_mse", (f"nr{base}_l", f"nr{base}_q"), (base,)), (base, f"nr{base}_l", f"nr{base}_q"), _SMALL,
            fewest=FEWEST_FOR_T_TESTS,
        )
        for base, title in _PARTS.items()
    ),
    Claim(
        "table4-vae", "table4_compatibility", "NRAE", _TABLE4,
        f"The neighbourhood loss hardly changes VAE: NRVAE-L and NRVAE-Q have its test error (here: within {MARGIN:.0%}; NRVAE-Q "
        "on MNIST is printed above VAE).",
        every(*(equal("test_mse", name, "vae") for name in ("nrvae_l", "nrvae_q"))), ("vae", "nrvae_l", "nrvae_q"), _SMALL,
        fewest=FEWEST_FOR_T_TESTS,
    ),
    *(
        Claim(
            f"table4-better-than-alone-{condition.split()[0].lower()}", "table4_compatibility", "NRAE", _TABLE4,
            f"A combination can be better than NRAE alone: {spelled(both)} has a lower test error than {spelled(alone)}.",
            lower("test_mse", (both,), (alone,)), (both, alone), (condition,), fewest=FEWEST_FOR_T_TESTS,
        )
        for condition, (both, alone) in _BETTER_THAN_ALONE.items()
    ),
    Claim(
        "table5-error", "table5_extended", "NRAE", _TABLE5,
        f"E-NRAE generalizes as well as NRAE: E-NRAE-L has NRAE-L's test error and E-NRAE-Q NRAE-Q's (here: within {MARGIN:.0%}).",
        every(*(equal("test_mse", f"e{name}", name) for name in _NRAE)), (*_EXTENDED, *_NRAE), _SMALL,
        fewest=FEWEST_FOR_T_TESTS,
    ),
    Claim(
        "table5-time", "table5_extended", "NRAE", _TABLE5,
        "E-NRAE takes longer per epoch than NRAE: E-NRAE-L than NRAE-L, and E-NRAE-Q than NRAE-Q.",
        between("ratio", _EXTENDED, low=1.0), _EXTENDED, tuple(f"{name}, times" for name in _SMALL), "round", FEWEST_SEEDS,
    ),
    *(
        Claim(
            f"table5-ratio-{name}", "table5_extended", "NRAE", _TABLE5,
            f"An epoch of E-NRAE-L takes {linear:.2f} times NRAE-L's, one of E-NRAE-Q {quadratic:.2f} times NRAE-Q's (here: "
            f"within {MARGIN:.0%}).",
            every(*(
                between("ratio", (method,), (1 - MARGIN) * ratio, (1 + MARGIN) * ratio)
                for method, ratio in zip(_EXTENDED, (linear, quadratic), strict=True)
            )),
            _EXTENDED, (f"{name.upper()} S, times",), "round", FEWEST_SEEDS,
        )
        for name in ("mnist", "cifar10")
        for linear, quadratic in [_ratios(name)]
    ),
    *_lowest("supp_table3_standard_errors", "supp_table3", "supplement 2.4, Table 3"),
    *(
        Claim(
            f"supp-table3-standard-errors{suffix}", "supp_table3_standard_errors", "NRAE", "supplement 2.4, Table 3",
            f"The standard errors are negligible (here: below {_NEGLIGIBLE:.0%} of the mean, which holds for all that are "
            "printed).",
            _relative_error_below(names, _NEGLIGIBLE), names, tuple(_condition(name, "S") for name in sets),
            fewest=FEWEST_FOR_T_TESTS,
        )
        for suffix, sets, names in (
            ("", _SETS[:-1], ("ae", "vae", "wae", "dae", "cae", "spae", *_NRAE)),
            ("-celeba", _SETS[-1:], ("ae", "vae", "wae", "dae", "spae", *_NRAE)),  # the paper has no CAE there
        )
    ),
)  # fmt: skip
