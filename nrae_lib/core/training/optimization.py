"""Adam, its schedule, when to stop, and how exactly to compute; plain data, part of what identifies a run."""

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from math import cos, pi

import torch

DECAYS = ("step", "cosine")
PRECISIONS = ("tf32", "float32", "bf16")


@dataclass(frozen=True)
class Optimization:
    """Adam and its schedule; plain data, part of what identifies a run.

    Arguments:
        epochs: passes over the data, at most.
        batch_size: points per step; the last batch of an epoch may be smaller (a single point joins the batch before).
            At N or more every step sees all.
        learning_rate: Adam's step size.
        decay_start: fraction of the epochs after which the learning rate shrinks; 1.0 means never. The released code
            has 0.8.
        decay: "step" multiplies it by ``decay_factor`` every ``decay_every`` epochs (the released code: 10 and 0.9);
            "cosine" lets it fall to zero along half a cosine, reached after the last epoch.
        patience: stop when the validation error has risen this many epochs in a row, each time above the epoch
            before (supplement, section 1: 10); 0 means never.
        precision: of matrix products and convolutions on a GPU: "tf32" (inputs rounded to 10 bits, sums in float32),
            "float32", or "bf16" (autocast to bfloat16 in the forward pass; weights and optimizer stay float32). On a
            CPU "tf32" is float32, and "bf16" is emulated where the processor has no such instructions. In bf16 the
            difference z' - z of close codes keeps few digits: an error of about 2^-9 ‖z‖/‖z' - z‖.

    Raises:
        ValueError: for values out of range, naming what is valid.
    """

    epochs: int
    batch_size: int
    learning_rate: float = 1e-3
    decay_start: float = 1.0
    decay_every: int = 10
    decay_factor: float = 0.9
    decay: str = "step"
    patience: int = 0
    precision: str = "tf32"

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
        if self.patience < 0:
            raise ValueError(f"patience must be at least 0 (0: never stop early), not {self.patience}")
        for name, value, valid in (("decay", self.decay, DECAYS), ("precision", self.precision, PRECISIONS)):
            if value not in valid:
                raise ValueError(f"unknown {name} {value!r}: choose one of {', '.join(valid)}")

    def rate(self, epoch: int) -> float:
        """Learning rate of ``epoch`` (counted from 0)."""
        since = max(0, epoch - int(self.decay_start * self.epochs))
        if self.decay == "cosine":
            return (
                self.learning_rate
                * (1 + cos(pi * since / max(1, self.epochs - int(self.decay_start * self.epochs))))
                / 2
            )
        return self.learning_rate * self.decay_factor ** (since // self.decay_every)

    @contextmanager
    def numerics(self, device: torch.device) -> Iterator[None]:
        """The process's settings for a training on ``device``; as they were afterwards.

        Subnormal numbers count as zero (``torch.set_flush_denormal``): Adam's moments of dead ReLU units decay into
        them, and CPUs are many times slower there.
        """
        flushed_before = float(torch.tensor(1e-310, dtype=torch.float64) * 1) == 0
        before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
        torch.set_flush_denormal(True)
        try:
            if device.type == "cuda":
                torch.set_float32_matmul_precision("highest" if self.precision == "float32" else "high")
                torch.backends.cudnn.allow_tf32 = self.precision != "float32"
            else:
                _keep_large_buffers()
            yield
        finally:
            torch.set_flush_denormal(flushed_before)
            if device.type == "cuda":
                torch.set_float32_matmul_precision(before[0])
                torch.backends.cudnn.allow_tf32 = before[1]

    def autocast(self, device: torch.device) -> torch.autocast:
        """The context of the forward pass."""
        # A cached cast would outlive the step in which a CUDA graph captured it.
        return torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16", cache_enabled=False)


@cache
def _keep_large_buffers() -> None:
    """Let glibc keep freed buffers of more than 32 MB for the next step instead of mapping fresh pages for each.

    A step of a convolutional network needs the same buffers as the one before; fresh pages, which the kernel has to
    clear, cost a good part of its time. For the rest of the process; it holds a few megabytes more.
    """
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        for setting in (_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD):
            library.mallopt(setting, 2**31 - 1)


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
