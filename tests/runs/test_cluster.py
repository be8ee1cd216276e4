"""Runs on workers: whatever dies costs one run, nothing is done twice, and SLURM's jobs are ours."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tests.test_runs import ROOT, RUN, small_result

from nrae_lib import runs
from nrae_lib.runs import Store, cluster, grid
from nrae_lib.runs.progress import Progress

distributed = pytest.importorskip("distributed")
dask_jobqueue = pytest.importorskip("dask_jobqueue")
dask = pytest.importorskip("dask")
RAISES, DIES, LEAVES, SHORT, SLOW, ENDLESS = 100, 101, 104, 110, 200, 300  # what tests/cluster_worker.py does


def of(*seeds):
    return [replace(RUN, seed=seed) for seed in seeds]


# ------------------------------------------------------------------------------------------------ without workers


@pytest.mark.parametrize(
    ("asked", "devices", "given"),
    [
        ("auto", 0, ["auto"] * 4),
        ("auto", 2, ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]),
        ("cuda", 4, ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]),
        ("cuda", 0, ["cuda:0"] * 4),  # fails on the worker, with a sentence that names its devices
        ("cuda:1", 4, ["cuda:1"] * 4),
        ("cpu", 4, ["cpu"] * 4),
    ],
)
def test_one_gpu_per_worker(asked, devices, given):
    assert [cluster.device_of(asked, slot, devices) for slot in range(4)] == given


def test_workers_of_a_host_share_its_gpus_and_a_new_one_takes_the_place_that_is_free(tmp_path):
    driver = cluster._Driver(None, Store(tmp_path), "auto", Progress(1, False), None, 1)

    def come(address, host):
        driver.workers[address], driver.flights[address] = cluster._Worker(2), None
        driver._greeted(address, {"host": host, "devices": 2, "shares": True, "code": runs.code_state()})
        return driver.workers[address].slot

    assert [come(*one) for one in [("a", "x"), ("b", "x"), ("c", "y"), ("d", "x")]] == [0, 1, 0, 2]
    del driver.workers["b"]
    assert come("e", "x") == 1


def test_a_worker_with_another_state_of_the_library_gets_no_work(tmp_path):
    driver = cluster._Driver(None, Store(tmp_path), "auto", Progress(1, False), None, 1)
    driver.workers["a"], driver.flights["a"] = cluster._Worker(1), None
    with pytest.warns(UserWarning, match="worker a has another state of nrae_lib than this process; it gets"):
        driver._greeted("a", {"host": "x", "devices": 0, "shares": True, "code": "older"})
    assert not driver.workers and "a" in driver.unusable


def test_a_process_whose_files_have_changed_is_told_that_it_is_the_older_one(tmp_path, monkeypatch):
    now = runs.code_state()
    monkeypatch.setattr(runs, "_code", lambda: "older")
    runs.code_state.__wrapped__ = lambda: now
    driver = cluster._Driver(None, Store(tmp_path), "auto", Progress(1, False), None, 1)
    driver.workers["a"], driver.flights["a"] = cluster._Worker(1), None
    with pytest.warns(UserWarning, match="which is the older one: start it again"):
        driver._greeted("a", {"host": "x", "devices": 0, "shares": True, "code": now})


@pytest.fixture
def flying(tmp_path):
    """A driver, and a unit of two runs that its only worker performs."""
    unit = tuple(of(0, 1))
    driver = cluster._Driver(None, Store(tmp_path), "cpu", Progress(2, False), None, 1)

    def fly(value=None):
        future = SimpleNamespace(result=lambda timeout: value, cancel=lambda: None)
        driver.workers["a"], driver.flights["a"] = cluster._Worker(1, ready=True), cluster._Flight(future, unit)
        driver.queue.clear()
        return driver.flights["a"]

    return driver, unit, fly


def test_runs_interrupted_together_train_together_again(flying):
    driver, unit, fly = flying
    flight = fly([grid.Outcome(run, "interrupted") for run in unit])
    assert not list(driver._ended("a", flight))
    assert list(driver.queue) == [unit] and not driver.workers["a"].ready


def test_a_unit_that_lost_its_worker_is_tried_once_more_before_it_is_split(flying):
    driver, unit, fly = flying
    for left in ([unit], [(unit[0],), (unit[1],)]):
        fly()
        assert not list(driver._lost("a", "died"))
        assert list(driver.queue) == left
    assert not driver.deaths


@pytest.mark.parametrize(("found", "workers", "sizes"), [(2, 1, [7, 7]), (0, 1, [14]), (20, 1, [1] * 14)])
def test_units_are_shared_out_among_the_workers_of_a_scheduler(tmp_path, monkeypatch, found, workers, sizes):
    """However few workers the caller speaks of."""
    seen = []
    client = SimpleNamespace(nthreads=lambda: dict.fromkeys(range(found), 1))
    monkeypatch.setattr(cluster._Driver, "outcomes", lambda self, missing: seen.append(self.wanted) or iter(()))
    assert not list(cluster.perform(of(*range(14)), Store(tmp_path), "cpu", workers, client, Progress(1, False)))
    assert [len(unit) for unit in grid._units(of(*range(14)), "cpu", *seen)] == sizes


def test_no_more_jobs_are_asked_for_than_there_is_work(tmp_path):
    asked = []
    own = SimpleNamespace(scale=asked.append, workers={}, status=SimpleNamespace(name="running"))
    client = SimpleNamespace(nthreads=dict)
    driver = cluster._Driver(client, Store(tmp_path), "cpu", Progress(2, False), own, 20)
    driver.queue.extend((run,) for run in of(0, 1))
    assert not list(driver._look())
    assert asked == [2]


def test_a_wait_for_workers_is_spoken_of_once(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "_NO_WORKER_SECONDS", -1.0)
    driver = cluster._Driver(SimpleNamespace(nthreads=dict), Store(tmp_path), "cpu", Progress(2, False), None, 2)
    with pytest.warns(UserWarning, match="no worker has come") as caught:
        assert not list(driver._look()) and not list(driver._look())
    assert len(caught) == 1


def test_jobs_that_slurm_refuses_are_submitted_again_and_then_end_the_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "_SUBMIT_SECONDS", 0.0)
    own = SimpleNamespace(workers={}, status=SimpleNamespace(name="running"))
    driver = cluster._Driver(None, Store(tmp_path), "cpu", Progress(2, False), own, 2)
    for _ in range(cluster.TRIES - 1):
        own.workers.update(refused=SimpleNamespace(job_id=None), there=SimpleNamespace(job_id="7"))
        driver._submit_again(False, time.monotonic())
        assert own.workers.keys() == {"there"}
    own.workers.update(refused=SimpleNamespace(job_id=None))
    with pytest.raises(RuntimeError, match="sbatch failed 3 times"):
        driver._submit_again(False, time.monotonic())


def test_without_sbatch_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="needs the command sbatch"):
        grid.run_all([RUN], Store(tmp_path), cluster="slurm", progress=False)


def test_a_second_sigterm_does_not_cut_the_saving_short():
    before = signal.getsignal(signal.SIGTERM)
    with cluster._ends_cleanly():
        with pytest.raises(SystemExit, match="143"):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_worker_that_has_been_greeted_is_never_paused(tmp_path):
    with (
        distributed.LocalCluster(
            1,
            processes=False,
            memory_limit="1GB",
            dashboard_address="127.0.0.1:0",
            scheduler_kwargs={"dashboard": False},
        ) as own,
        distributed.Client(own, set_as_default=False) as client,
    ):
        (worker,) = own.workers.values()
        assert worker.memory_manager.memory_pause_fraction == 0.8
        client.submit(cluster._greet, str(tmp_path), "driver").result()
        manager = worker.memory_manager
        manager._maybe_pause_or_unpause(worker, 2 * manager.memory_limit)
        assert worker.status == distributed.Status.running


def test_one_unit_needs_no_processes(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "perform", None)
    monkeypatch.setattr(runs, "perform", lambda run, *_, **__: small_result(run))
    assert len(grid.run_all([RUN], Store(tmp_path), "cpu", progress=False, workers=np.int64(8))) == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"workers": 0}, "workers must be a whole number of at least 1"),
        ({"workers": True}, "workers must be a whole number"),
        ({"workers": "2"}, "workers must be a whole number"),
        ({"cluster": "slrm"}, "unknown cluster 'slrm': choose the address of a Dask scheduler"),
        ({"cluster": "localhost"}, "unknown cluster 'localhost'"),
        ({"cluster": "http://host:8786"}, "unknown cluster 'http://host:8786'"),
        ({"cluster": 3}, "a cluster cannot be 3: choose the address"),
    ],
)
def test_wrong_workers_and_clusters_stop_with_the_valid_choices(tmp_path, arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        grid.run_all([RUN], Store(tmp_path), **arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "value", ["", None, "slurm", "tcp://10.0.0.1:8786", "tls://[::1]:8786", "node-3:8786", "[::1]:8786"]
)
def test_valid_clusters_pass(value):
    grid.check_cluster(value)


@pytest.mark.parametrize(
    ("module", "value", "package"),
    [("distributed", "tcp://a:1", "distributed"), ("dask_jobqueue", "slurm", "dask-jobqueue")],
)
def test_without_dask_one_sentence_names_the_extra(monkeypatch, module, value, package):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"need the package {package}: pip install 'nrae-lib\[cluster\]'"):
        grid.check_cluster(value)


def test_no_scheduler_is_one_sentence(tmp_path, monkeypatch):
    client = distributed.Client
    monkeypatch.setattr(distributed, "Client", lambda address, timeout, **rest: client(address, timeout="1s", **rest))
    with (
        monkeypatch.context() as patched,
        pytest.raises(ConnectionError, match="no Dask scheduler answers at tcp"),
    ):
        patched.setattr(grid, "check_cluster", lambda value: None)
        grid.run_all([RUN], Store(tmp_path), cluster="tcp://127.0.0.1:9")


SLURM = {
    "jobqueue.slurm.cores": 3,
    "jobqueue.slurm.memory": "8GB",
    "jobqueue.slurm.job-script-prologue": ["module load python"],
    "jobqueue.slurm.job-extra-directives": ["--gres=gpu:1"],
    "jobqueue.slurm.scheduler-options": {"host": "127.0.0.1", "dashboard_address": ":0"},
    "jobqueue.slurm.walltime": "02:00:00",
}


def test_slurm_job_script():
    with dask.config.set(SLURM), cluster.slurm_cluster() as jobs:
        lines = jobs.job_script().splitlines()
        address = jobs.scheduler_address
    assert lines[0].startswith("#!")
    assert {"#SBATCH -n 1", "#SBATCH --cpus-per-task=3", "#SBATCH -t 02:00:00", "#SBATCH --gres=gpu:1"} < set(lines)
    assert "#SBATCH --signal=B:TERM@60" in lines, "the shell gets SIGTERM a minute before the end"
    assert lines.index("module load python") < lines.index("export OMP_NUM_THREADS=3")
    *_, command = filter(None, lines)
    # exec: the worker is what the signal to the shell reaches.
    assert command.startswith(f"exec {sys.executable} -m distributed.cli.dask_worker {address} ")
    options = dict(re.findall(r"--([\w-]+) ([^\s-]\S*)", command))
    assert options["memory-limit"] == "0" and command.count("--memory-limit") == 2, "the last one counts"
    assert options["nthreads"] == "3" and "nworkers" not in options and "--nanny" in command


def test_slurm_keeps_the_signal_of_the_configuration_and_needs_cores():
    wanted = {**SLURM, "jobqueue.slurm.job-extra-directives": ["--signal=B:TERM@300"]}
    with dask.config.set(wanted), cluster.slurm_cluster() as jobs:
        assert jobs.job_script().count("--signal=") == 1
    with pytest.raises(ValueError, match=r"needs jobqueue\.slurm\.cores and jobqueue\.slurm\.memory"):
        cluster.slurm_cluster()


# ---------------------------------------------------------------------------------- a scheduler and its workers


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Environment of all processes; what was performed is read from `PERFORMED` in it."""
    folder = tmp_path_factory.mktemp("cluster")
    (folder / "performed").touch()
    return {
        **os.environ,
        "PERFORMED": str(folder / "performed"),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "DASK_TEMPORARY_DIRECTORY": str(folder),
        "DASK_DISTRIBUTED__WORKER__PRELOAD": json.dumps(["tests.cluster_worker"]),
    }


@pytest.fixture(scope="module")
def running(place):
    """Address of a scheduler with two workers, all started as separate processes."""
    file = Path(place["PERFORMED"]).with_name("scheduler.json")
    common = {"cwd": ROOT, "env": place, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    at = ["--scheduler-file", str(file), "--no-dashboard", "--host", "127.0.0.1"]
    cli = [sys.executable, "-m"]
    processes = [subprocess.Popen([*cli, "distributed.cli.dask_scheduler", *at, "--port", "0"], **common)]
    processes += [
        subprocess.Popen([*cli, "distributed.cli.dask_worker", *at, "--nthreads", "1"], **common) for _ in range(2)
    ]
    address = wait_for(lambda: file.exists() and json.loads(file.read_text() or "{}").get("address"))
    with distributed.Client(address, set_as_default=False) as client:
        yield address, client
    for process in processes[1:]:
        process.terminate()  # a nanny takes its worker along
    for process in processes[1:]:
        process.wait(30)
    processes[0].kill()
    processes[0].wait()


@pytest.fixture
def scheduler(running):
    """Its address, once both workers are there (again)."""
    address, client = running
    wait_for(lambda: len(client.nthreads()) == 2)
    return address


def wait_for(condition, driver=None, seconds=90):
    """What ``condition`` gives in the end; fails at once if the driver, which should bring it about, has ended."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if driver and driver.poll() is not None:
            pytest.fail(f"the driver has ended: {driver.communicate()[1]}")
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
    return value


def attempts(place):
    """(seed, process) of every attempt at a run so far."""
    lines = Path(place["PERFORMED"]).read_text().splitlines()
    return [tuple(map(int, line.split()[:2])) for line in lines]


@pytest.fixture
def start_driver(place):
    """Start a process that runs the given seeds and prints their metrics."""
    drivers = []

    def start(folder, seeds, environment=place, **arguments):
        code = (
            "import json\n"
            "from dataclasses import replace\n"
            "from nrae_lib import grid\n"
            "from nrae_lib.runs import Store\n"
            "from tests.test_runs import RUN\n"
            f"planned = [replace(RUN, seed=seed) for seed in {seeds!r}]\n"
            f"results = grid.run_all(planned, Store({str(folder)!r}), 'cpu', **{arguments!r})\n"
            "print(json.dumps([one.metrics for one in results]))\n"
        )
        drivers.append(
            subprocess.Popen(
                [sys.executable, "-c", code],
                cwd=ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return drivers[-1]

    yield start
    for driver in drivers:
        driver.kill()
        driver.communicate()


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(cluster, "TRIES", 2)
    monkeypatch.setattr(cluster, "_LOST_SECONDS", 0.3)
    monkeypatch.setattr(grid, "POLL_SECONDS", 0.3)


@pytest.mark.slow
def test_poisoned_runs_are_reported_and_harm_no_other(scheduler, place, tmp_path, quick, capsys):
    seeds = (0, DIES, RAISES, SHORT, LEAVES, SHORT + 1)
    store = Store(tmp_path / "store")
    with pytest.raises(grid.RunsFailed) as caught:
        grid.run_all(of(*seeds), store, "cpu", cluster=scheduler)
    failures = {run.seed: text for run, text in caught.value.failures.items()}
    assert failures.keys() == {DIES, RAISES, LEAVES}
    assert failures[DIES] == "it killed its worker 2 times"
    assert "Traceback" in failures[RAISES] and failures[RAISES].endswith("RuntimeError: poison\n")
    assert f"seed {RAISES}: RuntimeError: poison" in str(caught.value) and "in perform" in str(caught.value)
    done = {run.seed: store.get(run) for run in of(0, SHORT, SHORT + 1)}
    assert None not in done.values()
    counts = Counter(seed for seed, _ in attempts(place))
    assert counts.pop(DIES) == 2
    assert counts[0] == counts[SHORT] == counts[SHORT + 1] == counts[RAISES] == counts[LEAVES] == 1
    (plain,) = grid.run_all(of(0), Store(tmp_path / "plain"), "cpu", progress=False)
    assert done[0].metrics == plain.metrics
    lines = capsys.readouterr().err
    assert f"[6/6] {RUN.label[:-1]}" in lines and "its worker died (1 of 2); it is tried again" in lines


@pytest.mark.slow
def test_killed_workers_and_drivers_cost_nothing_but_time(scheduler, place, tmp_path, start_driver):
    """One worker gets SIGKILL, the other SIGTERM; then the driver is killed, and two more come at once."""
    seeds = (SLOW, SLOW + 1, SHORT + 2, SHORT + 3, SHORT + 4, SHORT + 8)
    first = start_driver(tmp_path, seeds, cluster=scheduler)
    pids = wait_for(lambda: (now := dict(attempts(place))).keys() >= {SLOW, SLOW + 1} and now, first)
    checkpoints = {run.seed: Store(tmp_path).checkpoint(run) for run in of(SLOW, SLOW + 1)}
    wait_for(lambda: all(path.exists() and path.read_text() > "1" for path in checkpoints.values()), first)
    os.kill(pids[SLOW], signal.SIGKILL)
    os.kill(pids[SLOW + 1], signal.SIGTERM)
    again = {SLOW: 2, SLOW + 1: 2}
    wait_for(lambda: again.items() <= Counter(seed for seed, _ in attempts(place)).items(), first)
    wait_for(lambda: not any(Path(f"/proc/{pids[seed]}").exists() for seed in again))
    first.kill()
    _, errors = first.communicate()
    assert f"seed {SLOW}: its worker" in errors and f"seed {SLOW + 1}: its worker" not in errors
    # A worker may still be at the dead driver's runs when the next two come.
    drivers = [start_driver(tmp_path, seeds[::order], cluster=scheduler) for order in (1, -1)]
    outputs = []
    for driver in drivers:
        output, errors = driver.communicate(timeout=120)
        assert driver.returncode == 0, errors
        outputs.append(json.loads(output))
    assert outputs[0] == outputs[1][::-1]
    assert all(metrics["resumed_at"] > 0 for metrics in outputs[0][:2])
    counts = Counter(seed for seed, _ in attempts(place))
    assert {seed: counts[seed] for seed in seeds} == {**dict.fromkeys(seeds, 1), **again}


@pytest.mark.slow
def test_a_worker_that_does_not_see_the_store_hands_its_result_over(scheduler, place, tmp_path, monkeypatch):
    from tests import cluster_worker

    monkeypatch.setattr(cluster, "_greet", cluster_worker.greet_blindly)
    store, (busy, free, real) = Store(tmp_path), of(SHORT + 5, SHORT + 6, 4)
    with distributed.Client(scheduler, set_as_default=False) as client:
        with store.claim(busy, False):
            outcomes = cluster.perform([busy, free, real], store, "cpu", 1, client, Progress(3, False))
            seen = {(one := next(outcomes)).run.seed: one for _ in range(2)}
            assert seen.keys() == {free.seed, real.seed}, "another process has the claim"
            assert store.get(free) is not None and store.get(real).metrics == seen[real.seed].result.metrics
        assert [outcome.run.seed for outcome in outcomes] == [busy.seed]
        assert client.status == "running", "it is the caller's"
    assert not list(tmp_path.glob("*.driver")) and not list(tmp_path.glob(".*.driver"))


@pytest.mark.slow
def test_local_workers_divide_the_threads_and_save_when_the_driver_is_told_to_end(place, tmp_path, start_driver):
    store = Store(tmp_path)
    driver = start_driver(tmp_path, (SHORT + 9, ENDLESS, ENDLESS + 1), workers=2)
    checkpoint = store.checkpoint(*of(ENDLESS))
    wait_for(lambda: store.get(*of(SHORT + 9)) and checkpoint.exists(), driver)
    driver.terminate()
    _, errors = driver.communicate(timeout=60)
    assert driver.returncode == 143, errors
    assert int(checkpoint.read_text()) > 0
    workers = {pid for seed, pid in attempts(place) if seed in (SHORT + 9, ENDLESS, ENDLESS + 1)}
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), seconds=20)
    assert driver.pid not in workers and len(workers) == 2
    assert store.get(*of(SHORT + 9)).metrics["threads"] == 1


@pytest.mark.slow
def test_slurm_jobs_run_and_one_whose_time_is_over_is_replaced(place, tmp_path, start_driver):
    """The whole path with an `sbatch` that starts the script at once and a `scancel` that ends it."""
    (tmp_path / "sbatch").write_text(
        f'#!/bin/sh\ncp "$1" {tmp_path}/job.sh\nsetsid bash {tmp_path}/job.sh >>{tmp_path}/log 2>&1 &\n'
        f'echo $! >>{tmp_path}/jobs\necho "Submitted batch job $!"\n'
    )
    (tmp_path / "scancel").write_text("#!/bin/sh\nkill -TERM $1\n")
    for name in ("sbatch", "scancel"):
        (tmp_path / name).chmod(0o755)
    settings = {
        "CORES": "1",
        "MEMORY": "4GB",
        "SCHEDULER_OPTIONS": json.dumps({"host": "127.0.0.1", "dashboard_address": ":0"}),
    }
    environment = {
        **place,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "DASK_DISTRIBUTED__DEPLOY__LOST_WORKER_TIMEOUT": "1s",
        **{f"DASK_JOBQUEUE__SLURM__{name}": value for name, value in settings.items()},
    }
    store = Store(tmp_path / "store")
    driver = start_driver(store.folder, (SLOW + 6,), environment, cluster="slurm", workers=1)
    checkpoint = store.checkpoint(*of(SLOW + 6))
    wait_for(lambda: checkpoint.exists() and checkpoint.read_text() > "1", driver)
    job = int((tmp_path / "jobs").read_text())
    os.kill(job, signal.SIGTERM)  # as SLURM signals the batch shell alone
    output, errors = driver.communicate(timeout=120)
    assert driver.returncode == 0, errors
    (slow,) = json.loads(output)
    assert slow["resumed_at"] > 0
    assert "its worker" not in errors, "it left, it was not killed"
    jobs = [int(line) for line in (tmp_path / "jobs").read_text().split()]
    assert len(jobs) == 2
    wait_for(lambda: not any(Path(f"/proc/{pid}/exe").exists() for pid in jobs), seconds=30)
