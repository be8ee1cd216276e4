"""A small run, models made of functions, and processes of which only the first waits for PyTorch, then forks the others."""

import multiprocessing
from pathlib import Path

import numpy as np
import torch
from torch import nn

from nrae_lib.core.models import Autoencoder, Network
from nrae_lib.core.training import Optimization
from nrae_lib.runs import Result, Run

ROOT = Path(__file__).resolve().parents[2]
RUN = Run("sine", "nrae_l", Network((8,), 1), Optimization(3, 50), seed=0, data_options={"n_test": 100})


def small_result(run=RUN, size=10, error=0.5):
    curve = np.ones((size, 2), np.float32)
    return Result(run, {"test_mse": error}, [1.0, 0.5], {"curve": curve}, 1.0, 3.0, {"torch": "x"})


class Function(nn.Module):
    """A function as a module; its parameter gives it a type and a device."""

    def __init__(self, function):
        super().__init__()
        self.function, self.unused = function, nn.Parameter(torch.zeros(()))

    def forward(self, x):
        return self.function(x)


def model(encoder, decoder):
    return Autoencoder(Function(encoder), Function(decoder))


processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload([__name__, "torch._dynamo"])  # which the first step of an optimizer imports
