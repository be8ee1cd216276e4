"""Every rule decides rightly on data made to know the answer, keeps its error rates, and is never helped by what is missing."""

import re
from dataclasses import replace
from functools import partial

import numpy as np
import pandas
import pytest

from nrae_lib.paper import STATUSES, images, rules, tables, trimmed, values
from nrae_lib.paper.verdicts import BASELINES, NRAE

OURS, AE, BOTH = ("nrae_l",), ("ae",), ("ae", "nrae_l")
PRINTED = {value.method: value for value in values("nrae", "table1", "sine")}


def frame(metric="test_mse", **numbers):
    """method -> its values, seed by seed, as a frame; the two counts of order breaks agree."""
    keys = [("text", method, seed) for method, row in numbers.items() for seed in range(len(row))]
    table = pandas.DataFrame(keys, columns=["condition", "method", "seed"])
    table[metric] = np.concatenate([np.asarray(row) for row in numbers.values()])
    return table.assign(train_order_breaks=table.order_breaks) if metric == "order_breaks" else table


def spread(mean, deviation=0.1, count=10, seed=0):
    return mean + deviation * np.random.default_rng(seed).standard_normal(count)


def ratios(center, deviation=0.02):
    logarithms = np.random.default_rng(1).normal(np.log(center), deviation, 8)
    return frame("ratio", vae=np.exp(logarithms))


turning, breaks = partial(frame, "total_turning"), partial(frame, "order_breaks")
ONE = spread(1)
WITHIN = partial(rules.between, "ratio", ("vae",))
LOWER, TURNING = rules.lower("test_mse", OURS, ("ae", "dae")), rules.lower("total_turning", OURS, AE, target=1.0)
VALUE, EQUAL = rules.printed_value(PRINTED["ae"], "test_mse", 100), rules.equal("test_mse", *NRAE)
RIGHT, WRONG = rules.rate(("nrae_q",), succeed=True), rules.rate(("ae", "dae"), succeed=False)
SIGN = rules.succeeds_where_other_fails("nrae_q", "nrae_l")
OUTLIERS = [0.0188, 0.0190, 0.0192, 0.0191, 0.0189, 0.0190, 0.0187, 0.0193, 9.0, 0.0]


@pytest.mark.parametrize(
    ("rule", "rows", "status", "words"),
    [
        (LOWER, frame(nrae_l=ONE, ae=spread(2, seed=1), dae=spread(3, seed=2)), "reproduced", "^[^=]*p = [^=]*p = [^=]*$"),
        (LOWER, frame(nrae_l=spread(1.2), ae=spread(2, seed=1), dae=spread(1, seed=2)), "not reproduced", ""),
        (LOWER, frame(nrae_l=spread(1, 0.5), ae=spread(2, seed=1), dae=spread(1.1, 0.5, seed=0)), "inconclusive", ""),
        # The distance to a target does not reward less than the truth.
        (TURNING, turning(nrae_l=spread(1.1, 0.05), ae=spread(2, seed=1)), "reproduced", ""),
        (TURNING, turning(nrae_l=spread(0.0, 0.01), ae=spread(1.3, 0.05, seed=1)), "not reproduced", ""),
        (VALUE, frame(ae=spread(0.0190, 0.0023)), "reproduced", "printed 1.90 ± 0.23.*8 of 10 draws"),
        (VALUE, frame(ae=spread(0.0120, 0.0023)), "not reproduced", ""),
        (VALUE, frame(ae=OUTLIERS), "reproduced", ""),
        # A mean far off with a spread so wide that nothing is significant decides nothing.
        (rules.printed_value(PRINTED["nrae_l"], "test_mse", 100), frame(nrae_l=spread(0.03, 0.06)), "inconclusive", ""),
        # Pairs are matched by seed.
        (EQUAL, frame(nrae_l=ONE, nrae_q=ONE).sample(frac=1, random_state=0), "reproduced", "exactly, bit for bit, on all 10"),
        (EQUAL, frame(nrae_l=ONE, nrae_q=ONE + spread(0, 0.01, seed=3)), "reproduced", ""),
        (EQUAL, frame(nrae_l=ONE, nrae_q=2 * ONE), "not reproduced", ""),
        (EQUAL, frame(nrae_l=ONE, nrae_q=ONE + spread(0.1, 0.5, seed=3)), "inconclusive", ""),
        (RIGHT, breaks(nrae_q=[0] * 9 + [2]), "reproduced", "9 of 10"),
        (RIGHT, breaks(nrae_q=[0] * 7 + [1] * 3), "inconclusive", ""),
        (RIGHT, breaks(nrae_q=[0] * 1 + [1] * 9), "not reproduced", ""),
        (WRONG, breaks(ae=[1] * 10, dae=[3] * 9 + [0]), "reproduced", ""),
        (WRONG, breaks(ae=[1] * 10, dae=[0] * 10), "not reproduced", ""),
        # Both ways must agree.
        (RIGHT, breaks(nrae_q=[0] * 10).assign(train_order_breaks=1), "inconclusive", "on 10 of 10 .*on 0 of 10 "),
        (SIGN, breaks(nrae_q=[0] * 8, nrae_l=[1] * 8), "reproduced", ""),
        (SIGN, breaks(nrae_q=[0] * 8, nrae_l=[0] * 8), "inconclusive", "p = 1"),
        (SIGN, breaks(nrae_q=[1] * 8, nrae_l=[0] * 8), "not reproduced", ""),
        (SIGN, breaks(nrae_q=[0] * 8, nrae_l=[0] * 6 + [1] * 2), "inconclusive", ""),
        # Every side needs significance.
        (WITHIN(0.75, 1.25), ratios(1.0), "reproduced", ""),
        (WITHIN(0.75, 1.25), ratios(1.0, deviation=1.0), "inconclusive", ""),
        (WITHIN(0.75, 1.25), ratios(2.0), "not reproduced", ""),
        (WITHIN(low=0.75), ratios(0.5), "not reproduced", ""),
        (WITHIN(high=1.25), ratios(0.5), "reproduced", ""),
    ],
)  # fmt: skip
def test_what_each_rule_decides(rule, rows, status, words):
    found, sentence = rule(rows)
    assert found == status and re.search(words, sentence)


def test_trimmed_drops_highest_and_lowest_of_ten_only():
    assert trimmed(range(10)).tolist() == list(range(1, 9))
    assert trimmed([3, 1, 2]).tolist() == [1, 2, 3]
    for failed in (np.nan, np.inf):
        assert not np.isfinite(trimmed([*range(10), failed]).mean()), "a failed run is no highest score to drop"


@pytest.mark.parametrize(
    ("rule", "statuses"),
    [
        (rules.lower("test_mse", OURS, AE), {(1.1, 1.5): "reproduced", (1.1, 1.1): "inconclusive", (1.5, 1.1): "not reproduced"}),
        (rules.higher("test_mse", OURS, AE), {(1.5, 1.1): "reproduced", (1.1, 1.1): "inconclusive"}),
        (rules.lower("test_mse", OURS, AE, target=1.0), {(0.5, 1.5): "inconclusive"}),
        (rules.below_most("test_mse", OURS, AE),
         {(1.1, 1.5): "reproduced", (1.1, 1.1): "inconclusive", (1.5, 1.1): "not reproduced"}),
        # 4 % of a margin of 25 %; what differs by rounding; more than the margin
        (rules.equal("test_mse", "nrae_l", "ae"), {(1.04, 1.0): "reproduced", (0.1 + 0.2, 0.3): "reproduced",
                                                   (1.3, 1.0): "not reproduced", (1.0, 100.0): "not reproduced"}),
        (rules.between("test_mse", BOTH, low=1.0), {(1.1, 1.2): "reproduced", (1.0, 1.2): "inconclusive"}),
        (rules.between("test_mse", BOTH, high=1.1),
         {(1.05, 1.08): "reproduced", (1.05, 1.1): "inconclusive", (1.05, 1.2): "not reproduced"}),
        (rules.printed_value(PRINTED["ae"], "test_mse", 100), {(0, 0.019): "reproduced", (0, 0.9): "not reproduced"}),
        (rules.relative_error_below("test_mse", BOTH, 0.1), {(1.0, 2.0): "reproduced"}),
        (rules.sign("test_mse", "nrae_l", "ae", within="set"),
         {(1.0, 2.0): "reproduced", (1.0, 1.0): "inconclusive", (2.0, 1.0): "not reproduced"}),
    ],
)  # fmt: skip
def test_without_any_spread_the_numbers_decide_and_a_tie_decides_nothing(rule, statuses):
    for (ours, theirs), status in statuses.items():
        rows = frame(nrae_l=[ours] * 7, ae=[theirs] * 7)
        assert rule(rows.assign(set=rows.seed))[0] == status, (ours, theirs)


def by_setting(means, deviation=0.02, seeds=4, seed=0):
    """means: method -> its means at the settings n = 10, 20, ..."""
    generator = np.random.default_rng(seed)
    rows = [
        (f"A n={n}", method, seed, n, mean + deviation * generator.standard_normal())
        for method, settings in means.items()
        for n, mean in zip((10, 20), settings, strict=False)
        for seed in range(seeds)
    ]
    return pandas.DataFrame(rows, columns=["condition", "method", "seed", "n", "test_mse"])


def widened(rows):
    return images.wide(rows, "n", "test_mse", {"A n=10": "A", "A n=20": "A"})


def wide(*means, **options):
    return widened(by_setting(*means, **options))


STEADY, MOST = rules.steady("test_mse", NRAE), rules.below_most("test_mse", NRAE, BASELINES)


def test_steady_means_within_a_quarter_of_the_first_setting_for_every_method_after_bonferronis_correction():
    flat, moved = ({"nrae_l": (1.0, 1.05), "nrae_q": (2.0, last)} for last in (1.9, 3.0))
    status, sentence = STEADY(wide(flat, deviation=0.01, seeds=3))
    assert status == "reproduced" and "nrae_l changes by +" in sentence
    assert STEADY(wide(moved, deviation=0.01, seeds=3))[0] == STEADY(wide(moved, deviation=0.0))[0] == "not reproduced"
    assert STEADY(wide(flat, deviation=0.4, seeds=3))[0] == "inconclusive"
    assert STEADY(wide(flat, deviation=0.0))[0] == "reproduced"
    assert STEADY(wide(dict.fromkeys(NRAE, (1.0,))))[0] == "inconclusive", "one setting says nothing"
    without_first = wide(flat, deviation=0.01)
    without_first.insert(3, "test_mse @ 5", np.nan)
    assert STEADY(without_first)[0] == "inconclusive"
    # Mean difference 1, deviation √3/t, three seeds, 2 degrees of freedom: p = 0.038 and 0.003, and two tests.
    rows = frame("test_mse @ 2", nrae_l=[1.0] * 3, nrae_q=[1.0] * 3)
    for t_value, status in ((5, "inconclusive"), (17, "not reproduced")):
        rows["test_mse @ 4"] = [1.0] * 3 + [2 + 3**0.5 / t_value * step for step in (-1, 0, 1)]
        assert STEADY(rows)[0] == status


def means(ours, better):
    """``better`` rivals lie above our mean, the others below, at both settings."""
    rivals = {name: (1.0, 1.0) if place < better else (0.2, 0.2) for place, name in enumerate(BASELINES)}
    return rivals | dict.fromkeys(NRAE, ours)


def test_most_means_four_of_seven_at_every_setting():
    half = (0.5, 0.5)
    status, sentence = MOST(wide(means(half, better=4)))
    assert status == "reproduced" and "4, 4 of 7" in sentence and "settings: 10, 20" in sentence
    assert MOST(wide(means(half, better=3)))[0] == "not reproduced"
    assert MOST(wide(means((0.5, 1.5), better=7)))[0] == "not reproduced", "one setting fails"
    assert MOST(by_setting({name: value[:1] for name, value in means(half, 5).items()}))[0] == "reproduced"
    assert MOST(wide(means(half, better=5), deviation=0.0))[0] == "reproduced", "without spread the means decide"


def losing(rows, method):
    """A setting without all runs of a method, without one of them, and with runs that diverged."""
    lost = (rows.method == method) & (rows.n == 20)
    return [
        widened(one)
        for one in (rows[~lost], rows[~(lost & (rows.seed == 0))], rows.assign(test_mse=rows.test_mse.mask(lost)))
    ]


def test_a_setting_that_some_method_lacks_is_not_passed_over():
    """nrae_l loses to all at 20, where a rival has diverged: leaving that setting out made the claim "reproduced"."""
    rows = by_setting(means((0.5, 1.5), better=7))
    for broken in losing(rows, "spae"):
        status, sentence = MOST(broken)
        assert status == "not run" and "test_mse @ 20 of spae is missing" in sentence
    all_lost = rows.assign(test_mse=rows.test_mse.mask(rows.n == 20))
    assert MOST(widened(all_lost))[0] == "not run", "a setting where all diverged is one of the page's"
    other = rows[rows.n == 10].assign(n=5, condition="B")
    both = images.wide(pandas.concat([rows[rows.n == 10], other]), "n", "test_mse")
    assert MOST(both[both.condition == "B"])[0] == "reproduced", "what this condition does not vary is no gap in it"
    flat = by_setting(dict.fromkeys(NRAE, (1.0, 1.0)))
    assert STEADY(widened(flat))[0] == "reproduced"
    assert {STEADY(broken)[0] for broken in losing(flat, "nrae_q")} == {"not run"}


@pytest.mark.parametrize(
    "rule",
    [
        rules.lower("test_mse", OURS, AE),
        rules.higher("test_mse", AE, OURS),
        rules.lower("test_mse", OURS, AE, target=0.0),
        rules.below_most("test_mse", OURS, AE),
        rules.below_most("test_mse", AE, OURS, sign=-1, least=1),
        rules.sign("test_mse", "nrae_l", "ae", within="set"),
        rules.equal("test_mse", "near", "nrae_l"),
        rules.every(rules.equal("test_mse", "near", "nrae_l"), rules.lower("test_mse", OURS, AE)),
        rules.rate(OURS, succeed=True),
        rules.rate(AE, succeed=False),
        rules.succeeds_where_other_fails("nrae_l", "ae"),
        rules.between("test_mse", ("nrae_l", "near"), low=0.5, high=1.5),
        rules.relative_error_below("test_mse", ("nrae_l", "near"), 0.2),
        rules.printed_value(PRINTED["ae"], "printed", 100),
    ],
)
def test_a_missing_or_diverged_run_never_helps_a_claim(rule):
    """Each of these is reproduced when all runs are there, and not run when one is missing or not a number."""
    whole = pandas.DataFrame(
        [
            {"set": f"set {seed}", "method": method, "seed": seed, "test_mse": mean + 0.01 * seed,
             "order_breaks": float(mean > 1.5), "train_order_breaks": float(mean > 1.5), "printed": 0.019 + 0.0001 * seed}
            for method, mean in (("nrae_l", 1.0), ("near", 1.001), ("ae", 2.0)) for seed in range(10)
        ]
    )  # fmt: skip
    assert rule(whole)[0] == "reproduced"
    for method in rule.needs:
        one = (whole.method == method) & (whole.seed == 3)
        for value in (np.nan, np.inf):
            broken = whole.copy()
            broken.loc[one, ["test_mse", "order_breaks", "train_order_breaks", "printed"]] = value
            assert rule(broken)[0] == "not run", value
        if len(rule.needs) > 1 and "sign" not in rule.judge.__qualname__:  # a set may lack a method, as in the paper
            assert rule(whole[~one])[0] == "not run"
    assert rule(whole[["set", "method", "seed"]])[0] == "not run", "nothing was measured"


def rates(rule, simulate, repetitions=200):
    generator = np.random.default_rng(0)
    found = [rule(simulate(generator))[0] for _ in range(repetitions)]
    return {status: found.count(status) / repetitions for status in STATUSES}


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("direction", [rules.lower, rules.higher])
def test_no_effect_is_called_reproduced_at_most_at_the_level(seeds, direction):
    rule = direction("test_mse", OURS, AE)
    found = rates(rule, lambda draw: frame(nrae_l=draw.normal(1, 0.1, seeds), ae=draw.normal(1, 0.3, seeds)))
    assert found["reproduced"] < rules.ALPHA + 0.03 and found["not reproduced"] < rules.ALPHA + 0.03


def test_every_further_rival_makes_a_wrong_verdict_rarer_not_likelier():
    rule = rules.lower("test_mse", NRAE, ("ae", "cae"))
    found = rates(rule, lambda draw: frame(**{name: draw.normal(1, 0.1, 5) for name in rule.needs}))
    assert found["reproduced"] < 0.02


@pytest.mark.parametrize(("direction", "better"), [(rules.lower, 0.7), (rules.higher, 1.3)])
def test_an_effect_of_three_deviations_is_found_with_five_seeds(direction, better):
    def effect(draw):
        return frame(nrae_l=draw.normal(better, 0.1, 5), ae=draw.normal(1, 0.1, 5))

    found = rates(direction("test_mse", OURS, AE), effect)
    assert found["reproduced"] > 0.95 and found["not reproduced"] < 0.01
    found = rates(direction("test_mse", AE, OURS), effect)
    assert found["not reproduced"] > 0.95 and found["reproduced"] < 0.01


def test_rate_and_sign_rules_keep_their_level_at_a_rate_of_one_half():
    right = {"order_breaks": "the test points"}
    for rule in (
        rules.rate(("nrae_q",), succeed=True, columns=right),
        rules.rate(("nrae_q",), succeed=False, columns=right),
        rules.succeeds_where_other_fails("nrae_q", "nrae_l", columns=right),
    ):
        coin = rates(rule, lambda draw: breaks(nrae_q=draw.integers(0, 2, 10), nrae_l=draw.integers(0, 2, 10)))
        assert coin["reproduced"] < rules.ALPHA + 0.02
    often = rules.rate(("nrae_q",), True, right)
    found = rates(often, lambda draw: breaks(nrae_q=(draw.random(10) > 0.97).astype(int)))
    assert found["reproduced"] > 0.9


def test_the_sign_test_counts_conditions_not_seeds():
    rule = rules.sign("test_mse", "nrae_l", "ae", within="set")

    def none(draw):
        """Each condition and method has a level of its own, shared by its seeds."""
        levels = draw.normal(1, 0.1, (5, 2))
        rows = [frame(**{name: draw.normal(level, 0.001, 10) for name, level in zip(("nrae_l", "ae"), row, strict=True)})
                for row in levels]  # fmt: skip
        return tables.across(pandas.concat([each.assign(condition=f"{n} S") for n, each in enumerate(rows)]))

    assert rates(rule, none, 100)["reproduced"] < rules.ALPHA + 0.03


def test_printed_value_keeps_its_level_although_both_sides_are_trimmed():
    def at_the_margin(draw):
        # The paper's untrimmed deviation must have been this for its trimmed one to be as printed.
        deviation, true = PRINTED["ae"].error / 0.70, PRINTED["ae"].value
        return [draw.normal(mean, deviation, 10) for mean in (true / 1.25, true)]

    def rule(drawn):
        theirs, ours = trimmed(drawn[0]), drawn[1]
        printed = replace(PRINTED["ae"], value=theirs.mean(), error=theirs.std(ddof=1))
        return rules.printed_value(printed, "test_mse", 1)(frame(ae=ours))

    assert rates(rule, at_the_margin, 400)["reproduced"] < 0.09


@pytest.mark.parametrize("shift", [1.25, 0.75])
def test_equality_within_the_margin_is_claimed_at_most_at_the_level(shift):
    def at_the_margin(draw):
        noise = draw.normal(0, 0.05, (2, 10))
        centre = 2 / (1 + shift)  # so that the difference is a quarter of the mean
        return frame(nrae_l=centre * (1 + noise[0]), nrae_q=centre * shift * (1.04 if shift > 1 else 0.96) + noise[1])

    assert rates(EQUAL, at_the_margin)["reproduced"] < rules.ALPHA + 0.02


@pytest.mark.parametrize(("beaten", "repetitions", "most"), [(0, 60, 3), (3, 200, 20)])
def test_less_than_most_is_rarely_called_most(beaten, repetitions, most):
    """All means equal: "reproduced" comes far less often than α, as four tests must agree. Where exactly three rivals are
    worse and four are equal, at most α: 10 of 200 are expected, and more than 20 have a probability below 0.001."""
    rule = rules.below_most("test_mse", OURS, BASELINES)
    level = {name: (5.0 if i < beaten else 1.0,) for i, name in enumerate(BASELINES)} | {"nrae_l": (1.0,)}
    found = [rule(by_setting(level, seed=seed))[0] for seed in range(repetitions)]
    assert found.count("reproduced") <= most
    assert beaten or found.count("not reproduced") > 10
