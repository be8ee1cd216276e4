"""The printed numbers are complete, and every verdict rule decides rightly on data made to know the answer."""

import numpy as np
import pandas
import pytest

from nrae_lib import paper
from nrae_lib.core import methods

SETS = ("mnist", "fmnist", "kmnist", "omniglot", "svhn", "cifar10", "cifar100", "celeba")


def frame(metric="test_mse", recipe="paper", **values):
    return pandas.DataFrame(
        [{"recipe": recipe, "method": method, "seed": seed, metric: value}
         for method, numbers in values.items() for seed, value in enumerate(numbers)]
    ).assign(**({"train_order_breaks": lambda rows: rows.order_breaks} if metric == "order_breaks" else {}))  # fmt: skip


def spread(mean, deviation=0.1, count=10, seed=0):
    return mean + deviation * np.random.default_rng(seed).standard_normal(count)


def test_table_1_is_the_papers():
    values = {value.method: (value.value, value.error) for value in paper.values("nrae", "table1", "sine")}
    assert len(values) == 9
    assert values["ae"] == (1.9, 0.23) and values["nrae_l"] == (0.29, 0.06) and values["nrae_q"] == (0.30, 0.07)


@pytest.mark.parametrize(
    ("table", "keys", "count"),
    [
        ("table2", [(name, "") for name in ("mnist", "cifar10")], 36),
        ("table3", [(name, size) for name in SETS for size in "SL"], 142),
        ("table4", [(name, "S") for name in ("mnist", "cifar10")], 34),
        ("table5", [(name, "S") for name in ("mnist", "cifar10")], 16),
        ("supp_table2", [(name, size) for name in SETS for size in "SL"], 188),
        ("supp_table3", [(name, "S") for name in SETS], 63),
    ],
)
def test_every_cell_of_the_tables_on_images_is_there(table, keys, count):
    """Each method, metric and set once; errors beside the table of errors only, and all of a size that can be."""
    found = [(key, value) for key in keys for value in paper.values("nrae", table, *key)]
    assert len(found) == len({(key, value.method, value.metric) for key, value in found}) == count
    for (name, _), value in found:
        assert (value.error is not None) == (table == "supp_table3")
        assert (name, value.method) != ("celeba", "cae")
        if value.metric == "test_mse":
            assert 0.001 < value.value < 0.04 and (value.error or 0) < 0.1 * value.value


@pytest.mark.parametrize(("paper", "count"), [("nrae", 505), ("iae", 66), ("eae", 90)])
def test_every_printed_row_reads(paper, count):
    import csv
    from pathlib import Path

    with open(Path(paper.__file__).parent / f"{paper}.csv", newline="", encoding="utf-8") as file:
        rows = [list(row.values()) for row in csv.DictReader(file)]
    assert len(rows) == count
    read = sum(len(paper.values(paper, *key)) for key in {tuple(row[:3]) for row in rows})
    assert read == count


def test_unknown_tables_are_refused_with_the_valid_ones():
    with pytest.raises(ValueError, match="unknown paper 'vae': choose one of nrae, iae, eae"):
        paper.values("vae", "table1", "sine")
    with pytest.raises(ValueError, match=r"choose among .*table1/sine"):
        paper.values("nrae", "table9", "sine")


def test_lower_needs_every_rival_beaten():
    rule = paper.lower("test_mse", ("nrae_l",), ("ae", "dae"))
    status, sentence = rule(frame(nrae_l=spread(1), ae=spread(2, seed=1), dae=spread(3, seed=2)))
    assert status == "reproduced" and sentence.count("p = ") == 2
    worse = frame(nrae_l=spread(1.2), ae=spread(2, seed=1), dae=spread(1, seed=2))
    assert rule(worse)[0] == "not reproduced"
    undecided = frame(nrae_l=spread(1, 0.5), ae=spread(2, seed=1), dae=spread(1.1, 0.5, seed=0))
    assert rule(undecided)[0] == "inconclusive"
    assert rule(frame(nrae_l=[1.0] * 6, ae=[1.0] * 6, dae=[2.0] * 6))[0] == "not reproduced"
    assert rule(frame(nrae_l=[1.0] * 6, ae=[1.5] * 6, dae=[2.0] * 6))[0] == "reproduced"


def test_lower_with_a_target_does_not_reward_less_than_the_truth():
    rule = paper.lower("total_turning", ("nrae_l",), ("ae",), target=1.0)
    assert rule(frame("total_turning", nrae_l=spread(1.1, 0.05), ae=spread(2, seed=1)))[0] == "reproduced"
    assert rule(frame("total_turning", nrae_l=spread(0.0, 0.01), ae=spread(1.3, 0.05, seed=1)))[0] == "not reproduced"


def value_rule(method="ae"):
    return paper.printed_value(method, ("table1", "sine"), "mse_x100", "test_mse", 100)


def test_printed_value_compares_trimmed_runs_with_the_paper():
    status, sentence = value_rule()(frame(ae=spread(0.0190, 0.0023)))
    assert status == "reproduced" and "printed 1.90 ± 0.23" in sentence and "8 of 10 draws" in sentence
    assert value_rule()(frame(ae=spread(0.0120, 0.0023)))[0] == "not reproduced"
    outliers = np.array([0.0188, 0.0190, 0.0192, 0.0191, 0.0189, 0.0190, 0.0187, 0.0193, 9.0, 0.0])
    assert value_rule()(frame(ae=outliers))[0] == "reproduced"


def test_noise_is_not_agreement():
    """A mean far off with a spread so wide that nothing is significant decides nothing."""
    assert value_rule("nrae_l")(frame(nrae_l=spread(0.03, 0.06)))[0] == "inconclusive"


def test_printed_value_keeps_its_level():
    """Under a true mean at the margin "reproduced" comes in at most about 5 % of repetitions, although both sides
    are trimmed."""
    generator, wrong = np.random.default_rng(0), 0
    printed = next(v for v in paper.values("nrae", "table1", "sine") if v.method == "ae")
    # What the paper's untrimmed deviation must have been for its trimmed one to be as printed.
    deviation, true = printed.error / 0.70, printed.value
    for _ in range(400):
        paper = paper.trimmed(generator.normal(true / 1.25, deviation, 10))
        ours = paper.trimmed(generator.normal(true, deviation, 10))
        error = paper.rules._TRIMMED_ERROR * (paper.var(ddof=1) + ours.var(ddof=1)) ** 0.5
        from scipy.stats import t

        wrong += t.sf((0.25 * paper.mean() - abs(ours.mean() - paper.mean())) / error, 14) < 0.05
    assert wrong / 400 < 0.09


def test_trimmed_drops_highest_and_lowest_of_ten_only():
    assert paper.trimmed(range(10)).tolist() == list(range(1, 9))
    assert paper.trimmed([3, 1, 2]).tolist() == [1, 2, 3]


def test_equal_tells_identity_from_agreement_from_difference():
    rule = paper.equal("test_mse", "nrae_l", "nrae_q")
    values = spread(1)
    assert "agree exactly" in rule(frame(nrae_l=values, nrae_q=values))[1]
    assert rule(frame(nrae_l=values, nrae_q=values + spread(0, 0.01, seed=3)))[0] == "reproduced"
    assert rule(frame(nrae_l=values, nrae_q=2 * values))[0] == "not reproduced"
    assert rule(frame(nrae_l=values, nrae_q=values + spread(0.1, 0.5, seed=3)))[0] == "inconclusive"
    assert rule(frame(nrae_l=[1.0] * 6, nrae_q=[100.0] * 6))[0] == "not reproduced"


def test_pairs_are_matched_by_seed():
    both = frame(nrae_l=range(1, 11), nrae_q=range(1, 11)).drop(index=3)
    assert "all 9 draws" in paper.equal("test_mse", "nrae_l", "nrae_q")(both)[1]


def test_rate_counts_seeds_without_breaks():
    rule = paper.rate(("nrae_q",), succeed=True)
    status, sentence = rule(frame("order_breaks", nrae_q=[0] * 9 + [2]))
    assert status == "reproduced" and "9 of 10" in sentence
    assert rule(frame("order_breaks", nrae_q=[0] * 7 + [1] * 3))[0] == "inconclusive"
    assert rule(frame("order_breaks", nrae_q=[0] * 5 + [1] * 5))[0] == "inconclusive"
    assert rule(frame("order_breaks", nrae_q=[0] * 1 + [1] * 9))[0] == "not reproduced"
    fails = paper.rate(("ae", "dae"), succeed=False)
    assert fails(frame("order_breaks", ae=[1] * 10, dae=[3] * 9 + [0]))[0] == "reproduced"
    assert fails(frame("order_breaks", ae=[1] * 10, dae=[0] * 10))[0] == "not reproduced"


def test_the_two_ways_to_read_the_order_must_agree():
    rule = paper.rate(("nrae_q",), succeed=True)
    strict_only = frame("order_breaks", nrae_q=[0] * 10).assign(train_order_breaks=[1] * 10)
    status, sentence = rule(strict_only)
    assert status == "inconclusive" and "10 of 10" in sentence and "0 of 10" in sentence


def test_sign_test_looks_at_seeds_that_differ():
    rule = paper.succeeds_where_other_fails("nrae_q", "nrae_l")
    assert rule(frame("order_breaks", nrae_q=[0] * 8, nrae_l=[1] * 8))[0] == "reproduced"
    status, sentence = rule(frame("order_breaks", nrae_q=[0] * 8, nrae_l=[0] * 8))
    assert status == "inconclusive" and "p = 1" in sentence
    assert rule(frame("order_breaks", nrae_q=[1] * 8, nrae_l=[0] * 8))[0] == "not reproduced"
    assert rule(frame("order_breaks", nrae_q=[0] * 8, nrae_l=[0] * 6 + [1] * 2))[0] == "inconclusive"


def test_few_seeds_are_inconclusive_and_missing_methods_not_run():
    few = frame("order_breaks", nrae_q=[0, 0], nrae_l=[1, 1])
    verdicts = {v.claim.identifier: v for v in paper.judge("fig7_swissroll", few, "quick", ("paper",))}
    assert verdicts["fig7-q-right"].status == "inconclusive" and "2 seed(s)" in verdicts["fig7-q-right"].statistics
    assert verdicts["fig7-baselines-wrong"].status == "not run"
    empty = paper.judge("fig7_swissroll", pandas.DataFrame(), "paper", ("paper", "released"))
    assert {v.status for v in empty} == {"not run"} and {v.recipe for v in empty} == {"paper", "released"}


def test_every_rule_survives_a_single_seed():
    """Few seeds must end in a verdict, not in an error, and never in a test on one number."""
    everyone = {name: [1.0] for name in ("ae", "vae", "wae", "dae", "cae", "grae", "spae", "nrae_l", "nrae_q")}
    one = frame(**everyone).assign(order_breaks=1.0, train_order_breaks=0.0, total_turning=1.0)
    for page in ("fig4_sine", "table1_sine", "fig7_swissroll"):
        assert {v.status for v in paper.judge(page, one, "quick", ("paper",))} == {"inconclusive"}


def test_a_seed_counted_twice_is_refused():
    twice = frame("order_breaks", nrae_q=[0] * 3)
    with pytest.raises(ValueError, match="two results of nrae_q, recipe paper, seed 0"):
        paper.judge("fig7_swissroll", pandas.concat([twice, twice]), "paper", ("paper",))


def test_claims_are_about_pages_and_methods_that_can_exist():
    from pathlib import Path

    pages = {path.stem for path in (Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb")}
    identifiers = [claim.identifier for claim in paper.CLAIMS]
    assert len(set(identifiers)) == len(identifiers)
    for claim in paper.CLAIMS:
        valid = ("wrong order", "overfitting", "right") if claim.page == "fig3_loss_cases" else methods.CATALOGUE
        assert claim.page in pages and set(claim.needs) <= set(valid)


def test_every_claim_reaches_the_scoreboard():
    """Its page stores its verdicts at full scale, or the scoreboard judges them itself."""
    from pathlib import Path

    notebooks = Path(__file__).resolve().parents[2] / "notebooks"
    scoreboard = (notebooks / "scoreboard.ipynb").read_text(encoding="utf-8")
    for page in {claim.page for claim in paper.CLAIMS}:
        source = (notebooks / f"{page}.ipynb").read_text(encoding="utf-8")
        assert "study_verdicts(" in source or "reported.save(" in source or f'\\"{page}\\"' in scoreboard, page
