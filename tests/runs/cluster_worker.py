"""Loaded by the workers of tests: some runs do what no run should do.

Every attempt is noted in the file $PERFORMED. Seeds from 100 on are not trained but act.
"""

import os
import signal
import sys
import time

import torch
from tests.test_runs import small_result

from nrae_lib import runs
from nrae_lib.core import training
from nrae_lib.runs import cluster

RAISES, DIES, LEAVES, SHORT, SLOW, ENDLESS = 100, 101, 104, 110, 200, 300
trained = runs.perform
greet = cluster._greet


def perform(run, device="auto", checkpoint=None, progress=None):
    with open(os.environ["PERFORMED"], "a") as file:
        file.write(f"{run.seed} {os.getpid()} {device}\n")
    if run.seed == RAISES:
        raise RuntimeError("poison")
    if run.seed == DIES:
        if checkpoint.exists():
            os.kill(os.getpid(), signal.SIGSEGV)
        checkpoint.touch()
        os._exit(3)
    if run.seed == LEAVES:
        sys.exit(4)
    return acted(run, checkpoint, progress) if run.seed >= RAISES else trained(run, device, checkpoint, progress)


def acted(run, checkpoint, progress):
    """Like a training that saves itself at every step; a slow one takes a second and more."""
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    first = int(checkpoint.read_text() or 0) if checkpoint.exists() else 0
    steps = 2 if run.seed < SLOW else 20 if run.seed < ENDLESS else 10**6
    for step in range(first, steps):
        if training.stop_event.is_set():
            raise training.Interrupted(checkpoint)
        time.sleep(0.05)
        checkpoint.write_text(str(step + 1))
        progress(step + 1, steps)
    result = small_result(run)
    result.metrics |= {"resumed_at": float(first), "threads": float(torch.get_num_threads())}
    return result


def greet_blindly(folder, driver):
    """As on a machine that does not see the store's folder."""
    return {**greet(folder, driver), "shares": False}


def perform_together(unit, device, checkpoints, progress, **_):
    """One after the other: what they act does not vectorise."""
    return [perform(run, device, path, progress) for run, path in zip(unit, checkpoints, strict=True)]


def dask_setup(worker):
    """Called by Dask in a worker that preloads this module."""
    runs.perform, runs.perform_together = perform, perform_together
