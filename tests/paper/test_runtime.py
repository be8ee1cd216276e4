"""Claims about running time: frames and verdicts of measurements whose answer is known."""

import numpy as np
import pandas
import pytest

from nrae_lib import paper
from nrae_lib.paper import runtime


def noisy(milliseconds, rounds=8, seed=0):
    """Rounds around a time, with 2 % of noise."""
    return (milliseconds * np.random.default_rng(seed).normal(1, 0.02, rounds)).tolist()


def statuses(page, frame):
    verdicts = paper.judge(page, frame, "quick", tuple(frame.condition.unique()))
    return {(v.claim.identifier, v.condition): v.status for v in verdicts}


def test_verdicts_on_figure_1():
    k, d = np.array([2, 10, 50, 100]), np.array([100, 5000])
    given = {
        "neighbors": (k, {"ae": 20 + 0 * k, "nrae_l": 22 + 0 * k, "nrae_q": 23 + 0.2 * k, "spae": 20 + 3.5 * k}),
        "dimensions": (d, {"ae": d / 100, "nrae_l": d / 90, "nrae_q": d / 80, "cae": d / 40, "cae, estimate": d**1.5 / 100,
                           "spae": d / 50}),
        "full_jacobian": (np.array([50, 100]), {"ae": [10, 10], "cae": [100, 100]}),
    }  # fmt: skip
    measured = {}
    for part, (x, table) in given.items():
        times = {name: [noisy(ms, seed=place) for place, ms in enumerate(row)] for name, row in table.items()}
        measured[part] = {"values": x.tolist(), "milliseconds": times}
    frame = runtime.scaling_frame(measured)
    spae = frame[frame.method == "spae"].mean(numeric_only=True)
    assert spae[["k_exponent", "d_growth", "d_ratio"]].tolist() == pytest.approx([1, 1, 1], abs=0.1)
    assert spae.k_growth == pytest.approx(370 / 27, rel=0.1)
    assert statuses("supp_fig1_runtime_scaling", frame) == {
        ("supp-fig1-cae-dimension", "exact"): "not reproduced",
        ("supp-fig1-cae-dimension", "estimate"): "reproduced",
        ("supp-fig1-cae-dimension", "full_jacobian"): "not reproduced",
        ("supp-fig1-nrae-dimension", "library"): "reproduced",
        ("supp-fig1-spae-neighbors", "library"): "reproduced",
        ("supp-fig1-nrae-neighbors", "library"): "not reproduced",  # nrae_q was given a slope
    }
    del measured["neighbors"]
    found = statuses("supp_fig1_runtime_scaling", runtime.scaling_frame(measured))
    assert found["supp-fig1-nrae-neighbors", "library"] == found["supp-fig1-spae-neighbors", "library"] == "not run"


def test_verdicts_on_table_1():
    given = {
        "ae": 10, "ae, plain": 20, "ae, released": 25, "vae": 12, "nrae_l": 18, "nrae_q": 19, "topoae": 17,
        "nrae_l, released": 45, "nrae_q, released": 90,
    }  # fmt: skip
    times = pandas.DataFrame({name: noisy(ms, seed=place) for place, (name, ms) in enumerate(given.items())})
    frame = runtime.step_frame(times)
    ratios = frame.groupby(["condition", "method"]).ratio.mean()
    assert ratios["plain", "nrae_l"] == pytest.approx(0.9, rel=0.03)
    assert ratios["released", "nrae_q"] == pytest.approx(3.6, rel=0.03)
    found = statuses("supp_table1_runtime", frame)
    assert {key: status for key, status in found.items() if "ratio-nrae" in key[0]} == {
        ("supp-table1-ratio-nrae_l", "library"): "reproduced",
        ("supp-table1-ratio-nrae_l", "plain"): "not reproduced",
        ("supp-table1-ratio-nrae_l", "released"): "reproduced",
        ("supp-table1-ratio-nrae_q", "library"): "reproduced",
        ("supp-table1-ratio-nrae_q", "plain"): "not reproduced",
        ("supp-table1-ratio-nrae_q", "released"): "not reproduced",
    }
    assert found["supp-table1-ratio-vae", "library"] == "reproduced"
    assert found["supp-table1-ratio-topoae", "library"] == "not reproduced"
    assert found["supp-table1-below-topoae", "library"] == "not reproduced"  # nrae_q is slower than topoae here
    without = runtime.step_frame(times[["ae", "nrae_l", "nrae_q"]])
    assert statuses("supp_table1_runtime", without)["supp-table1-below-topoae", "library"] == "not run"
    few = paper.judge("supp_table1_runtime", frame[frame.seed < 5], "smoke", ("released",))
    assert {v.status for v in few} == {"inconclusive"} and all(
        "5 round(s); at least 6 decide. With 5" in v.statistics for v in few
    )
