"""Many runs: what is stored is read, what is missing is performed and stored the moment it exists."""

import sys
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch

from nrae_lib import datasets
from nrae_lib.measures import order_breaks
from nrae_lib.runs import Result, Run, Store, perform

if TYPE_CHECKING:
    import pandas


def run_all(runs: Iterable[Run], store: Store, device: str = "auto", progress: bool = True) -> list[Result]:
    """Results of ``runs``, in their order.

    A plain loop. Each result is stored at once, so a killed process loses at most the run it was in, and of that
    one only what came after its last checkpoint. Runs another process is performing on the same store are left to
    it and read when they are there; nothing is computed twice.

    Arguments:
        store: where results are looked up and kept.
        device: see :func:`nrae_lib.runs.perform`.
        progress: one line per performed run on standard error, with an estimate of the time left.

    Raises:
        FloatingPointError: at the end, naming every run whose loss exploded; the results of all others are stored.
    """
    runs = list(runs)
    results = {run.key: store.get(run) for run in runs}
    missing = list({run.key: run for run in runs if results[run.key] is None}.values())
    exploded: dict[str, str] = {}
    started, total = time.perf_counter(), len(missing)
    # First pass: what nobody else has in hand; second pass: wait for the others, and take over what they dropped.
    for wait in (False, True):
        for run in missing:
            if results[run.key] is not None or run.key in exploded:
                continue
            with store.claim(run, wait) as mine:
                if not mine:
                    continue
                try:
                    result = store.get(run) or _perform_and_store(run, store, device)
                except FloatingPointError as error:
                    exploded[run.key] = f"{run.label}: {error}"
                    continue
            results[run.key] = result
            if progress:
                done = sum(results[other.key] is not None for other in missing)
                left = (time.perf_counter() - started) / done * (total - done)
                print(f"[{done}/{total}] {run.label}: {result.seconds:.1f} s, about {left:.0f} s left", file=sys.stderr)
    if exploded:
        raise FloatingPointError("; ".join(exploded.values()))
    return [results[run.key] for run in runs]


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


def _perform_and_store(run: Run, store: Store, device: str) -> Result:
    checkpoint = store.checkpoint(run)
    result = perform(run, device, checkpoint)
    store.put(result)
    checkpoint.unlink(missing_ok=True)
    return result


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
