"""Loaded by the workers of tests: some runs do what no run should do.

Every attempt is noted in the file $PERFORMED. No seed is trained, all act. A folder whose name begins with "elsewhere" is
not seen.
"""

import os
import signal
import sys
import time
from pathlib import Path

import torch

from nrae_lib.core import training
from nrae_lib.runs import performing
from tests.runs.small import small_result

RAISES, DIES, LEAVES, SHORT, SLOW, SAVES = 100, 101, 104, 110, 200, 250
is_dir = Path.is_dir


def perform(run, device="auto", checkpoint=None, progress=None):
    with open(os.environ["PERFORMED"], "a") as file:
        file.write(f"{run.seed} {os.getpid()} {checkpoint.parent}\n")
    if run.seed == RAISES:
        raise RuntimeError("poison")
    if run.seed == DIES:
        if checkpoint.exists():
            os.kill(os.getpid(), signal.SIGSEGV)
        checkpoint.touch()
        os._exit(3)
    if run.seed == LEAVES:
        sys.exit(4)
    # Like a training that saves itself at every step, or from SAVES on only when it is told to end.
    first = int(checkpoint.read_text() or 0) if checkpoint.exists() else 0
    steps = 2 if run.seed < SLOW else 20 if run.seed < SAVES + 50 else 10**6
    for step in range(first, steps):
        if training.stop_event.is_set():
            checkpoint.write_text(str(step))
            raise training.Interrupted(checkpoint)
        time.sleep(0.05)
        if run.seed < SAVES:
            checkpoint.write_text(str(step + 1))
        progress(step + 1, steps)
    result = small_result(run)
    result.metrics |= {"resumed_at": float(first), "threads": float(torch.get_num_threads())}
    return result


def dask_setup(worker):
    """Called by Dask in a worker that preloads this module."""
    performing.perform = perform
    Path.is_dir = lambda path: is_dir(path) and not path.name.startswith("elsewhere")
