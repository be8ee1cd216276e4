"""Stored verdicts for the scoreboard; and rules on simulated data keep the error rates they state."""

import json

import numpy as np
import pandas
import pytest

from nrae_lib import paper
from nrae_lib.paper import Verdict

CLAIM = next(claim for claim in paper.CLAIMS if claim.identifier == "fig8-right")


def verdict(status="reproduced", recipe="rotated 3"):
    return Verdict(CLAIM, recipe, "paper", status, "p = 0.01.")


def test_verdicts_come_back_and_differences_are_seen(tmp_path):
    paper.save(CLAIM.page, [verdict(), verdict("inconclusive", "shifted 7")], tmp_path)
    assert paper.load(paper.CLAIMS, tmp_path) == [verdict(), verdict("inconclusive", "shifted 7")]
    assert paper.agree([verdict("inconclusive", "shifted 7"), verdict()], tmp_path)
    assert not paper.agree([verdict("not reproduced"), verdict("inconclusive", "shifted 7")], tmp_path)
    assert paper.agree([verdict()], tmp_path) and not paper.agree([verdict(recipe="another")], tmp_path)
    assert paper.load(paper.CLAIMS, tmp_path / "nothing") == []


def test_a_damaged_file_is_named_and_verdicts_on_dropped_claims_are_left_out(tmp_path):
    paper.save(CLAIM.page, [verdict()], tmp_path)
    path = tmp_path / f"{CLAIM.page}.json"
    entries = json.loads(path.read_text())
    path.write_text(json.dumps([*entries, {**entries[0], "claim": "no longer a claim"}]))
    assert paper.load([CLAIM], tmp_path) == [verdict()]
    path.write_text(path.read_text()[:30])
    with pytest.raises(ValueError, match=f"{CLAIM.page}.json cannot be read"):
        paper.load([CLAIM], tmp_path)


def frame(**columns):
    """method -> {metric: values} as a frame of one recipe."""
    return pandas.concat(
        [pandas.DataFrame(values).assign(method=method, seed=range(len(next(iter(values.values())))), recipe="paper")
         for method, values in columns.items()]
    )  # fmt: skip


def rates(rule, simulate, repetitions=200):
    generator = np.random.default_rng(0)
    found = [rule(simulate(generator))[0] for _ in range(repetitions)]
    return {status: found.count(status) / repetitions for status in paper.STATUSES}


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("direction", [paper.lower, paper.higher])
def test_no_effect_is_called_reproduced_at_most_at_the_level(seeds, direction):
    rule = direction("mse", ("nrae_l",), ("ae",))

    def none(generator):
        return frame(nrae_l={"mse": generator.normal(1, 0.1, seeds)}, ae={"mse": generator.normal(1, 0.3, seeds)})

    found = rates(rule, none)
    assert found["reproduced"] < paper.ALPHA + 0.03 and found["not reproduced"] < paper.ALPHA + 0.03


def test_every_further_rival_makes_a_wrong_verdict_rarer_not_likelier():
    rule = paper.lower("mse", ("nrae_l", "nrae_q"), ("ae", "cae"))

    def none(generator):
        return frame(**{name: {"mse": generator.normal(1, 0.1, 5)} for name in ("nrae_l", "nrae_q", "ae", "cae")})

    assert rates(rule, none)["reproduced"] < 0.02


@pytest.mark.parametrize(("direction", "better"), [(paper.lower, 0.7), (paper.higher, 1.3)])
def test_an_effect_of_three_deviations_is_found_with_five_seeds(direction, better):
    rule = direction("mse", ("nrae_l",), ("ae",))

    def effect(generator):
        return frame(nrae_l={"mse": generator.normal(better, 0.1, 5)}, ae={"mse": generator.normal(1, 0.1, 5)})

    found = rates(rule, effect)
    assert found["reproduced"] > 0.95 and found["not reproduced"] < 0.01
    opposite = direction("mse", ("ae",), ("nrae_l",))
    found = rates(opposite, effect)
    assert found["not reproduced"] > 0.95 and found["reproduced"] < 0.01


def test_rate_and_sign_rules_keep_their_level_at_a_rate_of_one_half():
    right = {"order_breaks": "the test points"}
    for rule in (
        paper.rate(("nrae_q",), succeed=True, columns=right),
        paper.rate(("nrae_q",), succeed=False, columns=right),
        paper.succeeds_where_other_fails("nrae_q", "nrae_l", columns=right),
    ):

        def coin(generator):
            return frame(**{name: {"order_breaks": generator.integers(0, 2, 10)} for name in ("nrae_q", "nrae_l")})

        assert rates(rule, coin)["reproduced"] < paper.ALPHA + 0.02

    def often(generator):
        return frame(nrae_q={"order_breaks": (generator.random(10) > 0.97).astype(int)})

    assert rates(paper.rate(("nrae_q",), True, right), often)["reproduced"] > 0.9


def test_the_sign_test_counts_conditions_not_seeds():
    rule = paper.sign("mse", "nrae_l", "ae", within="n")

    def none(generator):
        rows = [
            {"n": n, "method": method, "seed": seed, "mse": level + generator.normal(0, 0.001)}
            for n in range(5)
            for method in ("nrae_l", "ae")
            for level in [
                generator.normal(1, 0.1)
            ]  # each condition and method has a level of its own, shared by its seeds
            for seed in range(10)
        ]
        return pandas.DataFrame(rows)

    assert rates(rule, none)["reproduced"] < paper.ALPHA + 0.03
    rows = [
        {"n": n, "method": method, "seed": 0, "mse": mse}
        for n in range(5)
        for method, mse in (("nrae_l", 1), ("ae", 2))
    ]
    status, sentence = rule(pandas.DataFrame(rows))
    assert status == "reproduced" and "on 5 of 5" in sentence
    assert paper.sign("mse", "nrae_l", "ae", "n", lower_is_better=False)(pandas.DataFrame(rows))[0] == "not reproduced"


@pytest.mark.parametrize("shift", [1.25, 0.75])
def test_equality_within_the_margin_is_claimed_at_most_at_the_level(shift):
    rule = paper.equal("mse", "nrae_l", "nrae_q")

    def at_the_margin(generator):
        noise = generator.normal(0, 0.05, (2, 10))
        centre = 2 / (1 + shift)  # so that the difference is a quarter of the mean
        return frame(
            nrae_l={"mse": centre * (1 + noise[0])},
            nrae_q={"mse": centre * shift * (1.04 if shift > 1 else 0.96) + noise[1]},
        )

    assert rates(rule, at_the_margin)["reproduced"] < paper.ALPHA + 0.02
