"""Many runs: what is stored is read, what is missing is performed and stored the moment it exists."""

import importlib
import multiprocessing
import numbers
import re
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

import torch

from nrae_lib import runs
from nrae_lib.core.measures import order_breaks
from nrae_lib.data import datasets
from nrae_lib.runs import Result, Run, Store
from nrae_lib.runs.progress import Progress

if TYPE_CHECKING:
    import distributed
    import pandas

POLL_SECONDS = 1.0
_LEFTOVER_SECONDS = 24 * 3600.0  # what processes that were killed left behind is as old as this, or still in use
_SCHEMES = "tcp|tls|ucxx?|wss?|inproc"


class RunsFailed(RuntimeError):
    """Some runs gave no result; the results of all others are stored.

    The message has one line for each of them, then the tracebacks.

    Arguments:
        failures: run -> the text of its traceback, or one sentence where there is none.
    """

    def __init__(self, failures: dict[Run, str]):
        self.failures = failures
        name = names(failures)
        lines = [f"{name[run.key]}: {text.strip().splitlines()[-1]}" for run, text in failures.items()]
        tracebacks = dict.fromkeys(text.strip() for text in failures.values() if "\n" in text.strip())
        super().__init__(
            "\n\n".join(
                ["\n".join(["these runs gave no result; those of all others are stored:", *lines]), *tracebacks]
            )
        )

    def __reduce__(self):
        return RunsFailed, (self.failures,)


def names(runs: Iterable[Run]) -> dict[str, str]:
    """Key -> label of each run, with the first digits of the key where two labels are equal."""
    labels = {run.key: run.label for run in runs}
    count = Counter(labels.values())
    return {key: label if count[label] == 1 else f"{label} ({key[:8]})" for key, label in labels.items()}


@dataclass
class Outcome:
    """How an attempt at a run ended.

    Arguments:
        state: "done", "failed", "busy" (another process has it in hand) or "interrupted".
        result: of a run that is done.
        error: traceback of a run that failed.
    """

    run: Run
    state: str
    result: Result | None = None
    error: str = ""


def run_all(
    runs: Iterable[Run],
    store: Store,
    device: str = "auto",
    progress: bool = True,
    workers: int | None = None,
    cluster: "str | distributed.Client | None" = None,
) -> list[Result]:
    """Results of ``runs``, in their order.

    Each result is stored at once, so a killed process loses at most what it was performing, and of that only what came
    after the last checkpoint. Runs another process has in hand on the same store are left to it, read when they are
    there, and taken over if it drops them; nothing is computed twice. The one exception are Dask workers that do not
    see the store's folder: when the process that calls this is killed, what they were performing is repeated. A run
    that fails stops no other.

    Arguments:
        store: where results are looked up and kept.
        device: see :func:`nrae_lib.runs.perform`. On workers, "auto" and "cuda" give each its own GPU in turn.
        progress: one line for each run in flight, and the time left, see :class:`nrae_lib.runs.progress.Progress`.
        workers: how many Dask processes on this machine, which share its cores, or how many SLURM jobs, at most; 1 or
            None, or nothing to share out: a plain loop in this process.
        cluster: address of a Dask scheduler ("tcp://host:port") or a ``distributed.Client``, whose workers are all used;
            "slurm" for jobs that dask-jobqueue submits; empty or None for this machine.

    Raises:
        RunsFailed: at the end, with every run that raised, or that killed its worker again and again.
        ValueError: for workers, a cluster or a device that cannot be.
        OSError: if results cannot be kept in the store's folder.
        ImportError: if Dask is needed and not there, naming the extra.
    """
    check_workers(workers)
    check_cluster(cluster)
    if store.folder.exists() and not store.folder.is_dir():
        raise NotADirectoryError(f"results cannot be kept in {store.folder}: it is a file, not a folder")
    planned = list(runs)
    unique = {run.key: run for run in planned}
    results = {key: store.get(run) for key, run in unique.items()}
    missing = [run for key, run in unique.items() if results[key] is None]
    _tidy(store, [run for key, run in unique.items() if results[key] is not None])
    failures: dict[Run, str] = {}
    if missing:
        with (
            Progress(len(missing), progress, names=names(missing)) as board,
            closing(_outcomes(missing, store, device, int(workers or 1), cluster, board)) as outcomes,
        ):
            for outcome in outcomes:
                if outcome.state == "done":
                    results[outcome.run.key] = outcome.result
                    board.end(outcome.run.key, f"{outcome.result.seconds:.1f} s")
                else:
                    failures[outcome.run] = outcome.error
                    board.end(outcome.run.key, f"failed ({outcome.error.strip().splitlines()[-1]})")
    if failures:
        raise RunsFailed(failures)
    return [results[run.key] for run in planned]


def _outcomes(missing: list[Run], store: Store, device: str, workers: int, cluster, board) -> Iterator[Outcome]:
    """How each run ends, wherever it is performed."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        # A worker that is being started imports the script, which would start workers of its own.
        raise SystemExit('a script that calls run_all needs the line `if __name__ == "__main__":` above the call')
    _check_store(store, missing[0])
    if not cluster:
        runs.check_device(device)  # before the planning, whose errors would be less clear
        units = _units(missing, device, workers)
        if min(workers, len(units)) == 1:
            return _loop(units, store, device, board)
    from nrae_lib.runs import cluster as dask_cluster

    return dask_cluster.perform(missing, store, device, workers, cluster, board)


def _check_store(store: Store, run: Run) -> None:
    """OSError, in one sentence, if nothing can be kept in ``store`` or its file system has no locks."""
    try:
        with store.claim(run, False):
            pass
    except OSError as error:
        raise OSError(f"results cannot be kept in {store.folder}: choose a folder that can be written, on a file "
                      f"system with locks ({error})") from error  # fmt: skip


def _tidy(store: Store, found: list[Run]) -> None:
    """Remove what killed processes left behind; another process, or one without the right to, is no reason to stop."""
    with suppress(OSError):
        for run in found:
            store.checkpoint(run).unlink(missing_ok=True)
        oldest = time.time() - _LEFTOVER_SECONDS
        for pattern in (".*.driver", ".*.part"):
            for path in store.folder.glob(pattern):
                if path.stat().st_mtime < oldest:
                    path.unlink(missing_ok=True)


def check_workers(workers: int | None) -> None:
    """ValueError, naming what is valid, if ``workers`` is no number of workers; ImportError if they need Dask."""
    if workers is not None and (isinstance(workers, bool) or not isinstance(workers, numbers.Integral) or workers < 1):
        raise ValueError(f"workers must be a whole number of at least 1 (1: a plain loop), not {workers!r}")
    if (workers or 1) > 1:
        _require("distributed")


def check_cluster(cluster: "str | distributed.Client | None") -> None:
    """ValueError, naming what is valid, if ``cluster`` names none; ImportError if it needs Dask."""
    if not cluster:
        return
    valid = (
        "choose the address of a Dask scheduler (such as tcp://host:8786), a distributed.Client, 'slurm', or nothing for "
        "this machine"
    )
    address = rf"({_SCHEMES})://\S+|(\[[\da-fA-F:]+\]|[^\s:/]+):\d+"
    if isinstance(cluster, str) and cluster != "slurm" and not re.fullmatch(address, cluster):
        raise ValueError(f"unknown cluster {cluster!r}: {valid}")
    if cluster == "slurm":
        _require("dask_jobqueue")
    elif not isinstance(cluster, (str, _require("distributed").Client)):
        raise ValueError(f"a cluster cannot be {cluster!r}: {valid}")


def _require(module: str) -> ModuleType:
    """A module of the extra ``cluster``, or one sentence that names the extra."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.replace("_", "-")
        raise ImportError(
            f"workers and clusters need the package {package}: pip install 'nrae-lib[cluster]'"
        ) from error


def _units(missing: list[Run], device: str, workers: int) -> list[tuple[Run, ...]]:
    """Which runs train together, so that every worker has some."""
    return [(run,) for run in missing]


def _train(unit: tuple[Run, ...], store: Store, device: str, report: Callable, keep: bool) -> list[Result | Exception]:
    """Results of runs that train together, each stored at once if ``keep``; an exception where one failed alone."""
    checkpoints = [store.checkpoint(run) for run in unit]
    ended: dict[int, Result | Exception] = {}

    def end(i: int, result: Result | Exception) -> None:
        try:
            if isinstance(result, Result):
                if keep:
                    store.put(result)
                checkpoints[i].unlink(missing_ok=True)
            ended[i] = result
        except Exception as error:  # such as a full disk: the others may still fit
            ended[i] = error

    def progress(done: int, epochs: int) -> None:
        for i, run in enumerate(unit):
            if i not in ended:
                report(run, done, epochs)

    results = [runs.perform(unit[0], device, checkpoints[0], progress=progress)]
    for i, result in enumerate(results):
        if i not in ended:
            end(i, result)
    return [ended[i] for i in range(len(unit))]


def attempt(
    unit: tuple[Run, ...], store: Store, device: str, report: Callable[[Run, int, int], None], keep: bool = True
) -> Iterator[Outcome]:
    """Perform in this process what nobody else has in hand of ``unit``; yields how each of its runs ended.

    Arguments:
        unit: runs that train together; if that fails, each is tried alone.
        report: called now and then with a run, its epochs done, and of how many.
        keep: store the results.
    """
    with ExitStack() as claims:
        mine = [run for run in unit if claims.enter_context(store.claim(run, False))]
        outcomes = [Outcome(run, "busy") for run in unit if run not in mine]
        found = {run: store.get(run) for run in mine}  # another process may have ended it just now
        outcomes += [Outcome(run, "done", result) for run, result in found.items() if result]
        left = tuple(run for run in mine if not found[run])
        try:
            for run, result in zip(left, _train(left, store, device, report, keep) if left else [], strict=True):
                failed = isinstance(result, Exception)
                error = "".join(traceback.format_exception(result)) if failed else ""
                outcomes.append(Outcome(run, "failed", error=error) if failed else Outcome(run, "done", result))
            left = ()
        except Exception:
            if len(left) == 1:
                outcomes.append(Outcome(left[0], "failed", error=traceback.format_exc()))
                left = ()
    yield from outcomes
    for run in left:
        yield from attempt((run,), store, device, report, keep)


def _loop(units: list[tuple[Run, ...]], store: Store, device: str, board: Progress) -> Iterator[Outcome]:
    """All units in this process, one after the other."""

    def report(run: Run, done: int, epochs: int) -> None:
        board.advance(run.key, done, epochs)
        board.show()

    while units:
        left, ended = [], False
        for unit in units:
            for run in unit:
                board.advance(run.key)
            busy = []
            for outcome in attempt(unit, store, device, report):
                if outcome.state == "busy":
                    board.drop(outcome.run.key)
                    busy.append(outcome.run)
                else:
                    ended = True
                    yield outcome
            if busy:
                left.append(tuple(busy))  # still alike: if they are dropped, they train together
        units, board.elsewhere = left, sum(map(len, left))
        board.show()
        if not ended:
            time.sleep(POLL_SECONDS)


def stored(runs: Iterable[Run], store: Store) -> list[Result]:
    """Those results of ``runs`` that ``store`` holds; nothing is performed."""
    return [result for run in runs if (result := store.get(run)) is not None]


def complete(runs: Iterable[Run], store: Store) -> list[Result]:
    """Stored results of those (recipe, method) groups of ``runs`` of which no run is missing.

    A method with half of its seeds, or half of its search, would pass for a whole one.
    """
    groups: dict[tuple[str, str], list[Result | None]] = {}
    for run in runs:
        groups.setdefault((run.recipe, run.method), []).append(store.get(run))
    return [result for group in groups.values() if None not in group for result in group]


def choose(results: Iterable[Result], metric: str = "test_mse") -> dict[str, dict]:
    """The options of every method with the lowest mean of ``metric`` over the seeds of a search.

    Arguments:
        results: of a validation search: for each method the same held-out seeds for every candidate.
        metric: lower is better.

    Returns:
        method -> options; methods without results are absent, the first of equal candidates wins.

    Raises:
        ValueError: if the candidates of a method were not tried on the same seeds.
    """
    values: dict[str, dict[str, dict[int, float]]] = {}
    options = {}
    for result in results:
        key = repr(sorted(result.run.method_options.items()))
        options[key] = result.run.method_options
        tried = values.setdefault(result.run.method, {}).setdefault(key, {})
        tried[result.run.seed] = result.metrics[metric]
    chosen = {}
    for method, candidates in values.items():
        if len({frozenset(tried) for tried in candidates.values()}) > 1:
            raise ValueError(f"the search of {method!r} is incomplete: its candidates were tried on different seeds")
        means = {key: sum(tried.values()) / len(tried) for key, tried in candidates.items()}
        chosen[method] = options[min(means, key=means.get)]
    return chosen


def _train_order(result: Result) -> dict[str, float]:
    if result.run.keep not in ("figure", "animation") or "code" not in result.arrays:
        return {}
    position = datasets.make(result.run.data, result.run.seed, **result.run.data_options).train_position
    return {"train_order_breaks": float(order_breaks(torch.from_numpy(result.arrays["code"]), position))}


def agreement(results: Iterable[Result], store: Store) -> str:
    """One sentence: how far ``results`` repeat those that ``store`` holds of the same runs."""
    pairs = [(result, other) for result in results if (other := store.get(result.run)) is not None]
    if not pairs:
        return "None of these runs is stored elsewhere."
    same = sum(result.metrics == other.metrics for result, other in pairs)
    furthest = max(abs(result.metrics["test_mse"] / other.metrics["test_mse"] - 1) for result, other in pairs)
    return (
        f"{len(pairs)} of these runs are also among the committed ones: {same} repeat them bit for bit; the largest "
        f"relative difference of the test MSE is {furthest:.2g}."
    )


def frame(results: Iterable[Result]) -> "pandas.DataFrame":
    """One row per result: data, recipe, method, seed, its options and all metrics, and seconds.

    Results that hold the training codes of a curve also get ``train_order_breaks``, the order breaks
    (:func:`nrae_lib.core.measures.order_breaks`) among the noisy training points instead of the noise-free test points.
    """
    import pandas

    return pandas.DataFrame(
        [
            {"data": result.run.data, "recipe": result.run.recipe, "method": result.run.method,
             "seed": result.run.seed, **result.run.method_options, **result.metrics, **_train_order(result),
             "seconds": result.seconds}
            for result in results
        ]
    )  # fmt: skip
