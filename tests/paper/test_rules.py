"""Every rule decides rightly on data made to know the answer, keeps its error rates, and is never helped by what is missing."""

import re
from functools import partial

import numpy as np
import pandas
import pytest
from scipy import stats

from nrae_lib.paper import STATUSES, images, rules, values
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
OUTLIERS = [0.0188, 0.0190, 0.0192, 0.0191, 0.0189, 0.0190, 0.0187, 0.0193, 0.0300, 0.0120]


@pytest.mark.parametrize(
    ("rule", "rows", "status", "words"),
    [
        (LOWER, frame(nrae_l=ONE, ae=spread(2, seed=1), dae=spread(3, seed=2)), "reproduced", "^[^=]*p = [^=]*p = [^=]*$"),
        (LOWER, frame(nrae_l=spread(1.2), ae=spread(2, seed=1), dae=spread(1, seed=2)), "not reproduced", ""),
        (LOWER, frame(nrae_l=spread(1, 0.5), ae=spread(2, seed=1), dae=spread(1.1, 0.5, seed=5)), "inconclusive", ""),
        # The distance to a target does not reward less than the truth.
        (TURNING, turning(nrae_l=spread(1.1, 0.05), ae=spread(2, seed=1)), "reproduced", ""),
        (TURNING, turning(nrae_l=spread(0.0, 0.01), ae=spread(1.3, 0.05, seed=1)), "not reproduced", ""),
        (VALUE, frame(ae=spread(0.0190, 0.0023)), "reproduced", "printed 1.90 ± 0.23.*8 of 10 draws"),
        (VALUE, frame(ae=spread(0.0120, 0.0023)), "not reproduced", ""),
        (VALUE, frame(ae=OUTLIERS), "reproduced", ""),
        # A mean far off with a spread so wide that nothing is significant decides nothing.
        (rules.printed_value(PRINTED["nrae_l"], "test_mse", 100), frame(nrae_l=np.exp(spread(-5, 2.0))), "inconclusive", ""),
        # Pairs are matched by seed.
        (EQUAL, frame(nrae_l=ONE, nrae_q=ONE).sample(frac=1, random_state=0), "reproduced", "exactly, bit for bit, on all 10"),
        (EQUAL, frame(nrae_l=ONE, nrae_q=ONE + spread(0, 0.01, seed=3)), "reproduced", ""),
        (EQUAL, frame(nrae_l=ONE, nrae_q=2 * ONE), "not reproduced", ""),
        (EQUAL, frame(nrae_l=ONE, nrae_q=ONE * np.exp(spread(0.1, 0.5, seed=3))), "inconclusive", ""),
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


STEADY = rules.steady("test_mse", dict.fromkeys(NRAE, 0.25))
MOST = rules.below_most("test_mse", NRAE, BASELINES)


def test_steady_means_within_a_quarter_of_the_first_setting_for_every_method_after_bonferronis_correction():
    flat, moved = ({"nrae_l": (1.0, 1.05), "nrae_q": (2.0, last)} for last in (1.9, 3.0))
    status, sentence = STEADY(wide(flat, deviation=0.01, seeds=3))
    assert status == "reproduced" and "nrae_l changes by +" in sentence
    assert STEADY(wide(moved, deviation=0.01, seeds=3))[0] == STEADY(wide(moved, deviation=0.0))[0] == "not reproduced"
    assert STEADY(wide(flat, deviation=0.4, seeds=3))[0] == "inconclusive"
    assert STEADY(wide(flat, deviation=0.0))[0] == "reproduced"
    assert STEADY(wide(dict.fromkeys(NRAE, (1.0,))))[0] == "not run", "one setting says nothing"
    without_first = wide(flat, deviation=0.01)
    without_first.insert(3, "test_mse @ 5", np.nan)
    assert STEADY(without_first)[0] == "not run"
    # Two limits and two methods: four tests, at t = 5 and 17 beyond the margin (2 degrees of freedom: p = 0.019 and 0.0017).
    rows, limit = frame("test_mse @ 2", nrae_l=[1.0] * 3, nrae_q=[1.0] * 3), np.log(1.25)
    for t_value, status in ((5, "inconclusive"), (17, "not reproduced")):
        rows["test_mse @ 4"] = [1.0] * 3 + [np.exp(limit + 1 + 3**0.5 / t_value * step) for step in (-1, 0, 1)]
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


def counts(rule, methods, simulate, seeds, metric="test_mse", repetitions=100):
    """How often each status comes out of draws (methods, seeds)."""
    generator, rows = np.random.default_rng(0), frame(metric, **{name: np.zeros(seeds) for name in methods})
    rows = rows.assign(set=rows.seed)
    found = [rule(rows.assign(**{metric: simulate(generator, seeds).ravel()}))[0] for _ in range(repetitions)]
    return {status: found.count(status) for status in STATUSES}


def rare(found, rate=rules.ALPHA):
    """Both decisions come out in no more cases than ``rate`` allows; a right rule exceeds this once in a thousand."""
    most = stats.binom.isf(1e-3, sum(found.values()), rate)
    return max(found["reproduced"], found["not reproduced"]) <= most and not found["not run"]


# Errors of typical size 1: a tenth of spread; heavy tails on one side, and on both sides of the logarithm.
LAWS = {
    "normal": lambda draw, shape: np.maximum(draw.normal(1, 0.1, shape), 0.1),
    "lognormal": lambda draw, shape: draw.lognormal(0, 0.8, shape),
    "t3": lambda draw, shape: np.exp(0.3 * draw.standard_t(3, shape)),
}


def errors(law, factors, spread=1.0):
    """Draws of methods that share a part of every seed's error; ``factors``: how many times larger each one's typical error is."""
    factors = np.array(factors)[:, None]
    return lambda draw, seeds: (
        factors * draw.lognormal(0, 0.3, seeds) * LAWS[law](draw, (len(factors), seeds)) ** spread
    )


ONE_RULE = rules.lower("test_mse", OURS, AE)
SEVEN, NINE = ("nrae_l", *BASELINES), (*NRAE, *BASELINES)
MOST_OF_ONE = rules.below_most("test_mse", OURS, BASELINES)
EVERY_EQUAL = rules.every(*(rules.equal("test_mse", name, "ae") for name in NRAE))
PAIR = ("ae", "nrae_l")
# (rule, its methods, factors): a truth at which neither decision may come often.
BORDERS = {
    "lower": (ONE_RULE, PAIR, (1, 1)),
    "lower by slack": (rules.lower("test_mse", OURS, AE, slack=0.3), PAIR, (1, 1.3)),
    "higher than fourteen": (rules.higher("test_mse", BASELINES, NRAE), NINE, [1] * 9),
    "most: three of seven": (MOST_OF_ONE, SEVEN, [1, *3 * [1e6], *4 * [1]]),
    "most: four of seven": (MOST_OF_ONE, SEVEN, [1, *3 * [1e-6], *4 * [1]]),
    "equal at the margin": (rules.equal("test_mse", *PAIR), PAIR, (1.25, 1)),
    "equal at the other": (rules.equal("test_mse", *PAIR, 0.1), PAIR, (1, 1.1)),
    "every equal": (EVERY_EQUAL, ("ae", *NRAE), (1, 1.25, 1.25)),
}


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("law", ["lognormal", "t3"])
@pytest.mark.parametrize("border", BORDERS)
def test_a_rule_that_compares_errors_is_wrong_in_five_percent_at_most(border, law, seeds):
    rule, methods, factors = BORDERS[border]
    assert rare(counts(rule, methods, errors(law, factors), seeds))


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("law", ["lognormal", "t3"])
def test_a_rule_about_one_method_is_wrong_in_five_percent_at_most(law, seeds):
    value, (low, high) = PRINTED["ae"], (1 - rules.MARGIN, 1 + rules.MARGIN)
    two = ("vae", "nrae_l", "nrae_q")
    for rule, methods, factors in (
        (rules.between("test_mse", two, low, high), two, (low, low, high)),
        (rules.printed_value(value, "test_mse", 1), AE, [value.value - 2 * value.error]),
        (rules.printed_value(value, "test_mse", 1), AE, [value.value + 2 * value.error]),
    ):
        assert rare(counts(rule, methods, errors(law, factors), seeds))


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("degrees", [1e9, 3])
@pytest.mark.parametrize("methods", [1, 8])
def test_standard_errors_at_the_limit(methods, degrees, seeds):
    """Also if one method alone has such a standard error, or eight; normal errors and heavy tails."""

    def at_the_limit(draw, seeds):
        return 1 + 0.1 * (seeds * (1 - 2 / degrees)) ** 0.5 * draw.standard_t(degrees, (methods, seeds))

    rule = rules.relative_error_below("test_mse", NINE[:methods], 0.1)
    assert rare(counts(rule, NINE[:methods], at_the_limit, seeds))


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("law", ["lognormal", "t3"])
def test_rules_over_settings_are_wrong_in_five_percent_at_most(law, seeds):
    """Five settings: nothing falls; three of seven lie above at every one; and the last one is off by the margin."""
    draw = np.random.default_rng(0)
    names = [f"test_mse @ {10 * n}" for n in range(1, 6)]
    cases = (
        (rules.falls("test_mse", NRAE), NRAE, np.ones((5, 2))),
        (rules.below_most("test_mse", NRAE, BASELINES), NINE, np.array(5 * [[1, 1, *3 * [1e6], *4 * [1]]])),
        (rules.below_most("test_mse", NRAE, BASELINES), NINE, np.array(5 * [[1, 1, *3 * [1e-6], *4 * [1]]])),
        (rules.steady("test_mse", {"ae": 0.25}), AE, np.array([[1], [1], [1.25], [1], [0.8]])),
    )
    for rule, methods, factors in cases:
        rows, found = frame("x", **{name: np.zeros(seeds) for name in methods}), []
        for _ in range(40):
            columns = zip(names, factors, strict=True)
            found.append(rule(rows.assign(**{n: errors(law, each)(draw, seeds).ravel() for n, each in columns}))[0])
        assert rare({status: found.count(status) for status in STATUSES})


@pytest.mark.parametrize("rule", [rules.rate(NRAE, True), rules.rate(NRAE, False), SIGN])
def test_counts_of_successes_at_a_rate_of_one_half(rule):
    def coins(draw, seeds):
        return draw.integers(0, 2, (2, seeds))

    def judge(rows):
        return rule(rows.assign(train_order_breaks=rows.order_breaks))

    for seeds in (6, 10):
        assert rare(counts(judge, NRAE, coins, seeds, "order_breaks", 200))


def test_signs_over_eight_sets():
    """Fourteen sign tests on methods that are all alike."""
    signs = [[rules.sign("test_mse", name, rival, "set") for rival in BASELINES] for name in NRAE]
    for rule in (rules.every(*signs[0], *signs[1]), rules.every(*(rules.most(*each) for each in signs))):
        assert rare(counts(rule, NINE, errors("t3", [1] * 9), 8, repetitions=60))


def test_ranks_of_methods_that_have_nothing_to_do_with_each_other():
    draw, found = np.random.default_rng(0), []
    for _ in range(300):
        rows = frame("test_mse", **{name: draw.random(3) + draw.random() for name in NINE[:8]})
        found.append(rules.go_together("test_mse", "elbo", NINE[:8])(rows.assign(elbo=draw.random(24)))[0])
    assert rare({status: found.count(status) for status in STATUSES})
    rows = frame("test_mse", **{name: [place + 1.0] for place, name in enumerate(NINE[:8])})
    together = rules.go_together("test_mse", "elbo", NINE[:8])
    assert [together(rows.assign(elbo=sign * rows.test_mse))[0] for sign in (-1, 1)] == ["reproduced", "not reproduced"]


@pytest.mark.parametrize(("rule", "methods", "factors", "five", "ten"), [
    (ONE_RULE, PAIR, (1.5, 0), 0.63, 0.94),
    (rules.lower("test_mse", NRAE, BASELINES), NINE, [0, 0, *7 * [3]], 0.88, 1),
    (rules.below_most("test_mse", NRAE, BASELINES), NINE, [0, 0, *4 * [3], 0, 0, 0], 0.37, 1),
    (rules.equal("test_mse", *PAIR, np.expm1(2 * 2**0.5 * 0.1)), PAIR, (0, 0), 0.95, 1),
    (rules.lower("test_mse", NRAE, BASELINES), NINE, [0, 0, -3, *6 * [3]], 0.7, 1),
    (rules.below_most("test_mse", NRAE, BASELINES), NINE, [0, 0, *4 * [-3], 0, 0, 0], 0.47, 1),
])  # fmt: skip
def test_power_is_what_the_docstrings_say_and_a_reversal_is_found_as_often(rule, methods, factors, five, ten):
    def normal(draw, seeds):
        return np.exp(0.1 * (np.array(factors)[:, None] + draw.standard_normal((len(factors), seeds))))

    for seeds, power in ((5, five), (10, ten)):
        found = counts(rule, methods, normal, seeds)
        decided = found["not reproduced" if -3 in factors else "reproduced"] / 100
        assert decided == pytest.approx(power, abs=0.15)


def test_the_power_of_the_rule_about_standard_errors_is_how_often_it_finds_a_quarter_of_the_limit():
    rule = rules.relative_error_below("test_mse", OURS, 0.1)
    for seeds in (3, 4, 6):
        found = counts(rule, OURS, lambda draw, n: 1 + 0.025 * n**0.5 * draw.standard_normal((1, n)), seeds)
        assert rule.power(seeds) == pytest.approx(found["reproduced"] / 100, abs=0.1), (seeds, found)


def test_methods_without_a_shared_seed_are_not_compared():
    rows = frame(nrae_l=ONE, ae=ONE)
    apart = rows.assign(seed=rows.seed + 10 * (rows.method == "ae"))
    for rule in (ONE_RULE, rules.equal("test_mse", *PAIR), MOST_OF_ONE, rules.between("test_mse", PAIR, low=0.5)):
        assert rule(apart)[0] == "not run" and rule(apart)[1].count(".") == 1
    assert "share no seed" in ONE_RULE(apart)[1]


def test_what_is_inconclusive_for_want_of_seeds_says_the_power():
    rows = frame(nrae_l=ONE[:5], ae=ONE[::-1][:5])
    words = "With 5 of each method one test finds a mean one standard deviation beyond the limit in 58%."
    assert words in ONE_RULE(rows)[1]
    assert "With" not in ONE_RULE(frame(nrae_l=ONE, ae=ONE[::-1]))[1], "90 % at ten"
    assert "With 6 of each method one test finds a rate of 0.9 in 53%." in RIGHT(breaks(nrae_q=[0, 0, 0, 1, 1, 1]))[1]


def test_falls_with_the_setting():
    flat, down = dict.fromkeys(NRAE, (1.0, 1.0)), {"nrae_l": (1.0, 0.8), "nrae_q": (1.0, 0.7)}
    rule = rules.falls("test_mse", NRAE)
    assert rule(wide(down))[0] == "reproduced" and "exponent nrae_l -0.3" in rule(wide(down))[1]
    assert rule(wide(flat))[0] == "inconclusive" and rule(wide(down | {"nrae_q": (0.7, 1.0)}))[0] == "not reproduced"
    assert rule(wide(dict.fromkeys(NRAE, (1.0,))))[0] == "not run", "one setting says nothing"
