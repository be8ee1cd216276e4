"""Runs on workers: whatever dies costs one run at most, nothing is done twice, and SLURM's jobs are ours."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from nrae_lib.core import training
from nrae_lib.runs import RunsFailed, Store, grid, perform, run_all
from tests.runs.cluster_worker import DIES, LEAVES, RAISES, SAVES, SHORT, SLOW
from tests.runs.small import ROOT, RUN

distributed = pytest.importorskip("distributed")
dask_jobqueue = pytest.importorskip("dask_jobqueue")
dask = pytest.importorskip("dask")
cluster = pytest.importorskip("nrae_lib.runs.cluster")


def of(*seeds):
    return [replace(RUN, seed=seed) for seed in seeds]


def test_one_gpu_per_worker():
    for asked, devices, given in [
        ("auto", 2, ["cuda:0", "cuda:1", "cuda:0"]),
        ("cuda", 4, ["cuda:0", "cuda:1", "cuda:2"]),
        ("cuda", 0, ["cuda", "cuda", "cuda"]),  # fails on the worker, with a sentence that names its devices
        ("cuda:1", 4, ["cuda:1", "cuda:1", "cuda:1"]),
    ]:
        assert [cluster.device_of(asked, name, devices) for name in range(3)] == given
        assert cluster.device_of(asked, "tcp://127.0.0.1:8786", devices) == asked  # who starts it says what it sees


def test_jobs_that_slurm_refuses_are_submitted_again_unless_it_refuses_all():
    asked, refused, there = [], SimpleNamespace(job_id=None), SimpleNamespace(job_id="7")
    own = SimpleNamespace(scale=asked.append, workers={"refused": refused, "there": there})
    cluster._ask_for(own, 2)
    assert own.workers == {"there": there} and asked == [2]
    with pytest.raises(RuntimeError, match="sbatch failed"):
        cluster._ask_for(SimpleNamespace(workers={"refused": refused}), 2)


def test_a_run_whose_workers_were_told_to_end_is_not_to_blame_for_their_death(tmp_path):
    def result():
        raise distributed.KilledWorker("task", None, 2)

    future = SimpleNamespace(result=result)
    assert cluster._ending(future, RUN, Store(tmp_path), told=True) is None, "it is tried again"
    assert cluster._ending(future, RUN, Store(tmp_path), told=False) == "it killed its worker 3 times"


def test_a_second_sigterm_does_not_cut_the_saving_short():
    before = signal.getsignal(signal.SIGTERM)
    with cluster._ends_cleanly():
        with pytest.raises(SystemExit, match="143"):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
    assert signal.getsignal(signal.SIGTERM) == before


def test_wrong_workers_and_clusters_stop_with_the_valid_choices_and_one_run_needs_no_processes(tmp_path, monkeypatch):
    for workers in (0, True, "2"):
        with pytest.raises(ValueError, match="workers must be a whole number of at least 1"):
            run_all([RUN], Store(tmp_path), workers=workers)
    for value in ("slrm", "localhost", "http://host:8786", 3):
        with pytest.raises(ValueError, match=f"unknown cluster {value!r}: choose the address of a Dask scheduler"):
            run_all([RUN], Store(tmp_path), cluster=value)
    assert not list(tmp_path.iterdir())
    for value in ("", None, "slurm", "tcp://10.0.0.1:8786", "tls://[::1]:8786", "node-3:8786", "[::1]:8786"):
        grid.check_cluster(value)
    monkeypatch.setattr(cluster, "perform_all", None)
    assert len(run_all([RUN], Store(tmp_path), "cpu", progress=False, workers=8)) == 1


@pytest.mark.parametrize(("package", "value"), [("distributed", "tcp://a:1"), ("dask-jobqueue", "slurm")])
def test_without_dask_one_sentence_names_the_extra(monkeypatch, package, value):
    monkeypatch.setitem(sys.modules, package.replace("-", "_"), None)
    with pytest.raises(ImportError, match=rf"need the package {package}: pip install 'nrae-lib\[cluster\]'"):
        grid.check_cluster(value)


def test_without_scheduler_or_sbatch_one_sentence(tmp_path, monkeypatch):
    init = distributed.Client.__init__
    monkeypatch.setattr(distributed.Client, "__init__", lambda *given, **more: init(*given, **more | {"timeout": "1s"}))
    with pytest.raises(ConnectionError, match="no Dask scheduler answers at tcp"):
        run_all([RUN], Store(tmp_path), cluster="tcp://127.0.0.1:9")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="needs the command sbatch"):
        run_all([RUN], Store(tmp_path), cluster="slurm", progress=False)


def slurm(**changes):
    """Dask's configuration of SLURM jobs."""
    found = dict(cores=3, memory="8GB", job_script_prologue=["module load python"], walltime="02:00:00")
    options = {"host": "127.0.0.1", "dashboard_address": ":0"}
    found |= dict(job_extra_directives=["--gres=gpu:1"], scheduler_options=options)
    return dask.config.set({f"jobqueue.slurm.{name}": value for name, value in (found | changes).items()})


def test_the_job_script_of_slurm_has_a_signal_and_needs_cores():
    with slurm(), cluster.slurm_cluster() as jobs:
        lines, address = jobs.job_script().splitlines(), jobs.scheduler_address
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
    with slurm(job_extra_directives=["--signal=B:TERM@300"]), cluster.slurm_cluster() as jobs:
        assert jobs.job_script().count("--signal=") == 1
    with pytest.raises(ValueError, match=r"needs jobqueue\.slurm\.cores and jobqueue\.slurm\.memory"):
        cluster.slurm_cluster()


def test_the_clients_own_workers_are_never_paused_and_must_have_the_same_files(tmp_path, monkeypatch):
    arguments = {"memory_limit": "1GB", "dashboard_address": "127.0.0.1:0", "scheduler_kwargs": {"dashboard": False}}
    with (
        distributed.LocalCluster(1, processes=False, **arguments) as own,
        distributed.Client(own, set_as_default=False) as client,
    ):
        (worker,) = own.workers.values()
        manager = worker.memory_manager
        assert manager.memory_pause_fraction == 0.8
        (result,) = run_all([RUN], Store(tmp_path / "a"), "cpu", progress=False, cluster=client)
        assert Store(tmp_path / "a").get(RUN).metrics == result.metrics == perform(RUN, "cpu").metrics
        manager._maybe_pause_or_unpause(worker, 2 * manager.memory_limit)
        assert worker.status == distributed.Status.running
        states = iter(["older"])
        monkeypatch.setattr(cluster, "code_state", lambda: next(states, "newer"))
        with pytest.raises(RuntimeError, match="has other files of nrae_lib, or of its images, than this process"):
            run_all(of(1, 2), Store(tmp_path / "b"), "cpu", progress=False, cluster=client)
        assert client.status == "running", "it is the caller's"
    assert not training.stop_event.is_set(), "trainings of this process go on"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """What all processes find in their environment; what was performed is read from `PERFORMED` in it."""
    folder = tmp_path_factory.mktemp("cluster")
    (folder / "performed").touch()
    return {
        "PERFORMED": str(folder / "performed"),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "DASK_TEMPORARY_DIRECTORY": str(folder),
        "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1",
        "DASK_DISTRIBUTED__WORKER__PRELOAD": json.dumps(["tests.runs.cluster_worker"]),
        "DASK_DISTRIBUTED__WORKER__MULTIPROCESSING_METHOD": "fork",
    }


@pytest.fixture(scope="module")
def running(place):
    """Address of a scheduler with two workers, all separate processes."""
    file = Path(place["PERFORMED"]).with_name("scheduler.json")
    common = {"cwd": ROOT, "env": os.environ | place, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    at = ["--scheduler-file", str(file), "--no-dashboard", "--host", "127.0.0.1"]
    cli = [sys.executable, "-m"]
    server = subprocess.Popen([*cli, "distributed.cli.dask_scheduler", *at, "--port", "0"], **common)
    # A nanny that has imported PyTorch forks its workers at once.
    size = ["--nworkers", "2", "--nthreads", "2", "--preload-nanny", "tests.runs.small"]
    workers = subprocess.Popen([*cli, "distributed.cli.dask_worker", *at, *size], **common)
    address = wait_for(lambda: file.exists() and json.loads(file.read_text() or "{}").get("address"))
    with distributed.Client(address, set_as_default=False) as client:
        yield address, client
    workers.terminate()  # nannies take their workers along
    workers.wait(30)
    server.kill()
    server.wait()


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
        assert driver is None or driver.is_alive(), "the driver has ended"
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
    return value


def wait_for_the_end_of(pids):
    wait_for(lambda: not any(Path(f"/proc/{pid}/exe").exists() for pid in pids), seconds=30)


def attempts(place):
    """(seed, process, folder of the checkpoint) of every attempt at a run so far."""
    lines = [line.split() for line in Path(place["PERFORMED"]).read_text().splitlines()]
    return [(int(seed), int(process), Path(folder)) for seed, process, folder in lines]


def counts(place, seeds):
    done = [seed for seed, *_ in attempts(place)]
    return {seed: done.count(seed) for seed in seeds}


def processes_of(place, *seeds):
    return {seed: process for seed, process, _ in attempts(place) if seed in seeds}


def drive(environment, folder, seeds, arguments):
    """What a driver does; the environment of the process that it was forked from is another's."""
    os.environ |= environment
    dask.config.refresh()
    return run_all(of(*seeds), Store(folder), "cpu", **arguments)


@pytest.mark.slow
def test_poisoned_runs_are_reported_and_harm_no_other(scheduler, place, tmp_path, capsys):
    seeds, store = (SHORT, DIES, RAISES, SHORT + 1, LEAVES, SHORT + 2), Store(tmp_path)
    with pytest.raises(RunsFailed) as caught:
        run_all(of(*seeds), store, "cpu", cluster=scheduler)
    failures = {run.seed: text for run, text in caught.value.failures.items()}
    assert failures.keys() == {DIES, RAISES, LEAVES}
    assert failures[DIES] == "it killed its worker 2 times"
    assert "Traceback" in failures[RAISES] and failures[RAISES].endswith("RuntimeError: poison\n")
    assert f"seed {RAISES}: RuntimeError: poison" in str(caught.value) and "in perform" in str(caught.value)
    done = grid.stored(of(*seeds), store)
    assert [result.run.seed for result in done] == [SHORT, SHORT + 1, SHORT + 2]
    assert counts(place, seeds) == {**dict.fromkeys(seeds, 1), DIES: 2}
    assert done[0].metrics["threads"] == 2, "all threads of the worker, for one run at a time"
    assert f"[6/6] {RUN.label[:-1]}" in capsys.readouterr().err


@pytest.mark.slow
def test_killed_workers_and_drivers_cost_nothing_but_time(scheduler, place, tmp_path, start_process):
    """One worker gets SIGKILL, the other SIGTERM; then the driver is killed, and two more come at once."""
    seeds, how = (SLOW, SAVES, SHORT + 3, SHORT + 4, SHORT + 6, SHORT + 8), {"cluster": scheduler}
    first = start_process(drive, place, tmp_path, seeds, how)
    wait_for(lambda: len(processes_of(place, SLOW, SAVES)) == 2, first)
    pids = processes_of(place, SLOW, SAVES)
    checkpoint = Store(tmp_path).checkpoint(*of(SLOW))
    wait_for(lambda: checkpoint.exists() and checkpoint.read_text() > "1", first)
    os.kill(pids[SLOW], signal.SIGKILL)
    os.kill(pids[SAVES], signal.SIGTERM)
    again = {SLOW: 2, SAVES: 2}
    wait_for(lambda: counts(place, again) == again, first)
    wait_for_the_end_of(pids.values())
    first.kill()
    # A worker may still be at the dead driver's runs when the next two come.
    drivers = [start_process(drive, place, tmp_path, seeds[::order], how) for order in (1, -1)]
    for driver in drivers:
        driver.join(120)
        assert driver.exitcode == 0
    done = grid.stored(of(*seeds), Store(tmp_path))
    assert [result.run.seed for result in done] == list(seeds)
    assert all(result.metrics["resumed_at"] > 0 for result in done[:2]), "of which one saves only if it is told to end"
    assert counts(place, seeds) == {**dict.fromkeys(seeds, 1), **again}


@pytest.mark.slow
def test_a_worker_that_does_not_see_the_store_hands_its_result_over(scheduler, place, tmp_path):
    store, (run,) = Store(tmp_path / "elsewhere"), of(SHORT + 5)
    (result,) = run_all([run], store, "cpu", progress=False, cluster=scheduler)
    assert [folder for seed, _, folder in attempts(place) if seed == run.seed] != [store.folder]
    assert store.get(run).metrics == result.metrics


@pytest.mark.slow
def test_local_workers_divide_the_threads_and_save_when_the_driver_is_told_to_end(place, tmp_path, start_process):
    store, seeds = Store(tmp_path), (SHORT + 9, SAVES + 50, SAVES + 51)
    driver = start_process(drive, place, tmp_path, seeds, {"workers": 2})
    wait_for(lambda: store.get(*of(SHORT + 9)) and len(processes_of(place, *seeds)) == 3, driver)
    driver.terminate()
    driver.join(60)
    assert driver.exitcode == 143
    assert all(store.checkpoint(run).exists() for run in of(*seeds[1:])), "which save only if they are told to end"
    workers = set(processes_of(place, *seeds).values())
    wait_for_the_end_of(workers)
    assert driver.pid not in workers and len(workers) == 2
    assert store.get(*of(SHORT + 9)).metrics["threads"] == 1


@pytest.mark.slow
def test_slurm_jobs_run_and_one_whose_time_is_over_is_replaced(place, tmp_path, monkeypatch):
    """The whole path with an `sbatch` that starts the script at once and a `scancel` that ends it."""
    (tmp_path / "sbatch").write_text(
        f'#!/bin/sh\ncp "$1" {tmp_path}/job.sh\nsetsid bash {tmp_path}/job.sh >>{tmp_path}/log 2>&1 &\n'
        f'echo $! >>{tmp_path}/jobs\necho "Submitted batch job $!"\n'
    )
    (tmp_path / "scancel").write_text("#!/bin/sh\nkill -TERM $1\n")
    for name in ("sbatch", "scancel"):
        (tmp_path / name).chmod(0o755)
    for name, value in (place | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}).items():
        monkeypatch.setenv(name, value)
    (run,) = of(SAVES + 6)

    def end_its_time():
        wait_for(lambda: processes_of(place, run.seed))
        time.sleep(0.3)
        os.kill(int((tmp_path / "jobs").read_text()), signal.SIGTERM)  # as SLURM signals the batch shell alone

    threading.Thread(target=end_its_time).start()
    with dask.config.set({"distributed.deploy.lost-worker-timeout": "1s"}), slurm(cores=1, job_script_prologue=[]):
        (result,) = run_all([run], Store(tmp_path / "store"), "cpu", progress=False, cluster="slurm", workers=1)
    assert result.metrics["resumed_at"] > 0, "it saved itself, and another job went on"
    jobs = [int(line) for line in (tmp_path / "jobs").read_text().split()]
    assert len(jobs) == 2
    wait_for_the_end_of(jobs)
