"""The measuring core is checked with clocks whose answer is known; nothing here asserts how long anything takes."""

import sys

import numpy as np
import pytest
import torch

from nrae_lib import paper, runs
from nrae_lib.core import methods
from nrae_lib.core.models import Network
from nrae_lib.pages import timing

TINY = Network((12, 8), 2, "elu")


def bench(**options):
    return timing.Bench(TINY, 6, 10, points=40, **options)


def test_everyone_takes_one_turn_per_round_and_the_first_round_does_not_count():
    calls = []

    def stepper(name, seconds):
        return lambda: calls.append(name) or next(seconds)

    steppers = {"a": stepper("a", iter([9.0, 1, 2, 3])), "b": stepper("b", iter([9.0, 2, 4, 6]))}
    times = timing.take_turns(steppers, rounds=3)
    assert times.seconds["a"].tolist() == [1, 2, 3] and times.seconds["b"].tolist() == [2, 4, 6]
    assert all({*calls[start : start + 2]} == {"a", "b"} for start in range(0, 8, 2))
    many = {str(name): stepper(str(name), iter(range(99))) for name in range(6)}
    calls.clear()
    timing.take_turns(many, rounds=2, warm_up=False)
    assert len(calls) == 12 and calls[:6] != calls[6:], "every round has an order of its own"
    with pytest.raises(ValueError, match="rounds must be at least 1, not 0"):
        timing.take_turns(many, rounds=0)


def test_what_slows_a_whole_round_leaves_ratios_alone():
    drift = np.array([1.0, 1.1, 30.0, 2.0, 1.2])
    times = timing.Times({"slow": 3 * drift, "fast": drift})
    assert times.ratio("slow", "fast") == (3, 3, 3)
    assert times.milliseconds("fast") == 1200
    assert timing.Times({"a": np.arange(1.0, 6), "b": np.ones(5)}).ratio("a", "b") == (3, 2, 4)


def test_slope_and_its_interval():
    generator = np.random.default_rng(0)
    x = np.array([100, 500, 1000, 5000])
    line = timing.slope(x, 3 + 0.5 * x + generator.normal(0, 20, (30, 4)))
    assert line.low < 0.5 < line.high and line.high - line.low < 0.02
    assert timing.slope(x, np.tile(2.0 * x, (3, 1))) == pytest.approx((2, 2, 2))


def test_peak_memory_is_what_is_held_at_once():
    device = torch.device("cpu")
    million = 2**20

    def one_after_the_other():
        for _ in range(3):
            torch.empty(million, dtype=torch.float32).fill_(1)

    def together():
        return [torch.empty(million, dtype=torch.float32).fill_(1) for _ in range(3)]

    assert timing.peak_megabytes(one_after_the_other, device) == pytest.approx(4 * million / 1e6, rel=0.01)
    assert timing.peak_megabytes(together, device) == pytest.approx(12 * million / 1e6, rel=0.01)


def test_a_step_does_its_work_but_moves_nothing():
    here = bench(steps=3)
    turn = here.stepper(methods.get("nrae_q").objective)
    ((model, optimizer),) = here._models.values()
    before = [parameter.clone() for parameter in model.parameters()]
    seen = []
    optimizer.register_step_post_hook(lambda *_: seen.append(model.decoder[0].weight.grad.abs().sum().item()))
    with timing.threads(1):
        assert turn() > 0
    assert len(seen) == 3 and min(seen) > 0
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


def test_the_first_step_weighs_as_much_as_the_second():
    here = bench()
    turn = here.stepper(methods.get("ae").objective)
    first, second = (timing.peak_megabytes(turn, here.device) for _ in range(2))
    assert first == pytest.approx(second, rel=0.2)  # Adam's moments, twice the weights, belong to neither


def test_objectives_of_one_form_share_a_model():
    here = bench()
    for name in ("ae", "nrae_q", "spae", "grae"):
        here.stepper(methods.get(name).objective)
    assert len(here._models) == 1
    here.stepper(methods.get("vae").objective)
    here.stepper(methods.get("ae").objective, fused=False)
    assert len(here._models) == 3


def test_threads_and_subnormal_numbers_are_put_back():
    def is_flushed():
        return float(torch.tensor(1e-310, dtype=torch.float64) * 1) == 0

    before = torch.get_num_threads(), is_flushed()
    with pytest.raises(RuntimeError), timing.threads(1):
        assert torch.get_num_threads() == 1 and is_flushed()
        raise RuntimeError
    assert (torch.get_num_threads(), is_flushed()) == before


@pytest.mark.parametrize("network", [TINY, Network((12,), 3, "relu", "sigmoid")], ids=["curved", "relu"])
def test_all_formulations_are_one_loss(network):
    timing.check_formulations(network)


def test_a_wrong_formulation_is_noticed(monkeypatch):
    def without_neighbours(objective, batch, prepared):
        return (batch.x - batch.model(batch.x)).square().mean()

    monkeypatch.setattr(timing, "_nested_jvp", without_neighbours)
    with pytest.raises(AssertionError, match="nrae_l, nested jvp"):
        timing.check_formulations(TINY)


def test_the_full_jacobian_is_the_exact_penalty():
    here = bench(dtype=torch.float64)
    model = timing.FULL_JACOBIAN.build(TINY, (6,), seed=0).double()
    losses = [
        objective.loss(methods.Batch(model, here.data, torch.arange(10), torch.Generator()), prepared)
        for objective in (timing.FULL_JACOBIAN, methods.get("cae").configure(jacobian="exact"))
        for prepared in [dict.fromkeys(objective.terms)]
    ]
    torch.testing.assert_close(*losses)


@pytest.fixture
def tiny_networks(monkeypatch):
    monkeypatch.setattr(timing, "NETWORKS", {"tiny": (TINY, 6, 10)})
    monkeypatch.setattr(timing, "scaling_network", lambda latent_dim=2: Network((12, 8), latent_dim))


def test_every_method_is_measured_and_the_rounds_can_be_read_back(tiny_networks):
    measured = timing.measure_methods(2, preparation_points=0)
    steps = measured["networks"]["tiny"]["steps"]
    assert set(methods.CATALOGUE) | set(timing.formulations()) <= set(steps)
    assert {f"ae+{name}" for name in ("isometry", "entropy")} <= set(steps)
    assert measured["clock"] == "processor" and measured["threads"] == "1"
    assert all(
        row["milliseconds"] > 0 and row["peak_megabytes"] >= 0 and len(row["rounds"]) == 2 for row in steps.values()
    )
    times = timing.times_of(steps)
    for name in ("nrae_q", "vae"):
        assert times.ratio(name, "ae").median == pytest.approx(steps[name]["ratio"], rel=0.01)


def test_preparation_is_timed_without_what_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "phate", None)
    seconds = timing.measure_preparation(40, 3, 2)
    assert {"graph", "barycenter", "relational"} <= set(seconds) and "phate" not in seconds
    assert timing.measure_preparation(0, 3, 2) == {}


def test_preparation_never_reads_a_graph_from_the_disk(monkeypatch):
    from nrae_lib.core.methods import terms

    monkeypatch.setitem(sys.modules, "phate", None)
    monkeypatch.setattr(terms, "cached_knn_graph", lambda *_, **__: pytest.fail("a stored graph takes no time"))
    timing.measure_preparation(40, 3, 2)


def test_scaling_is_measured_in_all_its_parts(tiny_networks):
    measured = timing.measure_scaling(
        2, dimensions=(5, 9), neighbors=(2, 4, 8), latent_dims=(2, 3), full_jacobian=(5, 9), full_jacobian_rounds=1,
        batch_size=10,
    )  # fmt: skip
    part = measured["dimensions"]
    assert part["values"] == [5, 9] and set(part["milliseconds"]) == {
        "ae", "cae", "cae, estimate", "grae", "spae", "nrae_l", "nrae_q",
    }  # fmt: skip
    assert np.shape(part["milliseconds"]["spae"]) == (2, 2) and np.shape(part["peak_megabytes"]["spae"]) == (2,)
    assert set(measured["neighbors"]["milliseconds"]) == {"ae", "spae", "nrae_l", "nrae_q"}
    assert measured["neighbors"]["peak_megabytes"]["spae"][2] > measured["neighbors"]["peak_megabytes"]["spae"][0]
    assert set(measured["latent_dims"]["milliseconds"]) == {"ae", "cae", "cae, estimate"}
    assert set(measured["full_jacobian"]["milliseconds"]) == {"ae", "cae"}
    frame = timing.scaling_frame(measured)
    assert set(frame.condition) == {"library", "exact", "estimate", "full_jacobian"}
    few = timing.measure_scaling(1, names=("nrae_q",), dimensions=(5, 9), batch_size=10)
    assert set(few["dimensions"]["milliseconds"]) == {"ae", "nrae_q"} and "neighbors" not in few
    assert len(timing.scaling_frame({"dimensions": {}})) == 0


def noisy(milliseconds, rounds=8, seed=0):
    """Rounds around a time, with 2 % of noise."""
    return (milliseconds * np.random.default_rng(seed).normal(1, 0.02, rounds)).tolist()


def statuses(page, frame):
    conditions = tuple(frame.condition.unique())
    return {(v.claim.identifier, v.condition): v.status for v in paper.judge(page, frame, "quick", conditions)}


def test_verdicts_on_figure_1():
    k, d = np.array([2, 10, 50, 100]), np.array([100, 5000])
    neighbors = {"ae": 20 + 0 * k, "nrae_l": 22 + 0 * k, "nrae_q": 23 + 0.2 * k, "spae": 20 + 3.5 * k}
    dimensions = {
        "ae": d / 100, "nrae_l": d / 90, "nrae_q": d / 80, "cae": d / 40, "cae, estimate": d**1.5 / 100, "spae": d / 50,
    }  # fmt: skip
    measured = {
        part: {"values": x.tolist(), "milliseconds": {
            name: [noisy(ms, seed=place) for place, ms in enumerate(times)] for name, times in table.items()
        }}
        for part, x, table in (("neighbors", k, neighbors), ("dimensions", d, dimensions))
    }  # fmt: skip
    measured["full_jacobian"] = {"values": [50, 100], "milliseconds": {"ae": [noisy(10)] * 2, "cae": [noisy(100)] * 2}}
    frame = timing.scaling_frame(measured)
    spae = frame[frame.method == "spae"]
    assert spae.k_exponent.mean() == pytest.approx(1, abs=0.1) and spae.k_growth.mean() == pytest.approx(
        370 / 27, rel=0.1
    )
    assert spae.d_growth.mean() == pytest.approx(1, abs=0.1)
    found = statuses("supp_fig1_runtime_scaling", frame)
    assert found == {
        ("supp-fig1-cae-dimension", "exact"): "not reproduced",
        ("supp-fig1-cae-dimension", "estimate"): "reproduced",
        ("supp-fig1-cae-dimension", "full_jacobian"): "not reproduced",
        ("supp-fig1-nrae-dimension", "library"): "reproduced",
        ("supp-fig1-spae-neighbors", "library"): "reproduced",
        ("supp-fig1-nrae-neighbors", "library"): "not reproduced",  # nrae_q was given a slope
    }
    del measured["neighbors"]
    found = statuses("supp_fig1_runtime_scaling", timing.scaling_frame(measured))
    assert found["supp-fig1-nrae-neighbors", "library"] == found["supp-fig1-spae-neighbors", "library"] == "not run"


def test_verdicts_on_table_1():
    given = {
        "ae": 10, "ae, plain": 20, "ae, released": 25, "vae": 12, "nrae_l": 18, "nrae_q": 19, "topoae": 17,
        "nrae_l, released": 45, "nrae_q, released": 90,
    }  # fmt: skip
    steps = {name: {"rounds": noisy(ms, seed=place)} for place, (name, ms) in enumerate(given.items())}
    frame = timing.step_frame(steps)
    ratios = frame.groupby(["condition", "method"]).ratio.mean()
    assert ratios["plain", "nrae_l"] == pytest.approx(0.9, rel=0.03)
    assert ratios["released", "nrae_q"] == pytest.approx(3.6, rel=0.03)
    found = statuses("supp_table1_runtime", frame)
    assert {key: status for key, status in found.items() if key[0].startswith("supp-table1-ratio-nrae")} == {
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
    without = timing.step_frame({name: steps[name] for name in ("ae", "nrae_l", "nrae_q")})
    assert statuses("supp_table1_runtime", without)["supp-table1-below-topoae", "library"] == "not run"


def test_one_round_decides_nothing():
    steps = {name: {"rounds": [1.8]} for name in timing.formulations()}
    verdicts = paper.judge("supp_table1_runtime", timing.step_frame(steps), "smoke", ("library",))
    assert {v.status for v in verdicts} <= {"inconclusive", "not run"}
    assert any("1 round(s); at least 6 decide" in v.statistics for v in verdicts)


def test_between_needs_significance_on_every_side():
    def rule(center, spread, **bounds):
        frame = timing.step_frame({"ae": {"rounds": [1.0] * 8}, "vae": {"rounds": noisy(center)}})
        if spread:
            frame["ratio"] = np.exp(np.random.default_rng(1).normal(np.log(center), spread, len(frame)))
        return paper.rules.between("ratio", ("vae",), **bounds)(frame[frame.method == "vae"])[0]

    assert rule(1.0, 0, low=0.75, high=1.25) == "reproduced"
    assert rule(1.0, 1.0, low=0.75, high=1.25) == "inconclusive"
    assert rule(2.0, 0, low=0.75, high=1.25) == rule(0.5, 0, low=0.75) == "not reproduced"
    assert rule(0.5, 0, high=1.25) == "reproduced"
    exact = timing.step_frame({"ae": {"rounds": [1.0] * 8}})
    assert paper.rules.between("ratio", ("ae",), low=0.75, high=1.25)(exact)[0] == "reproduced"
    assert paper.rules.between("ratio", ("ae",), low=1.25)(exact)[0] == "not reproduced"


def test_one_file_per_device(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "project_root", lambda: tmp_path)
    for device in ("CPU (AMD EPYC)", "NVIDIA H200"):
        path = timing.store("methods", {"device": device, "networks": {}})
    assert path == tmp_path / "results" / "step_time" / "nvidia-h200.json"
    assert timing.store("scaling", {"device": "NVIDIA H200"}).parent.name == "scaling"
    assert [one["device"] for one in timing.stored("methods")] == ["CPU (AMD EPYC)", "NVIDIA H200"]
    assert timing.stored("scaling") == [{"device": "NVIDIA H200"}] and timing.stored("other") == []


def test_a_device_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="device 'tpu' cannot be used"):
        runs.find_device("tpu")
    assert runs.find_device("cpu") == "cpu"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_steps_and_memory_on_a_gpu():
    here = timing.Bench(TINY, 6, 10, device="cuda", points=40)
    assert here.steps == 20
    turn = here.stepper(methods.get("nrae_q").objective)
    times = timing.take_turns({"nrae_q": turn}, rounds=2)
    assert times.milliseconds("nrae_q") > 0 and timing.peak_megabytes(turn, here.device) > 0
    assert timing.provenance("cuda", 1)["clock"] == "wall"


def test_the_page_of_methods_says_what_ae_takes_without_the_kernels():
    from nrae_lib import pages

    steps = {
        name: {"ratio": ratio} for name, ratio in {"ae": 1.0, "ae, plain": 1.5, "nrae_l": 1.6, "nrae_q": 1.8}.items()
    }
    sentence = pages.cost_sentences(methods.CATALOGUE, [{"device": "CPU", "networks": {"wide": {"steps": steps}}}])
    assert "take about 1.60 and 1.80 times AE's time there. As PyTorch itself runs it, AE takes 1.50 times" in sentence
    assert "against that they take 1.07 and 1.20" in sentence
