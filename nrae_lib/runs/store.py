"""A folder with one atomic file per run, safe against killed processes and against two that write at once."""

import fcntl
import hashlib
import io
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nrae_lib.core.files import seal, unseal, write_atomically
from nrae_lib.core.methods.terms import check_choice
from nrae_lib.data import datasets
from nrae_lib.runs.run import Result, Run

PRESETS = ("smoke", "quick", "reduced", "paper")
SCALES = ("paper", "reduced")  # the presets whose results are committed, the largest first


def project_root() -> Path:
    """The checkout this package runs from, or the current folder when it is installed elsewhere."""
    checkout = Path(__file__).resolve().parents[2]
    return checkout if (checkout / "pyproject.toml").exists() else Path.cwd()


@cache
def code_state() -> str:
    """First 12 hexadecimal digits of the SHA-256 of all code that can decide a result: the floors core, data and runs."""
    package, digest = Path(__file__).resolve().parents[1], hashlib.sha256()
    for path in sorted(path for floor in ("core", "data", "runs") for path in (package / floor).rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def read(path: Path, what: str, decode: Callable[[bytes], Any]) -> Any:
    """What ``decode`` makes of a file; None if it is not there, or, with one sentence that says so, if it is damaged."""
    try:
        return decode(path.read_bytes())
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, OSError) as error:
        warnings.warn(f"stored {what} {path} cannot be used ({error}) and will be computed again", stacklevel=3)
        return None


class Store:
    """A folder of results.

    Arguments:
        scratch: whether file names also hold the state of the image files that a run reads
            (:func:`nrae_lib.data.datasets.state`), so that a run is performed again where these have changed.
    """

    def __init__(self, folder: str | Path, scratch: bool = False):
        self.folder, self.scratch = Path(folder), scratch

    @staticmethod
    def of(preset: str, experiment: str) -> "Store":
        """Where a preset's results live: ``results/<experiment>`` for those that are committed, else a scratch folder.

        The scratch folder is ``$NRAE_RESULTS``, by default ``_build/results`` in the checkout, and in it one folder for
        each state of the library's code (:func:`code_state`), so that what an edit may have changed is computed again.
        Committed results outlive edits; ``semantics`` and a test guard those. ValueError for an unknown preset.
        """
        check_choice("preset", preset, PRESETS)
        if preset in SCALES:  # their results are part of the checkout
            return Store(project_root() / "results" / experiment)
        scratch = Path(os.environ.get("NRAE_RESULTS") or project_root() / "_build" / "results")
        return Store(scratch / code_state(), scratch=True)

    def name(self, run: Run) -> str:
        """What the files of ``run`` are called, without their suffix: its key, perhaps with the state of its data."""
        state = datasets.state(run.data, run.data_options) if self.scratch else ""
        return f"{run.key}-{state}" if state else run.key

    def path(self, run: Run) -> Path:
        return self.folder / f"{self.name(run)}.npz"

    def checkpoint(self, run: Run) -> Path:
        return self.folder / f".{self.name(run)}.checkpoint"

    def get(self, run: Run) -> Result | None:
        """The stored result, or None. A damaged file is reported in one sentence and counts as missing."""

        def decode(content: bytes) -> Result:
            result = Result.from_bytes(content)
            if result.run.key != run.key:
                raise ValueError("it belongs to another run")
            return result

        return read(self.path(run), "result", decode)

    def put(self, result: Result) -> None:
        self.put_weights(result)  # first, so that a stored result always has them on the machine that made it
        write_atomically(self.path(result.run), result.to_bytes())

    def put_weights(self, result: Result) -> None:
        """Store the trained weights alone, if ``result`` has them."""
        if result.weights is not None:
            buffer = io.BytesIO()
            np.savez(buffer, **{name: value.numpy() for name, value in result.weights.items()})
            write_atomically(self._weights_path(result.run), seal(buffer.getvalue()))

    def weights(self, run: Run) -> dict[str, torch.Tensor] | None:
        """The trained weights of ``run``, or None where they are not on this machine (they are never committed)."""

        def decode(content: bytes) -> dict[str, torch.Tensor]:
            with np.load(io.BytesIO(unseal(content)), allow_pickle=False) as file:
                return {name: torch.from_numpy(value) for name, value in file.items()}

        return read(self._weights_path(run), "weights", decode)

    def _weights_path(self, run: Run) -> Path:
        return self.folder / ".weights" / f"{self.name(run)}.npz"

    @contextmanager
    def claim(self, run: Run, wait: bool = False) -> Iterator[bool]:
        """Hold the right to perform ``run``; yields False, at once, if another process has it and ``wait`` is off. The
        lock belongs to the process and goes with it, however it ends."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / f".{self.name(run)}.lock", "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            yield True
