"""Kill -9 at any moment, SIGTERM, a stop from another thread: the next process goes on, and the result is the same."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch.utils._pytree import tree_leaves

from nrae_lib.core import methods, training
from nrae_lib.core.models import Network
from nrae_lib.core.training import Interrupted, Optimization, checkpoints, fit

DATA = torch.randn(30, 2, generator=torch.Generator().manual_seed(0))
KILLS = 50


def train(checkpoint, progress=None, epochs=60, every=60.0):
    objective = methods.get("nrae_q+mmd").objective  # neighbours, noise, permutations: three kinds of draws
    model, optimization = (
        objective.build(Network((16,), 1, "elu"), (2,), seed=0),
        Optimization(epochs, 8, decay_start=0.5),
    )
    watched = (0, 25), lambda model: model(DATA[:3]).detach(), checkpoint, every, progress, DATA[:5]
    trained = fit(model, objective, DATA, optimization, 0, *watched)
    return model.state_dict(), trained.loss, trained.frames, trained.steps, trained.validation


def equal(one, other):
    pairs = zip(tree_leaves(one), tree_leaves(other), strict=True)
    return all(torch.equal(*pair) if torch.is_tensor(pair[0]) else pair[0] == pair[1] for pair in pairs)


# Forks of one process that has imported everything and trained nothing: children start in milliseconds.
SCRIPT = """
import json, os, random, signal, sys, time
from pathlib import Path
import torch, torch._dynamo  # which the first step would import, in every child
from tests.core.test_interruptions import KILLS, train
folder, killed, moments = Path(sys.argv[1]), 0, random.Random(0)
torch.set_num_threads(1)

def child(name, *arguments, **more):
    if process := os.fork():
        return process
    status = 1
    try:
        torch.save(train(*arguments, **more), folder / f"{name}.part")
        os.rename(folder / f"{name}.part", folder / name)
        status = 0
    except SystemExit as stop:
        status = stop.code
    finally:
        os._exit(status)

def ended(process):
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])

began = time.perf_counter()
assert ended(child("whole", None)) == 0
longest = (time.perf_counter() - began) / 0.6 / KILLS  # so that all kills come before the end
while not (folder / "resumed").exists():
    process = child("resumed", folder / "killed", every=0.01)
    if killed < KILLS:
        time.sleep(moments.uniform(0, longest))
        os.kill(process, signal.SIGKILL)
    status = ended(process)
    killed += status == -signal.SIGKILL
    assert status in (0, -signal.SIGKILL), status

scheduled = child("endless", folder / "scheduled", lambda done, loss: (folder / "reached").touch(), 10**6)
while not (folder / "reached").exists():
    time.sleep(0.01)
os.kill(scheduled, signal.SIGTERM)
late = child("went on", folder / "late", lambda done, loss: done == 5 and os.kill(os.getpid(), signal.SIGTERM), 5)
print(json.dumps({"killed": killed, "scheduled": ended(scheduled), "late": ended(late)}))
"""


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    """The folder and the statuses of processes that were killed."""
    folder = tmp_path_factory.mktemp("processes")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder)], cwd=Path(__file__).parents[2], capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout)


def test_killed_at_many_random_moments_equals_uninterrupted(processes):
    folder, found = processes
    assert found["killed"] == KILLS, "the others were through before they were killed"
    assert equal(*(torch.load(folder / name, weights_only=True) for name in ("whole", "resumed")))
    left = {path.name for path in folder.iterdir()} - {"whole", "resumed", "killed", "scheduled", "reached"}
    assert all(name.endswith(".part") for name in left), left


def test_a_process_that_a_scheduler_terminates_leaves_a_checkpoint_and_ends_also_after_the_last_step(processes):
    folder, found = processes
    assert found["scheduled"] == 143
    assert checkpoints.load(folder / "scheduled", torch.device("cpu"))["epoch"] > 0
    assert found["late"] == -signal.SIGTERM and not (folder / "went on").exists()


def test_sigterm_saves_and_ends_with_the_status_of_a_terminated_process(tmp_path):
    before, checkpoint = signal.getsignal(signal.SIGTERM), tmp_path / "state"
    with pytest.raises(Interrupted) as caught:
        train(checkpoint, lambda done, loss: os.kill(os.getpid(), signal.SIGTERM))
    assert caught.value.code == 143 and str(checkpoint) in str(caught.value)
    assert signal.getsignal(signal.SIGTERM) == before and not training.stop_event.is_set()
    assert 0 < checkpoints.load(checkpoint, torch.device("cpu"))["epoch"] < 60
    assert equal(train(None), train(checkpoint))


def test_another_thread_is_stopped_by_the_event_of_who_takes_it_back(tmp_path):
    """A worker of a cluster trains in a thread, where Python runs no signal handlers."""
    ended, reached = [], threading.Event()

    def work():
        for _ in range(2):  # the second finds the event set
            with pytest.raises(Interrupted) as caught:
                train(tmp_path / "state", lambda done, loss: reached.set(), 100_000)
            ended.append(caught.value.saved)

    thread = threading.Thread(target=work)
    thread.start()
    reached.wait()
    training.stop_event.set()
    thread.join()
    assert training.stop_event.is_set()
    training.stop_event.clear()
    assert ended == [True, True] and (tmp_path / "state").exists()
    train(tmp_path / "other", epochs=2)


def test_without_a_checkpoint_sigterm_ends_the_process_at_once():
    handlers = []
    train(None, lambda done, loss: handlers.append(signal.getsignal(signal.SIGTERM)), epochs=2)
    assert set(handlers) == {signal.SIG_DFL}
