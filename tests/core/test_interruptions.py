"""Kill -9 at any moment, SIGTERM, a stop from another thread: the next process goes on, and the result is the same."""

import os
import signal
import subprocess
import sys
import threading

import pytest
import torch
from tests.test_runs import ROOT

from nrae_lib.core import methods, training
from nrae_lib.core.models import Network
from nrae_lib.core.training import Interrupted, Optimization, checkpoints, fit

KILLS = 50
# Forks of one process that has imported everything and trained nothing: 50 children start in milliseconds each.
SCRIPT = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from nrae_lib.core import methods
from nrae_lib.core.models import Network
from nrae_lib.core.training import Optimization, fit

folder, kills = Path(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(1)
data = torch.randn(60, 2, generator=torch.Generator().manual_seed(0))

def train(checkpoint, result):
    objective = methods.get("nrae_q+mmd").objective  # neighbours, noise, permutations: three kinds of draws
    model = objective.build(Network((64, 64), 1, "elu"), (2,), seed=0)
    optimization = Optimization(250, 16, decay_start=0.5)
    trained = fit(
        model, objective, data, optimization, 0, (0, 100, 250),
        lambda model: model(data[:3]).detach(), checkpoint, checkpoint_seconds=0.01, validation=data[:5],
    )
    state = model.state_dict(), trained.loss, trained.frames, trained.steps, trained.validation
    torch.save(state, result.with_suffix(".part"))
    os.rename(result.with_suffix(".part"), result)

def child(*arguments):
    process = os.fork()
    if process == 0:
        status = 1
        try:
            train(*arguments)
            status = 0
        finally:
            os._exit(status)
    return process

began = time.perf_counter()
assert os.waitpid(child(None, folder / "whole"), 0)[1] == 0
longest = (time.perf_counter() - began) / 0.6 / kills  # so that all kills come before the end
moments, killed, started = random.Random(0), 0, 0
while not (folder / "resumed").exists():
    process = child(folder / "checkpoint", folder / "resumed")
    started += 1
    if killed < kills:
        time.sleep(moments.uniform(0, longest))
        os.kill(process, signal.SIGKILL)
    status = os.waitpid(process, 0)[1]
    killed += status == signal.SIGKILL
    assert status in (0, signal.SIGKILL), status
print(killed, started)
"""


@pytest.mark.slow
def test_killed_at_fifty_random_moments_equals_uninterrupted(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path), str(KILLS)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    killed, started = map(int, done.stdout.split())
    assert killed == KILLS, f"only {killed} of {started} processes were killed before they were through"
    whole, resumed = (torch.load(tmp_path / name, weights_only=True) for name in ("whole", "resumed"))
    for one, other in zip(
        torch.utils._pytree.tree_leaves(whole), torch.utils._pytree.tree_leaves(resumed), strict=True
    ):
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
    left = {path.name for path in tmp_path.iterdir()} - {"whole", "resumed", "checkpoint"}
    assert all(name.endswith(".part") for name in left), left


DATA = torch.randn(30, 2, generator=torch.Generator().manual_seed(0))


def train(checkpoint, progress=None, epochs=150):
    objective = methods.get("nrae_l").objective
    model = objective.build(Network((16,), 1, "elu"), (2,), seed=0)
    trained = fit(model, objective, DATA, Optimization(epochs, 8), 0, checkpoint=checkpoint, progress=progress)
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()]), trained


def test_sigterm_saves_and_ends_with_the_status_of_a_terminated_process(tmp_path):
    whole, uninterrupted = train(None)
    checkpoint = tmp_path / "state"
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted) as caught:
        train(checkpoint, progress=lambda done, loss: os.kill(os.getpid(), signal.SIGTERM))
    assert caught.value.code == 143 and str(checkpoint) in str(caught.value)
    assert signal.getsignal(signal.SIGTERM) == before and not training.stop_event.is_set()
    assert 0 < checkpoints.load(checkpoint, torch.device("cpu"))["epoch"] < 150
    resumed, rest = train(checkpoint)
    assert torch.equal(resumed, whole) and torch.equal(rest.loss, uninterrupted.loss)


def test_another_thread_is_stopped_by_the_event(tmp_path):
    """A worker of a cluster trains in a thread, where Python runs no signal handlers."""
    ended, reached = [], threading.Event()

    def work():
        try:
            train(tmp_path / "state", progress=lambda done, loss: reached.set(), epochs=100_000)
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    reached.wait()
    training.stop_event.set()
    thread.join()
    training.stop_event.clear()
    assert [type(error) for error in ended] == [Interrupted]
    assert (tmp_path / "state").exists()


SCHEDULED = """
import sys
from pathlib import Path
from tests.test_interruptions import train
train(Path(sys.argv[1]), lambda done, loss: print(done, flush=True), epochs=10**6)
"""


@pytest.mark.slow
def test_a_process_that_a_scheduler_terminates_leaves_a_checkpoint(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", SCHEDULED, str(tmp_path / "state")], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    process.stdout.readline()
    process.terminate()
    assert process.wait(60) == 143
    assert checkpoints.load(tmp_path / "state", torch.device("cpu"))["epoch"] > 0
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


LATE = """
import os, signal, sys
from pathlib import Path
from tests.test_interruptions import train
train(Path(sys.argv[1]), lambda done, loss: done == 5 and os.kill(os.getpid(), signal.SIGTERM), epochs=5)
print("went on")
"""


@pytest.mark.slow
def test_a_signal_after_the_last_step_still_ends_the_process(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", LATE, str(tmp_path / "state")], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == -signal.SIGTERM and "went on" not in done.stdout


def test_who_asked_for_a_stop_takes_it_back(tmp_path):
    training.stop_event.set()
    try:
        for _ in range(2):
            with pytest.raises(Interrupted):
                train(tmp_path / "state")
            assert training.stop_event.is_set()
    finally:
        training.stop_event.clear()
    train(tmp_path / "state")


def test_without_a_checkpoint_sigterm_ends_the_process_at_once():
    handlers = []
    train(None, progress=lambda done, loss: handlers.append(signal.getsignal(signal.SIGTERM)))
    assert set(handlers) == {signal.SIG_DFL}
