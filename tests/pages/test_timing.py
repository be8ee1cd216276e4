"""Time and memory of steps by clocks whose answer is known; nothing here asserts how long anything takes."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from nrae_lib import runs
from nrae_lib.core import methods
from nrae_lib.core.models import Network
from nrae_lib.pages import timing
from nrae_lib.paper import runtime

TINY = Network((12, 8), 2, "elu"), 6, 10


def objectives(*names):
    return {name: methods.get(name).objective for name in names}


def test_everyone_takes_one_turn_per_round_and_the_first_round_does_not_count():
    calls = []

    def stepper(name, seconds):
        return lambda: calls.append(name) or next(seconds)

    turns = {"a": stepper("a", iter([9.0, 1, 2, 3])), "b": stepper("b", iter([9.0, 2, 4, 6]))}
    times = timing.take_turns(turns, rounds=3)
    assert times["a"].tolist() == [1, 2, 3] and (times["b"] / times["a"]).tolist() == [2, 2, 2]
    assert all({*calls[start : start + 2]} == {"a", "b"} for start in range(0, 8, 2))
    many = {str(name): stepper(str(name), iter(range(99))) for name in range(6)}
    calls.clear()
    timing.take_turns(many, rounds=1)
    assert len(calls) == 12 and calls[:6] != calls[6:], "every round has an order of its own"
    with pytest.raises(ValueError, match="rounds must be at least 1, not 0"):
        timing.take_turns(many, rounds=0)


def test_peak_memory_is_what_is_held_at_once():
    def one_after_the_other():
        for _ in range(3):
            torch.empty(2**20).fill_(1)

    def together():
        return [torch.empty(2**20).fill_(1) for _ in range(3)]

    assert timing.peak_megabytes(one_after_the_other) == pytest.approx(4 * 2**20 / 1e6, rel=0.01)
    assert timing.peak_megabytes(together) == pytest.approx(12 * 2**20 / 1e6, rel=0.01)


def test_a_step_does_its_work_but_moves_nothing_and_all_weigh_the_same_after_the_first(monkeypatch):
    made, build = [], methods.Objective.build
    monkeypatch.setattr(methods.Objective, "build", lambda *a, **named: made.append(build(*a, **named)) or made[-1])
    turns = timing.turns(TINY, objectives("ae", "nrae_q", "spae", "grae"))
    (model,) = made  # objectives of one form share it
    before, seen = copy.deepcopy(model.state_dict()), []
    model.decoder[0].weight.register_post_accumulate_grad_hook(lambda weight: seen.append(weight.grad.abs().sum()))
    assert turns["nrae_q"]() > 0 and seen[0] > 0
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    first, second = (timing.peak_megabytes(turns["ae"]) for _ in range(2))
    assert first == pytest.approx(second, rel=0.2)  # Adam's moments, twice the weights, belong to neither
    timing.turns(TINY, objectives("vae") | {"plain": timing.formulations()[runtime.RELEASED_AE]})
    assert len(made) == 3


def test_all_formulations_are_one_loss_and_a_wrong_one_is_noticed():
    formulations = timing.formulations(neighbor_weight=0.1)
    timing.check_formulations(formulations)
    wrong = replace(formulations["nrae_l, released"], formula=formulations[runtime.PLAIN].formula)
    with pytest.raises(AssertionError, match="nrae_l, released"):
        timing.check_formulations(formulations | {"nrae_l, released": wrong})


def test_every_method_is_measured_and_the_rounds_can_be_read_back(monkeypatch):
    monkeypatch.setattr(timing, "SIZES", {timing.MNIST: TINY})
    threads = torch.get_num_threads()
    steps = timing.measure_steps(timing.MNIST, timing.everything(), 2, "cpu")
    assert torch.get_num_threads() == threads and torch.tensor(1e-310, dtype=torch.float64) * 1 > 0, "subnormals count"
    assert set(methods.CATALOGUE) | set(timing.formulations()) <= set(steps)
    assert {f"ae+{name}" for name in ("isometry", "entropy")} <= set(steps)
    for row in steps.values():
        assert row["milliseconds"] > 0 and row["peak_megabytes"] >= 0 and len(row["rounds"]) == 2
    times = timing.times_of({"networks": {timing.MNIST: {"steps": steps}}})
    for name in ("nrae_q", "vae"):
        assert (times[name] / times["ae"]).median() == pytest.approx(steps[name]["ratio"], abs=0.001)
    assert json.loads(json.dumps(steps)) == steps
    assert timing.provenance("cpu", 2)["clock"] == "processor"


def test_a_sweep_takes_all_values_in_the_same_rounds():
    def contenders(k):
        return objectives("ae") | {"spae": methods.get("spae").configure(n_neighbors=k)}

    swept = timing.sweep(dict.fromkeys((2, 4), TINY), contenders, 2, "cpu")
    assert swept["values"] == [2, 4] and np.shape(swept["milliseconds"]["spae"]) == (2, 2)
    few, many = swept["peak_megabytes"]["spae"]
    assert many >= few and len(swept["peak_megabytes"]["ae"]) == 2


def test_one_file_per_device_and_the_last_is_judged(tmp_path, monkeypatch):
    committed = timing.stored("scaling")
    monkeypatch.setattr(runs, "project_root", lambda: tmp_path)
    assert timing.stored("methods") == timing.verdicts() == []
    for one in committed:
        timing.store("scaling", one)
    assert {v.claim.page for v in timing.verdicts()} == ({"supp_fig1_runtime_scaling"} if committed else set())
    for device in ("CPU (AMD EPYC)", "NVIDIA H200"):
        path = timing.store("methods", {"device": device, "networks": {}})
    assert path == tmp_path / "results" / "step_time" / "nvidia-h200.json"
    assert [one["device"] for one in timing.stored("methods")] == ["CPU (AMD EPYC)", "NVIDIA H200"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_steps_and_memory_on_a_gpu():
    (turn,) = timing.turns(TINY, objectives("nrae_q"), "cuda").values()
    assert turn() > 0 and timing.peak_megabytes(turn, "cuda") > 0
    assert timing.provenance("cuda", 1)["clock"] == "wall"
