"""Kill -9 at any moment, SIGTERM, a stop from another thread: the next process goes on, and the result is the same."""

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import torch

from nrae_lib.core import methods, training
from nrae_lib.core.models import Network
from nrae_lib.core.training import Interrupted, Optimization, checkpoints, fit

DATA = torch.randn(30, 2, generator=torch.Generator().manual_seed(0))
KILLS = 50


def train(checkpoint, progress=None, epochs=60, every=60.0):
    objective = methods.get("nrae_q+mmd").objective  # neighbours, noise, permutations: three kinds of draws
    model = objective.build(Network((16,), 1, "elu"), (2,), seed=0)
    watched = (0, 25), lambda model: model(DATA[:3]).detach(), checkpoint, every, progress, DATA[:5]
    trained = fit(model, objective, DATA, Optimization(epochs, 8, decay_start=0.5), 0, *watched)
    return model.state_dict(), trained.loss, trained.frames, trained.steps, trained.validation


assert_equal = partial(torch.testing.assert_close, rtol=0, atol=0)


# Forks of one process that has imported everything and trained nothing: children start in milliseconds.
SCRIPT = """
import multiprocessing, os, random, signal, sys, time
from pathlib import Path
import torch, torch._dynamo  # which the first step would import, in every child
from tests.core.test_interruptions import KILLS, train
folder, killed, moments = Path(sys.argv[1]), 0, random.Random(0)
torch.set_num_threads(1)

def keep(name, *arguments, **more):
    torch.save(train(*arguments, **more), folder / f"{name}.part")
    os.rename(folder / f"{name}.part", folder / name)

def child(*arguments, **more):
    process = multiprocessing.get_context("fork").Process(target=keep, args=arguments, kwargs=more)
    process.start()
    return process

def ended(process):
    process.join()
    return process.exitcode

began = time.perf_counter()
assert ended(child("whole", None)) == 0
longest = (time.perf_counter() - began) / 0.6 / KILLS  # so that all kills come before the end
while not (folder / "resumed").exists():
    process = child("resumed", folder / "killed", every=0.01)
    if killed < KILLS:
        time.sleep(moments.uniform(0, longest))
        process.kill()
    status = ended(process)
    killed += status == -signal.SIGKILL
    assert status in (0, -signal.SIGKILL), status
assert killed == KILLS
"""


def test_killed_at_fifty_random_moments_equals_uninterrupted(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error"}
    command, root = [sys.executable, "-c", SCRIPT, str(tmp_path)], Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert_equal(*(torch.load(tmp_path / name, weights_only=True) for name in ("resumed", "whole")))


def test_sigterm_saves_and_raises_only_where_there_is_a_checkpoint_and_one_too_late_is_passed_on(tmp_path):
    before, checkpoint, handlers, late = signal.getsignal(signal.SIGTERM), tmp_path / "state", [], []
    with pytest.raises(Interrupted, match=f"the training goes on from {checkpoint}") as caught:
        train(checkpoint, lambda done, loss: signal.raise_signal(signal.SIGTERM))
    assert caught.value.code == 143 and not training.stop_event.is_set()
    assert 0 < checkpoints.load(checkpoint, torch.device("cpu"))["epoch"] < 60
    whole = train(None, lambda done, loss: handlers.append(signal.getsignal(signal.SIGTERM)))
    assert {signal.getsignal(signal.SIGTERM), *handlers} == {before}
    assert_equal(train(checkpoint), whole)
    signal.signal(signal.SIGTERM, lambda *_: late.append(training.stop_event.is_set()))
    train(tmp_path / "late", lambda done, loss: done == 5 and signal.raise_signal(signal.SIGTERM), epochs=5)
    signal.signal(signal.SIGTERM, before)
    assert late == [False]


def test_another_thread_is_stopped_by_the_event_of_who_takes_it_back(tmp_path):
    """A worker of a cluster trains in a thread, where Python runs no signal handlers."""
    reached, arguments = threading.Event(), (tmp_path / "state", lambda done, loss: reached.set(), 100_000)
    with ThreadPoolExecutor(1) as pool:
        trainings = [pool.submit(train, *arguments) for _ in range(2)]  # the second finds the event set
        reached.wait()
        training.stop_event.set()
    assert training.stop_event.is_set() and (tmp_path / "state").exists()
    assert all(isinstance(stopped.exception(), Interrupted) and stopped.exception().saved for stopped in trainings)
    training.stop_event.clear()
    train(tmp_path / "other", epochs=2)
