"""Performing a run: data, model, training, measures; and where and with what it was done."""

import math
import platform
import re
import subprocess
import time
import traceback
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import nn

from nrae_lib.core import __version__, measures
from nrae_lib.core.training import fit
from nrae_lib.runs.run import Result, Run
from nrae_lib.runs.store import Store, project_root
from nrae_lib.runs.views import VIEWS, WITH_WEIGHTS, learned_curve

POLL_SECONDS = 1.0  # between two looks at what other processes do
_FRAMES, _FRAME_POINTS = 40, 128


def perform(
    run: Run, device: str = "auto", checkpoint: Path | None = None, progress: Callable[[int, int], None] | None = None
) -> Result:
    """Train and measure ``run``. ValueError for a device that this machine does not have, or data too small for the
    method; FloatingPointError if the loss or a measure of the trained model is not finite.

    Arguments:
        device: "auto" (CUDA if there is one), "cpu", "cuda", "cuda:1", ...
        checkpoint: see :func:`nrae_lib.core.training.fit`.
        progress: called a few times per second with the number of epochs done and of all epochs.
    """
    device = find_device(device)
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
    data = run.dataset()
    train = data.train.to(device)
    objective = run.objective()
    model = objective.build(run.network, tuple(data.train.shape[1:]), run.seed).to(device)
    epochs = run.optimization.epochs
    shown = frame_epochs(epochs) if run.keep == "animation" else ()
    trained = fit(
        model, objective, train, run.optimization, run.seed, shown,
        lambda model: learned_curve(model, train, _FRAME_POINTS), checkpoint,
        progress=progress and (lambda done, loss: progress(done, epochs)),
        validation=data.validation if run.optimization.patience else None,
    )  # fmt: skip

    parts = {"train": data.train, "test": data.test, "validation": data.validation, "beyond": data.beyond}
    there = {name: part for name, part in parts.items() if part is not None}
    metrics = {f"{name}_mse": measures.mean_squared_error(model, part) for name, part in there.items()}
    found, arrays = VIEWS[run.keep](model, data)
    metrics |= found
    if not all(map(math.isfinite, metrics.values())):
        raise FloatingPointError("a measure of the trained model is not finite: lower the learning rate")
    if trained.frames:
        arrays["frames"] = torch.stack(trained.frames).cpu().numpy().astype(np.float16)
        arrays["frame_epochs"] = np.array(shown[: len(trained.frames)])
    loss = trained.loss.cpu()
    if trained.validation:
        arrays["validation_error"] = np.array(trained.validation, np.float32)  # after every epoch
        metrics["best_epoch"], metrics["epochs"] = float(trained.best_epoch), float(len(loss))
    history = loss[torch.linspace(0, len(loss) - 1, min(len(loss), 200)).long()].tolist()
    provenance = {"device": device_name(device), "fingerprint": data.fingerprint, **environment()}
    if device.startswith("cuda"):
        provenance["peak_memory"] = f"{torch.cuda.max_memory_allocated(device) / 2**20:.0f} MiB"
    state = model.state_dict() if run.keep in WITH_WEIGHTS else {}
    weights = {name: value.detach().cpu().contiguous() for name, value in state.items()} or None
    steps_per_second = trained.steps / max(trained.seconds, 1e-9)
    return Result(run, metrics, history, arrays, trained.seconds, steps_per_second, provenance, weights)


def attempt(
    run: Run, store: Store, device: str, report: Callable[[int, int], None], keep: bool = True
) -> Result | str | None:
    """Perform ``run`` unless it is stored, from the checkpoint of an attempt that was killed, and ``keep`` it at once.

    Returns:
        the result; the traceback, if the run failed; None, if another process has it in hand.
    """
    with store.claim(run) as free:
        if not free:
            return None
        try:
            result = store.get(run)  # another process may have ended it just now
            if result is None:
                result = perform(run, device, store.checkpoint(run), progress=report)
                if keep:
                    store.put(result)
                store.checkpoint(run).unlink(missing_ok=True)
            return result
        except Exception:
            return traceback.format_exc()


def frame_epochs(epochs: int) -> tuple[int, ...]:
    """About 40 epochs of an animation, dense at the start, where the curve moves most."""
    fractions = torch.linspace(0, 1, _FRAMES, dtype=torch.float64) ** 2
    return tuple(sorted({round(float(fraction) * epochs) for fraction in fractions}))


def trained_model(run: Run, store: Store, device: str = "auto") -> nn.Module:
    """The model that ``run`` trains, in evaluation mode: with the stored weights, or trained again where they are not
    here. ValueError if ``run.keep`` is none of ``views.WITH_WEIGHTS``, for an unknown device, or if training again does
    not repeat the stored result, which stays as it is.
    """
    if run.keep not in WITH_WEIGHTS:
        raise ValueError(f"weights are kept for keep={' or '.join(map(repr, WITH_WEIGHTS))}, not {run.keep!r}")
    with store.claim(run, wait=True):
        weights = store.weights(run)
        if weights is None:
            known, result = store.get(run), perform(run, device, store.checkpoint(run))
            if known is None:
                store.put(result)
            elif known.metrics == result.metrics:
                store.put_weights(result)  # a committed result keeps its bytes: where, when and how fast it was trained
            else:
                there = known.provenance.get("device", "unknown")
                what = f"the weights of the stored run {run.label} are not here"
                remedy = f"measure it on the machine that trained it ({there})"
                raise ValueError(f"{what}, and on this machine it gives other numbers: {remedy}")
            store.checkpoint(run).unlink(missing_ok=True)
            weights = result.weights
    model = run.objective().build(run.network, tuple(run.dataset().train.shape[1:]), run.seed)
    model.load_state_dict(weights)
    return model.to(find_device(device)).eval()


def check_device(device: str) -> None:
    """ValueError if ``device`` is neither "auto" nor a device of this machine."""
    if device == "auto":
        return
    try:
        torch.empty(0, device=str(device))
    except (RuntimeError, NotImplementedError, AssertionError) as error:
        there = "auto, cpu or cuda" if torch.cuda.is_available() else "auto or cpu (there is no CUDA device here)"
        raise ValueError(f"device {device!r} cannot be used: choose {there}") from error


def find_device(device: str) -> str:
    """``device`` itself, or for "auto" the GPU if there is one; ValueError for one that this machine does not have."""
    check_device(device)
    return device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"


def device_name(device: str) -> str:
    """The device's own name, for provenance."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:(.*)", cpuinfo.read_text() if cpuinfo.exists() else "", re.MULTILINE)
    return f"CPU ({found[1].strip() if found else platform.processor() or platform.machine()})"


def environment() -> dict[str, str]:
    """Versions, threads, commit and date, for provenance."""
    versions = {"nrae_lib": __version__, "torch": torch.__version__, "python": platform.python_version()}
    now = time.strftime("%Y-%m-%d", time.gmtime())
    return {**versions, "threads": str(torch.get_num_threads()), "commit": _commit(), "date": now}


@cache
def _commit() -> str:
    """The checkout's commit, with a mark if the library differs from it; "unknown" outside a checkout."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(project_root()), *arguments]
        return subprocess.check_output(command, stderr=subprocess.DEVNULL, text=True, timeout=20).strip()

    try:
        commit = git("rev-parse", "--short=12", "HEAD")
        return commit + (" + uncommitted changes" if git("status", "--porcelain", "--", "nrae_lib") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"
