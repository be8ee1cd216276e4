"""What many runs are doing, a line each, with an estimate of the time left: in a terminal, a notebook or a log file."""

import html
import re
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TextIO

# Seconds between two updates: what is rewritten may follow the training, what is kept must not fill a log.
_EVERY = {"terminal": 0.2, "notebook": 0.5, "log": 30.0}


class Progress:
    """A context in which runs, known by a key each, begin, advance and end.

    Where nothing can be written any more (a closed terminal, a full disk), nothing is shown; the runs go on. A terminal shows one line for each run in flight below those that ended, rewritten in place. A notebook has one
    display that is updated, with the last few of those that ended above, and emptied at the end. A log file, and a notebook under papermill, gets plain lines on
    standard error: one for each run that ends, and every 30 seconds one for each in flight.

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
        self._stream = stream or sys.stderr
        self._mode = _mode(self._stream) if enabled and self._stream else None
        self._notes: deque[str] = deque(maxlen=5)
        self._running: dict[str, tuple[int, int]] = {}  # key -> epochs done, of how many
        self._began_at: dict[str, float] = {}  # a resumed run brings a share that was not earned here
        self._earned = 0.0
        self._started: float | None = None  # when the first run began: workers take their time to come
        self._shown = time.monotonic()
        self._height, self._handle = 0, None

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_) -> None:
        self._attempt(self._erase)

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
        self.note(f"[{self.ended}/{self.total}] {self.name(key)}: {how}" + self._left())

    def name(self, key: str) -> str:
        """How a run is called."""
        return self.names.get(key, key)

    def note(self, text: str) -> None:
        """A line that stays (in a notebook: while it is among the last few)."""
        self._notes.append(text)
        if self._mode == "notebook":
            self.show()
        elif self._mode:
            self._attempt(self._write, text)

    def show(self) -> None:
        """Update what is shown, if it is time to."""
        if not self._mode or time.monotonic() - self._shown < _EVERY[self._mode]:
            return
        self._shown = time.monotonic()
        lines, height = self.lines(), 0
        if self._mode == "notebook":
            self._attempt(self._display, "\n".join([*self._notes, *lines]))
            return
        if self._mode == "terminal":
            width, rows = shutil.get_terminal_size()
            if len(lines) > max(rows - 2, 2):
                shown = max(rows - 3, 1)
                lines = [*lines[:shown], f"and {len(lines) - 1 - shown} more", lines[-1]]
            lines = [line[: width - 1] for line in lines]
            height = len(lines)
        self._attempt(self._write, "\n".join(lines), height)

    def _attempt(self, show: Callable, *what: Any) -> None:
        """Show, or never again: what cannot be written must not end the runs."""
        try:
            show(*what)
        except Exception:
            self._mode = None

    def _write(self, text: str, height: int = 0) -> None:
        self._erase()
        print(text, file=self._stream, flush=True)
        self._height = height

    def lines(self) -> list[str]:
        """One line for each run in flight, and a summary."""
        lines = [
            self.name(key) + (f": epoch {done}/{epochs} ({100 * done / epochs:.0f} %)" if epochs else ": starting")
            for key, (done, epochs) in list(self._running.items())
        ]
        summary = f"{self.ended} of {self.total} runs done, {len(lines)} in flight"
        if self.elsewhere:
            summary += f", {self.elsewhere} performed by other processes"
        if self.workers is not None:
            summary += f" on {self.workers} workers" if self.workers else ", waiting for workers"
        return [*lines, summary + self._left()]

    def _left(self) -> str:
        shares = {key: done / epochs for key, (done, epochs) in list(self._running.items()) if epochs}
        earned = self._earned + sum(share - self._began_at.get(key, 0.0) for key, share in shares.items())
        to_do = self.total - self.ended - sum(shares.values())
        if self._started is None or earned <= 0 or to_do <= 0:
            return ""
        return f", about {_duration((time.monotonic() - self._started) * to_do / earned)} left"

    def _erase(self) -> None:
        if self._height:
            self._stream.write(f"\x1b[{self._height}F\x1b[J")
            self._height = 0
        if self._handle:
            self._display("")
            self._handle = None

    def _display(self, text: str) -> None:
        from IPython.display import display

        data = {"text/plain": text, "text/html": text and f"<pre>{html.escape(text)}</pre>"}
        if self._handle is None:
            self._handle = display(data, raw=True, display_id=True)
        else:
            self._handle.update(data, raw=True)


def _mode(stream: TextIO) -> str:
    """Where the reader sits."""
    if "IPython" in sys.modules:
        shell = sys.modules["IPython"].get_ipython()
        # Papermill is a batch job, of which one reads the log; it marks the cell that it injects.
        if getattr(shell, "kernel", None) and not any(re.match("# Parameters", cell) for cell in shell.user_ns["In"]):
            return "notebook"
    return "terminal" if stream.isatty() else "log"


def _duration(seconds: float) -> str:
    """Rounded to what one wants to know of a time to wait."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 99.5 * 60 else f"{seconds / 3600:.1f} h"
