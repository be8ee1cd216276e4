"""Many runs: nothing is lost, nothing is done twice, and the choice is the best on held-out seeds."""

import io
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from types import SimpleNamespace

import pytest
from tests.test_runs import ROOT, RUN, small_result

from nrae_lib import runs
from nrae_lib.core import training
from nrae_lib.core.models import Network
from nrae_lib.core.training import Optimization
from nrae_lib.runs import Store, grid, progress
from nrae_lib.runs.progress import Progress

RUNS = [replace(RUN, seed=seed) for seed in range(4)]


def test_results_come_in_order_and_are_stored_once(tmp_path, monkeypatch):
    performed = []
    original = runs.perform
    monkeypatch.setattr(
        runs, "perform", lambda run, *rest, **more: performed.append(run.seed) or original(run, *rest, **more)
    )
    store = Store(tmp_path)
    first = grid.run_all([RUNS[2], RUNS[0], RUNS[2]], store, "cpu", progress=False)
    assert [result.run.seed for result in first] == [2, 0, 2]
    assert performed == [2, 0]
    again = grid.run_all(RUNS, store, "cpu", progress=False)
    assert performed == [2, 0, 1, 3]
    assert [result.metrics for result in again][2] == first[0].metrics
    assert [result.run.seed for result in grid.stored(reversed(RUNS), store)] == [3, 2, 1, 0]


def test_progress_names_the_run_and_the_time_left(tmp_path, capsys):
    grid.run_all(RUNS[:3], Store(tmp_path), "cpu")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert lines[1].startswith("[2/3] sine paper nrae_l") and "seed 1" in lines[1] and lines[1].endswith("left")
    assert lines[2].startswith("[3/3]") and "left" not in lines[2]


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
    with pytest.raises(grid.RunsFailed, match=r"\nsine paper nrae_l  seed 0: \S+: .*no longer finite") as caught:
        grid.run_all([RUNS[1], exploding, RUNS[2]], store, "cpu", progress=False)
    ((run, text),) = caught.value.failures.items()
    assert run is exploding and text.startswith("Traceback") and text.strip() in str(caught.value)
    assert store.get(RUNS[1]) is not None and store.get(exploding) is None
    assert store.get(RUNS[2]) is not None, "one run that explodes must not stop the others"


def test_every_error_of_a_run_is_collected_but_a_wish_to_end_is_not(tmp_path, monkeypatch):
    def perform(run, *_, **__):
        if run.seed == 3:
            raise KeyboardInterrupt
        if run.seed:
            raise OSError(f"no space for {run.seed}") if run.seed == 1 else MemoryError("too much")
        return small_result(run)

    monkeypatch.setattr(runs, "perform", perform)
    with pytest.raises(grid.RunsFailed) as caught:
        grid.run_all([RUNS[1], RUNS[0], RUNS[2]], Store(tmp_path), progress=False)
    assert caught.value.failures.keys() == {RUNS[1], RUNS[2]}
    assert Store(tmp_path).get(RUNS[0]) is not None
    again = pickle.loads(pickle.dumps(caught.value))
    assert again.failures == caught.value.failures and str(again) == str(caught.value)
    with pytest.raises(KeyboardInterrupt):
        grid.run_all(RUNS, Store(tmp_path), progress=False)


def test_alike_tracebacks_are_shown_once():
    text = "Traceback (most recent call last):\n  here\nValueError: all of them\n"
    message = str(grid.RunsFailed(dict.fromkeys(RUNS, text)))
    assert message.count("seed") == 4 and message.count("Traceback") == 1


def test_a_result_that_cannot_be_stored_is_a_failure_of_its_run(tmp_path, monkeypatch):
    def put(self, result):
        raise OSError("disk full")

    monkeypatch.setattr(runs, "perform", lambda run, *_, **__: small_result(run))
    monkeypatch.setattr(Store, "put", put)
    with pytest.raises(grid.RunsFailed, match="OSError: disk full"):
        grid.run_all(RUNS[:1], Store(tmp_path), progress=False)


def test_runs_that_train_together_are_tried_alone_if_that_fails(tmp_path, monkeypatch):
    tried = []

    def train(unit, store, device, report, keep):
        tried.append([run.seed for run in unit])
        if RUNS[1] in unit:
            raise FloatingPointError("explodes")
        results = [small_result(run) for run in unit]
        for result in results:
            store.put(result)
        return results

    monkeypatch.setattr(grid, "_train", train)
    monkeypatch.setattr(grid, "_units", lambda missing, device, workers: [tuple(missing)])
    store = Store(tmp_path)
    store.put(small_result(RUNS[3]))
    with pytest.raises(grid.RunsFailed) as caught:
        grid.run_all(RUNS, store, progress=False)
    assert tried == [[0, 1, 2], [0], [1], [2]]
    assert caught.value.failures.keys() == {RUNS[1]}
    assert len(grid.stored(RUNS, store)) == 3


def test_a_run_in_other_hands_is_waited_for_and_taken_over_when_dropped(tmp_path, monkeypatch):
    store, performed = Store(tmp_path), []
    hands = [store.claim(run, False) for run in RUNS[:2]]
    assert [hand.__enter__() for hand in hands] == [True, True]

    def perform(run, *_, **__):
        performed.append(run.seed)
        return small_result(run)

    def sleep(seconds):  # meanwhile the other process ends run 0 and dies before it has run 1
        store.put(replace_metrics(small_result(RUNS[0]), 0.125))
        while hands:
            hands.pop().__exit__(None, None, None)

    monkeypatch.setattr(runs, "perform", perform)
    monkeypatch.setattr(grid.time, "sleep", sleep)
    results = grid.run_all(RUNS[:2], store, progress=False)
    assert performed == [1] and results[0].metrics == {"test_mse": 0.125}


def rates(*values):
    """Runs that train together, by their learning rates."""
    return [replace(RUN, optimization=Optimization(3, 50, learning_rate=value)) for value in values]


def test_an_ensemble_stores_each_member_and_reports_the_one_that_explodes(tmp_path, monkeypatch, capsys):
    stored, put = [], Store.put

    def counted(self, result):
        stored.append(result.run.key)
        put(self, result)

    monkeypatch.setattr(Store, "put", counted)
    store, planned = Store(tmp_path), rates(1e-3, 2e-3, 1e30, 3e-3, 4e-3, 5e-3)
    with pytest.raises(grid.RunsFailed, match="no longer finite") as caught:
        grid.run_all(planned, store, "cpu")
    exploded = planned.pop(2)
    assert list(caught.value.failures) == [exploded]
    assert [result.provenance["ensemble"] for result in grid.stored(planned, store)] == ["6"] * 5
    assert stored == [run.key for run in planned], "each once"
    assert not list(tmp_path.glob("*.checkpoint")) and not list(tmp_path.glob(".*.part"))
    # All labels are equal: they say which run is meant.
    assert f"({exploded.key[:8]}): failed" in capsys.readouterr().err


def test_an_ensemble_told_to_end_goes_on_together_from_its_checkpoints(tmp_path, monkeypatch):
    planned = rates(1e-3, 2e-3, 3e-3, 4e-3, 5e-3)
    plain = grid.run_all(planned, Store(tmp_path / "plain"), "cpu", progress=False)
    store, units, advance = Store(tmp_path / "ended"), [], Progress.advance

    def told(self, key, done=0, epochs=0):
        advance(self, key, done, epochs)
        if done:
            training.stop_event.set()

    with monkeypatch.context() as patched:
        patched.setattr(Progress, "advance", told)
        patched.setattr(training.loop, "PROGRESS_SECONDS", -1.0)
        with pytest.raises(training.Interrupted):
            grid.run_all(planned, store, "cpu", progress=False)
    training.stop_event.clear()
    assert all(store.checkpoint(run).exists() for run in planned) and not grid.stored(planned, store)
    train = grid._train
    monkeypatch.setattr(grid, "_train", lambda unit, *rest: units.append(len(unit)) or train(unit, *rest))
    again = grid.run_all(planned, store, "cpu", progress=False)
    assert units == [5]
    assert [result.metrics for result in again] == [result.metrics for result in plain]


def test_a_member_that_cannot_be_stored_costs_no_other(tmp_path, monkeypatch):
    planned, put = rates(1e-3, 2e-3, 3e-3, 4e-3, 5e-3), Store.put

    def full(self, result):
        if result.run == planned[1]:
            raise OSError("disk full")
        put(self, result)

    monkeypatch.setattr(Store, "put", full)
    with pytest.raises(grid.RunsFailed, match="disk full") as caught:
        grid.run_all(planned, Store(tmp_path), "cpu", progress=False)
    assert list(caught.value.failures) == [planned[1]]
    assert len(grid.stored(planned, Store(tmp_path))) == 4


def test_runs_that_cannot_even_be_planned_stop_no_other(tmp_path):
    impossible = [replace(RUN, seed=seed, data_options={"n_train": 0}) for seed in range(5)]
    with pytest.raises(grid.RunsFailed) as caught:
        grid.run_all([*impossible, RUN], Store(tmp_path), "cpu", progress=False)
    assert list(caught.value.failures) == impossible
    assert Store(tmp_path).get(RUN) is not None


def test_busy_members_of_an_ensemble_stay_together(tmp_path, monkeypatch):
    store, units, hands = Store(tmp_path), [], ExitStack()
    for run in RUNS[:2]:
        hands.enter_context(store.claim(run, False))

    def train(unit, *_):
        units.append([run.seed for run in unit])
        for run in unit:
            store.put(small_result(run))
        return [small_result(run) for run in unit]

    monkeypatch.setattr(grid, "_train", train)
    monkeypatch.setattr(grid, "_units", lambda missing, device, workers: [tuple(missing)])
    monkeypatch.setattr(grid.time, "sleep", lambda seconds: hands.close())
    grid.run_all(RUNS, store, "cpu", progress=False)
    assert units == [[2, 3], [0, 1]]


def test_leftovers_of_killed_processes_are_removed(tmp_path, monkeypatch):
    store = Store(tmp_path)
    monkeypatch.setattr(runs, "perform", lambda run, *_, **__: small_result(run))
    grid.run_all(RUNS[:1], store, "cpu", progress=False)
    store.checkpoint(RUNS[0]).touch()
    names = [".a.driver", ".b.driver", f".{RUN.key}.npz.x.part"]
    for name in names:
        (tmp_path / name).touch()
    for name in names[1:]:
        os.utime(tmp_path / name, (0, 0))
    grid.run_all(RUNS[:1], store, "cpu", progress=False)
    assert {path.name for path in tmp_path.iterdir()} == {".a.driver", f".{RUN.key}.lock", f"{RUN.key}.npz"}


def test_a_folder_that_cannot_keep_results_stops_before_the_first_run(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"results cannot be kept in \S+file"):
        grid.run_all(RUNS, Store(tmp_path / "file"), "cpu", progress=False)


@pytest.mark.parametrize("alike", [1, 5])
def test_a_wrong_device_stops_before_the_first_run(tmp_path, alike):
    with pytest.raises(ValueError, match="device 'tpu' cannot be used"):
        grid.run_all([replace(RUN, seed=seed) for seed in range(alike)], Store(tmp_path), "tpu")


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """Seconds since the start, to be set."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_line_for_each_run_in_flight_and_the_time_left(clock):
    board = Progress(4, stream=io.StringIO())
    board.advance("a", 0, 100)
    board.advance("b", 50, 100)  # resumed: half of it was done before
    clock[0] = 10.0
    board.advance("a", 50, 100)
    board.advance("b", 100, 100)
    board.advance("c")
    assert board.lines() == [
        "a: epoch 50/100 (50 %)",
        "b: epoch 100/100 (100 %)",
        "c: starting",
        # One run's worth was earned in 10 s, 2.5 are left.
        "0 of 4 runs done, 3 in flight, about 25 s left",
    ]
    board.end("b", "ended")
    assert board.lines()[-1] == "1 of 4 runs done, 2 in flight, about 25 s left"
    board.drop("c")
    board.workers, board.elsewhere = 0, 2
    assert "1 in flight, 2 performed by other processes, waiting for workers, about" in board.lines()[-1]


@pytest.mark.parametrize(
    ("left", "text"), [(99, "99 s"), (240, "4 min"), (3600, "60 min"), (5 * 3600, "5.0 h"), (8000 * 60, "133.3 h")]
)
def test_time_left_is_rounded(left, text):
    assert progress._duration(left) == text


def test_a_log_gets_plain_lines_and_few(clock):
    stream = io.StringIO()
    with Progress(2, stream=stream) as board:
        for step in range(700):
            clock[0] = step / 10
            board.advance("a", step, 1000)
            board.show()
        board.end("a", "70 s")
    lines = stream.getvalue().splitlines()
    assert len([line for line in lines if line.startswith("a: epoch")]) == 2, "every 30 seconds"
    assert lines[-1].startswith("[1/2] a: 70 s, about")
    assert stream.getvalue().isprintable() or set(stream.getvalue()) - {"\n"} <= set(map(chr, range(32, 127)))


def test_a_terminal_is_rewritten_in_place(clock, monkeypatch):
    monkeypatch.setattr(progress.shutil, "get_terminal_size", lambda: os.terminal_size((20, 24)))
    stream = Terminal()
    with Progress(2, stream=stream) as board:
        board.advance("a long label of a run", 1, 10)
        clock[0] = 1.0
        board.show()
        first = stream.getvalue()
        assert first.splitlines()[0] == "a long label of a r" and "\x1b" not in first
        board.end("a long label of a run", "1 s")
        assert stream.getvalue()[len(first) :].startswith("\x1b[2F\x1b[J[1/2] a long label of a run: 1 s")


def test_a_terminal_too_low_for_all_runs_shows_the_summary(clock, monkeypatch):
    monkeypatch.setattr(progress.shutil, "get_terminal_size", lambda: os.terminal_size((80, 6)))
    stream = Terminal()
    board = Progress(50, stream=stream)
    for name in range(20):
        board.advance(str(name), 1, 10)
    clock[0] = 1.0
    board.show()
    lines = stream.getvalue().splitlines()
    assert lines[:3] == [f"{name}: epoch 1/10 (10 %)" for name in range(3)]
    assert lines[3] == "and 17 more" and lines[4].startswith("0 of 50 runs done, 20 in flight")


def notebook_progress(monkeypatch, cells):
    shown = []

    class Handle:
        def update(self, data, raw):
            shown.append(data)

    ipython = pytest.importorskip("IPython")
    shell = SimpleNamespace(kernel=object(), user_ns={"In": cells})
    monkeypatch.setattr(ipython, "get_ipython", lambda: shell)
    monkeypatch.setattr("IPython.display.display", lambda data, raw, display_id: shown.append(data) or Handle())
    return shown


def test_a_notebook_has_one_display_that_is_emptied_at_the_end(clock, monkeypatch):
    shown, stream = notebook_progress(monkeypatch, ["1 + 1"]), io.StringIO()
    with Progress(2, stream=stream) as board:
        board.advance("<a>", 1, 10)
        for second in (1.0, 1.1, 2.0):
            clock[0] = second
            board.show()
    assert len(shown) == 3 and stream.getvalue() == ""
    assert shown[0]["text/plain"].startswith("<a>: epoch 1/10 (10 %)\n0 of 2")
    assert shown[0]["text/html"].startswith("<pre>&lt;a&gt;: epoch")
    assert shown[-1] == {"text/plain": "", "text/html": ""}


def test_a_notebook_keeps_the_last_few_that_ended(clock, monkeypatch):
    shown = notebook_progress(monkeypatch, ["1 + 1"])
    board = Progress(9, names={"key7": "run 7"})
    for number in range(8):
        board.end(f"key{number}", "1 s")
    clock[0] = 1.0
    board.show()
    lines = shown[-1]["text/plain"].splitlines()
    assert [line[:5] for line in lines[:5]] == [f"[{number}/9]" for number in range(4, 9)]
    assert lines[4].startswith("[8/9] run 7: 1 s") and lines[5].startswith("8 of 9 runs done") and len(lines) == 6


@pytest.mark.parametrize("terminal", [True, False])
def test_a_stream_that_breaks_turns_the_display_off(clock, terminal):
    class Broken(io.StringIO):
        writes = 0

        def isatty(self):
            return terminal

        def write(self, text):
            self.writes += 1
            raise BrokenPipeError

    stream = Broken()
    with Progress(3, stream=stream) as board:
        board.advance("a", 1, 10)
        clock[0] = 60.0
        board.show()
        clock[0] = 120.0
        board.show()
        board.end("a", "1 s")
        board.note("more")
    assert stream.writes == 1 and board.ended == 1


def test_papermill_gets_a_log(clock, monkeypatch):
    shown, stream = notebook_progress(monkeypatch, ["", "# Parameters\npreset = 'smoke'"]), io.StringIO()
    Progress(1, stream=stream).end("a", "1 s")
    assert not shown and stream.getvalue() == "[1/1] a: 1 s\n"


def slow_perform(run, device, checkpoint=None, progress=None):
    with open(os.environ["PERFORMED"], "a") as file:
        file.write(f"{run.seed}\n")
    time.sleep(0.2)
    return small_result(run)


def drive(folder, start):
    runs.perform = slow_perform
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
from nrae_lib import runs
from nrae_lib.core import training
from nrae_lib.runs import grid
import nrae_lib.core.training.loop
from nrae_lib.runs import Store
from tests.test_grid import LONG
runs.fit = partial(training.fit, checkpoint_seconds=0.05)
steps, step = [], training.loop.step
training.loop.step = lambda *arguments, **more: steps.append(None) or step(*arguments, **more)
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
        while driver.poll() is None and kills < 2:
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
