"""The state of a training in one sealed file, and stopping on request."""

import io
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from nrae_lib.core.files import seal, unseal, write_atomically

# Set it, and every training of this process that has a checkpoint saves it and raises Interrupted. Whoever sets it
# clears it, too.
stop_event = threading.Event()
_lock = threading.Lock()
_trainings = 0  # with a checkpoint, in any thread
_terminated = False  # whether SIGTERM set the event


class Interrupted(SystemExit):
    """A training stopped because it was asked to; exit status 143, as after SIGTERM.

    Attributes:
        checkpoint: from which it goes on.
        saved: whether its state could be written there; if not, an older one may be there.
    """

    def __init__(self, checkpoint: Path, saved: bool = True):
        super().__init__(143)
        self.checkpoint, self.saved = checkpoint, saved

    def __str__(self) -> str:
        if self.saved:
            return f"stopped on request; the training goes on from {self.checkpoint}"
        return f"stopped on request; the state could not be written to {self.checkpoint}"


def _terminate(*_) -> None:
    global _terminated
    _terminated = True
    stop_event.set()


@contextmanager
def stop_on_sigterm(wanted: bool) -> Iterator[None]:
    """SIGTERM, which schedulers send some time before they kill, sets :data:`stop_event` instead of ending the process.

    Only in the main thread, where alone Python lets a handler be set; elsewhere whoever owns the process has to set the
    event. If the signal comes too late for the training to stop, or while it fails, the process ends by it afterwards.
    """
    global _trainings, _terminated
    if not wanted:
        yield
        return
    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, _terminate) if main else None
    interrupted = False
    with _lock:
        _trainings += 1
    try:
        yield
    except Interrupted:
        interrupted = True
        raise
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)
        missed = main and _terminated and not interrupted
        with _lock:
            _trainings -= 1
            if _terminated and not _trainings:  # all have stopped, and nobody else asked for it
                _terminated = False
                stop_event.clear()
        if missed:
            signal.raise_signal(signal.SIGTERM)


def save(path: Path, state: dict[str, Any]) -> bool:
    """Write ``state`` (tensors, numbers, lists, dicts) to ``path``; a disk that fails is a warning and gives False."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    try:
        write_atomically(path, seal(buffer.getvalue()))
    except OSError as error:
        # A full disk must not end the training that the checkpoint is there to protect.
        warnings.warn(f"checkpoint {path} could not be written: {error}", stacklevel=3)
        return False
    return True


def load(path: Path, device: torch.device) -> dict[str, Any]:
    """What :func:`save` wrote, its tensors on ``device``; ValueError if the file is damaged."""
    return torch.load(io.BytesIO(unseal(path.read_bytes())), map_location=device, weights_only=True)
