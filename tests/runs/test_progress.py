"""What many runs show of themselves: one line that is rewritten, or the lines of a log."""

import os
import sys
from types import SimpleNamespace

import pytest

from nrae_lib.runs import progress
from nrae_lib.runs.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    """Seconds since the start, to be set."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def board_of(keys):
    return Progress({key: f"run {key}" for key in keys})


def test_the_runs_in_flight_and_the_time_left(clock):
    board = board_of("abcd")
    board.advance("a", 0, 100)
    board.advance("b", 50, 100)  # resumed: half of it was done before
    clock[0] = 10.0
    board.advance("a", 50, 100)
    board.advance("b", 100, 100)
    board.advance("c")
    # One run's worth was earned in 10 s, 2.5 are left.
    assert board.line() == "0 of 4 runs done, 3 in flight (run a 50 %, run b 100 %), about 25 s left"
    board.end("b", "ended")
    assert board.line() == "1 of 4 runs done, 2 in flight (run a 50 %), about 25 s left"
    board.drop("c")
    board.workers, board.elsewhere = 0, 2
    assert "1 in flight (run a 50 %), 2 performed by other processes, waiting for workers, about" in board.line()


@pytest.mark.parametrize(("left", "text"), [(99, "99 s"), (3600, "60 min"), (5 * 3600, "5.0 h")])
def test_time_left_is_rounded(clock, left, text):
    board = board_of("ab")
    board.advance("a", 0, 10)
    clock[0] = left
    board.end("a", "ended")
    assert board.line().endswith(f", about {text} left")


def test_a_log_gets_plain_lines_and_few(clock, capsys):
    board = board_of("ab")
    for step in range(700):
        clock[0] = step / 10
        board.advance("a", step, 1000)
        board.show()
    board.end("a", "70 s")
    board.close()
    text = capsys.readouterr().err
    assert text.count("0 of 2 runs done") == 2, "every 30 seconds"
    assert text.splitlines()[-1].startswith("[1/2] run a: 70 s, about")
    assert set(text) - {"\n"} <= set(map(chr, range(32, 127)))


def test_a_terminal_is_rewritten_in_place_and_left_empty(clock, capsys, monkeypatch):
    monkeypatch.setattr(progress.shutil, "get_terminal_size", lambda: os.terminal_size((20, 24)))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    board = board_of("ab")
    board.advance("a", 1, 10)
    clock[0] = 1.0
    board.show()
    board.end("a", "1 s")
    board.show()  # too soon
    assert capsys.readouterr().err == "\r\x1b[K0 of 2 runs done, 1"
    board.close()
    assert capsys.readouterr().err == "\r\x1b[K"


@pytest.mark.parametrize(
    ("cells", "shown"), [(["1 + 1"], "\r\x1b[K"), (["", "# Parameters\npreset = 'smoke'"], "[1/1] run a: 1 s\n")]
)
def test_a_notebook_is_rewritten_but_papermill_gets_a_log(clock, capsys, monkeypatch, cells, shown):
    shell = SimpleNamespace(kernel=object(), user_ns={"In": cells})
    monkeypatch.setattr(pytest.importorskip("IPython"), "get_ipython", lambda: shell)
    board = board_of("a")
    board.end("a", "1 s")
    board.close()
    assert capsys.readouterr().err == shown


@pytest.mark.parametrize("terminal", [True, False])
def test_a_stream_that_breaks_turns_the_display_off(clock, monkeypatch, terminal):
    def write(text):
        writes.append(text)
        raise BrokenPipeError

    writes = []
    monkeypatch.setattr(sys, "stderr", SimpleNamespace(write=write, isatty=lambda: terminal))
    board = board_of("abc")
    board.advance("a", 1, 10)
    for clock[0] in (60.0, 120.0):
        board.show()
    board.end("a", "1 s")
    board.close()
    assert len(writes) == 1 and board.ended == 1
