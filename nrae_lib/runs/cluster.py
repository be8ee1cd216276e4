"""Runs on Dask workers: processes of this machine, SLURM jobs, or those of any scheduler.

The driver, the process that calls :func:`nrae_lib.runs.run_all`, submits as many runs as there are workers; Dask gives
a run whose worker has died to another. Workers claim and store their runs in the store's folder themselves, so that the
death of any process, the driver's too, costs nothing that is stored; what they do not see there, the driver stores.
"""

import asyncio
import os
import shlex
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
import uuid
from collections import deque
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, NoReturn

import dask
import distributed
import torch
from dask.system import CPU_COUNT

from nrae_lib.core import training
from nrae_lib.runs.performing import POLL_SECONDS, attempt
from nrae_lib.runs.progress import Progress
from nrae_lib.runs.run import Result, Run
from nrae_lib.runs.store import Store, code_state

TRIES = 3  # how many workers a run may kill
SAVE_SECONDS = 20.0  # how long a worker that is told to end waits for the checkpoint of its run
_TICK_SECONDS = 0.05


def slurm_cluster() -> Any:
    """A ``dask_jobqueue.SLURMCluster`` without jobs yet, configured by Dask's own files (section ``jobqueue.slurm``).

    Each job is one worker with all of the job's cores. SLURM is asked to send SIGTERM a minute before the job's time is
    over (unless the configuration has a ``--signal`` of its own) to the worker, which replaces the job's shell. ValueError
    without a number of cores and an amount of memory in the configuration.
    """
    import dask_jobqueue

    found = dask.config.get("jobqueue.slurm", {})
    if not found.get("cores") or not found.get("memory"):
        raise ValueError(
            "cluster 'slurm' needs jobqueue.slurm.cores and jobqueue.slurm.memory in Dask's configuration "
            "(~/.config/dask/jobqueue.yaml, or DASK_JOBQUEUE__SLURM__CORES and ..._MEMORY in the environment)"
        )
    directives = list(found.get("job-extra-directives") or [])
    if not any("--signal" in directive for directive in directives):
        directives.append("--signal=B:TERM@60")
    exports = [f"export {name}={value}" for name, value in _thread_variables(found["cores"]).items()]
    return dask_jobqueue.SLURMCluster(
        processes=1,
        python=f"exec {found.get('python') or shlex.quote(sys.executable)}",
        job_extra_directives=directives,
        worker_extra_args=[*(found.get("worker-extra-args") or []), "--memory-limit", "0"],  # SLURM sees to it
        job_script_prologue=[*(found.get("job-script-prologue") or []), *exports],
    )


def local_cluster(workers: int) -> distributed.LocalCluster:
    """``workers`` processes that share this machine's cores, or the threads that torch is kept to, if these are fewer."""
    threads = max(1, min(CPU_COUNT // workers, torch.get_num_threads()))
    # A share of the memory each would end a run that alone needs more; no dashboard address would open port 8787.
    settings = dict(memory_limit=0, dashboard_address="127.0.0.1:0", scheduler_kwargs={"dashboard": False})
    shares = dict(n_workers=workers, threads_per_worker=threads, env=_thread_variables(threads))
    return distributed.LocalCluster(**shares, **settings, silence_logs="CRITICAL")


def _thread_variables(threads: int) -> dict[str, str]:
    return dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))


@contextmanager
def _connected(workers: int, cluster) -> Iterator[tuple[distributed.Client, Any]]:
    """A client, and the cluster behind it if it is our own."""
    if isinstance(cluster, distributed.Client):
        yield cluster, None
        return
    own = None
    if not cluster or cluster == "slurm":
        if cluster and not shutil.which("sbatch"):
            raise ValueError("cluster 'slurm' needs the command sbatch, which is not here: start this on a login node")
        with dask.config.set({"distributed.scheduler.allowed-failures": TRIES - 1}):
            own = slurm_cluster() if cluster else local_cluster(workers)
    try:
        client = distributed.Client(own or cluster, timeout="20s", set_as_default=False)
    except (OSError, TimeoutError) as error:
        raise ConnectionError(f"no Dask scheduler answers at {cluster}: start one by `dask scheduler`") from error
    with own or nullcontext(), client:
        yield client, own


@contextmanager
def _ends_cleanly() -> Iterator[None]:
    """SIGTERM unwinds the driver, so that its own workers are told to save, instead of ending it on the spot."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(signum, frame):
        signal.signal(signum, signal.SIG_IGN)  # a second one would cut short what the first began
        raise SystemExit(128 + signum)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def perform_all(
    missing: list[Run], store: Store, device: str, workers: int, cluster: Any, board: Progress
) -> Iterator[tuple[Run, Result | str]]:
    """The result or the error of each of the ``missing`` runs, as it ends; arguments as in :func:`nrae_lib.runs.run_all`.

    ConnectionError if no scheduler answers or it goes away; RuntimeError if SLURM refuses all jobs or a worker differs.
    """
    store = Store(store.folder.resolve(), store.scratch)
    topic, code, workers = f"nrae-{uuid.uuid4().hex}", code_state(), min(workers, len(missing))
    waiting, said, again, looked = deque(missing), deque(), [], 0.0
    flights: dict[str, tuple[Run, distributed.Future]] = {}  # by the key of the run
    told: set[str] = set()  # keys of runs whose worker was told to end, and saved them
    with _ends_cleanly(), _connected(workers, cluster) as (client, own):
        client.subscribe_topic(topic, lambda event: said.append(event[1]))
        client.register_plugin(_Saves(), name="nrae_lib")
        try:
            while waiting or flights or again:
                if time.monotonic() - looked > POLL_SECONDS:
                    looked, board.workers = time.monotonic(), len(client.nthreads())
                    waiting, again = waiting + deque(again), []
                    wanted = min(workers, len(waiting) + len(flights))
                    if own and board.workers < wanted:
                        _ask_for(own, wanted)
                while waiting and len(flights) < max(board.workers, 1):
                    run = waiting.popleft()
                    work = _work, run, store, store.path(run).name, device, topic, code
                    flights[run.key] = run, client.submit(*work, key=f"nrae-{uuid.uuid4().hex}", pure=False)
                    board.advance(run.key)
                time.sleep(_TICK_SECONDS)
                for key in [key for key, (_, future) in flights.items() if future.done()]:
                    run, future = flights.pop(key)
                    ending = _ending(future, run, store, key in told)
                    if ending is None:  # another process has it in hand, or its workers were told to end
                        board.drop(key)
                        again.append(run)
                    else:
                        yield run, ending
                    told.discard(key)
                while said:
                    key, done, epochs = said.popleft()
                    if not epochs:
                        told.add(key)
                    elif key in flights:
                        board.advance(key, done, epochs)
                board.elsewhere = len(again)
                board.show()
        except (OSError, CancelledError) as error:  # all others are caught where a run has them
            raise ConnectionError("the Dask scheduler is gone; what is stored is kept, start again") from error
        finally:
            with suppress(Exception):
                client.unsubscribe_topic(topic)
                client.cancel([future for _, future in flights.values()])


def _ending(future: distributed.Future, run: Run, store: Store, told: bool) -> Result | str | None:
    """What the worker returned, see :func:`nrae_lib.runs.performing.attempt`, stored if the worker could not."""
    try:
        ending = future.result()
        if isinstance(ending, Result) and not store.path(run).exists():
            store.put(ending)
        return ending
    except distributed.KilledWorker as error:
        return None if told else f"it killed its worker {error.allowed_failures + 1} times"
    except (WorkerDiffers, CancelledError):
        raise
    except Exception:
        return traceback.format_exc()


def _ask_for(own: Any, wanted: int) -> None:
    """Ask for the workers of a cluster of our own that are missing, such as for a job whose time was over."""
    refused = [name for name, job in list(own.workers.items()) if getattr(job, "job_id", "") is None]
    if refused and len(refused) == len(own.workers):
        raise RuntimeError("sbatch failed: print(cluster.slurm_cluster().job_script()) shows the script to try")
    for name in refused:  # they would count as there
        own.workers.pop(name, None)
    own.scale(wanted)


# A worker process performs one run at a time, with all of its threads, whoever asks for how many.
_ONE_RUN = threading.Lock()


class WorkerDiffers(RuntimeError):
    """A worker has another state of the library or of the image files than the process that asks."""


def _work(run: Run, store: Store, name: str, device: str, topic: str, code: str) -> Result | str | None:
    """Perform ``run`` on this worker, see :func:`nrae_lib.runs.performing.attempt`, and say how it goes."""
    worker, said = distributed.get_worker(), -1.0
    if (code_state(), store.path(run).name) != (code, name):
        what = f"worker {worker.address} has other files of nrae_lib, or of its images, than this process"
        raise WorkerDiffers(f"{what}: let both use the same, and start the older one again")
    if not (shared := store.folder.is_dir()):  # what is kept are checkpoints, for the next attempt on this machine
        store = Store(Path(tempfile.gettempdir()) / f"nrae-{os.getuid()}" / code, store.scratch)

    def report(done: int, epochs: int) -> None:
        nonlocal said
        if time.monotonic() - said > 0.5:
            said = time.monotonic()
            worker.log_event(topic, (run.key, int(done), int(epochs)))

    if training.stop_event.is_set() or not _ONE_RUN.acquire(timeout=1.0):
        _leave_it(run, worker, topic)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(worker.state.nthreads)
        return attempt(run, store, device_of(device, worker.name, torch.cuda.device_count()), report, keep=shared)
    except BaseException:  # one that leaves a thread of Dask's would end the worker
        if not training.stop_event.is_set():
            return traceback.format_exc()
        _leave_it(run, worker, topic)
    finally:
        torch.set_num_threads(threads)
        _ONE_RUN.release()


def _leave_it(run: Run, worker: distributed.Worker, topic: str) -> NoReturn:
    """To another worker, because this one is told to end, or has another run."""
    if training.stop_event.is_set():
        worker.log_event(topic, (run.key, 0, 0))
    time.sleep(0.2)
    raise distributed.Reschedule from None


def device_of(device: str, name: int | str, devices: int) -> str:
    """The device of a worker: those of this machine, whose names are numbers, get its GPUs in turn."""
    shared_out = device in ("auto", "cuda") and devices and isinstance(name, int)
    return f"cuda:{name % devices}" if shared_out else device


class _Saves(distributed.WorkerPlugin):
    """Lets the run of a worker that is told to end, by its nanny or by a signal, save itself first."""

    idempotent = True

    def setup(self, worker: distributed.Worker) -> None:
        # Dask pauses a worker at 80 % of its memory limit until memory is free again, and a run would hold it for ever.
        worker.memory_manager.memory_pause_fraction = False
        self.worker, self.own_process = worker, threading.current_thread() is threading.main_thread()
        if self.own_process:
            for one in (signal.SIGTERM, signal.SIGINT):  # a terminal sends the latter to the workers of its driver, too
                signal.signal(one, lambda number, _: threading.Thread(target=self.leave, args=[number]).start())

    async def teardown(self, worker: distributed.Worker) -> None:
        if self.own_process:
            training.stop_event.set()
            await asyncio.to_thread(_ONE_RUN.acquire, timeout=SAVE_SECONDS)

    def leave(self, number: int) -> None:
        training.stop_event.set()
        self.worker.loop.add_callback(setattr, self.worker, "status", distributed.Status.paused)  # nothing more comes
        _ONE_RUN.acquire(timeout=SAVE_SECONDS)
        time.sleep(0.5)  # what the run said leaves before the process does
        os._exit(128 + number)
