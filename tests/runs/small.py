"""A small run, and processes of which only the first waits for PyTorch: a server imports it and forks the others."""

import multiprocessing
from pathlib import Path

import numpy as np

from nrae_lib.core.models import Network
from nrae_lib.core.training import Optimization
from nrae_lib.runs import Result, Run

ROOT = Path(__file__).resolve().parents[2]
RUN = Run("sine", "nrae_l", Network((8,), 1), Optimization(3, 50), seed=0, data_options={"n_test": 100})


def small_result(run=RUN, size=10):
    return Result(
        run, {"test_mse": 0.5}, [1.0, 0.5], {"curve": np.ones((size, 2), np.float32)}, 1.0, 3.0, {"torch": "x"}
    )


processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload([__name__, "torch._dynamo"])  # which the first step of an optimizer imports
