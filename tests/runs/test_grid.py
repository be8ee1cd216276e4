"""Many runs: nothing is lost, nothing is done twice, and the choice is the best on held-out seeds."""

import os
import pickle
import signal
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest

from nrae_lib.core import training
from nrae_lib.core.models import Network
from nrae_lib.core.training import Optimization
from nrae_lib.runs import RunsFailed, Store, grid, perform, performing, run_all
from tests.runs.small import RUN, small_result

LONG = replace(RUN, network=Network((64,), 1), optimization=Optimization(60, 50), keep="animation")
RUNS = [replace(RUN, seed=seed) for seed in range(4)]


@pytest.fixture
def acting(monkeypatch):
    """Runs call ``acting.by(run)`` in place of their training; its ``seeds`` were performed."""
    acting = SimpleNamespace(seeds=[], by=small_result)
    monkeypatch.setattr(performing, "perform", lambda run, *_, **__: acting.seeds.append(run.seed) or acting.by(run))
    return acting


def test_results_come_in_order_and_are_stored_once(tmp_path, acting):
    acting.by, performed, store = lambda run: perform(run, "cpu"), acting.seeds, Store(tmp_path)
    first = run_all([RUNS[2], RUNS[0], RUNS[2]], store, "cpu", progress=False)
    assert [result.run.seed for result in first] == [2, 0, 2]
    assert performed == [2, 0]
    again = run_all(RUNS, store, "cpu", progress=False)
    assert performed == [2, 0, 1, 3]
    assert [result.metrics for result in again][2] == first[0].metrics
    assert [result.run.seed for result in grid.stored(reversed(RUNS), store)] == [3, 2, 1, 0]
    store.path(RUNS[0]).write_bytes(b"PK damaged")
    with pytest.warns(UserWarning, match="cannot be used"):
        (again,) = run_all(RUNS[:1], store, "cpu", progress=False)
    assert again.metrics == first[1].metrics == store.get(RUNS[0]).metrics


def test_exploding_and_impossible_runs_are_named_and_all_other_results_are_kept(tmp_path, capsys):
    """One run that explodes must not stop the others; equal labels say which run is meant."""
    exploding = replace(RUN, optimization=Optimization(50, 50, learning_rate=1e30))
    impossible = replace(RUN, data_options={"n_train": 0})
    store, planned = Store(tmp_path), [RUNS[0], exploding, impossible, RUNS[2]]
    with pytest.raises(RunsFailed, match=rf"seed 0 \({exploding.key[:8]}\): \S+: .*no longer finite") as caught:
        run_all(planned, store, "cpu")
    assert list(caught.value.failures) == [exploding, impossible]
    text = caught.value.failures[exploding]
    assert text.startswith("Traceback") and text.strip() in str(caught.value)
    assert [result.run for result in grid.stored(planned, store)] == [RUNS[0], RUNS[2]]
    assert not list(tmp_path.glob(".*.part")) and not list(tmp_path.glob(".*.checkpoint"))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4 and lines[1].startswith("[2/4] sine paper nrae_l") and lines[1].endswith("left")
    assert f"seed 0 ({exploding.key[:8]}): failed" in lines[1]
    assert lines[3].startswith("[4/4]") and "left" not in lines[3]


def test_every_error_of_a_run_or_of_its_storing_is_collected_but_a_wish_to_end_is_not(tmp_path, acting, monkeypatch):
    errors = {1: OSError("no space"), 2: MemoryError("too much")}

    def act(run):
        if run.seed in errors:
            raise errors[run.seed]
        return small_result(run)

    def put(self, result, whole=Store.put):
        if result.run.seed == 3:
            raise OSError("disk full")
        whole(self, result)

    acting.by = act
    monkeypatch.setattr(Store, "put", put)
    with pytest.raises(RunsFailed, match="OSError: disk full") as caught:
        run_all([RUNS[1], RUNS[0], RUNS[2], RUNS[3]], Store(tmp_path), progress=False)
    assert caught.value.failures.keys() == set(RUNS[1:]) and Store(tmp_path).get(RUNS[0]) is not None
    again = pickle.loads(pickle.dumps(caught.value))
    assert again.failures == caught.value.failures and str(again) == str(caught.value)
    alike = str(RunsFailed(dict.fromkeys(RUNS, "Traceback (most recent call last):\n  here\nValueError: all\n")))
    assert alike.count("seed") == 4 and alike.count("Traceback") == 1
    errors[1] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        run_all(RUNS, Store(tmp_path), progress=False)


def test_a_run_in_other_hands_is_waited_for_and_taken_over_when_dropped(tmp_path, acting, monkeypatch):
    store, hands = Store(tmp_path), ExitStack()
    for run in RUNS[:2]:
        assert hands.enter_context(store.claim(run))

    def sleep(seconds):  # meanwhile the other process ends run 0 and dies before it has run 1
        store.put(small_result(RUNS[0], error=0.125))
        hands.close()

    monkeypatch.setattr(grid.time, "sleep", sleep)
    results = run_all(RUNS[:3], store, progress=False)
    assert acting.seeds == [2, 1] and results[0].metrics == {"test_mse": 0.125}


def test_leftovers_of_killed_processes_are_removed(tmp_path, acting):
    store, old, new = Store(tmp_path), tmp_path / f".{RUN.key}.npz.x.part", tmp_path / f".{RUN.key}.npz.y.part"
    run_all(RUNS[:1], store, "cpu", progress=False)
    for path in (store.checkpoint(RUNS[0]), old, new):
        path.touch()
    os.utime(old, (0, 0))
    run_all(RUNS[:1], store, "cpu", progress=False)
    assert {path.name for path in tmp_path.iterdir()} == {new.name, f".{RUN.key}.lock", f"{RUN.key}.npz"}


def test_a_folder_or_device_that_cannot_be_stops_before_the_first_run(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"results cannot be kept in \S+file"):
        run_all(RUNS, Store(tmp_path / "file"), "cpu", progress=False)
    with pytest.raises(ValueError, match="device 'tpu' cannot be used"):
        run_all(RUNS, Store(tmp_path / "folder"), "tpu")


def test_killed_or_told_to_end_and_resumed_equals_uninterrupted(tmp_path, monkeypatch):
    uninterrupted, store, taken, step = perform(LONG, "cpu"), Store(tmp_path), [], training.loop.step

    def act(*given):
        taken.append(given)
        if len(taken) == 20:
            raise KeyboardInterrupt  # for SIGKILL, which core/test_interruptions.py and test_cluster.py send
        if len(taken) == 40:
            signal.raise_signal(signal.SIGTERM)
        return step(*given)

    monkeypatch.setattr(training.loop, "step", act)
    monkeypatch.setattr(performing, "fit", partial(training.fit, checkpoint_seconds=0))
    for end in (pytest.raises(KeyboardInterrupt), pytest.raises(SystemExit, match="goes on from"), nullcontext()):
        with end:
            run_all([LONG], store, "cpu", progress=False)
        assert store.checkpoint(LONG).exists() == (store.get(LONG) is None)
    assert len(taken) == LONG.optimization.epochs + 1, "only the step that was killed is taken again"
    result = store.get(LONG)
    assert (result.metrics, result.history) == (uninterrupted.metrics, uninterrupted.history)
    assert all((result.arrays[name] == value).all() for name, value in uninterrupted.arrays.items())


def searched(method, options, errors):
    run = replace(RUN, method=method, method_options=options)
    return [small_result(replace(run, seed=seed), error=error) for seed, error in enumerate(errors)]


def test_the_choice_is_the_lowest_mean_over_seeds():
    results = [
        *searched("nrae_l", {"neighbor_weight": 1.0, "n_neighbors": 2}, [0.1, 0.9]),
        *searched("nrae_l", {"n_neighbors": 4, "neighbor_weight": 1.0}, [0.4, 0.4]),
        *searched("dae", {"corruption": 0.1}, [0.3, 0.3]),
        *searched("dae", {"corruption": 0.2}, [0.3, 0.3]),
    ]
    # Of equal candidates the first.
    best = {"nrae_l": {"n_neighbors": 4, "neighbor_weight": 1.0}, "dae": {"corruption": 0.1}}
    assert grid.choose(results) == best and grid.choose([]) == {}
    with pytest.raises(ValueError, match="search of 'dae' is incomplete"):
        grid.choose(results[:-1])


def test_frame_has_a_row_per_result():
    table = grid.frame([small_result(RUN), small_result(replace(RUN, method_options={"neighbor_weight": 2.0}))])
    assert list(table.columns) == ["data", "recipe", "method", "seed", "test_mse", "seconds", "neighbor_weight"]
    assert len(table) == 2
