"""The loop itself: epochs, batches, validation, checkpoints."""

import time
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from math import isfinite, isnan
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from nrae_lib.core.methods import Batch, Objective, Preparation
from nrae_lib.core.points import as_floats, batch_bounds, on_device, stream
from nrae_lib.core.training.checkpoints import Interrupted, load, save, stop_event, stop_on_sigterm
from nrae_lib.core.training.optimization import Optimization
from nrae_lib.core.training.steps import Captured, Diverged, adam, step

# The host looks at the losses, and waits for the device, after about so many steps or a longer epoch, and nowhere else.
_STEPS_BETWEEN_LOOKS = 1000
_EXPLODED = 1e12  # the factor beyond its first value (or beyond 1) by which a loss that is still a number has exploded
_VALIDATION_BLOCK = 4096
PROGRESS_SECONDS = 0.1
_COUNTERS = ("epoch", "position", "looked", "order", "best")  # of a training, as its checkpoint has them


@dataclass
class Trained:
    """What training leaves behind beside the model's weights.

    Arguments:
        loss: (epochs,) mean loss over the points of every epoch that was trained.
        frames: what ``draw`` gave, see :func:`fit`.
        seconds, steps: time spent and steps taken, over all interruptions.
        validation: mean squared error on the validation points after every epoch; empty without them.
        best_epoch: the epoch (from 1) whose weights the model has, if there are validation points.
    """

    loss: Tensor
    frames: list[Tensor] = field(default_factory=list)
    seconds: float = 0.0
    steps: int = 0
    validation: list[float] = field(default_factory=list)

    @property
    def best_epoch(self) -> int | None:
        return 1 + int(np.nanargmin(self.validation)) if self.validation else None


def fit(
    model: nn.Module, objective: Objective, data: Tensor | np.ndarray, optimization: Optimization, seed: int,
    frame_epochs: tuple[int, ...] = (), draw: Callable[[nn.Module], Tensor] | None = None,
    checkpoint: Path | None = None, checkpoint_seconds: float = 60.0,
    progress: Callable[[int, Tensor], None] | None = None, validation: Tensor | np.ndarray | None = None,
) -> Trained:  # fmt: skip
    """Train ``model`` in place by Adam on the loss of ``objective``, and leave it in evaluation mode.

    On a GPU the whole step is captured as a CUDA graph, unless a term cannot be captured.

    Arguments:
        model: made by ``objective.build``, on the device to train on; ``objective`` is what is minimized.
        data: (N, ...) float32, float64 or uint8 training points, moved to the device once, as they are; bytes
            become float32 / 255 batch by batch.
        seed: of the batches' order and of everything the terms draw.
        frame_epochs: after how many epochs ``draw(model)`` is recorded (0: before the first step).
        checkpoint: file for the state of training, written atomically every ``checkpoint_seconds``, also inside an
            epoch, and not removed. Where it exists training goes on from it, to the same end, bit for bit on the CPU.
        progress: called with the epochs done and their losses (on the device), at most ten times a second, and last.
        validation: (M, ...) points whose reconstruction error is computed after every epoch. Training stops by
            ``optimization.patience``, and the model gets the weights of the epoch with the lowest error.

    Raises:
        TypeError: for data of another type.
        ValueError: for empty data, NaN or infinity in it, an impossible graph, or patience without validation.
        Diverged: (a FloatingPointError) when the loss is no longer finite or exploded, naming the epoch, the step and
            the term that broke first, and the last good checkpoint.
        Interrupted: (a SystemExit) after SIGTERM (or ``training.stop_event``), once the checkpoint is written.
    """
    with optimization.numerics(next(model.parameters()).device), stop_on_sigterm(checkpoint is not None):
        training = Training(model, objective, data, optimization, seed, checkpoint, validation)
        return training.run(frame_epochs, draw, checkpoint_seconds, progress)


class Training:
    """The state of one training, and its loop."""

    def __init__(self, model, objective, data, optimization, seed, checkpoint, validation):
        weight = next(model.parameters())
        device, kind = weight.device, weight.dtype
        self.model, self.objective, self.optimization, self.seed = model, objective, optimization, seed
        self.checkpoint, self.device, self.capture = checkpoint and Path(checkpoint), device, device.type == "cuda"
        if optimization.patience and validation is None:
            raise ValueError("patience is a number of rising validation errors: it needs validation data")
        self.data = on_device(data, device, "training data")
        self.validation = None if validation is None else on_device(validation, device, "validation data")
        parts = self.data, self.data if validation is None else self.validation
        own, other = (f"{tuple(part.shape[1:])} of {as_floats(part[:1]).dtype}" for part in parts)
        if own != other:
            raise ValueError(f"validation points must be like the training points, {own}, not {other}")
        if (found := as_floats(self.data[:1]).dtype) != kind:
            raise ValueError(f"the model computes in {kind}, the data is {found}: convert one of them")
        model.to(memory_format=torch.channels_last)  # the faster one for every convolutional network of the papers
        count = len(self.data)
        objective.check(model, min(optimization.batch_size, count))
        self.bounds = batch_bounds(count, optimization.batch_size)
        self.share = torch.tensor([(end - start) / count for start, end in self.bounds], dtype=kind, device=device)
        latent_dim = self._drawn(lambda model: model.encoder(as_floats(self.data[:2]))).shape[1]
        drawn = stream(seed, "training")
        self.preparation = Preparation(self.data, latent_dim, drawn)
        self.prepared = objective.prepare(self.preparation)
        self.generator = torch.Generator(device).manual_seed(drawn)
        self.optimizer = adam(model, optimization.learning_rate)
        self.trained = Trained(torch.zeros(optimization.epochs, dtype=kind, device=device))
        self.epoch = self.position = self.looked = 0  # epochs done, steps of the next, epochs when the host looked last
        self.order: Tensor | None = None  # of the points in the current epoch
        self.best: dict[str, Tensor] | None = None  # weights with the lowest validation error
        # The terms of every step since the host looked last; the row to be written next lives on the device.
        epochs = max(1, min(optimization.epochs, _STEPS_BETWEEN_LOOKS // len(self.bounds)))
        self.record = torch.zeros(epochs * len(self.bounds), len(objective.computed), dtype=kind, device=device)
        self.row = torch.zeros(1, dtype=torch.int64, device=device)
        self.captured: Captured | None = None

    def run(self, frame_epochs, draw, checkpoint_seconds, progress) -> Trained:
        self._resume()
        trained, saved = self.trained, time.perf_counter()
        shown, started = saved, saved - trained.seconds
        if self.epoch == self.position == 0 and 0 in frame_epochs:
            trained.frames.append(self._drawn(draw))
        while not self.done:
            rate, group = self.optimization.rate(self.epoch), self.optimizer.param_groups[0]
            # In place where a captured step reads it.
            group["lr"] = group["lr"].fill_(rate) if isinstance(group["lr"], Tensor) else rate
            if self.position == 0:
                self._begin_epoch()
            while self.position < len(self.bounds):
                self._step()
                self.position += 1
                trained.steps += 1
                if self.checkpoint and (stop_event.is_set() or time.perf_counter() - saved > checkpoint_seconds):
                    trained.seconds = time.perf_counter() - started
                    self._save()
                    saved = time.perf_counter()
            self.epoch, self.position, self.order = self.epoch + 1, 0, None
            if self.epoch - self.looked == len(self.record) // len(self.bounds):
                self._look()
            if self.validation is not None:
                self._validate()
            if self.epoch in frame_epochs:
                trained.frames.append(self._drawn(draw))
            if progress and not self.done and time.perf_counter() - shown > PROGRESS_SECONDS:
                self._sum_up()
                progress(self.epoch, trained.loss[: self.epoch])
                shown = time.perf_counter()
        self._look()
        trained.loss = trained.loss[: self.epoch]
        if self.best is not None:
            self.model.load_state_dict(self.best)
        self.model.eval()
        if progress:
            progress(self.epoch, trained.loss)
        trained.seconds = time.perf_counter() - started
        return trained

    @property
    def done(self) -> bool:
        """Whether all epochs are trained, or the validation error has risen ``patience`` times in a row."""
        patience = self.optimization.patience
        rises = sum(after > before for before, after in pairwise(self.trained.validation[-patience - 1 :]))
        return self.epoch == self.optimization.epochs or 0 < patience == rises

    def _begin_epoch(self) -> None:
        if self.objective.refreshes:
            self._look()  # what has diverged gives no graph
            before = self.prepared
            self.prepared = self.objective.refresh(self.epoch, self.model, self.preparation, before)
            self.captured = self.captured if self.prepared is before else None  # it holds the old ones
        if len(self.bounds) > 1:
            self.order = torch.randperm(len(self.data), generator=self.generator, device=self.device)
        if self.epoch == self.looked:
            self.row.zero_()

    def _step(self) -> None:
        index = None if self.order is None else self.order[slice(*self.bounds[self.position])]
        if self.capture and self.captured is None:
            shape = None if index is None else (self.optimization.batch_size,)
            state = [*self.model.state_dict().values(), self.record, self.row]
            try:
                self.captured = Captured(self._take, shape, state, self.optimizer, self.generator)
            except RuntimeError as error:
                warnings.warn(f"the step is not captured as a CUDA graph and runs slower: {error}", stacklevel=2)
                self.capture = False
        if self.captured and (index is None or len(index) == len(self.captured.index)):
            self.captured(index)
            return
        self._take(index, self.record[(self.epoch - self.looked) * len(self.bounds) + self.position])
        if self.captured:  # a last, smaller batch among captured ones
            self.row.add_(1)

    def _take(self, index: Tensor | None, record: Tensor | None = None) -> None:
        """A step; without a ``record`` for its terms it takes the next row, in a way that a CUDA graph can hold."""
        terms = torch.empty_like(self.record[0]) if record is None else record
        batch = Batch(self.model, self.data, index, self.generator)
        step(self.objective, batch, self.prepared, self.optimizer, terms, self.optimization.autocast(self.device))
        if record is None:
            self.record.index_copy_(0, self.row, terms[None])
            self.row.add_(1)

    def _drawn(self, draw: Callable[[nn.Module], Tensor]) -> Tensor:
        frame = draw(self.model.eval())
        self.model.train()
        return frame

    def _validate(self) -> None:
        errors = self.trained.validation
        errors.append(self._error())
        if isnan(errors[-1]):
            self._check()
            raise Diverged(f"the validation error is NaN after epoch {self.epoch}: lower the learning rate", self.epoch)
        if self.trained.best_epoch == len(errors):
            self.best = {name: value.clone() for name, value in self.model.state_dict().items()}

    @torch.no_grad()
    def _error(self) -> float:
        """Mean squared error on the validation points."""
        self.model.eval()
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        for part in self.validation.split(_VALIDATION_BLOCK):
            x = as_floats(part)
            with self.optimization.autocast(self.device):
                total += (self.model(x) - x).square().flatten(1).mean(1).sum()
        self.model.train()
        return float(total) / len(self.validation)

    def _sum_up(self) -> None:
        """Losses of the epochs done since the host looked last."""
        epochs, steps = self.epoch - self.looked, len(self.bounds)
        terms = self.record[: epochs * steps].sum(1).view(epochs, steps)
        self.trained.loss[self.looked : self.epoch] = (terms * self.share).sum(1)

    def _look(self) -> None:
        """Sum up, and stop if something broke."""
        self._sum_up()
        self._check()
        self.looked = self.epoch

    def _check(self) -> None:
        steps = len(self.bounds)
        rows = self.record[: (self.epoch - self.looked) * steps + self.position].cpu()
        first = float(self.trained.loss[0] if self.looked else self.record[0].sum())
        bad = ~(rows.abs() < _EXPLODED * max(1.0, abs(first) if isfinite(first) else 0.0))
        good = self.checkpoint if self.checkpoint and self.checkpoint.exists() else None
        where = f"; the last good checkpoint is {good}" if good else ""
        if bad.any():
            row = int(bad.any(1).nonzero()[0])
            term = self.objective.computed[int(bad[row].nonzero()[0])]
            epoch, taken = self.looked + row // steps + 1, self.looked * steps + row + 1
            broke = "exploded" if torch.isfinite(rows[row]).all() else "is no longer finite"
            what = f"the loss {broke} from epoch {epoch} on (step {taken}), where the term {term!r} broke first"
            raise Diverged(f"{what}: lower the learning rate or the coefficients{where}", epoch, taken, term, good)
        # A recorded loss is that before its step, which may have been the one that exploded.
        if not all(torch.isfinite(parameter).all() for parameter in self.model.parameters()):
            raise Diverged(f"the weights are no longer finite: lower the learning rate{where}", checkpoint=good)

    def _save(self) -> None:
        """Write a checkpoint; after a request to stop, stop."""
        self._check()
        rows = (self.epoch - self.looked) * len(self.bounds) + self.position
        state = {name: getattr(self, name) for name in _COUNTERS}
        state |= {"what": self._what(), "trained": vars(self.trained), "generator": self.generator.get_state()}
        state |= {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        state |= {"record": self.record[:rows].clone(), "prepared": self.prepared if self.objective.refreshes else None}
        written = save(self.checkpoint, state)
        if stop_event.is_set():
            raise Interrupted(self.checkpoint, written)

    @cached_property
    def _points(self) -> tuple[int, ...]:
        """Checksums of the points: a training must not go on with others."""
        parts = (self.data,) if self.validation is None else (self.data, self.validation)
        return tuple(zlib.crc32(part.cpu().contiguous().numpy()) for part in parts)

    def _what(self) -> str:
        """What a checkpoint belongs to; random numbers differ between kinds of devices."""
        shapes = [tuple(value.shape) for value in (self.data, *self.model.state_dict().values())]
        kind = self.data.dtype, self.device.type, self._points
        return repr((self.objective.identity(), self.optimization, self.seed, shapes, kind))

    def _resume(self) -> None:
        """Go on from the checkpoint, if there is a usable one."""
        if not (self.checkpoint and self.checkpoint.exists()):
            return
        try:
            state = load(self.checkpoint, self.device)
            if state["what"] != self._what():
                raise ValueError("it belongs to another training, or to another kind of device")
        except Exception as error:
            what = f"checkpoint {self.checkpoint} is not used ({error}): training starts from the beginning"
            warnings.warn(what, stacklevel=4)
            return
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        for name in _COUNTERS:
            setattr(self, name, state[name])
        self.record[: len(state["record"])] = state["record"]
        self.row.fill_(len(state["record"]))
        self.generator.set_state(state["generator"].cpu())
        vars(self.trained).update(state["trained"])
        if state["prepared"] is not None:
            self.prepared = state["prepared"]
