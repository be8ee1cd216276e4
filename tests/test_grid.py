"""Many runs: nothing is lost, nothing is done twice, and the choice is the best on held-out seeds."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from nrae_lib import grid, runs
from nrae_lib.models import Network
from nrae_lib.runs import Store
from nrae_lib.training import Optimization
from tests.test_runs import ROOT, RUN, small_result

RUNS = [replace(RUN, seed=seed) for seed in range(4)]


def test_results_come_in_order_and_are_stored_once(tmp_path, monkeypatch):
    performed = []
    original = runs.perform
    monkeypatch.setattr(grid, "perform", lambda run, *rest: performed.append(run.seed) or original(run, *rest))
    store = Store(tmp_path)
    first = grid.run_all([RUNS[2], RUNS[0], RUNS[2]], store, "cpu", progress=False)
    assert [result.run.seed for result in first] == [2, 0, 2]
    assert performed == [2, 0]
    again = grid.run_all(RUNS, store, "cpu", progress=False)
    assert performed == [2, 0, 1, 3]
    assert [result.metrics for result in again][2] == first[0].metrics
    assert [result.run.seed for result in grid.stored(reversed(RUNS), store)] == [3, 2, 1, 0]


def test_progress_names_the_run_and_the_time_left(tmp_path, capsys):
    grid.run_all(RUNS[:2], Store(tmp_path), "cpu")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[1].startswith("[2/2] sine paper nrae_l") and "seed 1" in lines[1] and "left" in lines[1]


def test_damaged_result_is_computed_again(tmp_path):
    store = Store(tmp_path)
    (good,) = grid.run_all(RUNS[:1], store, "cpu", progress=False)
    store.path(RUNS[0]).write_bytes(b"PK damaged")
    with pytest.warns(UserWarning, match="cannot be used"):
        (again,) = grid.run_all(RUNS[:1], store, "cpu", progress=False)
    assert again.metrics == good.metrics
    assert store.get(RUNS[0]).metrics == good.metrics


def test_exploding_run_is_named_and_all_other_results_are_kept(tmp_path):
    exploding = replace(RUN, optimization=Optimization(50, 50, learning_rate=1e30))
    store = Store(tmp_path)
    with pytest.raises(FloatingPointError, match="sine paper nrae_l  seed 0: the loss is no longer finite"):
        grid.run_all([RUNS[1], exploding, RUNS[2]], store, "cpu", progress=False)
    assert store.get(RUNS[1]) is not None and store.get(exploding) is None
    assert store.get(RUNS[2]) is not None, "one run that explodes must not stop the others"


def slow_perform(run, device, checkpoint=None):
    with open(os.environ["PERFORMED"], "a") as file:
        file.write(f"{run.seed}\n")
    time.sleep(0.2)
    return small_result(run)


def drive(folder, start):
    grid.perform = slow_perform
    start.wait()
    results = grid.run_all(RUNS, Store(folder), "cpu", progress=False)
    assert [result.run.seed for result in results] == [0, 1, 2, 3]


def test_two_drivers_share_the_work_and_do_nothing_twice(tmp_path, monkeypatch):
    log = tmp_path / "performed"
    monkeypatch.setenv("PERFORMED", str(log))
    context = multiprocessing.get_context("fork")
    start = context.Event()
    drivers = [context.Process(target=drive, args=(tmp_path / "store", start)) for _ in range(2)]
    for driver in drivers:
        driver.start()
    start.set()
    for driver in drivers:
        driver.join()
        assert driver.exitcode == 0
    assert sorted(log.read_text().split()) == ["0", "1", "2", "3"]


LONG = replace(RUN, network=Network((64,), 1), optimization=Optimization(1500, 50), keep="animation")
DRIVER = """
import sys
from functools import partial
from nrae_lib import grid, runs, training
from nrae_lib.runs import Store
from tests.test_grid import LONG
runs.fit = partial(training.fit, checkpoint_seconds=0.05)
steps, step = [], training.step
training.step = lambda *arguments: steps.append(None) or step(*arguments)
grid.run_all([LONG], Store(sys.argv[1]), "cpu", progress=False)
print(len(steps))
"""


@pytest.mark.slow
def test_killed_again_and_again_and_resumed_equals_uninterrupted(tmp_path):
    """Kill -9 in the middle of training, several times; the next process goes on and the result is the same."""
    uninterrupted = runs.perform(LONG, "cpu")
    store = Store(tmp_path)
    environment = {**os.environ, "OMP_NUM_THREADS": str(__import__("torch").get_num_threads())}
    kills = 0
    for _ in range(200):
        driver = subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(tmp_path)], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
        )
        checkpoint = store.checkpoint(LONG)
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        while driver.poll() is None and kills < 4:
            if checkpoint.exists() and checkpoint.stat().st_mtime_ns != before:
                driver.send_signal(signal.SIGKILL)
                kills += 1
                break
            time.sleep(0.005)
        output, _ = driver.communicate()
        assert driver.returncode in (0, -signal.SIGKILL), "it ended by itself"
        if driver.returncode == 0:
            break
    assert kills >= 2
    assert int(output) < LONG.optimization.epochs, "the last process started from the beginning"
    result = store.get(LONG)
    assert result.metrics == uninterrupted.metrics
    assert result.history == uninterrupted.history
    assert all((result.arrays[name] == value).all() for name, value in uninterrupted.arrays.items())
    assert not store.checkpoint(LONG).exists()


def searched(method, options, values):
    for seed, value in enumerate(values):
        run = replace(RUN, method=method, method_options=options, seed=seed)
        yield replace_metrics(small_result(run), value)


def replace_metrics(result, value):
    result.metrics = {"test_mse": value}
    return result


def test_the_choice_is_the_lowest_mean_over_seeds():
    results = [
        *searched("nrae_l", {"neighbor_weight": 1.0, "n_neighbors": 2}, [0.1, 0.9]),
        *searched("nrae_l", {"n_neighbors": 4, "neighbor_weight": 1.0}, [0.4, 0.4]),
        *searched("dae", {"corruption": 0.1}, [0.3, 0.3]),
        *searched("dae", {"corruption": 0.2}, [0.3, 0.3]),
    ]
    assert grid.choose(results) == {
        "nrae_l": {"n_neighbors": 4, "neighbor_weight": 1.0},
        "dae": {"corruption": 0.1},  # equal: the first
    }
    assert grid.choose([]) == {}


def test_a_search_on_unequal_seeds_is_refused():
    results = [*searched("dae", {"corruption": 0.1}, [0.3, 0.3]), *searched("dae", {"corruption": 0.2}, [0.1])]
    with pytest.raises(ValueError, match="search of 'dae' is incomplete"):
        grid.choose(results)


def test_half_a_group_does_not_pass_for_a_whole_one(tmp_path):
    store = Store(tmp_path)
    whole = [replace(RUN, seed=seed) for seed in range(2)]
    half = [replace(RUN, method="ae", seed=seed) for seed in range(2)]
    for run in (*whole, half[0]):
        store.put(small_result(run))
    assert [result.run for result in grid.complete([*half, *whole], store)] == whole


def test_agreement_counts_repeated_runs(tmp_path):
    store = Store(tmp_path)
    store.put(replace_metrics(small_result(RUN), 0.5))
    store.put(replace_metrics(small_result(RUNS[1]), 0.4))
    fresh = [replace_metrics(small_result(run), 0.5) for run in RUNS[:3]]
    sentence = grid.agreement(fresh, store)
    assert "2 of these runs" in sentence and "1 repeat them bit for bit" in sentence and "0.25" in sentence
    assert "None of these" in grid.agreement(fresh[2:], store)


def test_frame_has_a_row_per_result():
    table = grid.frame([small_result(RUN), small_result(replace(RUN, method_options={"neighbor_weight": 2.0}))])
    assert list(table.columns) == ["data", "recipe", "method", "seed", "test_mse", "seconds", "neighbor_weight"]
    assert len(table) == 2
