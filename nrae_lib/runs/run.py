"""A run is everything that decides a result and nothing else; a store keeps one atomic file per run.

Any route (papermill, make, a Python session) performs the same :class:`Run` and writes the same :class:`Result`.
"""

import fcntl
import hashlib
import io
import json
import math
import os
import platform
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import torch
from torch import nn

from nrae_lib.core import __version__, measures, methods
from nrae_lib.core.files import seal, unseal, write_atomically
from nrae_lib.core.models import ConvNetwork, Network, network_from_dict
from nrae_lib.core.training import Optimization, Trained, fit
from nrae_lib.data import datasets
from nrae_lib.runs.views import VIEWS, WITH_WEIGHTS, learned_curve

RECIPES = ("paper", "paper_elu", "released")
KEEP = tuple(VIEWS)
PRESETS = ("smoke", "quick", "paper")

_FRAME_POINTS = 128
_FRAMES = 40


@dataclass(frozen=True)
class Run:
    """One training run; equal runs have equal keys, and equal keys have equal results.

    Arguments:
        data, data_options: a name from ``datasets.DATASETS`` and its options.
        method, method_options: a name from ``methods.CATALOGUE`` and its options.
        network, optimization: architecture and optimizer.
        seed: decides the data (points and noise), the initial weights and the order of training. All three start from
            this number, so within one seed they are not independent of each other.
        recipe: whose settings these are: "paper" (the text), "paper_elu" (the text with ELU for ReLU) or
            "released" (the authors' code).
        keep: what the result holds beside its errors, a name from ``views.VIEWS``: "metrics" nothing; "figure" the
            learned curve, codes and reconstructions; "animation" also the curve during training; "images" reconstructed
            images, and the trained weights in a file beside; ...

    Raises:
        ValueError: for an unknown name or option, naming the valid ones.
    """

    data: str
    method: str
    network: Network | ConvNetwork
    optimization: Optimization
    seed: int
    data_options: dict = field(default_factory=dict)
    method_options: dict = field(default_factory=dict)
    recipe: str = "paper"
    keep: str = "figure"

    def __post_init__(self):
        for name, value, valid in (("recipe", self.recipe, RECIPES), ("keep", self.keep, KEEP)):
            if value not in valid:
                raise ValueError(f"unknown {name} {value!r}: choose one of {', '.join(valid)}")
        method = methods.get(self.method)
        object.__setattr__(self, "method", method.name)  # "nrae_l + mmd" and "nrae_l+mmd" are one run
        method.configure(**self.method_options)
        datasets.bound_options(self.data, self.data_options)

    @cached_property
    def key(self) -> str:
        """First 20 hexadecimal digits of the SHA-256 of the run as canonical JSON.

            With all options of data and method, also those left at their defaults, and the method's ``semantics``.
        The device is not part of it: same key, same numbers bit for bit holds on one kind of machine.
        """
        method = methods.get(self.method)
        content = {
            **asdict(self),
            "data_options": datasets.bound_options(self.data, self.data_options),
            "method_options": method.configure(**self.method_options).identity(),
            "semantics": method.semantics,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:20]

    @property
    def label(self) -> str:
        options = " ".join(f"{name}={value}" for name, value in self.method_options.items())
        return f"{self.data} {self.recipe} {self.method} {options} seed {self.seed}"

    @staticmethod
    def from_dict(content: dict) -> "Run":
        """The run whose ``dataclasses.asdict`` is ``content``."""
        return Run(
            **{
                **content,
                "network": network_from_dict(content["network"]),
                "optimization": Optimization(**content["optimization"]),
            }
        )

    def __hash__(self):
        return hash(self.key)


@dataclass
class Result:
    """What a run gave.

    Arguments:
        metrics: name -> number.
        history: loss of (at most 200 evenly spaced) epochs.
        arrays: what figures need, by name.
        seconds, steps_per_second: of training.
        provenance: device, versions, commit, threads, data fingerprint, date.
        weights: the trained model's ``state_dict``, for the views that keep it (``views.WITH_WEIGHTS``); stored apart
            from everything else, see :meth:`Store.weights`.
    """

    run: Run
    metrics: dict[str, float]
    history: list[float]
    arrays: dict[str, np.ndarray]
    seconds: float
    steps_per_second: float
    provenance: dict[str, str]
    weights: dict[str, torch.Tensor] | None = field(default=None, repr=False)

    @property
    def trained_alone(self) -> bool:
        """False for committed results of former vectorized ensembles: a run alone does not repeat them bit for bit."""
        return "ensemble" not in self.provenance

    def to_bytes(self) -> bytes:
        """A compressed npz file: the arrays, and everything else as JSON in the entry ``result``."""
        content = {name: value for name, value in vars(self).items() if name not in ("run", "arrays", "weights")}
        text = json.dumps({"run": asdict(self.run), **content})
        buffer = io.BytesIO()
        np.savez_compressed(buffer, result=np.frombuffer(text.encode(), np.uint8), **self.arrays)
        return seal(buffer.getvalue())  # what follows a zip file disturbs no reader of npz files

    @staticmethod
    def from_bytes(content: bytes) -> "Result":
        """Inverse of :meth:`to_bytes`; ValueError if ``content`` is damaged."""
        try:
            with np.load(io.BytesIO(unseal(content)), allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            fields = json.loads(arrays.pop("result").tobytes())
            run = Run.from_dict(fields.pop("run"))
            return Result(run=run, arrays=arrays, **fields)
        except Exception as error:  # whatever zip, JSON or numpy make of a file that is not ours
            raise ValueError(str(error)) from error


def project_root() -> Path:
    """The checkout this package runs from, or the current folder when it is installed elsewhere."""
    checkout = Path(__file__).resolve().parents[2]
    return checkout if (checkout / "pyproject.toml").exists() else Path.cwd()


class Store:
    """A folder with one file per run, safe against killed processes and against two that write at once."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    @staticmethod
    def of(preset: str, experiment: str) -> "Store":
        """Where a preset's results live: ``results/<experiment>`` (committed) for "paper", else a scratch folder.

        The scratch folder is ``$NRAE_RESULTS``, by default ``_build/results`` in the checkout, and in it one folder for
        each state of the library's code and of the image sets, so that what an edit or another file may have changed is
        computed again. Committed
        results outlive edits; ``semantics`` and a test that trains some of them again guard those.
        """
        if preset not in PRESETS:
            raise ValueError(f"unknown preset {preset!r}: choose one of {', '.join(PRESETS)}")
        if preset == "paper":
            return Store(project_root() / "results" / experiment)
        return Store(
            Path(os.environ.get("NRAE_RESULTS") or project_root() / "_build" / "results")
            / f"{code_state()}-{datasets.state()}"
        )

    def path(self, run: Run) -> Path:
        return self.folder / f"{run.key}.npz"

    def get(self, run: Run) -> Result | None:
        """The stored result, or None. A damaged file is reported in one sentence and counts as missing."""
        path = self.path(run)
        try:
            result = Result.from_bytes(path.read_bytes())
            if result.run.key != run.key:
                raise ValueError("it belongs to another run")
        except FileNotFoundError:
            return None
        except (ValueError, OSError) as error:
            warnings.warn(f"stored result {path} cannot be used ({error}) and will be computed again", stacklevel=2)
            return None
        return result

    def all(self) -> list[Result]:
        """Every readable result in the folder, ordered by its run's label; results of older semantics are left out."""
        found = []
        for path in sorted(self.folder.glob("*.npz")):
            try:
                result = Result.from_bytes(path.read_bytes())
            except ValueError as error:
                warnings.warn(f"stored result {path} cannot be used ({error}) and is left out", stacklevel=2)
                continue
            if result.run.key == path.stem:
                found.append(result)
        return sorted(found, key=lambda result: result.run.label)

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
        try:
            with np.load(io.BytesIO(unseal(self._weights_path(run).read_bytes())), allow_pickle=False) as file:
                return {name: torch.from_numpy(file[name]) for name in file.files}
        except FileNotFoundError:
            return None
        except (ValueError, OSError) as error:
            warnings.warn(f"stored weights {self._weights_path(run)} cannot be used ({error})", stacklevel=2)
            return None

    def _weights_path(self, run: Run) -> Path:
        return self.folder / ".weights" / f"{run.key}.npz"

    @contextmanager
    def claim(self, run: Run, wait: bool) -> Iterator[bool]:
        """Hold the right to perform ``run``; yields False, at once, if another process has it and ``wait`` is off.

        The lock belongs to the process and goes with it, however it ends.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / f".{run.key}.lock", "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            yield True

    def checkpoint(self, run: Run) -> Path:
        return self.folder / f".{run.key}.checkpoint"


def perform(
    run: Run, device: str = "auto", checkpoint: Path | None = None, progress: Callable[[int, int], None] | None = None
) -> Result:
    """Train and measure ``run``.

    Arguments:
        device: "auto" (CUDA if there is one), "cpu", "cuda", "cuda:1", ...
        checkpoint: see :func:`nrae_lib.core.training.fit`.
        progress: called a few times per second with the number of epochs done and of all epochs.
    """
    started = _Started(run, device)
    trained = fit(
        started.model, started.objective, started.train, run.optimization, run.seed, started.frame_epochs,
        started.frame, checkpoint, progress=progress and (lambda done, loss: progress(done, run.optimization.epochs)),
        validation=started.validation,
    )  # fmt: skip
    return started.result(trained)


class _Started:
    """A run with everything made that its training needs."""

    def __init__(self, run: Run, device: str):
        self.run, self.device = run, find_device(device)
        if self.device.startswith("cuda"):
            torch.cuda.reset_peak_memory_stats(self.device)
        self.data = datasets.make(run.data, run.seed, **run.data_options)
        self.objective = methods.get(run.method).configure(**run.method_options)
        self.model = self.objective.build(run.network, tuple(self.data.train.shape[1:]), run.seed).to(self.device)
        self.train = self.data.train.to(self.device)
        self.validation = self.data.validation if run.optimization.patience else None
        self.frame_epochs = frame_epochs(run.optimization.epochs) if run.keep == "animation" else ()

    def frame(self, model: nn.Module) -> torch.Tensor:
        return learned_curve(model, self.train, _FRAME_POINTS)

    def result(self, trained: Trained) -> Result:
        metrics, arrays = _measure(self.model, self.data, self.run.keep)
        if not all(map(math.isfinite, metrics.values())):
            raise FloatingPointError("a measure of the trained model is not finite: lower the learning rate")
        if trained.frames:
            arrays["frames"] = torch.stack(trained.frames).cpu().numpy().astype(np.float16)
            arrays["frame_epochs"] = np.array(self.frame_epochs[: len(trained.frames)])
        loss = trained.loss.cpu()
        if trained.validation:
            metrics["best_epoch"], metrics["epochs"] = float(trained.best_epoch), float(len(loss))
        shown = torch.linspace(0, len(loss) - 1, min(len(loss), 200)).long()
        provenance = {"device": device_name(self.device), "fingerprint": self.data.fingerprint, **environment()}
        if self.device.startswith("cuda"):
            provenance["peak_memory"] = f"{torch.cuda.max_memory_allocated(self.device) / 2**20:.0f} MiB"
        weights = None
        if self.run.keep in WITH_WEIGHTS:
            weights = {name: value.detach().cpu().contiguous() for name, value in self.model.state_dict().items()}
        return Result(
            self.run, metrics, loss[shown].tolist(), arrays, trained.seconds,
            trained.steps / max(trained.seconds, 1e-9), provenance, weights,
        )  # fmt: skip


def trained_model(run: Run, store: Store, device: str = "auto") -> nn.Module:
    """The model that ``run`` trains, in evaluation mode: with the stored weights, or trained again where they are not here.

    Raises:
        ValueError: if ``run.keep`` is none of ``views.WITH_WEIGHTS``, for an unknown device, or if training again does not
            repeat the stored result, which stays as it is.
    """
    if run.keep not in WITH_WEIGHTS:
        raise ValueError(f"weights are kept for keep={' or '.join(map(repr, WITH_WEIGHTS))}, not {run.keep!r}")
    with store.claim(run, wait=True):
        weights = store.weights(run)
        if weights is None:
            known, result = store.get(run), perform(run, device, store.checkpoint(run))
            if known is not None and known.metrics != result.metrics:
                raise ValueError(
                    f"the weights of the stored run {run.label} are not here, and on this machine it gives other numbers: "
                    f"measure it on the machine that trained it ({known.provenance.get('device', 'unknown')})"
                )
            if known is None:
                store.put(result)
            else:  # a committed result keeps its bytes: where, when and how fast it was trained
                store.put_weights(result)
            store.checkpoint(run).unlink(missing_ok=True)
            weights = result.weights
    shape = tuple(datasets.make(run.data, run.seed, **run.data_options).train.shape[1:])
    model = methods.get(run.method).configure(**run.method_options).build(run.network, shape, run.seed)
    model.load_state_dict(weights)
    return model.to(find_device(device)).eval()


def check_device(device: str) -> None:
    """Stop with one sentence if ``device`` is neither "auto" nor a device of this machine."""
    if device == "auto":
        return
    try:
        torch.empty(0, device=str(device))
    except (RuntimeError, NotImplementedError, AssertionError) as error:
        there = "auto, cpu or cuda" if torch.cuda.is_available() else "auto or cpu (there is no CUDA device here)"
        raise ValueError(f"device {device!r} cannot be used: choose {there}") from error


def find_device(device: str) -> str:
    """``device`` itself, or for "auto" the GPU if there is one.

    Raises:
        ValueError: for a device that this machine does not have.
    """
    check_device(device)
    return device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"


def frame_epochs(epochs: int) -> tuple[int, ...]:
    """About 40 epochs of an animation, dense at the start, where the curve moves most."""
    fractions = torch.linspace(0, 1, _FRAMES, dtype=torch.float64) ** 2
    return tuple(sorted({round(float(fraction) * epochs) for fraction in fractions}))


def _measure(model: nn.Module, data: datasets.Dataset, keep: str) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    metrics = {
        "train_mse": measures.mean_squared_error(model, data.train),
        "test_mse": measures.mean_squared_error(model, data.test),
    }
    if data.validation is not None:
        metrics["validation_mse"] = measures.mean_squared_error(model, data.validation)
    found, arrays = VIEWS[keep](model, data)
    return metrics | found, arrays


def device_name(device: str) -> str:
    """The device's own name, for provenance."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return f"CPU ({line.split(':', 1)[1].strip()})"
    except OSError:
        pass
    return f"CPU ({platform.processor() or platform.machine()})"


def environment() -> dict[str, str]:
    """Versions, threads, commit and date, for provenance."""
    return {
        "nrae_lib": __version__,
        "torch": torch.__version__,
        "python": ".".join(map(str, sys.version_info[:3])),
        "threads": str(torch.get_num_threads()),
        "commit": _commit(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


@cache
def code_state() -> str:
    """First 12 hexadecimal digits of the SHA-256 of the library's code, pages and printed numbers left out."""
    here = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for floor in ("core", "data", "runs"):
        for path in sorted((here / floor).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


@cache
def _commit() -> str:
    """The checkout's commit, with a mark if the library differs from it; "unknown" outside a checkout."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(project_root()), *arguments], capture_output=True, text=True, check=True, timeout=20
        ).stdout.strip()

    try:
        commit = git("rev-parse", "--short=12", "HEAD")
        return commit + (" + uncommitted changes" if git("status", "--porcelain", "--", "nrae_lib") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"
