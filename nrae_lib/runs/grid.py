"""Many runs: what is stored is read, what is missing is performed and stored the moment it exists."""

import multiprocessing
import numbers
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from types import ModuleType
from typing import TYPE_CHECKING

from nrae_lib.core.extras import library
from nrae_lib.runs.performing import POLL_SECONDS, attempt, check_device
from nrae_lib.runs.progress import Progress
from nrae_lib.runs.run import Result, Run
from nrae_lib.runs.store import Store

if TYPE_CHECKING:
    import distributed
    import pandas

_LEFTOVER_SECONDS = 24 * 3600.0  # what processes that were killed left behind is as old as this, or still in use
_ADDRESS = r"(tcp|tls|ucxx?|wss?|inproc)://\S+|(\[[\da-fA-F:]+\]|[^\s:/]+):\d+"


class RunsFailed(RuntimeError):
    """Some runs gave no result; the results of all others are stored. ``failures``: run -> the text of its traceback,
    or one sentence where there is none. The message has one line for each of them, then the tracebacks."""

    def __init__(self, failures: dict[Run, str]):
        super().__init__(failures)
        self.failures = failures

    def __str__(self) -> str:
        texts = {run: text.strip() for run, text in self.failures.items()}
        name = _names(texts)
        lines = [f"{name[run.key]}: {text.splitlines()[-1]}" for run, text in texts.items()]
        head = "these runs gave no result; those of all others are stored:"
        return "\n\n".join(["\n".join([head, *lines]), *dict.fromkeys(text for text in texts.values() if "\n" in text)])


def _names(runs: Iterable[Run]) -> dict[str, str]:
    """Key -> label of each run, with the first digits of the key where two labels are equal."""
    labels = {run.key: run.label for run in runs}
    count = Counter(labels.values())
    return {key: label if count[label] == 1 else f"{label} ({key[:8]})" for key, label in labels.items()}


def run_all(
    runs: Iterable[Run], store: Store, device: str = "auto", progress: bool = True, workers: int | None = None,
    cluster: "str | distributed.Client | None" = None,
) -> list[Result]:  # fmt: skip
    """Results of ``runs``, in their order.

    Each result is stored at once, so a killed process loses at most what it was performing, and of that only what came
    after the last checkpoint. Runs another process has in hand on the same store are left to it, read when they are
    there, and taken over if it drops them; nothing is computed twice, unless Dask workers do not see the store's folder.
    A run that fails stops no other.

    Arguments:
        device: see :func:`nrae_lib.runs.perform`. On workers, "auto" and "cuda" give each its own GPU in turn.
        progress: how far the runs are, and the time left, see :class:`nrae_lib.runs.progress.Progress`.
        workers: how many Dask processes on this machine, which share its cores, or how many SLURM jobs, at most; 1 or
            None, or nothing to share out: a plain loop in this process.
        cluster: address of a Dask scheduler ("tcp://host:port") or a ``distributed.Client``, whose workers are all used;
            "slurm" for jobs that dask-jobqueue submits; empty or None for this machine.

    RunsFailed at the end, with every run that raised or killed its worker again and again; ValueError for workers, a
    cluster or a device that cannot be; OSError if the folder cannot keep results; ImportError without Dask.
    """
    check_workers(workers)
    check_cluster(cluster)
    if store.folder.exists() and not store.folder.is_dir():
        raise NotADirectoryError(f"results cannot be kept in {store.folder}: it is a file, not a folder")
    planned = list(runs)
    unique = {run.key: run for run in planned}
    results = {result.run.key: result for result in stored(unique.values(), store)}
    missing = [run for key, run in unique.items() if key not in results]
    _tidy(store, results.values())
    failures: dict[Run, str] = {}
    if missing:
        with (
            closing(Progress(_names(missing), progress)) as board,
            closing(_endings(missing, store, device, int(workers or 1), cluster, board)) as endings,
        ):
            for run, ending in endings:
                if isinstance(ending, Result):
                    results[run.key] = ending
                    board.end(run.key, f"{ending.seconds:.1f} s")
                else:
                    failures[run] = ending
                    board.end(run.key, f"failed ({ending.strip().splitlines()[-1]})")
    if failures:
        raise RunsFailed(failures)
    return [results[run.key] for run in planned]


def _endings(missing: list[Run], store: Store, device: str, workers: int, cluster, board) -> Iterator:
    """How each run ends, with its result or its error, wherever it is performed."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        # A worker that is being started imports the script, which would start workers of its own.
        raise SystemExit('a script that calls run_all needs the line `if __name__ == "__main__":` above the call')
    try:
        with store.claim(missing[0]):
            pass
    except OSError as error:
        where = "choose a folder that can be written, on a file system with locks"
        raise OSError(f"results cannot be kept in {store.folder}: {where} ({error})") from error
    if not cluster:
        check_device(device)
        if min(workers, len(missing)) == 1:
            return _loop(missing, store, device, board)
    from nrae_lib.runs import cluster as dask

    return dask.perform_all(missing, store, device, workers, cluster, board)


def _loop(missing: list[Run], store: Store, device: str, board: Progress) -> Iterator[tuple[Run, Result | str]]:
    """All runs in this process, one after the other; those that others have in hand are asked for again."""
    while missing:
        busy = []
        for run in missing:

            def report(done: int, epochs: int, run=run) -> None:
                board.advance(run.key, done, epochs)
                board.show()

            board.advance(run.key)
            ending = attempt(run, store, device, report)
            if ending is None:
                board.drop(run.key)
                busy.append(run)
            else:
                yield run, ending
        if len(busy) == len(missing):
            board.show()
            time.sleep(POLL_SECONDS)
        missing, board.elsewhere = busy, len(busy)


def _tidy(store: Store, found: Iterable[Result]) -> None:
    """Remove what killed processes left behind; another process, or one without the right to, is no reason to stop."""
    with suppress(OSError):
        for result in found:
            store.checkpoint(result.run).unlink(missing_ok=True)
        oldest = time.time() - _LEFTOVER_SECONDS
        for path in store.folder.glob(".*.part"):
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
    wrong = isinstance(cluster, str) and cluster != "slurm" and not re.fullmatch(_ADDRESS, cluster)
    if wrong or not isinstance(cluster, (str, _require("distributed").Client)):
        valid = "a distributed.Client, 'slurm', or nothing for this machine"
        address = "the address of a Dask scheduler (such as tcp://host:8786)"
        raise ValueError(f"unknown cluster {cluster!r}: choose {address}, {valid}")
    _require("dask_jobqueue" if cluster == "slurm" else "distributed")


def _require(module: str) -> ModuleType:
    return library(module, module.replace("_", "-"), "workers and clusters need", "cluster")


def stored(runs: Iterable[Run], store: Store) -> list[Result]:
    """Those results of ``runs`` that ``store`` holds; nothing is performed."""
    return [result for run in runs if (result := store.get(run)) is not None]


def choose(results: Iterable[Result], criterion: str | Callable = "test_mse") -> dict[str, dict]:
    """method -> its options with the lowest mean of ``criterion`` over the held-out seeds of a search.

    Methods without results are absent; the first of equal candidates wins. ValueError if their seeds differ.

    Arguments:
        criterion: a metric, or a function of the metrics that gives a tuple of numbers, of which later ones decide ties.
    """
    score = criterion if callable(criterion) else lambda metrics: (metrics[criterion],)
    tried: dict[str, dict[str, dict[int, tuple]]] = {}  # method -> candidate -> seed -> what decides
    options, chosen = {}, {}
    for result in results:
        run = result.run
        key = repr(sorted(run.method_options.items()))
        options[key] = run.method_options
        tried.setdefault(run.method, {}).setdefault(key, {})[run.seed] = score(result.metrics)
    for method, candidates in tried.items():
        if len({frozenset(values) for values in candidates.values()}) > 1:
            raise ValueError(f"the search of {method!r} is incomplete: its candidates were tried on different seeds")
        means = {
            key: [sum(each) / len(each) for each in zip(*scores.values(), strict=True)]
            for key, scores in candidates.items()
        }
        chosen[method] = options[min(means, key=means.get)]
    return chosen


def frame(results: Iterable[Result]) -> "pandas.DataFrame":
    """One row per result: data, recipe, method, seed, its options and all metrics, and seconds."""
    import pandas

    rows = []
    for result in results:
        run = result.run
        row = {"data": run.data, "recipe": run.recipe, "method": run.method, "seed": run.seed}
        rows.append(row | run.method_options | result.metrics | {"seconds": result.seconds})
    return pandas.DataFrame(rows)
