"""Operations are counted against formulas, the released loss against the library's; nothing asserts how long anything takes."""

import sys

import numpy as np
import pytest
import torch
from torch import nn

from nrae_lib import machine, methods, runs, timing
from nrae_lib.methods import Batch
from nrae_lib.models import ConvNetwork, Network

WIDTHS = (64, 48, 40, 4)
SMALL = Network(WIDTHS[1:-1], WIDTHS[-1], "elu")
BATCH = 40  # products of fewer than 32 rows would take another kernel


def loop(method, network=SMALL, shape=(WIDTHS[0],), **options):
    return machine.Loop(methods.get(method).objective, network, shape, BATCH, points=100, **options)


def weights(widths):
    return sum(wide * narrow for wide, narrow in zip(widths, widths[1:], strict=False))


@pytest.mark.parametrize(
    ("method", "encoded", "decoded"), [("ae", 1, 1), ("nrae_l", 2, 2), ("nrae_q", 2, 3), ("enrae_l", 2, 2)]
)
def test_operations_of_a_step_by_the_formula(method, encoded, decoded):
    """A product forward and two backward for each layer and row, but none towards the data."""
    half = weights(WIDTHS)
    expected = 2 * BATCH * 3 * half * (encoded + decoded) - 2 * BATCH * encoded * WIDTHS[0] * WIDTHS[1]
    # The second derivative is zero along a straight line, so that it has no product before the first activation.
    expected -= 2 * BATCH * 3 * WIDTHS[-2] * WIDTHS[-1] * (decoded - 2 if decoded > 2 else 0)
    assert loop(method).products().flops == expected


def test_operations_agree_with_pytorchs_counter():
    from torch.utils.flop_counter import FlopCounterMode

    for network, shape in ((SMALL, (WIDTHS[0],)), (ConvNetwork(4, width=0.05), (1, 28, 28))):
        model, x = network.build(shape, seed=0), torch.rand(3, *shape)

        def work(model=model, x=x):
            nn.functional.mse_loss(model(x), x).backward()

        with FlopCounterMode(display=False) as counter:
            work()
        assert machine.flops(machine.recorded(work)) == counter.get_total_flops() > 0


def test_only_products_are_recorded_and_they_can_run_again():
    one = loop("nrae_q")
    before = [parameter.detach().clone() for parameter in one.model.parameters()]
    products = one.products()
    names = {function.overloadpacket for function, _, _ in products.calls}
    assert names <= set(machine._FLOPS) and len(products.calls) == 3 * 6 - 1
    assert products.turn() >= 0 and products.turn() >= 0
    for parameter, value in zip(one.model.parameters(), before, strict=True):
        torch.testing.assert_close(parameter.detach(), value, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("precision", "turns"), [("float32", 200), ("bf16", 5)])
def test_a_loop_takes_the_steps_of_training(precision, turns):
    """Many more than the record of the losses holds, over the ends of epochs."""
    one = loop("nrae_l", Network((8,), 1), (3,), precision=precision, steps=7)
    training = one.training
    for _ in range(turns):
        one.turn()
    assert training.epoch * len(training.bounds) + training.position == 7 * turns
    assert int(training.optimizer.state[next(one.model.parameters())]["step"]) == 7 * turns
    assert torch.isfinite(training.record).all() and (training.record != 0).any()
    assert one.adam() >= 0
    assert int(training.optimizer.state[next(one.model.parameters())]["step"]) == 7 * turns + 7


def test_the_released_loss_is_the_librarys():
    """Same points, same neighbours, in double precision: loss and gradients."""
    data = torch.rand(20, 2, dtype=torch.float64)
    objective, network = machine.RELEASED_TOY, Network((12, 8), 1, "elu")
    graph = objective.prepare(methods.Preparation(data, 1, 0))
    index = torch.arange(0, 20, 3)
    results = []
    for released in (False, True):
        model = objective.build(network, (2,), seed=0).double()
        batch = Batch(model, data, index, torch.Generator().manual_seed(5))
        near = batch.near(graph["reconstruction"], 2, True)
        if released:
            loss = machine.released_loss(model, data[index], data[near].transpose(0, 1), 100.0)
        else:
            batch = Batch(model, data, index, torch.Generator().manual_seed(5))
            loss = objective.loss(batch, graph)
        loss.backward()
        results.append((loss.detach(), [parameter.grad for parameter in model.parameters()]))
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-12)


def test_points_and_neighbours_one_by_one():
    data = torch.arange(10.0)[:, None]
    points = machine._PointAndNeighbours(data, 2, seed=0)
    seen = {float(value) for _ in range(50) for value in points[5][1].flatten()}
    assert len(points) == 10 and float(points[5][0]) == 5 and seen == {4.0, 6.0}


def test_both_whole_runs_learn_the_same(monkeypatch):
    """The released loop, with the schedule of the last fifth, comes to about the loss of fit."""
    models = []
    build = type(machine.RELEASED_TOY).build
    monkeypatch.setattr(
        type(machine.RELEASED_TOY), "build", lambda *a, **k: models.append(build(*a, **k)) or models[-1]
    )
    whole = machine.whole_run("cpu", epochs=41, chunk=20, network=Network((64,), 1, "elu"))
    assert whole["epochs"] == [20, 20, 1] and whole["steps"] == 82
    assert len(whole["fit"]) == len(whole["loop"]) == 3 and min(*whole["fit"], *whole["loop"]) > 0
    assert whole["gigaflops"]["loop"] > whole["gigaflops"]["fit"] > 0
    data = machine.datasets.make("sine", 0, **machine.RELEASED_DATA).train
    with torch.no_grad():
        untrained = build(machine.RELEASED_TOY, Network((64,), 1, "elu"), (2,), seed=0)
        start, fitted, looped = (float((model(data) - data).square().mean()) for model in (untrained, *models[2:4]))
    assert max(fitted, looped) < 0.7 * start and fitted == pytest.approx(looped, rel=0.3)


def test_rates_and_bandwidths():
    found = machine.matmul_rates("cpu", 1, square=64)
    kernels = {(row["kernel"], row["precision"]) for row in found["rates"]}
    assert kernels >= {("MKL", "float32"), ("oneDNN", "bf16")}
    assert found["peak"].keys() == {"float32", "bf16"} and found["all_cores"] > 0
    assert found["peak"]["float32"] == max(r["gflops"] for r in found["rates"] if r["precision"] == "float32")
    assert machine.bandwidths("cpu", 1, megabytes=1).keys() == {"copy", "triad", "adam"}


@pytest.mark.parametrize("rows", [1, 40])
def test_kernels_compute_the_same_product(rows):
    left, right = torch.rand(rows, 50), torch.rand(33, 50)
    for precision in machine.precisions("cpu"):
        for kernel in machine._kernels(left.device, precision).values():
            pair = (left.bfloat16(), right.bfloat16()) if precision == "bf16" else (left, right)
            torch.testing.assert_close(kernel(*pair).float(), left @ right.T, rtol=0.02, atol=0)


def measured():
    """What a machine might give that reaches some numbers and misses others."""
    rounds = [10.0, 10.0, 12.0]

    def part(network, method, factor, gigaflops=2.0):
        times = {name: [share * factor * one for one in rounds] for name, share in
                 (("step", 1), ("products", 0.5), ("adam", 0.1))}  # fmt: skip
        return {"network": network, "method": method, "precision": "float32", "gigaflops": gigaflops} | times

    steps = {name: {"rounds": [factor * one for one in rounds]} for name, factor in (
        ("ae", 1), (timing.PLAIN, 1.2), ("nrae_l", 1.4), ("nrae_q", 1.7), ("nrae_l, released", 5), ("nrae_q, released", 6),
    )}  # fmt: skip
    return {
        "clock": "processor", "matmul": {"peak": {"float32": 800.0}}, "steps": {timing.MNIST: steps},
        "parts": [part(name, method, factor) for name in machine.NETWORKS for method, factor in (("ae", 1), ("nrae_l", 2))],
        "whole_run": {"fit": [1.0, 1.0], "loop": [6.0, 5.0], "epochs": [5, 5], "steps": 20,
                      "gigaflops": {"fit": 1.0, "loop": 2.0}},
        "scaling": {"neighbors": {"values": [2, 100], "milliseconds": {"ae": [[1, 1], [1, 1]], "nrae_q": [[2, 2], [3, 3]]}}},
        "neighbors": {"MNIST": {"nrae_lib": {"ratio": 1, "recall": 1.0, "seconds": 1}, "fast": {"ratio": 1.5, "recall": 1.0,
                      "seconds": 1}, "rough": {"ratio": 9.0, "recall": 0.9, "seconds": 1}}},
    }  # fmt: skip


def test_goals_are_judged_by_the_numbers():
    on_cpu = machine.goals(measured())
    assert [goal.reached for goal in on_cpu] == [True, False, False, True, True, False, False, None, None, None]
    first, _, third = on_cpu[:3]
    assert first.measured.startswith("1.40 (1.40 to 1.40); 1.17 of AE as PyTorch runs it")
    assert "50% of the step, at 25% of the machine's best rate, and 2.00 times as long as AE's" in first.bound
    assert third.measured.startswith("3.5")
    assert on_cpu[4].measured == "5.5 (10 epochs)" and "1.50 of fast" in on_cpu[6].measured
    assert "on this CPU" in on_cpu[7].bound and "25%" in on_cpu[8].bound


def test_goals_on_a_gpu_and_without_measurements():
    on_gpu = measured()
    on_gpu["clock"], on_gpu["matmul"]["peak"] = "wall", {"tf32": 800.0, "bf16": 100.0}
    for row in on_gpu["parts"]:
        row["precision"] = "tf32"
    steps, share, ratio = machine.goals(on_gpu)[-3:]
    assert (steps.reached, share.reached, ratio.reached) == (False, False, False)
    assert share.measured == "25% (tf32)" and ratio.measured == "2.00 (tf32)" and steps.measured.startswith("50 ")
    for row in on_gpu["parts"]:
        for part in ("step", "products", "adam"):
            row[part] = [value / 200 if row["method"] == "ae" else value / 250 for value in row[part]]
    assert [goal.reached for goal in machine.goals(on_gpu)[-3:]] == [True, True, True]
    assert all(goal.reached is None and not goal.measured for goal in machine.goals({}))


def test_one_measurement_of_everything_is_plain_data(monkeypatch):
    import json

    monkeypatch.setattr(
        machine,
        "NETWORKS",
        {machine.TOY: (SMALL, (2,), 8), machine.MNIST_CNN: (ConvNetwork(4, width=0.02), (1, 28, 28), 3)},
    )
    found = machine.measure(
        2, names=tuple(machine.NETWORKS), of_methods=("ae", "nrae_q"), formulations=(), batch_sizes=(1, 4), square=64,
        megabytes=1, whole_epochs=2, chunk=1,
    )  # fmt: skip
    assert json.loads(json.dumps(found)) == found
    assert len(found["parts"]) == 2 * 2 * 2 and all(len(row["step"]) == 2 for row in found["parts"])
    for row in found["parts"]:
        assert row["run_megabytes"] > row["step_megabytes"] > 0
        part = machine.part_of(found["parts"], row["network"], row["method"], row["precision"])
        assert part["gflops"] == pytest.approx(1000 * row["gigaflops"] / np.median(row["step"]))
    assert machine.part_of(found["parts"], "another", "ae", "float32") is None
    assert [len(lists) for lists in found["throughput"]["points_per_second"][machine.TOY]["ae"]] == [2, 2]
    assert found["device"] == runs.device_name("cpu") and found["clock"] == "processor"
    assert len(machine.goals(found)) == 10


def test_a_grid_of_one_worker():
    found = machine.grid_scaling((1,), count=2, epochs=1, network=Network((4,), 1))
    assert found["workers"] == [1] and len(found["seconds"]) == len(found["start_seconds"]) == 1 and found["runs"] == 2


@pytest.mark.slow
def test_a_grid_of_two_workers():
    pytest.importorskip("distributed")
    found = machine.grid_scaling((2,), count=2, epochs=1, network=Network((4,), 1))
    assert found["seconds"][0] > 0 and found["start_seconds"][0] > 0


def test_a_benchmark_is_found_by_name():
    assert callable(machine.benchmark("neighbors").measure)
    assert "neighbors" not in sys.modules
    with pytest.raises(FileNotFoundError):
        machine.benchmark("nothing")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_steps_and_products_are_captured():
    one = machine.Loop(methods.get("nrae_q").objective, SMALL, (WIDTHS[0],), BATCH, "cuda", 100, "tf32")
    assert one.turn() > 0 and one.training.captured is not None
    products = one.products()
    assert products.turn() > 0 and products.again != products._run
    rates = machine.matmul_rates("cuda", 2, square=512)
    assert rates["peak"].keys() == {"float32", "tf32", "bf16"} and "all_cores" not in rates


def test_the_benchmark_of_ensembles_takes_steps():
    found = machine.benchmark("ensembles").measure("nrae_l", "2-32-1, B 50", [2], 1, torch.device("cpu"))
    assert found["parameters"] > 0 and found["milliseconds"] > 0 and found[2 if 2 in found else "2"] > 0
