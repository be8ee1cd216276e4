"""What many runs show of themselves: one line that is rewritten, or the lines of a log."""

import io
import os
from types import SimpleNamespace

import pytest

from nrae_lib.runs import progress
from nrae_lib.runs.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """Seconds since the start, to be set."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_the_runs_in_flight_and_the_time_left(clock):
    board = Progress(4, stream=io.StringIO(), names={"a": "run a"})
    board.advance("a", 0, 100)
    board.advance("b", 50, 100)  # resumed: half of it was done before
    clock[0] = 10.0
    board.advance("a", 50, 100)
    board.advance("b", 100, 100)
    board.advance("c")
    # One run's worth was earned in 10 s, 2.5 are left.
    assert board.line() == "0 of 4 runs done, 3 in flight (run a 50 %, b 100 %), about 25 s left"
    board.end("b", "ended")
    assert board.line() == "1 of 4 runs done, 2 in flight (run a 50 %), about 25 s left"
    board.drop("c")
    board.workers, board.elsewhere = 0, 2
    assert "1 in flight (run a 50 %), 2 performed by other processes, waiting for workers, about" in board.line()


@pytest.mark.parametrize(
    ("left", "text"), [(99, "99 s"), (240, "4 min"), (3600, "60 min"), (5 * 3600, "5.0 h"), (8000 * 60, "133.3 h")]
)
def test_time_left_is_rounded(clock, left, text):
    board = Progress(2, stream=io.StringIO())
    board.advance("a", 0, 10)
    clock[0] = left
    board.end("a", "ended")
    assert board.line().endswith(f", about {text} left")


def test_a_log_gets_plain_lines_and_few(clock):
    stream = io.StringIO()
    with Progress(2, stream=stream) as board:
        for step in range(700):
            clock[0] = step / 10
            board.advance("a", step, 1000)
            board.show()
        board.end("a", "70 s")
    lines = stream.getvalue().splitlines()
    assert len([line for line in lines if line.startswith("0 of 2 runs done")]) == 2, "every 30 seconds"
    assert lines[-1].startswith("[1/2] a: 70 s, about")
    assert set(stream.getvalue()) - {"\n"} <= set(map(chr, range(32, 127)))


def test_a_terminal_is_rewritten_in_place_and_left_empty(clock, monkeypatch):
    monkeypatch.setattr(progress.shutil, "get_terminal_size", lambda: os.terminal_size((20, 24)))
    stream = Terminal()
    with Progress(2, stream=stream) as board:
        board.advance("a", 1, 10)
        clock[0] = 1.0
        board.show()
        board.end("a", "1 s")
        board.show()  # too soon
        assert stream.getvalue() == "\r\x1b[K0 of 2 runs done, 1"
    assert stream.getvalue().endswith("\r\x1b[K")


@pytest.mark.parametrize(
    ("cells", "shown"), [(["1 + 1"], "\r\x1b[K"), (["", "# Parameters\npreset = 'smoke'"], "[1/1] a: 1 s\n")]
)
def test_a_notebook_is_rewritten_but_papermill_gets_a_log(clock, monkeypatch, cells, shown):
    ipython, stream = pytest.importorskip("IPython"), io.StringIO()
    monkeypatch.setattr(ipython, "get_ipython", lambda: SimpleNamespace(kernel=object(), user_ns={"In": cells}))
    with Progress(1, stream=stream) as board:
        board.end("a", "1 s")
    assert stream.getvalue() == shown


@pytest.mark.parametrize("terminal", [True, False])
def test_a_stream_that_breaks_turns_the_display_off(clock, terminal):
    class Broken(io.StringIO):
        writes = 0

        def isatty(self):
            return terminal

        def write(self, text):
            self.writes += 1
            raise BrokenPipeError

    stream = Broken()
    with Progress(3, stream=stream) as board:
        board.advance("a", 1, 10)
        for clock[0] in (60.0, 120.0):
            board.show()
        board.end("a", "1 s")
    assert stream.writes == 1 and board.ended == 1
