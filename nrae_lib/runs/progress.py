"""How far many runs are, with an estimate of the time left."""

import re
import shutil
import sys
import time
from typing import TextIO

_LOG_SECONDS, _SHOW_SECONDS = 30.0, 0.2  # what is kept must not fill a log; what is rewritten may follow the training


class Progress:
    """A context in which runs, known by a key each, begin, advance and end.

    A terminal or a notebook shows one line that is rewritten, and gone at the end: how many runs are done, what is in
    flight and how far, the time left. A log file, and a notebook under papermill, gets it every 30 seconds as a line on
    standard error, and one for each run that ends. Where nothing can be written any more, the runs go on.

    Arguments:
        total: number of runs to come.
        enabled: False shows nothing.
        stream: where the lines go; standard error by default.
        names: key -> how a run is called, where that is not the key.
    """

    def __init__(
        self, total: int, enabled: bool = True, stream: TextIO | None = None, names: dict[str, str] | None = None
    ):
        self.total, self.ended, self.elsewhere, self.workers = total, 0, 0, None
        self.names = names or {}
        self._stream = (stream or sys.stderr) if enabled else None
        self._rewritten = self._stream is not None and _is_watched(self._stream)
        self._running: dict[str, tuple[int, int]] = {}  # key -> epochs done, of how many
        self._began_at: dict[str, float] = {}  # a resumed run brings a share that was not earned here
        self._earned = 0.0
        self._started: float | None = None  # when the first run began: workers take their time to come
        self._shown = time.monotonic()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_) -> None:
        if self._rewritten:
            self._write("\r\x1b[K")

    def advance(self, key: str, done: int = 0, epochs: int = 0) -> None:
        """A run is in flight, and how far; ``epochs=0``: not known yet."""
        if self._started is None:
            self._started = time.monotonic()
        self._running[key] = (done, epochs)
        if done < epochs:  # the first word of a short run may be its last
            self._began_at.setdefault(key, done / epochs)

    def drop(self, key: str) -> None:
        """A run is no longer in flight, without having ended."""
        self._running.pop(key, None)
        self._began_at.pop(key, None)

    def end(self, key: str, how: str) -> None:
        """A run has ended."""
        self._earned += 1 - self._began_at.get(key, 0.0)
        self.drop(key)
        self.ended += 1
        if not self._rewritten:
            self._write(f"[{self.ended}/{self.total}] {self.names.get(key, key)}: {how}{self._left()}\n")

    def show(self) -> None:
        """Update what is shown, if it is time to."""
        if time.monotonic() - self._shown < (_SHOW_SECONDS if self._rewritten else _LOG_SECONDS):
            return
        self._shown = time.monotonic()
        if self._rewritten:
            self._write(f"\r\x1b[K{self.line()[: shutil.get_terminal_size().columns - 1]}")
        else:
            self._write(self.line() + "\n")

    def line(self) -> str:
        """What is done, what is in flight and how far, and the time left."""
        running = list(self._running.items())
        flying = ", ".join(
            f"{self.names.get(key, key)} {100 * done / epochs:.0f} %" for key, (done, epochs) in running if epochs
        )
        parts = [f"{self.ended} of {self.total} runs done", f"{len(running)} in flight" + (flying and f" ({flying})")]
        if self.elsewhere:
            parts.append(f"{self.elsewhere} performed by other processes")
        if self.workers is not None:
            parts.append(f"{self.workers} workers" if self.workers else "waiting for workers")
        return ", ".join(parts) + self._left()

    def _left(self) -> str:
        shares = {key: done / epochs for key, (done, epochs) in self._running.items() if epochs}
        earned = self._earned + sum(share - self._began_at.get(key, 0.0) for key, share in shares.items())
        to_do = self.total - self.ended - sum(shares.values())
        if self._started is None or earned <= 0 or to_do <= 0:
            return ""
        seconds = (time.monotonic() - self._started) * to_do / earned
        minutes = f"{seconds / 60:.0f} min" if seconds < 99.5 * 60 else f"{seconds / 3600:.1f} h"
        return f", about {f'{seconds:.0f} s' if seconds < 99.5 else minutes} left"

    def _write(self, text: str) -> None:
        """Write, or never again: a closed terminal or a full disk must not end the runs."""
        try:
            if self._stream:
                self._stream.write(text)
                self._stream.flush()
        except Exception:
            self._stream = None


def _is_watched(stream: TextIO) -> bool:
    """Whether somebody looks on: in a terminal or a notebook, but not in papermill's, which marks the cell it injects."""
    if "IPython" in sys.modules and getattr(shell := sys.modules["IPython"].get_ipython(), "kernel", None):
        return not any(re.match("# Parameters", cell) for cell in shell.user_ns["In"])
    return stream.isatty()
