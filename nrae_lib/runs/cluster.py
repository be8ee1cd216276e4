"""Runs on Dask workers: processes of this machine, SLURM jobs, or those of any scheduler.

The driver gives each worker process one unit of work at a time, so it knows exactly what a worker was performing when it
died. Claims and results go through the store's folder; a worker that does not see it hands its result to the driver.
"""

import asyncio
import os
import platform
import queue
import shlex
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
import uuid
import warnings
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from nrae_lib import runs
from nrae_lib.core import training
from nrae_lib.runs import Run, Store, grid
from nrae_lib.runs.grid import Outcome
from nrae_lib.runs.progress import Progress

if TYPE_CHECKING:
    import distributed

TRIES = 3  # how many workers a run may kill
SAVE_SECONDS = 20.0  # how long a worker that is told to end waits for the checkpoint of its run
_LOST_SECONDS = 1.0  # what a dying worker still said may arrive after the news of its death
_RESULT_SECONDS = 60.0
_NO_WORKER_SECONDS = 120.0
_SUBMIT_SECONDS = 10.0  # between two attempts at sbatch


def slurm_cluster() -> Any:
    """A ``dask_jobqueue.SLURMCluster`` without jobs yet, configured by Dask's own files (section ``jobqueue.slurm``).

    Each job is one worker process with all of the job's cores. SLURM is asked to send SIGTERM a minute before the job's
    time is over (unless the configuration has a ``--signal`` of its own), and the worker replaces the job's shell, so
    that the signal reaches it: it saves a checkpoint, and the run goes on in another job.

    Raises:
        ValueError: without a number of cores and an amount of memory in the configuration.
    """
    import dask
    import dask_jobqueue

    def configured(name: str) -> Any:
        return dask.config.get(f"jobqueue.slurm.{name}", None)

    cores = configured("cores")
    if not cores or not configured("memory"):
        raise ValueError(
            "cluster 'slurm' needs jobqueue.slurm.cores and jobqueue.slurm.memory in Dask's configuration "
            "(~/.config/dask/jobqueue.yaml, or DASK_JOBQUEUE__SLURM__CORES and ..._MEMORY in the environment)"
        )
    directives = list(configured("job-extra-directives") or [])
    if not any("--signal" in directive for directive in directives):
        directives.append("--signal=B:TERM@60")
    return dask_jobqueue.SLURMCluster(
        processes=1,
        python=f"exec {configured('python') or shlex.quote(sys.executable)}",
        job_extra_directives=directives,
        # SLURM sees to the memory; a worker that Dask pauses would hold its run for ever. The last option counts.
        worker_extra_args=[*(configured("worker-extra-args") or []), "--memory-limit", "0"],
        job_script_prologue=[
            *(configured("job-script-prologue") or []),
            *(f"export {name}={cores}" for name in _thread_variables(cores)),
        ],
    )


def _thread_variables(threads: int) -> dict[str, str]:
    return dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))


def local_cluster(workers: int) -> Any:
    """A ``distributed.LocalCluster`` of ``workers`` processes that share this machine's cores.

    Where torch is kept to fewer threads (``OMP_NUM_THREADS``), a worker has no more than these.
    """
    import distributed
    from dask.system import CPU_COUNT

    threads = max(1, min(CPU_COUNT // workers, torch.get_num_threads()))
    return distributed.LocalCluster(
        n_workers=workers,
        threads_per_worker=threads,
        processes=True,
        memory_limit=0,  # a share of the memory each would end a run that alone needs more
        dashboard_address="127.0.0.1:0",  # None would open port 8787 all the same
        scheduler_kwargs={"dashboard": False},
        silence_logs="CRITICAL",
        env=_thread_variables(threads),
    )


@contextmanager
def _connected(workers: int, cluster) -> Iterator[tuple["distributed.Client", Any]]:
    """A client, and the cluster behind it if it is our own."""
    import distributed

    if cluster and cluster != "slurm":
        if not isinstance(cluster, str):
            yield cluster, None
            return
        try:
            client = distributed.Client(cluster, timeout="20s", set_as_default=False)
        except (OSError, TimeoutError) as error:
            raise ConnectionError(f"no Dask scheduler answers at {cluster}: start one by `dask scheduler`") from error
        with client:
            yield client, None
        return
    if cluster and not shutil.which("sbatch"):
        raise ValueError("cluster 'slurm' needs the command sbatch, which is not here: start this on a login node")
    try:
        own = slurm_cluster() if cluster else local_cluster(workers)
    except RuntimeError as error:
        raise RuntimeError(
            f"the processes of the cluster do not start ({error}); a script needs the line "
            '`if __name__ == "__main__":` above the call of run_all'
        ) from None
    with own:
        own.scale(workers)
        with distributed.Client(own, set_as_default=False) as client:
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


def perform(
    missing: list[Run],
    store: Store,
    device: str,
    workers: int,
    cluster: "str | distributed.Client | None",
    board: Progress,
) -> Iterator[Outcome]:
    """How each of the ``missing`` runs ended, as it ends; arguments as in :func:`nrae_lib.runs.grid.run_all`.

    Raises:
        ConnectionError: if no scheduler answers, or it goes away.
        RuntimeError: if no worker can perform runs, or none can be started.
    """
    if not cluster or cluster == "slurm":
        workers = min(workers, len(grid._units(missing, device, workers)))
    with _ends_cleanly(), _connected(workers, cluster) as (client, own):
        if not own:
            workers = len(client.nthreads()) or workers
        yield from _Driver(client, store, device, board, own, workers).outcomes(missing)


# ------------------------------------------------------------------------------------------------------- the driver


@dataclass
class _Worker:
    """What the driver knows of a worker; ``ready`` once it has greeted, ``slot`` counts the workers of its host."""

    threads: int
    ready: bool = False
    host: str = ""
    slot: int = 0
    devices: int = 0
    shares: bool = True


@dataclass
class _Flight:
    """A future on one worker: of a unit, or of the greeting."""

    future: "distributed.Future"
    unit: tuple[Run, ...] = ()
    claims: ExitStack = field(default_factory=ExitStack)
    missed: float | None = None


class _Driver:
    def __init__(self, client, store: Store, device: str, board: Progress, own, wanted: int):
        self.client, self.store, self.device, self.board, self.own, self.wanted = (
            client, store, device, board, own, wanted,
        )  # fmt: skip
        self.folder = store.folder.resolve()
        self.id = uuid.uuid4().hex
        self.inbox: queue.SimpleQueue = queue.SimpleQueue()  # filled by the client's threads
        self.workers: dict[str, _Worker] = {}
        self.unusable: dict[str, str] = {}
        self.flights: dict[str, _Flight] = {}
        self.queue: deque[tuple[Run, ...]] = deque()
        self.elsewhere: dict[str, Run] = {}
        self.deaths: Counter[str] = Counter()
        self.died_together: set[tuple[Run, ...]] = set()
        self.interrupted: set[str] = set()
        self.looked, self.last_alive, self.warned = 0.0, time.monotonic(), False
        self.refusals, self.submitted = 0, 0.0

    def outcomes(self, missing: list[Run]) -> Iterator[Outcome]:
        self.queue.extend(grid._units(missing, self.device, self.wanted))
        self.folder.mkdir(parents=True, exist_ok=True)
        token = self.folder / f".{self.id}.driver"
        token.touch()
        self.client.subscribe_topic(self.id, lambda event: self.inbox.put(("event", event[1])))
        try:
            while self.queue or self.elsewhere or any(flight.unit for flight in self.flights.values()):
                if time.monotonic() - self.looked > grid.POLL_SECONDS:
                    yield from self._look()
                    yield from self._ask_the_others()
                    self.looked = time.monotonic()
                yield from self._assign()
                yield from self._collect()
                self.board.show()
        finally:
            token.unlink(missing_ok=True)
            for flight in self.flights.values():
                flight.claims.close()
            with suppress(Exception):
                self.client.unsubscribe_topic(self.id)
                self.client.cancel([flight.future for flight in self.flights.values()])

    def _look(self) -> Iterator[Outcome]:
        """Who has come, who has gone."""
        try:
            alive = self.client.nthreads()
        except (OSError, TimeoutError) as error:
            raise ConnectionError("the Dask scheduler is gone; what is stored is kept, start again") from error
        now = time.monotonic()
        for address in self.workers.keys() - alive.keys():
            flight = self.flights.get(address)
            if flight and flight.missed is None:
                flight.missed = now
            elif not flight or now - flight.missed > _LOST_SECONDS:
                del self.workers[address]
                if flight:
                    yield from self._lost(address, "died")
        self.unusable = {address: why for address, why in self.unusable.items() if address in alive}
        for address in alive.keys() - self.workers.keys() - self.unusable.keys():
            self.workers[address] = _Worker(alive[address])
            self._send(address, (), _greet, str(self.folder), self.id)
        self.board.workers = len(self.workers)
        wanted = min(self.wanted, len(self.queue) + sum(bool(flight.unit) for flight in self.flights.values()))
        if self.own and len(alive) < wanted:
            self._submit_again(bool(alive), now)
            self.own.scale(wanted)  # a job whose time was over is replaced
        if alive:
            self.last_alive = now
            if not self.workers and alive.keys() <= self.unusable.keys():
                raise RuntimeError(f"no worker can perform runs: {next(iter(self.unusable.values()))}")
        elif now - self.last_alive > _NO_WORKER_SECONDS and not self.warned:
            if self.own and type(self.own).__name__ == "LocalCluster":
                raise RuntimeError("the worker processes of this machine do not start")
            self.warned = True
            where = (
                "squeue shows whether the jobs wait, their output files why they ended"
                if self.own
                else "start one by `dask worker`"
            )
            warnings.warn(f"no worker has come for {_NO_WORKER_SECONDS:.0f} seconds: {where}", stacklevel=2)

    def _submit_again(self, alive: bool, now: float) -> None:
        """Jobs that SLURM refused are forgotten, so that Dask submits others; for Dask they would count as there."""
        if self.own.status.name == "failed":
            raise RuntimeError("the cluster has failed; what is stored is kept, start again")
        refused = [name for name, job in list(self.own.workers.items()) if getattr(job, "job_id", "") is None]
        if not refused or now - self.submitted < _SUBMIT_SECONDS:
            return
        self.refusals = 0 if alive else self.refusals + 1
        self.submitted = now
        if self.refusals >= TRIES:
            raise RuntimeError(
                f"sbatch failed {TRIES} times: print(cluster.slurm_cluster().job_script()) shows the script to try"
            )
        for name in refused:
            self.own.workers.pop(name, None)

    def _send(self, address: str, unit: tuple[Run, ...], function, *arguments, claims: ExitStack | None = None):
        future = self.client.submit(
            function, *arguments,
            key=f"nrae-{self.id}-{uuid.uuid4().hex}", workers=[address], allow_other_workers=False, pure=False,
        )  # fmt: skip
        flight = self.flights[address] = _Flight(future, unit, claims or ExitStack())
        future.add_done_callback(lambda _: self.inbox.put(("ended", (address, flight))))

    def _assign(self) -> Iterator[Outcome]:
        """A unit for each worker that has none."""
        for address, worker in self.workers.items():
            if not worker.ready or address in self.flights:
                continue
            while self.queue and address not in self.flights:
                unit, claims = self.queue.popleft(), ExitStack()
                if not worker.shares:  # nobody sees a claim of such a worker, so the driver takes it
                    mine = []
                    for run in unit:
                        if not claims.enter_context(self.store.claim(run, False)):
                            self.elsewhere[run.key] = run
                        elif result := self.store.get(run):
                            yield Outcome(run, "done", result)
                        else:
                            mine.append(run)
                    unit = tuple(mine)
                if not unit:
                    claims.close()
                    continue
                order = _Order(
                    str(self.folder) if worker.shares else None,
                    device_of(self.device, worker.slot, worker.devices),
                    worker.threads, self.id, _this_process(),
                )  # fmt: skip
                self._send(address, unit, _work, unit, order, claims=claims)
                for run in unit:
                    self.interrupted.discard(run.key)
                    self.board.advance(run.key)

    def _collect(self) -> Iterator[Outcome]:
        """What workers say and return; waits a moment for the first news."""
        timeout: float | None = grid.POLL_SECONDS / 2
        with suppress(queue.Empty):
            while True:
                kind, news = self.inbox.get(timeout=timeout) if timeout else self.inbox.get_nowait()
                timeout = None
                if kind == "event":
                    self._heard(news)
                elif self.flights.get(news[0]) is news[1]:
                    yield from self._ended(*news)

    def _heard(self, event: dict) -> None:
        if "interrupted" in event:
            self.interrupted.update(event["interrupted"])
        elif any(run.key == event["key"] for flight in self.flights.values() for run in flight.unit):
            self.board.advance(event["key"], event["done"], event["epochs"])

    def _ended(self, address: str, flight: _Flight) -> Iterator[Outcome]:
        import distributed

        try:
            value = flight.future.result(timeout=_RESULT_SECONDS)
        except distributed.KilledWorker as error:
            # A worker that comes back at the same address was given the run again, by Dask itself.
            yield from self._lost(address, "died", error.allowed_failures + 1)
            return
        except Exception as error:
            if flight.future.status == "error" and not flight.unit:
                reason = f"worker {address}: {type(error).__name__}: {error}"
                self._refuse(address, reason)
            elif flight.future.status == "error":
                del self.flights[address]
                for run in flight.unit:
                    yield Outcome(run, "failed", error=traceback.format_exc())
                flight.claims.close()
            else:  # cancelled, or the worker died before it could hand over what it has, hopefully, stored
                yield from self._lost(address, "was lost")
            return
        with flight.claims:
            if not flight.unit:
                self._greeted(address, value)
                return
            del self.flights[address]
            for outcome in value:
                yield from self._told(address, outcome)
            if left := tuple(outcome.run for outcome in value if outcome.state == "interrupted"):
                self.queue.appendleft(left)
                if address in self.workers:
                    self.workers[address].ready = False  # it is about to leave

    def _greeted(self, address: str, greeting: dict) -> None:
        del self.flights[address]
        if greeting["code"] != runs.code_state():
            reason = f"worker {address} has another state of nrae_lib than this process"
            if greeting["code"] == runs.code_state.__wrapped__():  # that of the files now
                reason += ", which is the older one: start it again"
            self._refuse(address, reason)
            return
        taken = {worker.slot for worker in self.workers.values() if worker.ready and worker.host == greeting["host"]}
        worker = self.workers[address]
        worker.host, worker.devices, worker.shares = greeting["host"], greeting["devices"], greeting["shares"]
        worker.slot = next(slot for slot in range(len(taken) + 1) if slot not in taken)
        worker.ready = True

    def _refuse(self, address: str, reason: str) -> None:
        warnings.warn(f"{reason}; it gets no work", stacklevel=2)
        self.flights.pop(address, None)
        self.workers.pop(address, None)
        self.unusable[address] = reason

    def _told(self, address: str, outcome: Outcome) -> Iterator[Outcome]:
        """What a worker says of one run."""
        run = outcome.run
        if outcome.state in ("done", "failed"):
            worker = self.workers.get(address)
            if outcome.state == "done" and worker and not worker.shares:
                try:
                    self.store.put(outcome.result)
                except Exception:
                    outcome = Outcome(run, "failed", error=traceback.format_exc())
            yield outcome
            return
        self.board.drop(run.key)
        if outcome.state == "busy":
            self.elsewhere[run.key] = run
            self.board.elsewhere = len(self.elsewhere)

    def _lost(self, address: str, how: str, times: int = 1) -> Iterator[Outcome]:
        """A worker has gone in the middle of its unit."""
        flight = self.flights.pop(address)
        flight.future.cancel()
        flight.claims.close()
        unit = flight.unit
        if not unit:
            self.workers.pop(address, None)  # if it is still there, it is greeted again
        for run in unit:
            self.board.drop(run.key)
        if self.interrupted.intersection(run.key for run in unit):
            self.queue.appendleft(unit)  # it was told to end, and saved: nobody's fault
        elif len(unit) > 1 and times == 1 and unit not in self.died_together:
            self.died_together.add(unit)  # together once more: the worker may have died of something else
            self.queue.append(unit)
        elif len(unit) > 1:
            self.queue.extend((run,) for run in unit)  # to see which of them it was
        elif unit:
            (run,) = unit
            self.deaths[run.key] += times
            if self.deaths[run.key] >= TRIES:
                yield Outcome(run, "failed", error=f"it killed its worker {self.deaths[run.key]} times")
                return
            self.board.note(
                f"{self.board.name(run.key)}: its worker {how} ({self.deaths[run.key]} of {TRIES}); it is tried again"
            )
            self.queue.append(unit)  # last: if it is to blame, the others come before the damage

    def _ask_the_others(self) -> Iterator[Outcome]:
        """Runs that other processes had in hand: read when they are there, taken over when they were dropped."""
        dropped = []
        for run in list(self.elsewhere.values()):
            with self.store.claim(run, False) as free:
                if not free:
                    continue
                result = self.store.get(run)
            del self.elsewhere[run.key]
            if result:
                yield Outcome(run, "done", result)
            else:
                dropped.append(run)
        if dropped:
            self.queue.extendleft(grid._units(dropped, self.device, self.wanted))
        self.board.elsewhere = len(self.elsewhere)


def device_of(device: str, slot: int, devices: int) -> str:
    """The device of a worker.

    Arguments:
        device: what was asked for; "auto" and "cuda" are shared out, anything else holds for every worker.
        slot: the worker's number among those of its host, from 0.
        devices: number of GPUs the worker sees.
    """
    if device not in ("auto", "cuda") or (device == "auto" and not devices):
        return device
    return f"cuda:{slot % max(devices, 1)}"


def _this_process() -> tuple[str, int]:
    return platform.node(), os.getpid()


# ------------------------------------------------------------------------------------------------------- the workers


@dataclass(frozen=True)
class _Order:
    """How a worker performs its unit; ``folder`` is None if it does not see the store's."""

    folder: str | None
    device: str
    threads: int
    topic: str
    driver: tuple[str, int]


# A worker process performs one run at a time, with all of its threads, whoever asks for how many.
_ONE_RUN = threading.Lock()


def _greet(folder: str, driver: str) -> dict:
    """What the driver must know of a worker that is free."""
    import distributed

    _never_pause(distributed.get_worker())
    with _ONE_RUN:
        return {
            "host": platform.node(),
            "devices": torch.cuda.device_count(),
            "shares": (Path(folder) / f".{driver}.driver").exists(),
            "code": runs.code_state(),
        }


def _work(unit: tuple[Run, ...], order: _Order) -> list[Outcome]:
    """Perform ``unit`` on this worker, and say how it goes."""
    import distributed

    worker = distributed.get_worker()
    if order.driver != _this_process():
        _watch(worker)
    said: dict[str, float] = {}

    def report(run: Run, done: int, epochs: int) -> None:
        if time.monotonic() - said.get(run.key, -1.0) > 0.5:
            said[run.key] = time.monotonic()
            worker.log_event(order.topic, {"key": run.key, "done": int(done), "epochs": int(epochs)})

    # Checkpoints of runs whose store is out of sight serve the next attempt on this machine.
    scratch = Path(tempfile.gettempdir()) / f"nrae-{os.getuid()}" / runs.code_state()
    store = Store(scratch if order.folder is None else order.folder)
    with _ONE_RUN:
        threads = torch.get_num_threads()
        try:
            if training.stop_event.is_set():
                raise SystemExit
            torch.set_num_threads(order.threads)
            return list(grid.attempt(unit, store, order.device, report, keep=order.folder is not None))
        except BaseException:  # one that leaves a thread of Dask's would leave the run in flight for ever
            if not training.stop_event.is_set():
                return [Outcome(run, "failed", error=traceback.format_exc()) for run in unit]
            worker.log_event(order.topic, {"interrupted": [run.key for run in unit]})
            return [Outcome(run, "interrupted") for run in unit]
        finally:
            torch.set_num_threads(threads)


def _never_pause(worker: "distributed.Worker") -> None:
    """Dask pauses a worker at 80 % of its memory limit until memory is free again: a run would hold it for ever."""
    worker.memory_manager.memory_pause_fraction = False


def _watch(worker: "distributed.Worker") -> None:
    """Let the run on ``worker`` save itself when the worker is told to end, by its nanny or by a signal."""
    import distributed

    class Watch(distributed.WorkerPlugin):
        def setup(self, worker):
            if threading.current_thread() is threading.main_thread():
                # A terminal sends SIGINT to the workers of its driver, too.
                self.before = {one: signal.signal(one, self.told) for one in (signal.SIGTERM, signal.SIGINT)}

        async def teardown(self, worker):
            training.stop_event.set()
            deadline = time.monotonic() + SAVE_SECONDS
            while _ONE_RUN.locked() and time.monotonic() < deadline:
                await asyncio.sleep(0.05)

        def told(self, signum, frame):
            training.stop_event.set()
            threading.Thread(target=self.leave, args=[signum], daemon=True).start()

        def leave(self, signum):
            deadline = time.monotonic() + SAVE_SECONDS
            while _ONE_RUN.locked() and time.monotonic() < deadline:
                time.sleep(0.05)
            time.sleep(0.5)  # what the run said leaves before the process does
            worker.loop.add_callback(self.obey, signum)

        def obey(self, signum):
            signal.signal(signum, self.before[signum])
            os.kill(os.getpid(), signum)

    _never_pause(worker)
    if "nrae_lib" not in worker.plugins:
        adding = worker.plugin_add(plugin=Watch(), name="nrae_lib")
        asyncio.run_coroutine_threadsafe(adding, worker.loop.asyncio_loop).result(SAVE_SECONDS)
