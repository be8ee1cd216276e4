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

# Set it, and every training of this process with a checkpoint saves it and raises Interrupted; who sets it clears it.
stop_event = threading.Event()


class Interrupted(SystemExit):
    """A training stopped because it was asked to; exit status 143, as after SIGTERM. It goes on from ``checkpoint``.
    Where its state could not be ``saved`` there, an older one may be there."""

    def __init__(self, checkpoint: Path, saved: bool = True):
        super().__init__(143)
        self.checkpoint, self.saved = checkpoint, saved

    def __str__(self) -> str:
        what = "the training goes on from" if self.saved else "the state could not be written to"
        return f"stopped on request; {what} {self.checkpoint}"


@contextmanager
def stop_on_sigterm(wanted: bool) -> Iterator[None]:
    """SIGTERM, which schedulers send some time before they kill, sets :data:`stop_event` instead of ending the process.
    Only in the main thread, where alone Python lets a handler be set. If the signal comes too late for the training to
    stop, or while it fails, the process ends by it afterwards."""
    if not wanted or threading.current_thread() is not threading.main_thread():
        yield
        return
    came, answered = threading.Event(), False

    def terminate(*_) -> None:
        came.set()
        stop_event.set()

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    except Interrupted:
        answered = True
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
        if came.is_set():
            stop_event.clear()
            if not answered:
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
