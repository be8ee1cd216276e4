"""What the pages' experiments still lack, and processes that perform it, most informative per core-second first.

    python -m nrae_lib.pages.queue reduced            # or paper; --workers 1, --status

Every run is stored the moment it exists, one process per core. Killed at any time, the next call goes on: a run from its last
checkpoint. The next build of the book judges what is there. What pages measure of trained models afterwards (FID, ELBO, rounds of
timing) they do themselves, run with the same preset.
"""

import argparse
import contextlib
import io
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

from nrae_lib import pages, paper, runs
from nrae_lib.core.files import write_atomically
from nrae_lib.core.training import fit
from nrae_lib.data import datasets
from nrae_lib.runs.performing import attempt
from nrae_lib.runs.run import Run
from nrae_lib.runs.study import Study, is_here

POLL_SECONDS, REORDER_SECONDS = 5, 30  # the list takes as long as some runs
# How much more than others a verdict of these pages counts: the paper's headline, and the figures that share its protocol.
WEIGHT = {"table3_generalization": 10, "fig10_sample_size": 2}


class _Opened(Exception):
    """What a notebook gave to ``open_study``."""


def study_of(notebook: Path, preset: str) -> Study | None:
    """The experiment that ``notebook`` opens, not run; None if it opens none. Its cells are executed up to there."""
    content = json.loads(notebook.read_text())
    cells = ["".join(cell["source"]) for cell in content["cells"] if cell["cell_type"] == "code"]
    if not any("pages.open_study(" in cell for cell in cells):
        return None

    def opened(parameters, experiment, plan, only="all", show_options=True, scales=("paper",), **choices):
        raise _Opened(Study(experiment, plan, preset, scales=scales))

    real, pages.open_study, namespace = pages.open_study, opened, {"__name__": notebook.stem}
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            for cell in cells:
                exec(compile(cell, str(notebook), "exec"), namespace)
    except _Opened as found:
        return found.args[0]
    finally:
        pages.open_study = real


def studies(preset: str) -> dict[str, Study]:
    """Page -> its experiment, of all pages that claims are about."""
    known = {claim.page for claim in paper.CLAIMS}
    paths = sorted(path for path in (runs.project_root() / "notebooks").glob("*.ipynb") if path.stem in known)
    return {path.stem: study for path in paths if (study := study_of(path, preset)) is not None}


def value(page: str, condition: str) -> float:
    """How many verdicts the runs of ``condition`` decide, weighted."""
    claims = [claim for claim in paper.CLAIMS if claim.page == page]
    return WEIGHT.get(page, 1) * max(0.1, sum(condition in (claim.conditions or (condition,)) for claim in claims))


class Clock:
    """Seconds that runs take, from the step times of stored results like them, or of a few steps taken now; and which images the
    stored results have seen."""

    def __init__(self, found: dict[str, Study]):
        self._stored: dict[tuple, list[float]] = {}
        self._images: dict[tuple[str, str], str] = {}
        for folder in dict.fromkeys(study.store.folder for study in found.values()):
            for path in folder.glob("*.npz"):
                with contextlib.suppress(ValueError, OSError):
                    result = runs.Result.from_bytes(path.read_bytes())
                    self._images[_images(result.run)] = result.provenance["fingerprint"]
                    if result.provenance["device"].startswith("CPU"):
                        self._stored.setdefault(_kind(result.run), []).append(1 / result.steps_per_second)
        self._file = runs.project_root() / "_build" / "step_seconds.json"
        self.seconds = cache(self._estimate)  # of a run, estimated once
        self._measured: dict[str, float] = {}
        with contextlib.suppress(OSError, ValueError):  # not there, or damaged
            self._measured = json.loads(self._file.read_text())

    def check_images(self, run: Run) -> None:
        """SystemExit if stored results have seen other images than ``run`` would; bytes do not differ between machines."""
        if run.data in datasets.IMAGE_SETS and not run.data_options.get("noise"):
            here = _data(*_images(run))[1]
            if here != self._images.get(_images(run), here):
                raise SystemExit(
                    f"the images of {run.data} are not those of the stored results: give $NRAE_DATA theirs, or another checkout "
                    "these"
                )

    def _estimate(self, run: Run) -> float:
        try:
            return self._measure(run)
        except (ValueError, OSError, ImportError, ArithmeticError):  # of which the run itself will tell
            return math.inf

    def _measure(self, run: Run) -> float:
        points, kind = _data(*_images(run))[0], _kind(run)
        steps = math.ceil(points / run.optimization.batch_size) * run.optimization.epochs
        if kind in self._stored:
            return statistics.median(self._stored[kind]) * steps
        if repr(kind) not in self._measured:
            self._measured[repr(kind)] = _step_seconds(run)
            with contextlib.suppress(OSError):  # a full disk: it is measured again
                write_atomically(self._file, json.dumps(self._measured).encode())
        return self._measured[repr(kind)] * steps


def _kind(run: Run) -> tuple:
    """Runs of one kind have steps of one length."""
    passes = tuple(run.method_options.get(name) for name in ("jacobian", "neighbors_per_point", "weighting"))
    return run.data, run.network, run.method, run.optimization.batch_size, passes


def _images(run: Run) -> tuple[str, str]:
    return run.data, json.dumps(run.data_options, sort_keys=True)


@cache
def _data(name: str, options: str) -> tuple[int, str]:
    """How many points seed 0 has to train on, and the fingerprint of all."""
    data = datasets.make(name, 0, **json.loads(options))
    return len(data.train), data.fingerprint


def _step_seconds(run: Run) -> float:
    size, objective = run.optimization.batch_size, run.objective()
    data = run.dataset().train[: max(2 * size, 64)]

    def took(epochs: int) -> tuple[float, int]:
        model = objective.build(run.network, tuple(data.shape[1:]), 0)
        began = time.process_time()  # not by the clock on the wall: other programs may have the cores
        steps = fit(model, objective, data, replace(run.optimization, epochs=epochs, patience=0), 0).steps
        return time.process_time() - began, steps

    took(1)  # loads what a process's first run loads
    (short, few), (long, many) = took(1), took(4)
    return max(long - short, 1e-4) / (many - few)  # what a run does once, such as a graph, would count at every step


def order(found: dict[str, Study], clock: Clock) -> list[tuple[float, str, str, list[Run], list[Run]]]:
    """(verdicts per core-second, page, condition, runs that can begin, runs whose options are not chosen yet)."""
    units = []
    for page, study in found.items():
        for condition, content in study.plan.conditions.items():
            ready, later = study.remaining(condition) if is_here(content) else ([], [])
            if ready or later:
                seconds = sum(map(clock.seconds, [*ready, *later]))
                units.append((value(page, condition) / seconds, page, condition, ready, later))
    return sorted(units, key=lambda unit: -unit[0])


def hours(units: list[tuple], clock: Clock) -> float:
    """Core-hours that ``units`` of :func:`order` take; runs that they share count once."""
    missing = {run.key: run for *_, ready, later in units for run in [*ready, *later]}
    return sum(map(clock.seconds, missing.values())) / 3600


def work(preset: str) -> int:
    """Perform what is missing until nothing is; the number of runs that failed."""
    found, failed = studies(preset), set()
    clock = Clock(found)
    while True:
        units, due, worked = order(found, clock), time.monotonic() + REORDER_SECONDS, False
        left = hours(units, clock)
        free = [(*unit[1:3], run) for unit in units for run in unit[3] if run.key not in failed]
        for page, condition, run in free:
            if run.key in failed or not found[page].missing([run]):  # since the list was made
                continue
            clock.check_images(run)
            ending = attempt(run, found[page].store, "auto", lambda done, epochs: None)
            if ending is None:  # in another process's hands
                continue
            worked = True
            if isinstance(ending, str):
                failed.add(run.key)
                said = ending.strip().splitlines()[-1]
                if said.startswith(("OSError", "PermissionError")):
                    raise SystemExit(f"results cannot be kept in {found[page].store.folder}: {said}")
                print(f"failed: {run.label}, {page}: {said}", flush=True)
            else:
                left -= clock.seconds(run) / 3600
                said = f"{page}, {condition}: {run.label}, {ending.seconds:.0f} s"
                print(f"{said}; {left:.1f} core-hours left", flush=True)
            if time.monotonic() > due:
                break
        if not worked:
            if not free:
                if units:
                    waiting = ", ".join(f"{page}, {condition}" for _, page, condition, *_ in units)
                    print(f"left: {waiting}: a run that they need failed", flush=True)
                return len(failed)
            time.sleep(POLL_SECONDS)


def status(preset: str) -> Iterator[str]:
    """One line for each page and condition: runs stored, runs missing, core-hours to come."""
    found = studies(preset)
    clock = Clock(found)
    units = {unit[1:3]: unit for unit in order(found, clock)}
    yield f"{'page, condition':68} {'stored':>7} {'missing':>8} {'core-hours':>11}"
    for page, study in found.items():
        for condition, content in study.plan.conditions.items():
            if not is_here(content):
                yield f"{page + ', ' + condition:68} its images are not on this machine"
                continue
            names = study.plan.methods_of(condition)
            wanted = {study.plan.source(condition, name) for name in names}
            count = len(names) * study.plan.seeds_of(condition)
            count += sum(len(study.plan.searches(*source)) for source in wanted)
            own = [units[page, condition]] if (page, condition) in units else []
            missing = sum(len(ready) + len(later) for *_, ready, later in own)
            yield f"{page + ', ' + condition:68} {count - missing:7} {missing:8} {hours(own, clock):11.2f}"
    yield f"{'all (runs that pages share count once)':68} {'':16} {hours(list(units.values()), clock):11.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Perform what the pages still lack.")
    parser.add_argument("preset", choices=runs.SCALES)
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes (default: one per core)")
    parser.add_argument("--status", action="store_true", help="say what is done, what is missing and what it will cost")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.workers < 1:
        parser.error(f"--workers must be at least 1, not {given.workers}")
    if given.status:
        for line in status(given.preset):
            print(line, flush=True)
        return
    if given.work:
        raise SystemExit(min(work(given.preset), 1))
    for number in (signal.SIGTERM, signal.SIGHUP):  # through the finally below: the workers end, too
        signal.signal(number, lambda *_: sys.exit(143))
    command = [sys.executable, "-m", "nrae_lib.pages.queue", given.preset, "--work"]
    alone = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    team = []
    try:
        team += (subprocess.Popen(command, env=alone) for _ in range(given.workers))
        codes = [process.wait() for process in team]
        raise SystemExit(int(any(codes)))
    finally:
        for process in team:
            process.terminate()
        for process in team:  # each writes a checkpoint
            process.wait()


if __name__ == "__main__":
    main()
