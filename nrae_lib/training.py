"""The training loop: data stays on the device, nothing waits for the host inside an epoch, resume is exact."""

import copy
import hashlib
import io
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nrae_lib.datasets import check_points
from nrae_lib.methods import Batch, Objective, Preparation


@dataclass(frozen=True)
class Optimization:
    """Adam and its schedule; plain data, part of what identifies a run.

    Arguments:
        epochs: passes over the data.
        batch_size: points per step; the last batch of an epoch may be smaller (a single point joins the batch before).
            At N or more every step sees all.
        learning_rate: Adam's step size.
        decay_start: fraction of the epochs after which the learning rate shrinks by ``decay_factor`` every
            ``decay_every`` epochs; 1.0 means never. The released code has 0.8, 10 and 0.9.
    """

    epochs: int
    batch_size: int
    learning_rate: float = 1e-3
    decay_start: float = 1.0
    decay_every: int = 10
    decay_factor: float = 0.9

    def __post_init__(self):
        if self.epochs < 1 or self.batch_size < 1 or self.decay_every < 1:
            raise ValueError(
                f"epochs, batch_size and decay_every must be at least 1, not {self.epochs}, {self.batch_size}, "
                f"{self.decay_every}"
            )
        if (
            not 0 < self.learning_rate < float("inf")
            or not 0 < self.decay_factor <= 1
            or not 0 <= self.decay_start <= 1
        ):
            raise ValueError(
                f"learning_rate must be positive, decay_factor in (0, 1] and decay_start in [0, 1], not "
                f"{self.learning_rate}, {self.decay_factor} and {self.decay_start}"
            )

    def rate(self, epoch: int) -> float:
        """Learning rate of ``epoch`` (counted from 0)."""
        decays = max(0, epoch - int(self.decay_start * self.epochs)) // self.decay_every
        return self.learning_rate * self.decay_factor**decays


@dataclass
class Trained:
    """What training leaves behind beside the model's weights: loss of every epoch, recorded frames, time spent."""

    loss: Tensor
    frames: list[Tensor] = field(default_factory=list)
    seconds: float = 0.0
    steps: int = 0


def fit(
    model: nn.Module,
    objective: Objective,
    data: Tensor,
    optimization: Optimization,
    seed: int,
    frame_epochs: tuple[int, ...] = (),
    draw: Callable[[nn.Module], Tensor] | None = None,
    checkpoint: Path | None = None,
    checkpoint_seconds: float = 60.0,
    progress: Callable[[int, Tensor], None] | None = None,
) -> Trained:
    """Train ``model`` in place by Adam on the loss of ``objective``, and leave it in evaluation mode.

    Arguments:
        model: made by ``objective.build``, on the device to train on; ``data`` is moved there once.
        objective: what is minimized; this function knows none of its terms.
        data: (N, ...) training points.
        seed: of the batches' order and of everything the terms draw.
        frame_epochs: after how many epochs ``draw(model)`` is recorded (0: before the first step).
        checkpoint: file for the state of training, written atomically every ``checkpoint_seconds`` and removed by
            nobody here. If it exists, training goes on from it and gives what an uninterrupted run gives.
        progress: called after every epoch with the number of epochs done and their losses so far (on the device).

    Raises:
        ValueError: for empty data, NaN or infinity in the data, or an impossible graph.
        FloatingPointError: when the loss is no longer finite, naming the first epoch in which it was not.

    Subnormal numbers count as zero during the training (``torch.set_flush_denormal``).
    """
    # Adam's moments of dead ReLU units decay into subnormal numbers, on which CPUs are many times slower.
    flushed_before = float(torch.tensor(1e-310, dtype=torch.float64) * 1) == 0
    torch.set_flush_denormal(True)
    try:
        return _fit(
            model, objective, data, optimization, seed, frame_epochs, draw, checkpoint, checkpoint_seconds, progress
        )
    finally:
        torch.set_flush_denormal(flushed_before)


def _fit(model, objective, data, optimization, seed, frame_epochs, draw, checkpoint, checkpoint_seconds, progress):
    check_points(data, "training data")
    objective.check(model, min(optimization.batch_size, len(data)))
    device = next(model.parameters()).device
    data = data.to(device)
    model.eval()  # a look at the shape must not move running statistics
    with torch.no_grad():
        latent_dim = model.encoder(data[:2]).shape[1]
    model.train()
    preparation = Preparation(data, latent_dim, seed)
    prepared = objective.prepare(preparation)
    generator = torch.Generator(device).manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), optimization.learning_rate, fused=True)
    trained = Trained(torch.zeros(optimization.epochs, device=device))
    first_epoch, prepared = _resume(checkpoint, model, optimizer, generator, trained, prepared)
    if first_epoch == 0 and 0 in frame_epochs:
        trained.frames.append(_drawn(model, draw))

    batch_size = min(optimization.batch_size, len(data))
    started = saved = time.perf_counter()
    seconds_before = trained.seconds
    for epoch in range(first_epoch, optimization.epochs):
        for group in optimizer.param_groups:
            group["lr"] = optimization.rate(epoch)
        prepared = objective.refresh(epoch, model, preparation, prepared)
        if batch_size == len(data):
            batches = (None,)
        else:
            batches = _split(torch.randperm(len(data), generator=generator, device=device), batch_size)
        for index in batches:
            batch = Batch(model, data, index, generator)
            trained.loss[epoch] += step(objective, batch, prepared, optimizer) * (len(batch.x) / len(data))
        trained.steps += len(batches)
        if epoch + 1 in frame_epochs:
            trained.frames.append(_drawn(model, draw))
        if progress:
            progress(epoch + 1, trained.loss[: epoch + 1])
        if checkpoint and time.perf_counter() - saved > checkpoint_seconds:
            _check_finite(trained.loss[: epoch + 1])
            trained.seconds = seconds_before + time.perf_counter() - started
            _save(
                checkpoint, model, optimizer, generator, trained, epoch + 1, prepared if objective.refreshes else None
            )
            saved = time.perf_counter()
    _check_finite(trained.loss)
    # The loss of an epoch is that before its last step, which may have been the one that exploded.
    if not all(torch.isfinite(parameter).all() for parameter in model.parameters()):
        raise FloatingPointError("the weights are no longer finite after the last step: lower the learning rate")
    trained.seconds = seconds_before + time.perf_counter() - started
    model.eval()
    return trained


def _split(order: Tensor, batch_size: int) -> tuple[Tensor, ...]:
    """Batches of ``batch_size``; a last one of a single point, which has no statistics, joins the one before."""
    *full, last = order.split(batch_size)
    return (*full[:-1], torch.cat([full[-1], last])) if len(last) == 1 < batch_size and full else (*full, last)


def _drawn(model: nn.Module, draw: Callable[[nn.Module], Tensor]) -> Tensor:
    model.eval()
    frame = draw(model)
    model.train()
    return frame


def step(objective: Objective, batch: Batch, prepared: dict[str, Any], optimizer: torch.optim.Optimizer) -> Tensor:
    """One step of the optimizer on one batch; returns the loss before it, detached and still on the device."""
    loss = objective.loss(batch, prepared)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss.detach()


def _check_finite(loss: Tensor) -> None:
    bad = (~torch.isfinite(loss)).nonzero()
    if len(bad):
        raise FloatingPointError(
            f"the loss is no longer finite from epoch {int(bad[0]) + 1} on: lower the learning rate or the coefficients"
        )


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that any reader, at any time, finds the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp's owner-only mode would keep others from reading shared results
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _save(path, model, optimizer, generator, trained, epoch, prepared) -> None:
    buffer = io.BytesIO()
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "generator": generator.get_state(),
             "trained": vars(trained), "epoch": epoch, "device": generator.device.type, "prepared": prepared}  # fmt: skip
    torch.save(state, buffer)
    try:
        write_atomically(path, seal(buffer.getvalue()))
    except OSError as error:
        # A full disk must not end the training that the checkpoint is there to protect.
        warnings.warn(f"checkpoint {path} could not be written: {error}", stacklevel=3)


def _resume(path, model, optimizer, generator, trained, prepared) -> tuple[int, dict[str, Any]]:
    """Load the state of training; the epoch to go on with (0 without a usable checkpoint) and what is prepared."""
    if path is None or not path.exists():
        return 0, prepared
    fresh = [copy.deepcopy(part.state_dict()) for part in (model, optimizer)]
    try:
        state = torch.load(io.BytesIO(unseal(path.read_bytes())), map_location=trained.loss.device, weights_only=True)
        if state["device"] != generator.device.type:
            raise ValueError(f"it was made on {state['device']}, whose random numbers differ")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        generator.set_state(state["generator"].cpu())
    except Exception as error:
        warnings.warn(f"checkpoint {path} is not used ({error}): training starts from the beginning", stacklevel=3)
        for part, content in zip((model, optimizer), fresh, strict=True):
            part.load_state_dict(content)
        return 0, prepared
    vars(trained).update(state["trained"])
    return state["epoch"], state["prepared"] or prepared


def seal(content: bytes) -> bytes:
    """``content`` followed by its SHA-256, so that :func:`unseal` tells every damaged file."""
    return content + hashlib.sha256(content).digest()


def unseal(sealed: bytes) -> bytes:
    """What :func:`seal` was given; ValueError if the file is damaged."""
    content, digest = sealed[:-32], sealed[-32:]
    if hashlib.sha256(content).digest() != digest:
        raise ValueError("its checksum does not match")
    return content
