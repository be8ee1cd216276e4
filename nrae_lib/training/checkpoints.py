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

from nrae_lib.files import seal, unseal, write_atomically

# Set it, and every training of this process that has a checkpoint saves it and raises Interrupted.
stop_event = threading.Event()


class Interrupted(SystemExit):
    """A training saved its state and stopped because it was asked to; exit status 143, as after SIGTERM."""

    def __init__(self, checkpoint: Path):
        super().__init__(143)
        self.checkpoint = checkpoint

    def __str__(self) -> str:
        return f"stopped on request; the training goes on from {self.checkpoint}"


@contextmanager
def stop_on_sigterm(wanted: bool) -> Iterator[None]:
    """SIGTERM, which schedulers send some time before they kill, sets :data:`stop_event` instead of ending the process.

    Only in the main thread, where alone Python lets a handler be set; elsewhere whoever owns the process has to set the
    event.
    """
    if not wanted or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: stop_event.set())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        stop_event.clear()


def save(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` (tensors, numbers, lists, dicts) to ``path``; a disk that fails is a warning."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    try:
        write_atomically(path, seal(buffer.getvalue()))
    except OSError as error:
        # A full disk must not end the training that the checkpoint is there to protect.
        warnings.warn(f"checkpoint {path} could not be written: {error}", stacklevel=3)


def load(path: Path, device: torch.device) -> dict[str, Any]:
    """What :func:`save` wrote, its tensors on ``device``; ValueError if the file is damaged."""
    return torch.load(io.BytesIO(unseal(path.read_bytes())), map_location=device, weights_only=True)
