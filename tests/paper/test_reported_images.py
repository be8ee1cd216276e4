"""Rules about test errors of image sets decide rightly on data made to know the answer."""

import numpy as np
import pandas
import pytest

from nrae_lib.paper import images

RIVALS = ("ae", "vae", "wae", "dae", "cae", "grae", "spae")


def frame(means, deviation=0.02, seeds=4, seed=0):
    """means: method -> {setting: mean}."""
    generator = np.random.default_rng(seed)
    return pandas.DataFrame(
        [{"recipe": f"A n={setting}", "method": method, "seed": s, "n": setting,
          "test_mse": mean + deviation * generator.standard_normal()}
         for method, settings in means.items() for setting, mean in settings.items() for s in range(seeds)]
    )  # fmt: skip


def wide(means, **options):
    return images.wide(frame(means, **options), "n", "test_mse", {"A n=10": "A", "A n=20": "A"})


def means(ours, better):
    """``better`` rivals lie above our mean, the others below, at both settings."""
    rivals = {name: {10: 1.0, 20: 1.0} if i < better else {10: 0.2, 20: 0.2} for i, name in enumerate(RIVALS)}
    return {**rivals, "nrae_l": ours, "nrae_q": ours}


def test_wide_has_one_row_per_seed_and_every_number():
    table = wide({"ae": {10: 1.0, 20: 2.0}}, deviation=0.0, seeds=3)
    assert list(table.columns) == ["recipe", "method", "seed", "test_mse @ 10", "test_mse @ 20"]
    assert len(table) == 3 and set(table.recipe) == {"A"}
    assert (table["test_mse @ 10"] == 1).all() and (table["test_mse @ 20"] == 2).all()


def test_most_means_four_of_seven_at_every_setting():
    rule = images.below_most("test_mse", ("nrae_l", "nrae_q"), RIVALS)
    half = {10: 0.5, 20: 0.5}
    status, sentence = rule(wide(means(half, better=4)))
    assert status == "reproduced" and "4, 4 of 7" in sentence
    assert rule(wide(means(half, better=3)))[0] == "not reproduced"
    assert rule(wide(means({10: 0.5, 20: 1.5}, better=7)))[0] == "not reproduced", "one setting fails"
    undecided = wide(means({10: 0.95, 20: 0.95}, better=7), deviation=0.2)
    medians = undecided.groupby("method")["test_mse @ 10"].mean()
    assert (medians[list(RIVALS)] > medians["nrae_l"]).sum() >= 4, "the example must point the right way"
    assert rule(undecided)[0] in ("inconclusive", "not reproduced")
    assert rule(frame({name: {10: value[10]} for name, value in means(half, 5).items()}))[0] == "reproduced"
    assert rule(wide(means(half, better=5), deviation=0.0))[0] == "reproduced", "without spread the means decide"


def test_equal_methods_are_rarely_called_better():
    """All means equal: the chance of "reproduced" stays below α, by far, as four tests must agree."""
    rule = images.below_most("test_mse", ("nrae_l",), RIVALS)
    level = {name: {10: 1.0} for name in (*RIVALS, "nrae_l")}
    found = [rule(frame(level, seed=seed))[0] for seed in range(60)]
    assert found.count("reproduced") <= 3
    assert found.count("not reproduced") > 10


def test_three_truly_beaten_do_not_pass_for_four():
    """The error rate of the combined test where exactly three rivals are worse and four are equal: at most α."""
    rule = images.below_most("test_mse", ("nrae_l",), RIVALS)
    level = {name: {10: 5.0 if i < 3 else 1.0} for i, name in enumerate(RIVALS)} | {"nrae_l": {10: 1.0}}
    found = [rule(frame(level, seed=seed))[0] for seed in range(200)]
    assert found.count("reproduced") <= 20  # at most 10 are expected; more than 20 have a probability below 0.001


@pytest.mark.parametrize("claim", images.CLAIMS, ids=lambda claim: claim.identifier)
def test_claims_need_what_they_compare(claim):
    assert claim.paper == "NRAE" and claim.fewest >= 3 and {"nrae_l", "nrae_q"} <= set(claim.needs)


def test_steady_means_within_a_quarter_of_the_first_setting_for_every_method():
    rule = images.steady("test_mse", ("nrae_l", "nrae_q"))
    flat = {"nrae_l": {10: 1.0, 20: 1.05}, "nrae_q": {10: 2.0, 20: 1.9}}
    status, sentence = rule(wide(flat, deviation=0.01, seeds=3))
    assert status == "reproduced" and "nrae_l changes by +" in sentence
    assert rule(wide({**flat, "nrae_q": {10: 2.0, 20: 3.0}}, deviation=0.01, seeds=3))[0] == "not reproduced"
    assert rule(wide(flat, deviation=0.4, seeds=3))[0] == "inconclusive"
    assert rule(wide(flat, deviation=0.0))[0] == "reproduced"
    assert rule(wide({name: {10: 1.0} for name in flat}))[0] == "inconclusive", "one setting says nothing"


def test_what_was_not_measured_was_not_run():
    rule = images.measured("fid", images.below_most("fid", ("nrae_l",), ("ae", "cae"), sign=-1, least=1))
    rows = frame({"nrae_l": {10: 2.0}, "ae": {10: 3.0}, "cae": {10: 1.0}})
    assert rule(rows)[0] == "not run"
    assert rule(rows.assign(fid=np.nan))[0] == "not run"
    assert rule(rows.assign(fid=rows.test_mse))[0] == "reproduced", "higher than at least one"
    assert rule(rows.assign(fid=-rows.test_mse))[0] == "reproduced"
    lowest = frame({"nrae_l": {10: 0.5}, "ae": {10: 3.0}, "cae": {10: 1.0}})
    assert rule(lowest.assign(fid=lowest.test_mse))[0] == "not reproduced"


def test_one_difference_among_several_counts_only_after_bonferronis_correction():
    """Mean difference 1, deviation a, three seeds: t = √3/a with 2 degrees of freedom, p = 0.038 for t = 5, 0.003 for t = 17."""
    rule = images.steady("test_mse", ("nrae_l", "nrae_q"))

    def rows(a):
        columns = {"test_mse @ 2": 1.0, "test_mse @ 4": 1.0}
        level = [{"method": "nrae_l", "seed": seed, **columns} for seed in range(3)]
        moved = [{"method": "nrae_q", "seed": seed, **columns, "test_mse @ 4": 2 + a * (seed - 1)} for seed in range(3)]
        return pandas.DataFrame(level + moved)

    assert rule(rows(3**0.5 / 5))[0] == "inconclusive", "two tests: 2 x 0.038 is no significance"
    assert rule(rows(3**0.5 / 17))[0] == "not reproduced"


def claimed(identifier, **columns):
    """Verdicts on a claim of frames with three seeds near each method's mean; columns: measure -> {method: mean}."""
    claim = next(claim for claim in images.CLAIMS if claim.identifier == identifier)
    rows = [
        {"method": method, "seed": seed} | {name: means[method] + 0.01 * seed for name, means in columns.items()}
        for method in claim.needs for seed in range(3)
    ]  # fmt: skip
    return claim.rule(pandas.DataFrame(rows))[0]


def test_fid_is_to_be_lower_than_that_of_all():
    level = dict.fromkeys(RIVALS, 2.0)
    ours = {**level, "nrae_l": 1.0, "nrae_q": 1.0}
    assert claimed("supp-table2-fid-lower", fid=ours) == "reproduced"
    assert claimed("supp-table2-fid-lower", fid={**ours, "cae": 0.5}) == "not reproduced"


def test_no_claim_about_celeba_needs_cae():
    for claim in images.CLAIMS:
        if claim.page == "supp_table2_fid_elbo":
            assert ("cae" in claim.needs) == (not any("CELEBA" in recipe for recipe in claim.recipes))
    assert {r for c in images.CLAIMS if c.identifier.startswith("supp-table2-elbo") for r in c.recipes} >= {
        "CELEBA S",
        "MNIST L",
    }
