"""Many runs: what is stored is read, what is missing is performed and stored the moment it exists."""

import importlib
import re
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

import torch

from nrae_lib import datasets, ensemble, runs
from nrae_lib.measures import order_breaks
from nrae_lib.progress import Progress
from nrae_lib.runs import Result, Run, Store

if TYPE_CHECKING:
    import distributed
    import pandas

POLL_SECONDS = 1.0


class RunsFailed(RuntimeError):
    """Some runs gave no result; the results of all others are stored.

    The message has one line for each of them, then the tracebacks.

    Arguments:
        failures: run -> the text of its traceback, or one sentence where there is none.
    """

    def __init__(self, failures: dict[Run, str]):
        self.failures = failures
        lines = [f"{run.label}: {text.strip().splitlines()[-1]}" for run, text in failures.items()]
        tracebacks = dict.fromkeys(text.strip() for text in failures.values() if "\n" in text.strip())
        super().__init__(
            "\n\n".join(
                ["\n".join(["these runs gave no result; those of all others are stored:", *lines]), *tracebacks]
            )
        )

    def __reduce__(self):
        return RunsFailed, (self.failures,)


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
    there, and taken over if it drops them; nothing is computed twice. A run that fails stops no other.

    Arguments:
        store: where results are looked up and kept.
        device: see :func:`nrae_lib.runs.perform`. On workers, "auto" and "cuda" give each its own GPU in turn.
        progress: one line for each run in flight, and the time left, see :class:`nrae_lib.progress.Progress`.
        workers: how many Dask processes on this machine, which share its cores, or how many SLURM jobs; 1 or None: a
            plain loop in this process.
        cluster: address of a Dask scheduler ("tcp://host:port") or a ``distributed.Client``, whose workers are all used;
            "slurm" for jobs that dask-jobqueue submits; empty or None for this machine.

    Raises:
        RunsFailed: at the end, with every run that raised, or that killed its worker again and again.
        ValueError: for workers, a cluster or a device that cannot be.
        ImportError: if Dask is needed and not there, naming the extra.
    """
    check_workers(workers)
    check_cluster(cluster)
    planned = list(runs)
    results = {run.key: store.get(run) for run in planned}
    missing = list({run.key: run for run in planned if results[run.key] is None}.values())
    failures: dict[Run, str] = {}
    if missing:
        with Progress(len(missing), progress) as board:
            if cluster or (workers or 1) > 1:
                from nrae_lib import cluster as dask_cluster

                outcomes = dask_cluster.perform(
                    _units(missing, device, workers or 1), store, device, workers, cluster, board
                )
            else:
                outcomes = _loop(_units(missing, device, 1), store, device, board)
            with closing(outcomes):
                for outcome in outcomes:
                    if outcome.state == "done":
                        results[outcome.run.key] = outcome.result
                        board.end(outcome.run.label, f"{outcome.result.seconds:.1f} s")
                    else:
                        failures[outcome.run] = outcome.error
                        board.end(outcome.run.label, f"failed ({outcome.error.strip().splitlines()[-1]})")
    if failures:
        raise RunsFailed(failures)
    return [results[run.key] for run in planned]


def check_workers(workers: int | None) -> None:
    """ValueError, naming what is valid, if ``workers`` is no number of workers; ImportError if they need Dask."""
    if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 1):
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
    if isinstance(cluster, str) and cluster != "slurm" and not re.fullmatch(r"\w+://\S+|[^\s:/]+:\d+", cluster):
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
    return ensemble.groups(missing, device, -(-len(missing) // workers))


def _train(unit: tuple[Run, ...], store: Store, device: str, report: Callable, keep: bool) -> list[Result | Exception]:
    """Results of runs that train together, each stored at once if ``keep``; an exception where one failed alone."""
    checkpoints = [store.checkpoint(run) for run in unit]

    def progress(done: int, epochs: int) -> None:
        for run in unit:
            report(run, done, epochs)

    if len(unit) == 1:
        results = [runs.perform(unit[0], device, checkpoints[0], progress=progress)]
    else:
        results = runs.perform_together(unit, device, checkpoints, progress)
    for result, checkpoint in zip(results, checkpoints, strict=True):
        if isinstance(result, Result):
            if keep:
                store.put(result)
            checkpoint.unlink(missing_ok=True)
    return results


def attempt(
    unit: tuple[Run, ...], store: Store, device: str, report: Callable[[Run, int, int], None], keep: bool = True
) -> list[Outcome]:
    """Perform in this process what nobody else has in hand of ``unit``.

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
            results = _train(left, store, device, report, keep) if left else []
            for run, result in zip(left, results, strict=True):
                failed = isinstance(result, Exception)
                error = "".join(traceback.format_exception(result)) if failed else ""
                outcomes.append(Outcome(run, "failed", error=error) if failed else Outcome(run, "done", result))
            return outcomes
        except Exception:
            if len(left) == 1:
                return [*outcomes, Outcome(left[0], "failed", error=traceback.format_exc())]
    for run in left:
        outcomes += attempt((run,), store, device, report, keep)
    return outcomes


def _loop(units: list[tuple[Run, ...]], store: Store, device: str, board: Progress) -> Iterator[Outcome]:
    """All units in this process, one after the other."""
    runs.check_device(device)

    def report(run: Run, done: int, epochs: int) -> None:
        board.advance(run.label, done, epochs)
        board.show()

    while units:
        busy = []
        for unit in units:
            for run in unit:
                board.advance(run.label)
            for outcome in attempt(unit, store, device, report):
                if outcome.state == "busy":
                    board.drop(outcome.run.label)
                    busy.append((outcome.run,))
                else:
                    yield outcome
        if len(busy) == len(units):
            time.sleep(POLL_SECONDS)
        units, board.elsewhere = busy, len(busy)
        board.show()


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
    if "code" not in result.arrays:
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
    (:func:`nrae_lib.measures.order_breaks`) among the noisy training points instead of the noise-free test points.
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
