"""How far many runs are, with an estimate of the time left."""

import re
import shutil
import sys
import time
from typing import TextIO

_LOG_SECONDS, _SHOW_SECONDS = 30.0, 0.2  # what is kept must not fill a log; what is rewritten may follow the training


class Progress:
    """Runs, known by a key each, begin, advance and end.

    A terminal or a notebook shows one line that is rewritten, and gone at the end: how many runs are done, what is in
    flight and how far, the time left. A log file, and a notebook under papermill, gets it every 30 seconds as a line on
    standard error, and one for each run that ends. Where nothing can be written any more, the runs go on.

    Arguments:
        names: key of every run to come -> how it is called.
        enabled: False shows nothing.
    """

    def __init__(self, names: dict[str, str], enabled: bool = True):
        self.names, self.total, self.ended, self.elsewhere, self.workers = names, len(names), 0, 0, None
        self._stream = sys.stderr if enabled else None
        self._rewritten = self._stream is not None and _is_watched(self._stream)
        self._share: dict[str, float] = {}  # key of a run in flight -> how much of it is done
        self._began_at: dict[str, float] = {}  # a resumed run brings a share that was not earned here
        self._earned, self._shown = 0.0, time.monotonic()
        self._started: float | None = None  # when the first run began: workers take their time to come

    def close(self) -> None:
        """Take the rewritten line away."""
        if self._rewritten:
            self._write("\r\x1b[K")

    def advance(self, key: str, done: int = 0, epochs: int = 0) -> None:
        """A run is in flight, and how far; ``epochs=0``: not known yet."""
        if self._started is None:
            self._started = time.monotonic()
        self._share[key] = done / epochs if epochs else 0.0
        if done < epochs:  # the first word of a short run may be its last
            self._began_at.setdefault(key, done / epochs)

    def drop(self, key: str) -> None:
        """A run is no longer in flight, without having ended."""
        self._share.pop(key, None)
        self._began_at.pop(key, None)

    def end(self, key: str, how: str) -> None:
        """A run has ended."""
        self._earned += 1 - self._began_at.get(key, 0.0)
        self.drop(key)
        self.ended += 1
        if not self._rewritten:
            self._write(f"[{self.ended}/{self.total}] {self.names[key]}: {how}{self._left()}\n")

    def show(self) -> None:
        """Update what is shown, if it is time to."""
        if time.monotonic() - self._shown < (_SHOW_SECONDS if self._rewritten else _LOG_SECONDS):
            return
        self._shown, line = time.monotonic(), self.line()
        columns = shutil.get_terminal_size().columns
        self._write(f"\r\x1b[K{line[: columns - 1]}" if self._rewritten else f"{line}\n")

    def line(self) -> str:
        """What is done, what is in flight and how far, and the time left."""
        far = ", ".join(f"{self.names[key]} {100 * share:.0f} %" for key, share in self._share.items() if share)
        parts = [f"{self.ended} of {self.total} runs done", f"{len(self._share)} in flight" + (far and f" ({far})")]
        if self.elsewhere:
            parts.append(f"{self.elsewhere} performed by other processes")
        if self.workers is not None:
            parts.append(f"{self.workers} workers" if self.workers else "waiting for workers")
        return ", ".join(parts) + self._left()

    def _left(self) -> str:
        earned = self._earned + sum(share - self._began_at.get(key, 0.0) for key, share in self._share.items())
        to_do = self.total - self.ended - sum(self._share.values())
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
