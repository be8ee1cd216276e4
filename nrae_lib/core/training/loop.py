"""The loop itself: epochs, batches, validation, checkpoints."""

import copy
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from math import isfinite, isnan
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from nrae_lib.core.feed import Feed, feed_of
from nrae_lib.core.methods import Batch, Objective, Preparation
from nrae_lib.core.training.checkpoints import Interrupted, load, save, stop_event, stop_on_sigterm
from nrae_lib.core.training.optimization import Optimization
from nrae_lib.core.training.steps import Diverged, adam, captured, set_rate, step

# The host looks at the losses after about so many steps (or at the end of an epoch that has more): it waits for the
# device then, and nowhere else.
_STEPS_BETWEEN_LOOKS = 1000
# A loss that grew by this factor beyond its first value (or beyond 1) has exploded even where it is still a number.
_EXPLODED = 1e12
_VALIDATION_BLOCK = 4096
PROGRESS_SECONDS = 0.1


@dataclass
class Trained:
    """What training leaves behind beside the model's weights.

    Arguments:
        loss: (epochs,) mean loss over the points of every epoch that was trained.
        frames: what ``draw`` gave, see :func:`fit`.
        seconds, steps: time spent and steps taken, over all interruptions.
        validation: mean squared error on the validation points after every epoch; empty without them.
        best_epoch: the epoch (counted from 1) whose weights the model has, if there are validation points.
        recalls: of approximate neighbour graphs, by k, see :class:`nrae_lib.core.methods.Preparation`.
    """

    loss: Tensor
    frames: list[Tensor] = field(default_factory=list)
    seconds: float = 0.0
    steps: int = 0
    validation: list[float] = field(default_factory=list)
    recalls: dict[int, float] = field(default_factory=dict)

    @property
    def best_epoch(self) -> int | None:
        return 1 + int(np.nanargmin(self.validation)) if self.validation else None


def fit(
    model: nn.Module,
    objective: Objective,
    data: Tensor | np.ndarray | str | Path | Feed,
    optimization: Optimization,
    seed: int,
    frame_epochs: tuple[int, ...] = (),
    draw: Callable[[nn.Module], Tensor] | None = None,
    checkpoint: Path | None = None,
    checkpoint_seconds: float = 60.0,
    progress: Callable[[int, Tensor], None] | None = None,
    validation: Tensor | np.ndarray | None = None,
    capture: bool = True,
    approximate_graph: bool = False,
    graph_progress: Callable[[int, int], None] | None = None,
) -> Trained:
    """Train ``model`` in place by Adam on the loss of ``objective``, and leave it in evaluation mode.

    On a GPU the whole step is captured as a CUDA graph, unless the data is streamed or a term cannot be captured.

    Arguments:
        model: made by ``objective.build``, on the device to train on.
        objective: what is minimized; this function knows none of its terms.
        data: (N, ...) training points; see :func:`nrae_lib.core.feed.feed_of` for what may hold them. They are moved to the
            device once, as they are (uint8 images become float32 / 255 batch by batch), or streamed from a
            memory-mapped file that is larger than the device.
        seed: of the batches' order and of everything the terms draw.
        frame_epochs: after how many epochs ``draw(model)`` is recorded (0: before the first step).
        checkpoint: file for the state of training, written atomically every ``checkpoint_seconds``, also inside an
            epoch, and removed by nobody here. If it exists, training goes on from it and gives what an uninterrupted
            run gives, bit for bit on the CPU. SIGTERM (or ``nrae_lib.core.training.stop_event``) then saves once more
            and raises :class:`Interrupted`.
        progress: called with the number of epochs done and their losses so far (on the device), at most about
            ten times a second, and after the last epoch.
        validation: (M, ...) points whose reconstruction error is computed after every epoch. Training stops by
            ``optimization.patience``, and the model gets the weights of the epoch with the lowest error.
        capture: whether steps may be captured as a CUDA graph.
        approximate_graph: find neighbours by nearest neighbour descent (package pynndescent, part of the extra
            ``methods``): several times as fast on images. The recall is measured and returned.
        graph_progress: called with the points done and of all while an exact graph is computed.

    Raises:
        ValueError: for empty data, NaN or infinity in the data, an impossible graph, or patience without validation.
        Diverged: (a FloatingPointError) when the loss is no longer finite or exploded, naming the epoch, the step and
            the term that broke first, and the last good checkpoint.
        Interrupted: (a SystemExit) after a request to stop, once the checkpoint is written.
    """
    device = next(model.parameters()).device
    checkpoint = None if checkpoint is None else Path(checkpoint)
    feed = data if isinstance(data, Feed) else feed_of(data, device)
    held_out = None if validation is None else feed_of(validation, device)
    try:
        with optimization.numerics(device), stop_on_sigterm(checkpoint is not None):
            training = Training(
                model, objective, feed, optimization, seed, checkpoint, capture, held_out, approximate_graph,
                graph_progress,
            )  # fmt: skip
            return training.run(frame_epochs, draw, checkpoint_seconds, progress)
    finally:
        if feed is not data:
            feed.close()
        if held_out is not None:
            held_out.close()


class Training:
    """The state of one training, and its loop."""

    def __init__(
        self, model, objective, feed, optimization, seed, checkpoint, capture, validation, approximate_graph=False,
        graph_progress=None,
    ):  # fmt: skip
        self.model, self.objective, self.feed, self.optimization = model, objective, feed, optimization
        self.seed = seed
        self.checkpoint, self.capture = checkpoint, capture and feed.device.type == "cuda" and feed.resident
        self.validation: Feed | None = validation
        if optimization.patience and validation is None:
            raise ValueError("patience is a number of rising validation errors: it needs validation data")
        feed.check()
        if validation is not None:
            validation.check("validation data")
            if (validation.shape, validation.dtype) != (feed.shape, feed.dtype):
                raise ValueError(
                    f"validation points must be like the training points, {tuple(feed.shape)} of {feed.dtype}, not "
                    f"{tuple(validation.shape)} of {validation.dtype}"
                )
        kind = next(model.parameters()).dtype
        if kind != feed.dtype:
            raise ValueError(f"the model computes in {kind}, the data is {feed.dtype}: convert one of them")
        # Convolutions keep this order of their weights' memory, which is the faster one for every network of the papers.
        model.to(memory_format=torch.channels_last)
        count, device = len(feed), feed.device
        objective.check(model, min(optimization.batch_size, count))
        self.bounds = batch_bounds(count, optimization.batch_size)
        self.share = torch.tensor([(end - start) / count for start, end in self.bounds], dtype=kind, device=device)
        model.eval()  # a look at the shape must not move running statistics
        with torch.no_grad():
            latent_dim = model.encoder(feed.rows(torch.arange(min(2, count), device=device))).shape[1]
        model.train()
        self.preparation = Preparation(feed, latent_dim, seed, approximate_graph, graph_progress)
        self.prepared = objective.prepare(self.preparation)
        self.generator = torch.Generator(device).manual_seed(seed)
        self.optimizer = adam(model, optimization.learning_rate)

        self.trained = Trained(
            torch.zeros(optimization.epochs, dtype=kind, device=device), recalls=self.preparation.recalls
        )
        self.epoch = self.position = 0  # epochs done, steps done in the current one
        self.order: Tensor | None = None  # of the points in the current epoch
        self.best: dict[str, Tensor] | None = None  # weights with the lowest validation error
        # The terms of every step since the host looked last; the row to be written next lives on the device.
        epochs = max(1, min(optimization.epochs, _STEPS_BETWEEN_LOOKS // len(self.bounds)))
        self.record = torch.zeros(epochs * len(self.bounds), len(objective.computed), dtype=kind, device=device)
        self.row = torch.zeros(1, dtype=torch.int64, device=device)
        self.looked = 0  # epochs done when the host looked last
        self.upcoming: Batch | None = None  # the next batch, if what it reads is on its way
        self.generator_before: Tensor | None = None  # the generator's state before that batch drew from it
        self.captured = None

    # ------------------------------------------------------------ the loop

    def run(self, frame_epochs, draw, checkpoint_seconds, progress) -> Trained:
        optimization, trained = self.optimization, self.trained
        self._resume()
        seconds_before, started = trained.seconds, time.perf_counter()
        saved = shown = started

        def save_now() -> None:
            trained.seconds = seconds_before + time.perf_counter() - started
            written = self._save()
            if stop_event.is_set():
                raise Interrupted(self.checkpoint, written)

        if self.checkpoint and stop_event.is_set() and not self.done:
            save_now()
        if self.epoch == self.position == 0 and 0 in frame_epochs:
            trained.frames.append(self._drawn(draw))

        while not self.done:
            set_rate(self.optimizer, optimization.rate(self.epoch))
            if self.position == 0:
                self._begin_epoch()
            while self.position < len(self.bounds):
                self._step()
                self.position += 1
                trained.steps += 1
                if self.checkpoint and (stop_event.is_set() or time.perf_counter() - saved > checkpoint_seconds):
                    save_now()
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
        self.finish()
        if progress:
            progress(self.epoch, trained.loss)
        trained.seconds = seconds_before + time.perf_counter() - started
        return trained

    @property
    def done(self) -> bool:
        """Whether all epochs are trained, or the validation error has risen ``patience`` times in a row."""
        patience = self.optimization.patience
        last = self.trained.validation[-patience - 1 :]
        rises = sum(after > before for before, after in zip(last, last[1:], strict=False))
        return self.epoch == self.optimization.epochs or 0 < patience == rises

    def finish(self) -> Trained:
        """Check the last losses and load the best weights."""
        self._look()
        self.trained.loss = self.trained.loss[: self.epoch]
        if self.best is not None:
            self.model.load_state_dict(self.best)
        self.model.eval()
        return self.trained

    def refresh(self) -> bool:
        """Prepare anew what the objective wants to; whether anything changed."""
        if not self.objective.refreshes:
            return False
        self._look()  # what has diverged gives no graph
        before = self.prepared
        self.prepared = self.objective.refresh(self.epoch, self.model, self.preparation, self.prepared)
        return any(self.prepared[name] is not before[name] for name in before)

    def _begin_epoch(self) -> None:
        if self.refresh():
            self.captured = None  # it holds the old ones
        if len(self.bounds) > 1:
            self.order = torch.randperm(len(self.feed), generator=self.generator, device=self.feed.device)
        if self.epoch == self.looked:
            self.row.zero_()

    def _index(self, position: int) -> Tensor | None:
        start, end = self.bounds[position]
        return None if self.order is None else self.order[start:end]

    def _step(self) -> None:
        index, autocast = self._index(self.position), self.optimization.autocast(self.feed.device)
        if self.capture and self.captured is None:
            shape = None if index is None else (self.optimization.batch_size,)
            state = [*self.model.state_dict().values(), self.record, self.row]
            self.captured = captured(self._take, shape, state, self.optimizer, [self.generator])
            self.capture = self.captured is not None
        if self.captured and (index is None or len(index) == len(self.captured.index)):
            self.captured(index)
            return
        batch = self.upcoming or Batch(self.model, self.feed, index, self.generator)
        self.upcoming = self.generator_before = None
        streams = not self.feed.resident and self.position + 1 < len(self.bounds)
        row = (self.epoch - self.looked) * len(self.bounds) + self.position
        step(
            self.objective, batch, self.prepared, self.optimizer, self.record[row], autocast,
            self._look_ahead if streams else None,
        )  # fmt: skip
        if self.captured:  # a last, smaller batch among captured ones
            self.row.add_(1)

    def _take(self, index: Tensor | None) -> None:
        """The part of a step that a CUDA graph can hold."""
        terms = torch.empty_like(self.record[0])
        batch = Batch(self.model, self.feed, index, self.generator)
        step(self.objective, batch, self.prepared, self.optimizer, terms, self.optimization.autocast(self.feed.device))
        self.record.index_copy_(0, self.row, terms[None])
        self.row.add_(1)

    def _look_ahead(self) -> None:
        """Let the next batch draw its neighbours and have its points fetched while this step is at work.

        The order of what is drawn stays that of data on the device: neighbours are the first thing a step draws.
        """
        self.generator_before = self.generator.get_state()
        self.upcoming = Batch(self.model, self.feed, self._index(self.position + 1), self.generator)
        self.feed.ahead(*self.objective.look_ahead(self.upcoming, self.prepared))

    def _drawn(self, draw: Callable[[nn.Module], Tensor]) -> Tensor:
        self.model.eval()
        frame = draw(self.model)
        self.model.train()
        return frame

    # ------------------------------------------------------------ validation

    def _validate(self) -> None:
        errors = self.trained.validation
        errors.append(self._error())
        if isnan(errors[-1]):
            self._check()
            raise Diverged(f"the validation error is not a number after epoch {self.epoch}: lower the learning rate",
                           self.epoch)  # fmt: skip
        if self.trained.best_epoch == len(errors):
            self.best = {name: value.clone() for name, value in self.model.state_dict().items()}

    @torch.no_grad()
    def _error(self) -> float:
        """Mean squared error on the validation points."""
        self.model.eval()
        index = torch.arange(len(self.validation), device=self.feed.device)
        total = torch.zeros((), dtype=torch.float64, device=self.feed.device)
        for part in index.split(_VALIDATION_BLOCK):
            x = self.validation.rows(part)
            with self.optimization.autocast(self.feed.device):
                total += (self.model(x) - x).square().flatten(1).mean(1).sum()
        self.model.train()
        return float(total) / len(self.validation)

    # ------------------------------------------------------------ what the host sees

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
        largest = _EXPLODED * max(1.0, abs(first) if isfinite(first) else 0.0)
        bad = ~(rows.abs() < largest)
        where = (
            f"; the last good checkpoint is {self.checkpoint}" if self.checkpoint and self.checkpoint.exists() else ""
        )
        good = self.checkpoint if where else None
        if bad.any():
            row = int(bad.any(1).nonzero()[0])
            term = self.objective.computed[int(bad[row].nonzero()[0])]
            epoch, taken = self.looked + row // steps + 1, self.looked * steps + row + 1
            broke = "is no longer finite" if not torch.isfinite(rows[row]).all() else "exploded"
            raise Diverged(
                f"the loss {broke} from epoch {epoch} on (step {taken}), where the term {term!r} broke first: lower the "
                f"learning rate or the coefficients{where}", epoch, taken, term, good,
            )  # fmt: skip
        # A recorded loss is that before its step, which may have been the one that exploded.
        if not all(torch.isfinite(parameter).all() for parameter in self.model.parameters()):
            raise Diverged(f"the weights are no longer finite: lower the learning rate{where}", checkpoint=good)

    # ------------------------------------------------------------ checkpoints

    def _save(self) -> bool:
        self._check()
        random = self.generator.get_state() if self.generator_before is None else self.generator_before
        rows = (self.epoch - self.looked) * len(self.bounds) + self.position
        return save(self.checkpoint, {
            "what": self._what(), "model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "generator": random,
            "trained": vars(self.trained), "epoch": self.epoch, "position": self.position, "order": self.order,
            "best": self.best, "record": self.record[:rows].clone(), "looked": self.looked,
            "prepared": self.prepared if self.objective.refreshes else None, "device": self.generator.device.type,
        })  # fmt: skip

    def _what(self) -> str:
        """What a checkpoint belongs to."""
        parts = (
            self.objective.identity(),
            self.optimization,
            self.seed,
            tuple(self.feed.raw.shape),
            str(self.feed.dtype),
        )
        return repr(parts)

    def _resume(self) -> None:
        """Go on from the checkpoint, if there is a usable one."""
        if self.checkpoint is None or not self.checkpoint.exists():
            return
        fresh = [copy.deepcopy(part.state_dict()) for part in (self.model, self.optimizer)]
        try:
            state = load(self.checkpoint, self.feed.device)
            if state["device"] != self.generator.device.type:
                raise ValueError(f"it was made on {state['device']}, whose random numbers differ")
            if state["what"] != self._what():
                raise ValueError("it belongs to another training")
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.record[: len(state["record"])] = state["record"]
            self.generator.set_state(state["generator"].cpu())
        except Exception as error:
            warnings.warn(
                f"checkpoint {self.checkpoint} is not used ({error}): training starts from the beginning", stacklevel=4
            )
            for part, content in zip((self.model, self.optimizer), fresh, strict=True):
                part.load_state_dict(content)
            return
        vars(self.trained).update(state["trained"])
        for name in ("epoch", "position", "order", "best", "looked"):
            setattr(self, name, state[name])
        self.row.fill_(len(state["record"]))
        if state["prepared"] is not None:
            self.prepared = state["prepared"]


def batch_bounds(count: int, batch_size: int) -> list[tuple[int, int]]:
    """(start, end) of every batch; a last one of a single point, which has no statistics, joins the one before."""
    starts = list(range(0, count, batch_size))
    if len(starts) > 1 and starts[-1] == count - 1 and batch_size > 1:
        starts.pop()
    return list(zip(starts, [*starts[1:], count], strict=True))
