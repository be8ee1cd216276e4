"""The environment of processes that tests start."""

import os

import pytest

from tests.runs.small import ROOT, processes


@pytest.fixture(scope="session")
def start_process():
    """Start ``function(*arguments)`` in a process of its own; killed at the end if it is still there."""
    started = []

    def start(function, *arguments):
        started.append(processes.Process(target=function, args=arguments))
        started[-1].start()
        return started[-1]

    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", str(ROOT))
        patched.setenv("DASK_DISTRIBUTED__WORKER__MULTIPROCESSING_METHOD", "fork")
        start(os.getpid).join()  # the server of all others keeps this environment
    yield start
    for process in started:
        process.kill()
        process.join()
